"""The shared trunk: where the student's lower layers are the teacher's, the student starts from the teacher's state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sensekd.training.surgery import decoder_stack, graft, shell

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBE_SHAPE = (2, 16)


@dataclass(frozen=True)
class Trunk:
    """How the student is run in training.

    Attributes:
        model: the student itself, or its layers from `layers` on (the tail), with the student's own parameters.
        layers: n, how many layers the student shares with the teacher; 0 runs the whole student from the tokens.
        reason: why n is not larger, or why nothing is shared.
    """

    model: PreTrainedModel
    layers: int
    reason: str


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers of a model."""
    stack = model.get_submodule(decoder_stack(model))
    assert isinstance(stack, nn.ModuleList)
    return stack


@contextmanager
def capture_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the hidden states that enter `module` during the root forward (works under DDP and FSDP2)."""
    caught: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else kwargs["hidden_states"])

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield caught
    finally:
        handle.remove()


def _same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(keep_vars=True), b.state_dict(keep_vars=True)
    return left.keys() == right.keys() and all(
        value.dtype == right[key].dtype and value.device == right[key].device and torch.equal(value, right[key])
        for key, value in left.items()
    )


def _dropout(config: Any) -> float:
    names = [name for name in vars(config) if name.endswith(("dropout", "pdrop", "drop_rate"))]
    return max((float(getattr(config, name) or 0) for name in names), default=0.0)


def _probe(model: PreTrainedModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.get_input_embeddings().num_embeddings, _PROBE_SHAPE, generator=generator)
    return ids.to(model.device)


@torch.no_grad()
def _states(model: PreTrainedModel, ids: Tensor, layer: int) -> Tensor:
    with capture_inputs(layers_of(model)[layer]) as caught:
        model(ids, use_cache=False, logits_to_keep=1)
    return caught[0]


def shared_prefix(teacher: PreTrainedModel, student: PreTrainedModel, selection: Sequence[int]) -> tuple[int, str]:
    """Length n of the longest prefix in which student layer i is teacher layer i, frozen, without active dropout.

    At least one layer is left to the student. The claim is tried on a probe: the state of the teacher after n layers
    must equal the student's to the last bit.

    Args:
        teacher: in evaluation mode.
        student: made from it.
        selection: the teacher's layer behind each of the student's.

    Returns:
        n and the reason why it is not larger (or is 0).
    """
    if _dropout(student.config) > 0:
        return 0, "dropout is active in the student"
    if not _same(teacher.get_input_embeddings(), student.get_input_embeddings()):
        return 0, "the embeddings differ (weights, dtype or device)"
    if any(parameter.requires_grad for parameter in student.get_input_embeddings().parameters()):
        return 0, "the embeddings are trainable"
    ours, theirs = layers_of(student), layers_of(teacher)
    layers, reason = 0, "the student keeps one layer of its own"
    for index in range(len(ours) - 1):
        if selection[index] != index:
            reason = f"layer {index} of the student is layer {selection[index]} of the teacher"
        elif any(parameter.requires_grad for parameter in ours[index].parameters()):
            reason = f"layer {index} is trainable"
        elif not _same(ours[index], theirs[index]):
            reason = f"layer {index} differs from the teacher's (weights, dtype or device)"
        else:
            layers += 1
            continue
        break
    if layers:
        was_training = student.training
        ids = _probe(student)
        equal = torch.equal(_states(teacher, ids, layers), _states(student.eval(), ids, layers))
        student.train(was_training)
        if not equal:
            return 0, f"the states after {layers} layers differ on a probe"
    return layers, reason


def make_tail(student: PreTrainedModel, layers: int) -> PreTrainedModel:
    """The student's layers from `layers` on as a model of its own, run by `inputs_embeds=` the state after the others.

    Its parameters are the student's own objects: what trains the one trains the other.
    """
    keep = range(layers, student.config.num_hidden_layers)
    tail = shell(student, keep)
    graft_shared(tail, student, keep)
    return tail


def graft_shared(tail: PreTrainedModel, student: PreTrainedModel, keep: Sequence[int]) -> None:
    """Put the student's own parameters and buffers into the shell of a tail."""
    graft(tail, student, keep, lambda _, value: value, lambda value: value)


@torch.no_grad()
def _tail_is_exact(tail: PreTrainedModel, student: PreTrainedModel, layers: int) -> bool:
    ids = _probe(student)
    with capture_inputs(layers_of(student)[layers]) as caught:
        whole = student(ids, use_cache=False).logits
    return torch.equal(whole, tail(inputs_embeds=caught[0], use_cache=False).logits)


def share_trunk(teacher: PreTrainedModel, student: PreTrainedModel, selection: Sequence[int]) -> Trunk:
    """Run only the student's own layers where that gives the very same numbers, and say why where it does not.

    A family that changes `inputs_embeds` on the way in (Granite multiplies them) is found by a probe of the tail.
    """
    layers, reason = shared_prefix(teacher, student, selection)
    if layers == 0:
        return Trunk(student, 0, reason)
    tail = make_tail(student, layers)
    was_training = student.training
    exact = _tail_is_exact(tail.eval(), student.eval(), layers)
    student.train(was_training)
    tail.train(was_training)
    if not exact:
        return Trunk(student, 0, f"{type(student).__name__} changes inputs_embeds on the way in")
    return Trunk(tail, layers, reason)
