"""The student: some of the teacher's layers, the rest of it copied and frozen, the top layers trainable."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from sensekd.errors import InputError
from sensekd.training.surgery import decoder_stack, graft, shell

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sensekd.config import StudentConfig


def chosen_layers(depth: int, config: StudentConfig) -> tuple[int, ...]:
    """Which of the teacher's layers the student keeps, ascending.

    Args:
        depth: layers of the teacher.
        config: `first` keeps 0..N-1; `spaced` keeps N evenly spaced ones with the first and the last among them.

    Raises:
        InputError: more layers than the teacher has.
    """
    count = config.layers
    if count > depth:
        raise InputError(
            f"student.layers is {count}, but the teacher has {depth} layers",
            f"1 to {depth}", f"lower student.layers to at most {depth}",
        )  # fmt: skip
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


def make_student(teacher: PreTrainedModel, config: StudentConfig) -> PreTrainedModel:
    """Cut the teacher in depth (section "student" of DSKD, arXiv 2602.22351).

    Embeddings, final norm and output embedding are the teacher's, frozen like all layers below the top `train_top`.
    Frozen parameters share their memory with the teacher's; trainable ones are copies. Tied embeddings stay tied.

    Raises:
        InputError: a layer count or pattern that does not fit, or a family that cannot be cut.
    """
    keep = chosen_layers(teacher.config.num_hidden_layers, config)
    student = shell(teacher, keep)
    names = trainable_names(student, len(keep), config)
    tied = {
        id(parameter)
        for name, parameter in student.named_parameters(remove_duplicate=False)
        if name in names
    }  # fmt: skip
    by_name = dict(student.named_parameters(remove_duplicate=False))

    def parameter(name: str, value: nn.Parameter) -> nn.Parameter:
        # A parameter trains when any of the names it is tied under was chosen.
        if name in names or id(by_name[name]) in tied:
            return nn.Parameter(value.detach().clone(), requires_grad=True)
        return nn.Parameter(value.detach(), requires_grad=False)

    graft(student, teacher, keep, parameter, Tensor.clone)
    return student
