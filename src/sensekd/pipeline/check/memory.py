"""Memory of one process while a student is trained, part by part, from shapes alone.

Weights, gradients and optimiser states are counted exactly. Activations are what autograd keeps when the student's own
classes run on the meta device. Logits and what selection needs are estimates from measurements (docs/sizing.md).

Shapes: B sequences, T tokens, D width of the teacher, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from sensekd.config import Recipe
    from sensekd.pipeline.check.shapes import Shapes

# Peak of CE + KL on whole logits, in float32 tables of [B T, V]: measured for float32 and for half precision.
_WHOLE: Final[Mapping[int, float]] = {4: 6.75, 2: 5.75}
# The same by chunks, in tables of `loss.chunk_elements` float32 scores.
_CHUNKS: Final = 3.25
_ATTENTION: Final = "sensekd_counted"
# Bytes of optimiser state for each byte of a trained weight; an optimiser that is not listed counts as Adam.
_STATES: Final[Mapping[str, float]] = {"sgd": 0.0, "adafactor": 0.0, "rmsprop": 1.0, "adagrad": 1.0, "lion": 1.0}
_EIGHT_BIT: Final = ("8bit",)

Certainty = Literal["exact", "estimate", "bound"]


@dataclass(frozen=True)
class Part:
    """Bytes of one part, and how sure they are: counted exactly, estimated, or the most that can be."""

    name: str
    bytes: int
    certainty: Certainty
    note: str = ""


def size_of(dtype: torch.dtype | str) -> int:
    """Bytes of one number."""
    import torch

    found: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return found.itemsize


def teacher_weights(recipe: Recipe, shapes: Shapes) -> Part:
    """What of the teacher stands on its device."""
    config, model = recipe.teacher, shapes.teacher
    size = size_of(config.dtype)
    if config.quantization is None and not config.offload:
        return Part("teacher, weights", _bytes(model, size), "exact")
    from sensekd.training.trunk import layers_of

    layers = layers_of(model)
    inside = sum(value.numel() for value in layers.parameters())
    outside = sum(value.numel() for value in model.parameters()) - inside
    if config.offload:
        one = sum(value.numel() for value in layers[0].parameters())
        note = "one layer at a time; the others rest in host memory"
        return Part("teacher, weights", size * (outside + one), "estimate", note)
    bits = {"8bit": 8, "4bit": 4}[str(config.quantization)]
    return Part("teacher, weights", size * outside + inside * bits // 8, "estimate", f"linear maps in {bits} bits")


def _bytes(model: nn.Module, size: int) -> int:
    return size * sum(value.numel() for value in model.parameters())


def _compute_dtype(recipe: Recipe) -> torch.dtype | None:
    from sensekd.training.placement import autocast_dtype

    return autocast_dtype(recipe.training.trainer)


def _frozen_dtype(recipe: Recipe) -> str:
    """The dtype that frozen parameters of what is trained take (as `training.assembly` settles it)."""
    import torch

    kept = _compute_dtype(recipe) == getattr(torch, recipe.teacher.dtype)
    return recipe.teacher.dtype if kept else recipe.student.dtype


def _own(model: PreTrainedModel, trunk: int) -> list[tuple[str, Tensor]]:
    """The student's parameters that are run in training; a tail reads no input embedding."""
    from sensekd.training.surgery import decoder_stack

    below = tuple(f"{decoder_stack(model)}.{index}." for index in range(trunk))
    output = {id(value) for value in model.get_output_embeddings().parameters()}
    unread = {id(value) for value in model.get_input_embeddings().parameters()} - output if trunk else set()
    return [
        (name, value)
        for name, value in model.named_parameters()
        if not name.startswith(below or ("\0",)) and id(value) not in unread
    ]


def student_weights(recipe: Recipe, shapes: Shapes) -> Part:
    """What of the student stands in memory beside the teacher: trained weights, and frozen ones that are no view."""
    trained = shapes.adapters + shapes.projector
    frozen = 0
    for _, value in _own(shapes.student, shapes.trunk):
        if value.requires_grad:
            trained += value.numel()
        else:
            frozen += value.numel()
    dtype, config = _frozen_dtype(recipe), recipe.teacher
    shared = dtype == config.dtype and config.device == "same" and not (config.quantization or config.offload)
    if shared:
        frozen = _enlarged(shapes)
    total = trained * size_of(recipe.student.dtype) + frozen * size_of(dtype)
    return Part(
        "student, weights", total, "exact", "frozen ones are the teacher's own" if shared and not frozen else ""
    )


def _enlarged(shapes: Shapes) -> int:
    """Numbers in frozen tables of more rows than the teacher's, which cannot be views of them."""
    rows = int(shapes.teacher.get_input_embeddings().weight.shape[0])
    student = shapes.student
    both = (student.get_input_embeddings().weight, student.get_output_embeddings().weight)
    tables = {id(value): value for value in both}
    return sum(value.numel() for value in tables.values() if len(value) > rows and not value.requires_grad)


def gradients(recipe: Recipe, shapes: Shapes, processes: int) -> Part:
    """One gradient for each trained weight; under DDP the buckets of the reduction hold them once more."""
    total = (shapes.trainable + shapes.projector) * size_of(recipe.student.dtype)
    return Part("gradients", total * (2 if processes > 1 else 1), "exact", "with DDP's buckets" * (processes > 1))


def optimiser(recipe: Recipe, shapes: Shapes) -> Part:
    """States of the optimiser: two for each trained weight with Adam."""
    chosen = str(recipe.training.trainer.get("optim", "adamw_torch"))
    factor = next((value for name, value in _STATES.items() if chosen.startswith(name)), 2.0)
    size = 1 if any(mark in chosen for mark in _EIGHT_BIT) else size_of(recipe.student.dtype)
    trained = shapes.trainable + shapes.projector
    certainty: Certainty = "exact" if chosen.startswith("adamw_torch") else "estimate"
    return Part("optimiser", int(trained * size * factor), certainty, chosen)


def _register_attention() -> None:
    import torch
    from transformers import AttentionInterface

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: Any = None, **rest: Any
    ) -> tuple[Tensor, None]:
        if rest.get("softcap") is None:
            # Fused attention keeps its inputs, its output and one number a row, never the scores.
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return fused(query, key, value, 0.0, True, scale=scaling)[0].transpose(1, 2).contiguous(), None
        # Soft-capped scores are worked out one after the other by transformers, and kept.
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = torch.tanh(query @ key.transpose(2, 3) * scaling / rest["softcap"]) * rest["softcap"]
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return (weights @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register(_ATTENTION, attend)


def kept_bytes(model: PreTrainedModel, rows: int, length: int, width: int) -> int:
    """Bytes that autograd keeps when a decoder on the meta device runs [rows, length] positions to its final norm."""
    import torch

    _register_attention()
    found: dict[int, int] = {}
    own = {value.untyped_storage()._cdata for value in model.parameters()}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        alive.append(value)  # A storage that is freed may be given to another tensor.
        found[storage._cdata] = storage.nbytes()
        return value

    alive: list[Tensor] = []
    before = model.config._attn_implementation
    model.config._attn_implementation = _ATTENTION
    entering = torch.empty(rows, length, width, dtype=model.dtype, device="meta")
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            model.get_decoder()(inputs_embeds=entering, use_cache=False)
    finally:
        model.config._attn_implementation = before
    return sum(size for key, size in found.items() if key not in own)


def activations(recipe: Recipe, shapes: Shapes) -> Part:
    """What the student's forward keeps for the backward pass."""
    import torch

    from sensekd.training.trunk import Form, layers_of, make_tail

    training = recipe.training
    compute = _compute_dtype(recipe) or getattr(torch, recipe.student.dtype)
    model, trunk = shapes.student, shapes.trunk
    width, rows, length = int(model.config.hidden_size), training.batch_size, training.sequence_length
    counted = copy.deepcopy(make_tail(model, trunk) if trunk else model)
    Form(compute).settle(counted)
    try:
        kept = kept_bytes(counted.train(), rows, length, width)
    except Exception:  # A family whose forward looks at values: about 20 widths a layer and position (a LLaMA's).
        kept = 20 * rows * length * width * compute.itemsize * len(layers_of(counted))
        return Part("activations", kept, "estimate", "by rule of thumb")
    if training.trainer.get("gradient_checkpointing"):
        depth = len(layers_of(counted))
        entering = rows * length * width * compute.itemsize
        return Part("activations", entering * depth + kept // depth, "estimate", "one layer, and what enters each")
    trained = sum(value.numel() for value in counted.parameters() if value.requires_grad)
    cast = trained * compute.itemsize if _compute_dtype(recipe) else 0
    return Part("activations", kept + cast, "estimate", "with autocast's copies of trained weights" if cast else "")


def logits(recipe: Recipe, shapes: Shapes) -> Part:
    """The largest tensors of a step: scores of both models and what CE and KL make of them."""
    import torch

    from sensekd.training.heads import SMALL_VOCABULARY

    positions = recipe.training.batch_size * (recipe.training.sequence_length - 1)
    rows = int(shapes.student.get_output_embeddings().weight.shape[0])
    chunked = recipe.loss.chunked
    if chunked == "on" or (chunked == "auto" and rows >= SMALL_VOCABULARY):
        total = int(_CHUNKS * 4 * min(recipe.loss.chunk_elements, positions * rows)) + 4 * positions * int(
            shapes.student.config.hidden_size
        )
        return Part("logits", total, "estimate", "in chunks")
    compute = _compute_dtype(recipe) or getattr(torch, recipe.student.dtype)
    # Without a KL there is no table of the teacher's: half of them.
    factor = _WHOLE[compute.itemsize] * (1.0 if recipe.loss.alpha else 0.5)
    return Part("logits", int(factor * 4 * positions * rows), "estimate", f"whole, {positions:,} positions of {rows:,}")


def teacher_pass(recipe: Recipe, shapes: Shapes) -> Part:
    """The widest moment of the teacher's forward, and the states that are taken from it."""
    config = shapes.teacher.config
    positions = recipe.training.batch_size * recipe.training.sequence_length
    inner = int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    numbers = 3 * inner + 6 * int(config.hidden_size)
    return Part("teacher, forward", positions * numbers * size_of(recipe.teacher.dtype), "estimate")


def dictionary_rows(recipe: Recipe, shapes: Shapes, rows: int, memory: int | None, certainty: Certainty) -> Part:
    """The rows of the sense dictionary on the device; none where they stay on the host.

    Args:
        recipe: its `senses.residence`.
        shapes: give the width.
        rows: of the dictionary, or the most it can have.
        memory: of the device, for `auto`.
        certainty: of `rows`.
    """
    total = rows * (4 * int(shapes.teacher.config.hidden_size) + 4)
    residence = recipe.senses.residence
    if residence == "host" or (residence == "auto" and memory is not None and total > memory // 4):
        return Part("senses", 0, certainty, f"{rows:,} rows stay on the host; a batch brings its own")
    return Part("senses", total, certainty, f"{rows:,} rows in float32")


def training_memory(
    recipe: Recipe, shapes: Shapes, rows: tuple[int, Certainty], *, processes: int = 1, memory: int | None = None
) -> list[Part]:
    """Every part of one process's memory at the peak of a training step.

    Args:
        recipe: the arm that trains with senses.
        shapes: of its models.
        rows: of the dictionary, and how sure that number is.
        processes: under DDP.
        memory: bytes of the device, for `senses.residence: auto`.
    """
    apart = recipe.teacher.device != "same"
    needs_teacher = bool(recipe.loss.alpha or recipe.loss.lam or recipe.loss.mu)
    parts: list[Part] = []
    if needs_teacher and not apart:
        parts += [teacher_weights(recipe, shapes), teacher_pass(recipe, shapes)]
    parts += [
        student_weights(recipe, shapes),
        gradients(recipe, shapes, processes),
        optimiser(recipe, shapes),
        activations(recipe, shapes),
        logits(recipe, shapes),
    ]
    if recipe.loss.lam > 0:
        parts.append(dictionary_rows(recipe, shapes, rows[0], memory, rows[1]))
    return parts
