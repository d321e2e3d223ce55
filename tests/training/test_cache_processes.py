"""Several processes write one cache, and a process that is killed leaves one that is written to its end."""

from __future__ import annotations

from pathlib import Path

import cache_worker
import pytest
from safetensors.torch import load_file

from forked import ended, forked, ranks


def launch(folder: Path, processes: int, batch_size: int, mode: str, **environment: str) -> int:
    folder.mkdir(exist_ok=True)
    said = folder / "said.txt"
    if processes > 1:
        ranks(processes, cache_worker.main, folder, batch_size, mode, said=said)
        return 0
    code = ended(forked(cache_worker.main, folder, batch_size, mode, said=said, environment=environment))
    assert code in (0, -9), said.read_text()[-4000:]
    return code


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
