"""A student of another width: the teacher's class with other sizes, cut out of its tensors or drawn at random."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sensekd.errors import InputError
from sensekd.training.students import trained_dtype
from sensekd.training.surgery import decoder_stack, source_name, trimmed_config
from sensekd.training.trunk import Form

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from sensekd.config import StudentConfig


def resized_config(config: PretrainedConfig, keep: Sequence[int], student: StudentConfig) -> PretrainedConfig:
    """The teacher's configuration with the student's sizes.

    The size of a head stays the teacher's. Sizes that the recipe leaves open shrink or grow with the width; the number
    of query heads per key/value head then stays the teacher's too.

    Raises:
        InputError: heads that the key/value heads do not divide.
    """
    assert student.width is not None
    found = trimmed_config(config, keep)
    scale = student.width / config.hidden_size
    heads = int(config.num_attention_heads)
    grouped = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kv_heads = student.kv_heads or max(1, round(grouped * scale))
    wanted = student.heads or kv_heads * (heads // grouped)
    if wanted % kv_heads:
        raise InputError(
            f"student.heads {wanted} and student.kv_heads {kv_heads}", "a whole number of heads per key/value head",
            "set both, the first a multiple of the second",
        )  # fmt: skip
    found.hidden_size, found.head_dim = student.width, size
    found.num_attention_heads, found.num_key_value_heads = wanted, kv_heads
    found.intermediate_size = student.intermediate or max(1, round(config.intermediate_size * scale))
    return found


def make_resized(teacher: PreTrainedModel, keep: Sequence[int], config: StudentConfig, seed: int) -> PreTrainedModel:
    """A student of width `config.width`; all of it trains, on the CPU in `config.dtype`.

    `init: sliced` fills every tensor with the leading part of the teacher's (whole heads, the first dimensions; what
    reaches beyond keeps its random start), `random` with the family's own initialisation.

    Args:
        teacher: a model whose parameters hold values.
        keep: the teacher's layers behind the student's.
        config: of the student.
        seed: of the initialisation.

    Raises:
        InputError: sizes that do not fit together, or that the family does not take.
    """
    resized = resized_config(teacher.config, keep, config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            student: PreTrainedModel = type(teacher)(resized)
        except ValueError as error:
            raise InputError(
                f"{type(teacher).__name__} refuses the student's sizes: {error}", "sizes that the family takes",
                "correct student.width, student.heads and student.intermediate",
            ) from error  # fmt: skip
    Form(trained_dtype(teacher, config)).settle(student)
    student.requires_grad_(True)
    student.generation_config = copy.deepcopy(teacher.generation_config)
    if config.init == "sliced":
        _slice_into(student, teacher, keep)
    student.train(teacher.training)
    return student


@torch.no_grad()
def _slice_into(student: PreTrainedModel, teacher: PreTrainedModel, keep: Sequence[int]) -> None:
    stack = decoder_stack(teacher)
    values: dict[str, nn.Parameter] = dict(teacher.named_parameters())
    for name, target in student.named_parameters():
        source = values[source_name(name, stack, keep)]
        part = tuple(slice(0, min(size)) for size in zip(target.shape, source.shape, strict=True))
        target[part] = source[part].to(target)
