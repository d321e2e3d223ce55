"""How far the student's distribution is from the teacher's: forward KL, reverse KL, Jensen-Shannon.

Shapes: N label positions, V vocabulary. p and q are the teacher's and the student's distribution at temperature τ,
δ = log p - log q. Every one of them is exactly 0 where the logits are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensekd.losses.terms import LossTerm

Divergence = Literal["forward", "reverse", "jsd"]


@dataclass(frozen=True)
class Objective:
    """CE + weight · divergence, the part of the loss that looks at logits.

    Attributes:
        weight: α τ² (DSKD, arXiv 2602.22351); 0 is cross-entropy alone.
        tau: temperature, > 0.
        kind: forward KL(p || q), reverse KL(q || p), or `jsd`: β KL(p || m) + (1 - β) KL(q || m), m = β p + (1 - β) q
            (generalised Jensen-Shannon, GKD, arXiv 2306.13649, section 2).
        beta: β of `jsd`, between 0 and 1.
    """

    weight: float = 0.0
    tau: float = 1.0
    kind: Divergence = "forward"
    beta: float = 0.5


def log_mixture(delta: Tensor, beta: float) -> Tensor:
    """log(m / q) = log(β e^δ + 1 - β), without overflow and exactly 0 where δ is.

    Both branches stay finite everywhere, so that neither spoils the other's gradient.
    """
    below, above = delta.clamp(max=0), delta.clamp(min=0)
    small = torch.log1p(beta * torch.expm1(below))
    large = above + torch.log1p((1 - beta) * torch.expm1(-above))
    return torch.where(delta <= 0, small, large)


def divergence(teacher_NV: Tensor, student_NV: Tensor, objective: Objective, mask_N: Tensor) -> LossTerm:
    """The chosen divergence from full logits; the factor τ² belongs to the combination, not to the term.

    Args:
        teacher_NV: [N, V] teacher logits.
        student_NV: [N, V] student logits.
        objective: temperature and kind.
        mask_N: [N] bool, True at labels.
    """
    log_p = F.log_softmax(teacher_NV.float() / objective.tau, dim=-1)
    log_q = F.log_softmax(student_NV.float() / objective.tau, dim=-1)
    found = per_position(log_p, log_q, objective)
    return LossTerm(torch.where(mask_N, found, 0.0).sum(), mask_N.sum())


def per_position(log_p: Tensor, log_q: Tensor, objective: Objective) -> Tensor:
    """[N] the chosen divergence of two sets of log-probabilities [N, V]."""
    if objective.kind == "forward":
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    delta = log_p - log_q
    if objective.kind == "reverse":
        return -(log_q.exp() * delta).sum(-1)
    beta, mixture = objective.beta, log_mixture(delta, objective.beta)
    return (beta * log_p.exp() * (delta - mixture) - (1 - beta) * log_q.exp() * mixture).sum(-1)


def kl_divergence(teacher_NV: Tensor, student_NV: Tensor, tau: float, mask_N: Tensor) -> LossTerm:
    """Forward KL(softmax(z^T / τ) || softmax(z^S / τ)), L_KL: exactly 0 where the logits are equal.

    The factor τ² belongs to the combination, not to the term.

    Args:
        teacher_NV: [N, V] teacher logits.
        student_NV: [N, V] student logits.
        tau: temperature, > 0.
        mask_N: [N] bool, True at labels.
    """
    return divergence(teacher_NV, student_NV, Objective(tau=tau), mask_N)
