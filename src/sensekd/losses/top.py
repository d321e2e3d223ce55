"""A teacher that is known by the k likeliest tokens of every position and by the mass of all others, the tail.

Divergences are over k + 1 outcomes: the k tokens, and the tail as one. The student's tail is what its softmax at the
same temperature gives to the other tokens. Lumping outcomes never raises a divergence, so the value is a lower bound of
the one over the vocabulary, and equal to it with k = V.

Shapes: N positions, k tokens, V vocabulary. u = z / τ are the student's logits at the temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensekd.losses.divergence import Objective, per_position
from sensekd.losses.terms import LossTerm

# Stands for the logarithm of an empty tail: exp of it is 0, and no product with it is NaN.
EMPTY: float = -100.0


@dataclass(frozen=True)
class TopTeacher:
    """What is known of the teacher's softmax at temperature τ.

    Attributes:
        log_probs: [N, k] float32; with k = V in the order of the vocabulary, otherwise descending.
        ids: [N, k] int64, the tokens; None with k = V.
        log_tail: [N] float32, logarithm of the mass of all other tokens; None with k = V.
    """

    log_probs: Tensor
    ids: Tensor | None = None
    log_tail: Tensor | None = None

    def rows(self, part: slice | Tensor) -> TopTeacher:
        """The same for some positions."""
        ids = None if self.ids is None else self.ids[part]
        return TopTeacher(self.log_probs[part], ids, None if self.log_tail is None else self.log_tail[part])

    def to(self, device: torch.device) -> TopTeacher:
        """The same on another device."""
        ids = None if self.ids is None else self.ids.to(device)
        return TopTeacher(self.log_probs.to(device), ids, None if self.log_tail is None else self.log_tail.to(device))

    def lumped(self) -> Tensor:
        """[N, k + 1] log-probabilities with the tail as the last outcome; what rounding took from their sum is made up.

        With k = V the log-probabilities as they are.
        """
        if self.log_tail is None:
            return self.log_probs
        tail = self.log_tail.clamp(min=EMPTY)[:, None]
        return torch.cat([self.log_probs, tail], dim=1).log_softmax(-1)


def lump(u_NV: Tensor, ids_Nk: Tensor) -> Tensor:
    """[N, k + 1] logits whose softmax is the student's over the k tokens and the tail."""
    rest = u_NV.scatter(1, ids_Nk, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([u_NV.gather(1, ids_Nk), rest], dim=1)


def top_divergence(teacher: TopTeacher, student_NV: Tensor, objective: Objective, mask_N: Tensor) -> LossTerm:
    """The chosen divergence from whole student logits (DSKD, arXiv 2602.22351, L_KL); without the factor τ².

    Args:
        teacher: at the temperature of `objective`.
        student_NV: [N, V] student logits.
        objective: temperature and kind.
        mask_N: [N] bool, True at labels.
    """
    logits = student_NV.float() / objective.tau
    if teacher.ids is not None:
        logits = lump(logits, teacher.ids)
    found = per_position(teacher.lumped(), F.log_softmax(logits, dim=-1), objective)
    return LossTerm(torch.where(mask_N, found, 0.0).sum(), mask_N.sum())


def top_rows(teacher: TopTeacher) -> tuple[Tensor, Tensor] | Tensor:
    """What `score_rows` takes: (ids [N, k], log-probabilities [N, k + 1]), or with k = V scores at τ, [N, V]."""
    return teacher.log_probs if teacher.ids is None else (teacher.ids, teacher.lumped())
