"""A map from the student's width to the teacher's: trained beside the student, never part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def make_projector(student: int, teacher: int, seed: int, *, sliced: bool) -> nn.Linear:
    """The linear map h^S [*, D_S] -> [*, D] that the hidden and the sense terms look at.

    Args:
        student: width of the student, D_S.
        teacher: width of the teacher, D.
        seed: of the random start.
        sliced: start from the identity on the dimensions that both have, as a student cut out of the teacher's tensors
            does; otherwise from an orthogonal map.
    """
    projector = nn.Linear(student, teacher, bias=False)
    with torch.no_grad(), torch.random.fork_rng():
        if sliced:
            projector.weight.copy_(torch.eye(teacher, student))
        else:
            torch.manual_seed(seed)
            nn.init.orthogonal_(projector.weight)
    return projector


class ProjectedStudent(nn.Module):
    """What the Trainer trains where a student has another width: the student, and its projector beside it.

    Args:
        student: run as it is; its logits and its folder know nothing of the projector.
        projector: maps its states.
    """

    def __init__(self, student: PreTrainedModel, projector: nn.Linear) -> None:
        super().__init__()
        self.student, self.projector = student, projector

    @property
    def config(self) -> PretrainedConfig:
        """The student's."""
        return self.student.config

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        """The student's forward."""
        return self.student(input_ids=input_ids, **inputs)

    def project(self, states: Tensor) -> Tensor:
        """[*, D_S] -> [*, D], in the projector's dtype: states that left an autocast forward may be half precision."""
        projected: Tensor = self.projector(states.to(self.projector.weight.dtype))
        return projected

    def get_output_embeddings(self) -> nn.Module:
        """The student's."""
        return self.student.get_output_embeddings()  # type: ignore[no-any-return]

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """The student's."""
        self.student.gradient_checkpointing_enable(**options)

    def gradient_checkpointing_disable(self) -> None:
        """The student's."""
        self.student.gradient_checkpointing_disable()
