"""Low-rank adapters through peft: put onto the student's frozen linear maps, merged into them when training is over."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from sensekd.errors import InputError, require
from sensekd.training.surgery import decoder_stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sensekd.config import LoraConfig

_EXTRA: Final = "lora"


def _layer_of(name: str, stack: str) -> int:
    return int(name[len(stack) + 1 :].split(".")[0])


def adapted_modules(student: PreTrainedModel, config: LoraConfig) -> tuple[str, ...]:
    """Names of the linear maps that get an adapter: those in decoder layers that match a target and are frozen.

    Args:
        student: before any adapter.
        config: a target is the end of a name (`q_proj`), or a pattern for the whole of it (`*.15.*`).

    Raises:
        InputError: a target that matches no linear map, or nothing is left that does not train already.
    """
    stack = decoder_stack(student)
    linear = {
        name: module
        for name, module in student.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(stack + ".")
    }
    matching: set[str] = set()
    for target in config.targets:
        found = {name for name in linear if fnmatchcase(name, target) or name.endswith("." + target)}
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in linear})
            raise InputError(
                f"student.lora.targets: {target!r} matches no linear map in the decoder layers",
                f"one of {', '.join(ends)}, or a pattern such as {next(iter(linear), stack)}",
                "correct the target; * stands for any characters",
            )
        matching |= found
    frozen = tuple(name for name in linear if name in matching and not linear[name].weight.requires_grad)
    if not frozen:
        raise InputError(
            f"student.lora: all {len(matching)} maps that its targets match train in full already",
            "at least one frozen linear map", "lower student.train_top (to 0 for adapters everywhere)",
        )  # fmt: skip
    return frozen


def adapted_layers(student: PreTrainedModel, modules: Iterable[str]) -> frozenset[int]:
    """The student's layers that hold any of the modules."""
    stack = decoder_stack(student)
    return frozenset(_layer_of(name, stack) for name in modules)


def shifted(name: str, stack: str, by: int) -> str:
    """The name in a tail of what `name` is in the student, of whose layers the tail leaves out the lowest `by`."""
    layer = _layer_of(name, stack)
    return f"{stack}.{layer - by}{name[len(stack) + 1 + len(str(layer)) :]}"


def add_adapters(model: PreTrainedModel, modules: Iterable[str], below: int, config: LoraConfig, seed: int) -> None:
    """Put adapters onto a student or its tail, in place; what trained before goes on training.

    A new adapter adds exactly 0 (its second factor starts at 0); its first factor follows from the seed.

    Args:
        model: the student, or its tail.
        modules: names in the student, as `adapted_modules` gives them.
        below: how many of the student's layers the tail leaves out; 0 for the student.
        config: rank, scale and dropout.
        seed: of the initialisation.

    Raises:
        InputError: peft is not installed.
    """
    peft: Any = require("peft", _EXTRA)
    stack = decoder_stack(model)
    names = [shifted(name, stack, below) for name in modules]
    # A list of names would also match the ends of longer ones: layer 1 in layer 11.
    exactly = "|".join(re.escape(name) for name in names)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=f"({exactly})", bias="none"
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)
    for parameter in trained:
        parameter.requires_grad_(True)


def merge_adapters(model: PreTrainedModel) -> int:
    """Add what the adapters learnt to the weights they stand on and take them away; how many there were.

    The sum is a new tensor: weights that were shared with the teacher are the teacher's as before.

    Raises:
        InputError: peft is not installed.
    """
    require("peft", _EXTRA)
    from peft.tuners.lora import LoraLayer

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, module in found:
        # Only the safe form adds out of place.
        module.merge(safe_merge=True)
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return len(found)
