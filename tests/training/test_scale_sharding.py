"""The distillation's module sharded by `fully_shard` on two gloo processes computes what one process computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scale_worker
import torch
from safetensors.torch import load_file
from scale_world import CASES, STEPS, train

from forked import ranks
from sensekd.errors import InputError
from sensekd.training.sharding import refuse_launcher


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    ranks(2, scale_worker.main, folder, said=folder / "said.txt")
    return folder


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])
def test_two_shards_equal_one_whole(number: int, sharded: Path) -> None:
    found = load_file(sharded / f"{number}.safetensors")
    wanted = train(*CASES[number], 0, 1)
    assert found.keys() == wanted.keys()
    assert sum(name.startswith("loss") for name in found) == STEPS
    assert sum(name.startswith("gradient") for name in found) > 6 * STEPS
    for name, value in wanted.items():
        # Relative to the tensor's own size, since it is a few for the loss and a few hundredths for a gradient.
        assert float((found[name] - value).abs().max()) <= 1e-6 * max(1.0, float(value.abs().max())), name
    moved = [name for name in wanted if name.startswith("gradient")]
    assert all(float(wanted[name].abs().max()) > 0 for name in moved)


def launcher(kind: str, *, version: int | None = None, deepspeed: bool = False, fsdp: bool = False) -> Any:
    plugin = None if version is None else SimpleNamespace(fsdp_version=version)
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), distributed_type=SimpleNamespace(value=kind)
    )
    args = SimpleNamespace(fsdp=fsdp, device=torch.device("cpu"))
    return SimpleNamespace(is_deepspeed_enabled=deepspeed, accelerator=accelerator, args=args)


def test_which_launchers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    refuse_launcher(launcher("NO"))
    refuse_launcher(launcher("MULTI_GPU"))
    refuse_launcher(launcher("FSDP", version=2))
    for bad, message in (
        (launcher("DEEPSPEED", deepspeed=True), "DeepSpeed"),
        (launcher("FSDP", version=1), "FSDP1"),
        (launcher("MULTI_CPU", fsdp=True), "would run MULTI_CPU in silence"),
    ):
        with pytest.raises(InputError, match=message):
            refuse_launcher(bad)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refuse_launcher(launcher("FSDP", version=2))
    with pytest.raises(InputError, match="in silence"):
        refuse_launcher(launcher("NO"))
