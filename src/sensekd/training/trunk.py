"""The shared trunk: where the student's lower layers are the teacher's, the student starts from the teacher's state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from sensekd.training.surgery import decoder_stack, graft, shell

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBE_SHAPE: Final = (2, 16)
# Attributes by which a model multiplies what enters it, embeddings or `inputs_embeds` alike.
_INPUT_SCALES: Final = ("embedding_multiplier",)


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
    return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _same_tables(a: nn.Module, b: nn.Module) -> bool:
    """Whether two embeddings agree on the rows that both have: tables of one tokenizer may differ in padding."""
    left, right = a.state_dict(keep_vars=True), b.state_dict(keep_vars=True)
    if left.keys() != right.keys():
        return False
    rows = min(len(left["weight"]), len(right["weight"]))
    return all(
        _equal(value[:rows], right[key][:rows]) if key == "weight" else _equal(value, right[key])
        for key, value in left.items()
    )


def _dropout(config: Any) -> float:
    names = [name for name in vars(config) if name.endswith(("dropout", "pdrop", "drop_rate"))]
    # These belong to heads for other tasks, which no language model has.
    names = [name for name in names if not name.startswith(("summary_", "classifier_"))]
    return max((float(getattr(config, name) or 0) for name in names), default=0.0)


def _probe(*models: PreTrainedModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = min(model.get_input_embeddings().num_embeddings for model in models)
    return torch.randint(rows, _PROBE_SHAPE, generator=generator)


class _ReachedError(Exception):
    """The forward has come as far as the probe looks."""


@torch.no_grad()
def _entering(model: PreTrainedModel, layer: int, **inputs: Tensor) -> Tensor:
    """The state that enters a layer; nothing behind it is run (there the dtypes may differ already)."""
    found: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _ReachedError

    handle = layers_of(model)[layer].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return found[0]


def _states(model: PreTrainedModel, ids: Tensor, layer: int) -> Tensor:
    return _entering(model, layer, input_ids=ids.to(model.device))


def _obstacle(teacher: PreTrainedModel, student: PreTrainedModel, source: PreTrainedModel) -> str | None:
    """Why nothing at all can be shared, or None."""
    if getattr(teacher, "is_quantized", False):
        return "the teacher is quantised, the student is not"
    if student.config.hidden_size != teacher.config.hidden_size:
        return f"the student is {student.config.hidden_size} wide, the teacher {teacher.config.hidden_size}"
    if _dropout(student.config) > 0:
        return "dropout is active in the student"
    if any(parameter.requires_grad for parameter in student.get_input_embeddings().parameters()):
        return "the embeddings are trainable"
    if not _same_tables(source.get_input_embeddings(), student.get_input_embeddings()):
        return "the embeddings differ (weights, dtype or device)"
    return None


def shared_prefix(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    selection: Sequence[int],
    *,
    source: PreTrainedModel | None = None,
    adapted: Collection[int] = (),
) -> tuple[int, str]:
    """Length n of the longest prefix in which student layer i is teacher layer i, frozen, without active dropout.

    At least one layer is left to the student. Where the prefix stands on the teacher's device the claim is tried on a
    probe: the state of the teacher after n layers must equal the student's to the last bit.

    Args:
        teacher: in evaluation mode.
        student: made from it.
        selection: the teacher's layer behind each of the student's.
        source: where the teacher's weights can be read, if not in the teacher itself (its own are offloaded).
        adapted: the student's layers that will get adapters.

    Returns:
        n and the reason why it is not larger (or is 0).
    """
    source = source or teacher
    if (obstacle := _obstacle(teacher, student, source)) is not None:
        return 0, obstacle
    ours, theirs = layers_of(student), layers_of(source)
    layers, reason = 0, "the student keeps one layer of its own"
    for index in range(len(ours) - 1):
        if selection[index] != index:
            reason = f"layer {index} of the student is layer {selection[index]} of the teacher"
        elif index in adapted:
            reason = f"layer {index} gets adapters"
        elif any(parameter.requires_grad for parameter in ours[index].parameters()):
            reason = f"layer {index} is trainable"
        elif not _same(ours[index], theirs[index]):
            reason = f"layer {index} differs from the teacher's (weights, dtype or device)"
        else:
            layers += 1
            continue
        break
    prefix = [*student.get_input_embeddings().parameters(), *(p for each in ours[:layers] for p in each.parameters())]
    if layers and {value.device for value in prefix} == {teacher.device}:
        was_training = student.training
        ids = _probe(teacher, student)
        equal = torch.equal(_states(teacher, ids, layers), _states(student.eval(), ids, layers))
        student.train(was_training)
        if not equal:
            return 0, f"the states after {layers} layers differ on a probe"
    return layers, reason


@dataclass(frozen=True)
class Form:
    """Dtype and device that a model is run in; None leaves its frozen parameters in the dtype they have."""

    dtype: torch.dtype | None = None
    device: torch.device | None = None

    def of(self, value: Tensor) -> Tensor:
        """The value in this form; the value itself where it has it already."""
        return value.to(device=self.device or value.device, dtype=self.dtype or value.dtype)

    def settle(self, model: nn.Module) -> None:
        """Bring all parameters of a model into this form, in place, and its buffers to the device.

        Buffers keep their dtype: rotary frequencies are float32 in a model of any other dtype.
        """
        for parameter in model.parameters():
            parameter.data = self.of(parameter.data)
        for module in model.modules():
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = value.to(self.device or value.device)


def make_tail(student: PreTrainedModel, layers: int, form: Form | None = None) -> PreTrainedModel:
    """The student's layers from `layers` on as a model of its own, run by `inputs_embeds=` the state after the others.

    Its trained parameters are the student's own objects: what trains the one trains the other. Frozen ones too, unless
    `form` asks for another dtype or device; the input embedding, which a tail never reads, is then left empty.
    """
    keep = range(layers, student.config.num_hidden_layers)
    form = form or Form()
    tail = shell(student, keep)
    unread = {id(value) for value in student.get_input_embeddings().parameters()}
    unread -= {id(value) for value in student.get_output_embeddings().parameters()}

    def parameter(_: str, value: nn.Parameter) -> nn.Parameter:
        if value.requires_grad:
            value.data = value.data.to(form.device or value.device)
            return value
        if (form.dtype or value.dtype, form.device or value.device) == (value.dtype, value.device):
            return value
        return nn.Parameter(form.of(value.detach()[:0] if id(value) in unread else value.detach()), requires_grad=False)

    graft(tail, student, keep, parameter, lambda value: value.to(form.device or value.device))
    # A state is no embedding: what a family multiplies embeddings with (Granite) was in it before its first layer.
    for module in tail.modules():
        for name in _INPUT_SCALES:
            if hasattr(module, name):
                setattr(module, name, 1.0)
    return tail


def _forms(*models: PreTrainedModel) -> set[tuple[torch.dtype, torch.device]]:
    return {(value.dtype, value.device) for model in models for value in model.parameters()}


@torch.no_grad()
def _tail_is_exact(tail: PreTrainedModel, teacher: PreTrainedModel, student: PreTrainedModel, layers: int) -> bool:
    """Whether the tail takes a state as it is given, and ends where the whole student ends."""
    ids = _probe(teacher, student)
    state = _states(teacher, ids, layers)
    first = next(layers_of(tail)[0].parameters())
    state = state.to(first.device, first.dtype)
    if not torch.equal(_entering(tail, 0, inputs_embeds=state), state):
        return False
    if len(_forms(student, tail)) > 1:
        return True
    with capture_inputs(layers_of(student)[layers]) as caught:
        whole = student(ids.to(student.device), use_cache=False).logits
    return torch.equal(whole, tail(inputs_embeds=caught[0], use_cache=False).logits)


def share_trunk(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    selection: Sequence[int],
    *,
    source: PreTrainedModel | None = None,
    adapted: Collection[int] = (),
    form: Form | None = None,
) -> Trunk:
    """Run only the student's own layers where that gives the very same numbers, and say why where it does not.

    The trunk stays the teacher's in dtype and device; the tail takes `form`. Without a trunk the whole student takes
    it. A family that changes `inputs_embeds` on the way in is found by a probe of the tail.

    Args:
        teacher: in evaluation mode.
        student: made from it.
        selection: the teacher's layer behind each of the student's.
        source: where the teacher's weights can be read, if not in the teacher itself.
        adapted: the student's layers that will get adapters.
        form: dtype and device of what is trained; None leaves all as it is.
    """
    form = form or Form()
    layers, reason = shared_prefix(teacher, student, selection, source=source, adapted=adapted)
    if layers:
        tail = make_tail(student, layers, form)
        was_training = student.training
        exact = _tail_is_exact(tail.eval(), teacher, student.eval(), layers)
        student.train(was_training)
        tail.train(was_training)
        if exact:
            return Trunk(tail, layers, reason)
        reason = f"{type(student).__name__} changes inputs_embeds on the way in"
    form.settle(student)
    return Trunk(student, 0, reason)
