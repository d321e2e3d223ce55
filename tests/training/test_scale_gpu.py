"""FSDP2 through accelerate and the Trainer: needs GPUs, for on the CPU accelerate quietly runs DDP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from tiny_run import write_inputs, write_recipe

from forked import ended, forked, sensekd

_ALONE = [sys.executable, "-m"]
_ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"]
_WRAP = ["--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--fsdp_transformer_layer_cls_to_wrap"]


@pytest.mark.gpu
def test_fsdp2_through_the_trainer_equals_one_process(tmp_path: Path) -> None:
    """The same global batch in one process and in shards; with one GPU there is one shard, by the same code."""
    import torch

    processes = min(torch.cuda.device_count(), 2)
    tree = write_inputs(tmp_path)
    # 60 blocks: epochs end alike, however many processes there are.
    tree["training"] |= {"sequence_length": 21, "steps": 6, "save_every": 3}
    tree["device"] = "cuda"
    recipe = str(write_recipe(tmp_path, tree))
    shards = [*_ACCELERATE, *_WRAP, "LlamaDecoderLayer", "--num_processes", str(processes), "-m"]
    students = {}
    for name, launcher, size in (("one", _ALONE, 4), ("shards", shards, 4 // processes)):
        sets = ["--set", f"output={tmp_path / name}", "--set", f"training.batch_size={size}"]
        command = [*launcher, "sensekd.cli.main", "distill", recipe, "--json", *sets]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=dict(os.environ))
        assert done.returncode == 0, done.stderr[-4000:]
        assert json.loads(done.stdout.strip().splitlines()[-1])["steps"] == 6
        students[name] = load_file(tmp_path / name / "students" / "dskd-0" / "model.safetensors")
    one, other = students["one"], students["shards"]
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-4


def test_fsdp_on_the_cpu_is_refused_rather_than_run_as_ddp(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_inputs(tmp_path))
    said = tmp_path / "said.txt"
    launched = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "CUDA_VISIBLE_DEVICES": ""}
    code = ended(forked(sensekd, "distill", str(recipe), said=said, environment=launched))
    assert code == 2, said.read_text()[-3000:]
    assert "the launcher asks for FSDP, but on cpu accelerate would run NO in silence" in said.read_text()
