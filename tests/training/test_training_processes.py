"""Two processes (DDP on gloo, through the Trainer) compute what one computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

_WORKER = Path(__file__).with_name("training_worker.py")


def launch(folder: Path, processes: int, batch_size: int, chunked: str) -> None:
    folder.mkdir()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        str(_WORKER), str(folder), str(batch_size), chunked,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.long
@pytest.mark.parametrize("chunked", ["off", "on"])
def test_two_processes_equal_one(chunked: str, tmp_path: Path) -> None:
    launch(tmp_path / "one", 1, 4, chunked)
    launch(tmp_path / "two", 2, 2, chunked)
    one, two = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two"))
    # AdamW makes much of float32's last bits where a gradient is near 0, hence a bound well under a step of 1e-2.
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    records = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("one", "two")]
    assert records[0]["tokens"] == records[1]["tokens"]
    for left, right in zip(*(record["history"] for record in records), strict=True):
        assert left.keys() == right.keys()
        for name in left.keys() - {"tokens_per_second"}:
            assert left[name] == pytest.approx(right[name], rel=1e-4), name
