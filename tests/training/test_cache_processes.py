"""Several processes write one cache, and a process that is killed leaves one that is written to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

_WORKER = Path(__file__).with_name("cache_worker.py")


def launch(folder: Path, processes: int, batch_size: int, mode: str, **environment: str) -> int:
    folder.mkdir(exist_ok=True)
    runner = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(runner if processes > 1 else []), str(_WORKER), str(folder), str(batch_size), mode]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=300)
    assert done.returncode in (0, -9), done.stderr[-4000:]
    return done.returncode


def files(folder: Path) -> dict[str, bytes]:
    (cache,) = (folder / "cache").iterdir()
    return {path.name: path.read_bytes() for path in sorted(cache.iterdir())}


def difference(one: Path, other: Path) -> float:
    left, right = (load_file(folder / "student" / "model.safetensors") for folder in (one, other))
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("mode", [pytest.param("before", marks=pytest.mark.long), "first_epoch"])
def test_killed_and_started_again_the_bytes_are_the_same(mode: str, tmp_path: Path) -> None:
    assert launch(tmp_path / "whole", 1, 4, mode) == 0
    assert launch(tmp_path / "killed", 1, 4, mode, KILL_AFTER="2") == -9
    assert "manifest.json" not in files(tmp_path / "killed")
    assert launch(tmp_path / "killed", 1, 4, mode, KILL_AFTER="9") == 0
    assert files(tmp_path / "whole") == files(tmp_path / "killed")
    assert difference(tmp_path / "whole", tmp_path / "killed") == 0


@pytest.mark.long
@pytest.mark.parametrize("mode", ["before", "first_epoch"])
def test_two_processes_write_what_one_writes(mode: str, tmp_path: Path) -> None:
    launch(tmp_path / "one", 1, 4, mode)
    launch(tmp_path / "two", 2, 2, mode)
    assert files(tmp_path / "one").keys() == files(tmp_path / "two").keys()
    for name in ("blocks.bin", "checksums.bin", "labels.bin"):
        assert files(tmp_path / "one")[name] == files(tmp_path / "two")[name], name
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-4
