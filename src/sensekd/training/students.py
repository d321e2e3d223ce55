"""The student: some of the teacher's layers, the rest of it copied and frozen, the top layers trainable."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sensekd.errors import InputError
from sensekd.training.surgery import decoder_stack, graft, shell

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sensekd.config import StudentConfig


def refuse_selection(depth: int, config: StudentConfig) -> None:
    """Refuse a choice of layers that a teacher of `depth` layers cannot give.

    Raises:
        InputError: more layers than the teacher has, or one that it has not.
    """
    if config.layers > depth:
        raise InputError(
            f"student.layers is {config.layers}, but the teacher has {depth} layers",
            f"1 to {depth}", f"lower student.layers to at most {depth}",
        )  # fmt: skip
    if not isinstance(config.selection, str) and config.selection[-1] >= depth:
        raise InputError(
            f"student.selection names layer {config.selection[-1]}, but the teacher's are 0 to {depth - 1}",
            f"layers below {depth}", "correct the list; layers count from 0",
        )  # fmt: skip


def chosen_layers(depth: int, config: StudentConfig, scores: Sequence[float] | None = None) -> tuple[int, ...]:
    """Which of the teacher's layers the student keeps, ascending.

    Args:
        depth: layers of the teacher.
        config: `first` keeps 0..N-1; `spaced` keeps N evenly spaced ones with the first and the last among them;
            `importance` keeps the N with the highest scores (of equal ones the lower); a list is kept as it is.
        scores: importance of each of the teacher's layers; needed by `importance` alone.

    Raises:
        InputError: layers that the teacher has not.
        ValueError: `importance` without a score for every layer.
    """
    refuse_selection(depth, config)
    count = config.layers
    if not isinstance(config.selection, str):
        return config.selection
    if config.selection == "importance":
        if scores is None or len(scores) != depth:
            raise ValueError(f"importance needs {depth} scores")
        ranked = sorted(range(depth), key=lambda index: (-scores[index], index))
        return tuple(sorted(ranked[:count]))
    if config.selection == "first" or count == 1:
        return tuple(range(count))
    return tuple(int(index) for index in np.linspace(0, depth - 1, count).round())


def trainable_names(model: PreTrainedModel, depth: int, config: StudentConfig) -> frozenset[str]:
    """Names of the student's trainable parameters.

    Args:
        model: gives the names; its layers 0..depth-1 are the student's.
        depth: layers of the student.
        config: `train_top` top layers, and whatever matches a pattern of `train`.

    Raises:
        InputError: more layers to train than there are, or a pattern that matches nothing.
    """
    if config.train_top > depth:
        raise InputError(
            f"student.train_top is {config.train_top}, but the student has {depth} layers",
            f"0 to {depth}", f"lower student.train_top to at most {depth}",
        )  # fmt: skip
    stack = decoder_stack(model)
    top = [f"{stack}.{index}." for index in range(depth - config.train_top, depth)]
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    chosen = {name for name in names if any(name.startswith(prefix) for prefix in top)}
    for pattern in config.train:
        matching = {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            raise InputError(
                f"the pattern {pattern!r} of student.train matches no parameter",
                f"a pattern for names such as {', '.join(names[:2])}, {names[-1]}",
                "correct the pattern; * stands for any characters",
            )
        chosen |= matching
    return frozenset(chosen)


def trained_dtype(teacher: PreTrainedModel, config: StudentConfig) -> torch.dtype:
    """The dtype of trained parameters: `student.dtype`, or float64 where the teacher is."""
    dtype: torch.dtype = getattr(torch, config.dtype)
    return torch.float64 if teacher.dtype == torch.float64 else dtype


def make_student(
    teacher: PreTrainedModel, config: StudentConfig, keep: Sequence[int] | None = None, tokens: int | None = None
) -> PreTrainedModel:
    """Cut the teacher in depth (section "student" of DSKD, arXiv 2602.22351).

    Embeddings, final norm and output embedding are the teacher's, frozen like all layers below the top `train_top`.
    Frozen parameters share their memory with the teacher's, dtype and device included; trainable ones are copies of
    dtype `config.dtype`. Tied embeddings stay tied.

    Args:
        teacher: a model whose parameters hold values (neither quantised nor offloaded).
        config: selection, trained parts, vocabulary.
        keep: the teacher's layers, as `chosen_layers` gives them; None where `config` alone decides.
        tokens: of the tokenizer; needed by `vocabulary: tokenizer` alone.

    Raises:
        InputError: a layer count or pattern that does not fit, or a family that cannot be cut.
    """
    if keep is None:
        keep = chosen_layers(teacher.config.num_hidden_layers, config)
    student = shell(teacher, keep)
    names = trainable_names(student, len(keep), config)
    tied = {
        id(parameter)
        for name, parameter in student.named_parameters(remove_duplicate=False)
        if name in names
    }  # fmt: skip
    by_name = dict(student.named_parameters(remove_duplicate=False))
    dtype = trained_dtype(teacher, config)

    def parameter(name: str, value: nn.Parameter) -> nn.Parameter:
        # A parameter trains when any of the names it is tied under was chosen.
        if name in names or id(by_name[name]) in tied:
            return nn.Parameter(value.detach().to(dtype, copy=True), requires_grad=True)
        return nn.Parameter(value.detach(), requires_grad=False)

    graft(student, teacher, keep, parameter, Tensor.clone)
    resize_vocabulary(student, config, tokens)
    return student


def _resized(value: nn.Parameter, rows: int) -> nn.Parameter:
    """A table [rows, ...]: the first rows of `value`, and where there are too few the mean of all for the rest.

    The logit of a mean row is the mean of all logits, so padding never becomes the likeliest token.
    """
    if rows <= len(value):
        cut = value.detach()[:rows]
        resized = cut.clone() if value.requires_grad else cut
    else:
        mean = value.detach().float().mean(0, keepdim=True).to(value.dtype)
        resized = torch.cat([value.detach(), mean.expand(rows - len(value), *mean.shape[1:])])
    return nn.Parameter(resized, requires_grad=value.requires_grad)


def resize_vocabulary(student: PreTrainedModel, config: StudentConfig, tokens: int | None) -> None:
    """Give the student's tables the number of rows that `student.vocabulary` asks for; ties stay ties.

    Rows from the tokenizer's size on are padding: no loss looks at them.

    Raises:
        InputError: fewer rows than the tokenizer has tokens.
    """
    if config.vocabulary == "teacher":
        return
    if config.vocabulary == "tokenizer":
        assert tokens is not None
        rows = tokens
    else:
        rows = config.vocabulary
    if tokens is not None and rows < tokens:
        raise InputError(
            f"student.vocabulary is {rows}, but the tokenizer has {tokens} tokens",
            f"at least {tokens}", "raise it, or set student.vocabulary to tokenizer",
        )  # fmt: skip
    tables = (student.get_input_embeddings(), student.get_output_embeddings())
    old = {id(value): value for module in tables for value in module.parameters(recurse=False)}
    new = {key: _resized(value, rows) for key, value in old.items()}
    for module in tables:
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = new[id(value)]
        for name in ("num_embeddings", "out_features"):
            if hasattr(module, name):
                setattr(module, name, rows)
    student.config.vocab_size = rows
    if hasattr(student, "vocab_size"):
        student.vocab_size = rows
