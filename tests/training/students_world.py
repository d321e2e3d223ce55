"""What the tests of students share: a tiny teacher distilled from beginning to end, and a look at what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from training_world import VOCABULARY, blocks, edges, recipe, table, tiny, tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from sensekd.training.distill import DistillResult, distill

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"]
Weights = dict[str, torch.Tensor]


class Stop(KeyboardInterrupt):
    pass


def stop_after(step: int) -> Callable[[int, int], None]:
    def progress(done: int, _: int) -> None:
        if done == step:
            raise Stop

    return progress


def run(folder: Path, teacher: PreTrainedModel | None = None, steps: int = 4, **overrides: Any) -> DistillResult:
    """Distil a tiny teacher into folder/student; `stop` interrupts."""
    stop = overrides.pop("stop", None)
    return distill(
        teacher if teacher is not None else tiny(tied=True), tokenizer(), recipe(**overrides), steps, blocks(),
        senses=(table(), edges()), folders=(folder / "student", folder / "work"),
        progress=None if stop is None else stop_after(stop),
    )  # fmt: skip


def weights(folder: Path) -> Weights:
    return load_file(folder / "student" / "model.safetensors")


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def ids() -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def refuse_if_not_plain(folder: Path, model_type: str = "llama") -> PreTrainedModel:
    """The folder loads strictly as a model of its type, and generates the same with its cache and without."""
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.model_type.startswith(model_type)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    generated = [loaded.generate(ids(), use_cache=use_cache, **options) for use_cache in (True, False)]
    assert torch.equal(*generated)
    model: PreTrainedModel = loaded
    return model
