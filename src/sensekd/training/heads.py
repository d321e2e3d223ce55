"""From a model to the record of its output embedding that the chunked loss needs, checked against the model itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from sensekd.errors import InputError
from sensekd.losses import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sensekd.config import LossConfig

# Below this vocabulary whole logits are small, and the chunks would save little (docs/loss.md).
SMALL_VOCABULARY: Final = 4096
_SOFTCAPS: Final = ("final_logit_softcapping", "logits_soft_cap", "softcap")
_PROBE_SHAPE: Final = (1, 8)
# Size of the probe's logits: far into the range where a soft cap bends them.
_LARGE: Final = 60.0


@dataclass(frozen=True)
class Heads:
    """The output embeddings of student and teacher; without a teacher's, cross-entropy alone is computed in chunks."""

    student: Head
    teacher: Head | None


@contextmanager
def withhold_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the states that would enter the output embedding `module`, and let none of them in.

    The root forward runs as ever (DDP and FSDP2 see it) and returns logits of no position.
    """
    caught: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        caught.append(args[0])
        return (args[0][:, :0], *args[1:])

    handle = module.register_forward_pre_hook(hook)
    try:
        yield caught
    finally:
        handle.remove()


def _transformations(config: Any) -> list[tuple[float, float | None]]:
    """(scale, soft cap) that a configuration may mean; what it names comes before what leaves scores as they are."""
    scales = [1.0]
    if factor := getattr(config, "logit_scale", None):
        scales.insert(0, float(factor))
    if factor := getattr(config, "logits_scaling", None):
        # Granite divides by it, HyperCLOVA X multiplies.
        scales = [1 / float(factor), float(factor), *scales]
    caps = [float(cap) for name in _SOFTCAPS if (cap := getattr(config, name, None))]
    return list(itertools.product(dict.fromkeys(scales), [*dict.fromkeys(caps), None]))


@torch.no_grad()
def _probe(model: PreTrainedModel, head: nn.Linear) -> tuple[Tensor, Tensor]:
    """States put into the output embedding in place of the model's own, and the logits that the model makes of them."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(*_PROBE_SHAPE, head.in_features, generator=generator).to(head.weight.device, head.weight.dtype)
    states = states * (_LARGE / head(states).abs().max().clamp(min=1e-6))
    handle = head.register_forward_pre_hook(lambda _, __: (states,))
    try:
        # Whatever enters the layers is forgotten; a tail behind a shared trunk has no input embeddings for ids.
        width = model.config.get_text_config().hidden_size
        nothing = torch.zeros(*_PROBE_SHAPE, width, dtype=head.weight.dtype, device=head.weight.device)
        return states, model(inputs_embeds=nothing, use_cache=False).logits
    finally:
        handle.remove()


def find_head(model: PreTrainedModel) -> Head:
    """The output embedding with the transformation that turns its scores into the model's own logits.

    The transformations that the configuration names (soft cap, scale) are tried on a probe; the one that gives the
    model's own logits is taken.

    Raises:
        InputError: another kind of output embedding, or none of them gives the model's logits.
    """
    name, head = type(model).__name__, model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise InputError(
            f"the output embedding of {name} is a {type(head).__name__}", "a plain torch.nn.Linear",
            "set loss.chunked to off",
        )  # fmt: skip
    states, logits = _probe(model, head)
    wanted = logits.float()
    errors = {}
    for scale, softcap in _transformations(model.config.get_text_config()):
        found = Head(head.weight, head.bias, scale, softcap)
        errors[scale, softcap] = float((found.detached().logits(states) - wanted).abs().max() / wanted.abs().max())
    best = min(errors, key=lambda key: errors[key])
    # The model rounds its logits to its dtype two or three times on the way.
    if not errors[best] <= 8 * torch.finfo(logits.dtype).eps + 1e-5:
        raise InputError(
            f"{name} makes logits of its output embedding's scores in a way that is not known"
            f" (the nearest guess is off by {errors[best]:.1%})",
            "logits = cap · tanh(scale · scores / cap), with the factors that the configuration names",
            "set loss.chunked to off",
        )
    return Head(head.weight, head.bias, *best)


def describe(head: Head) -> str:
    """What was found, in a few words."""
    parts = [f"scaled by {head.scale:g}"] if head.scale != 1 else []
    parts += [f"soft-capped at {head.softcap:g}"] if head.softcap is not None else []
    return " and ".join(parts) or "the scores themselves"


def plan_heads(
    student: PreTrainedModel, teacher: PreTrainedModel | None, loss: LossConfig, vocabulary: int | None = None
) -> tuple[Heads | None, str]:
    """How CE and KL are computed: the heads for chunks, or None for whole logits, and why.

    Args:
        student: the model that is trained.
        teacher: None where no term looks at its logits.
        loss: `chunked` is auto, on or off.
        vocabulary: the first tokens that CE and KL are over, where tables have rows of padding; None for all rows.

    Raises:
        InputError: `on`, and a model's way from scores to logits is not known.
    """
    if loss.chunked == "off":
        return None, "whole logits: the recipe asks for them"
    rows = student.get_output_embeddings().weight.shape[0]
    if loss.chunked == "auto" and rows < SMALL_VOCABULARY:
        return None, f"whole logits: a vocabulary of {rows} is small"
    try:
        found = [find_head(model).first(vocabulary) for model in (student, teacher) if model is not None]
    except InputError as error:
        if loss.chunked == "on":
            raise
        return None, f"whole logits: {error.found}"
    return Heads(found[0], found[1] if teacher is not None else None), f"in chunks; logits are {describe(found[0])}"
