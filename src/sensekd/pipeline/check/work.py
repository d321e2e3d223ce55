"""Steps, epochs and hours: arithmetic counted from shapes, time from a rate that is measured, given or counted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from sensekd.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from sensekd.config import Recipe
    from sensekd.pipeline.check.shapes import Shapes
    from sensekd.pipeline.check.volume import Volume

_BATCHES: Final = 3

Basis = Literal["measured", "given", "counted"]


@dataclass(frozen=True)
class Rate:
    """Tokens a second that the teacher reads with its output embedding, and where the number is from."""

    tokens: float
    basis: Basis


@dataclass(frozen=True)
class Costs:
    """Floating-point operations for one token.

    Attributes:
        layers: the teacher's layers.
        head: its output embedding.
        sampling: what the sample of states costs; the output embedding where the assignment looks at it.
        step: a training step, both models, forward and backward.
    """

    layers: float
    head: float
    sampling: float
    step: float

    @property
    def teacher(self) -> float:
        """The teacher's whole forward."""
        return self.layers + self.head


def _matrices(module: nn.Module, trained: bool = False) -> int:
    values = [value for value in module.parameters() if value.ndim == 2]
    return sum(value.numel() for value in values if value.requires_grad or not trained)


def _attention(config: Any, length: int) -> float:
    """Scores and weighted values of one layer for one token; half of the square, as later tokens are not seen."""
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2.0 * heads * size * length


def costs_of(recipe: Recipe, shapes: Shapes) -> Costs:
    """Two operations for every number of a matrix that a token meets, and attention; norms and lookups are left out."""
    from sensekd.training.trunk import layers_of

    config, ours = shapes.teacher.config, layers_of(shapes.student)
    window, length = recipe.senses.window, recipe.training.sequence_length
    matrices = _matrices(layers_of(shapes.teacher))
    depth = len(layers_of(shapes.teacher))
    head = 2.0 * shapes.teacher.get_output_embeddings().weight.numel()
    layers = 2.0 * matrices + depth * _attention(config, window)
    reads = {"next": 0.0}.get(recipe.senses.assignment, head)
    student_head = shapes.student.get_output_embeddings().weight
    forward = backward = 2.0 * student_head.numel()
    backward *= 2 if student_head.requires_grad else 1
    lowest = next((i for i, each in enumerate(ours) if i in shapes.adapted or _matrices(each, True)), len(ours))
    for index, layer in enumerate(ours):
        if index < shapes.trunk:
            continue
        attention = _attention(shapes.student.config, length)
        forward += 2.0 * _matrices(layer) + attention
        if index >= lowest:
            backward += 2.0 * _matrices(layer) + 2 * attention + 2.0 * _matrices(layer, True)
    needed = recipe.loss.alpha or recipe.loss.lam or recipe.loss.mu
    taught = 2.0 * matrices + depth * _attention(config, length) + (head if recipe.loss.alpha else 0.0)
    return Costs(layers, head, layers + reads, (taught if needed else 0.0) + forward + backward)


@dataclass(frozen=True)
class Schedule:
    """Tokens of one training.

    Attributes:
        step: tokens of one optimiser step, over all processes.
        total: tokens of all steps.
        epochs: how often the data is read; None where its size is unknown.
    """

    step: int
    total: int
    epochs: float | None


def schedule_of(recipe: Recipe, text: Volume, processes: int) -> Schedule:
    """Steps as tokens, and as epochs of the data."""
    training = recipe.training
    rows = training.batch_size * training.accumulation * processes
    step = rows * training.sequence_length
    total = step * training.steps
    if not text.bounded:
        return Schedule(step, total, None)
    # Without packing every document fills a row of its own; otherwise rows are full of tokens.
    one_each = training.packing == "none"
    data = text.documents if one_each else text.tokens // training.sequence_length
    return Schedule(step, total, rows * training.steps / data if data else None)


@dataclass(frozen=True)
class Hours:
    """Time of the two long stages, None where the text's size is unknown."""

    rate: Rate
    sampling: float | None
    training: float


def hours_of(rate: Rate, costs: Costs, schedule: Schedule, text: Volume | None, processes: int) -> Hours:
    """Hours by a rate of the teacher's forward; a stage that does other arithmetic takes its share more or less.

    Args:
        rate: of one process.
        costs: by `costs_of`.
        schedule: of one training.
        text: that senses are sampled from; None where a dictionary is taken over.
        processes: that share the work.
    """
    seconds = 1 / (rate.tokens * processes)
    known = text is not None and text.sureness != "unknown"
    sampling = text.tokens * seconds * costs.sampling / costs.teacher / 3600 if known and text is not None else None
    return Hours(rate, sampling, schedule.total * seconds * costs.step / costs.teacher / 3600)


def counted_rate(costs: Costs, tflops: float) -> Rate:
    """The rate of a device that does nothing but the counted arithmetic, `tflops` of it a second."""
    if tflops <= 0:
        raise InputError(f"--tflops {tflops}", "a number above 0", None)
    return Rate(tflops * 1e12 / costs.teacher, "counted")


def measured_rate(recipe: Recipe) -> Rate:
    """Load the teacher and time its forward over a few batches of windows, output embedding included.

    Raises:
        InputError: the teacher does not load.
    """
    import torch

    from sensekd.training.placement import pick_device
    from sensekd.training.teacher import load_teacher

    config = recipe.senses
    teacher, tokenizer, _ = load_teacher(recipe.teacher, pick_device(recipe.device))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer), (config.batch_size, config.window), generator=generator).to(teacher.device)
    seconds = []
    with torch.no_grad():
        for _ in range(_BATCHES + 1):
            start = time.perf_counter()
            teacher(ids, use_cache=False).logits[0, 0, 0].item()  # Reading a number waits for the device.
            seconds.append(time.perf_counter() - start)
    return Rate(ids.numel() / sorted(seconds[1:])[_BATCHES // 2], "measured")
