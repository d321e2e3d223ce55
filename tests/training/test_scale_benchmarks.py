"""The GPU benchmark runs at small sizes anywhere, and says in one line that it needs a GPU for large ones."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "benchmarks.gpu_step"]


@pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="no benchmarks beside the tests")
def test_gpu_step_at_small_sizes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_step import SMALL, main

    assert main(["--small", "--candidates", "6", "11", "--rounds", "1", "--width", "32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"kd", "dskd_6", "dskd_11"} <= set(found)
    assert found["sizes"]["width"] == 32
    assert found["dskd_11"]["dictionary_gib"] == SMALL.vocabulary * SMALL.senses * 32 * 4 / 2**30
    for arm in ("kd", "dskd_6", "dskd_11"):
        assert found[arm]["seconds"] > 0
        assert found[arm]["peak_gib"] > 0
    if not torch.cuda.is_available():
        assert main([]) == 1
        refused = capsys.readouterr()
        assert refused.out == ""
        assert refused.err == "error: no CUDA device; `--small` runs the same code anywhere\n"


@pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="no benchmarks beside the tests")
def test_candidates_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_step import SMALL, _table

    table = _table(SMALL, 20, torch.device("cpu"))
    counts = table.positive.indptr.diff()
    assert counts[: SMALL.vocabulary].eq(SMALL.senses).all()
    assert counts[SMALL.vocabulary :].eq(20).all()
    assert table.negative.indptr.diff().float().mean() == pytest.approx(1.7, abs=0.1)
    assert torch.equal(table.rows, table.rows.bfloat16().float())


@pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="no benchmarks beside the tests")
def test_every_benchmark_of_make_bench_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.__main__ import modules

    names = modules()
    assert {"ce_kl", "selection", "sense_terms", "steps", "teacher_cache"} <= set(names)
    for name in names:
        assert callable(importlib.import_module(f"benchmarks.{name}").measure), name


def test_the_command_stands() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "--student-layers" in done.stdout
