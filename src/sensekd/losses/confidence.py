"""How sure the teacher is of the label: the weight of a position in the sense terms.

`probability` is p^T(y_t), the teacher's softmax at temperature 1; `agreement` is 1 where no token is likelier than the
label, and 0 elsewhere. Positions without a label have the weight 0.

Shapes: N label positions, D width of the teacher, V vocabulary, k tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sensekd.losses.chunked import ELEMENTS, Head, positions_at_a_time
from sensekd.losses.terms import IGNORE

if TYPE_CHECKING:
    from sensekd.losses.top import TopTeacher

Confidence = Literal["probability", "agreement"]


@torch.no_grad()
def confidence_of_states(
    states_ND: Tensor, head: Head, labels_N: Tensor, kind: Confidence, *, elements: int = ELEMENTS
) -> Tensor:
    """[N] float32 weights from the teacher's states, a few positions at a time.

    Args:
        states_ND: [N, D].
        head: the teacher's output embedding, on any device.
        labels_N: [N] int64; -100 is not a label.
        kind: which weight.
        elements: scores that may exist at a time.
    """
    at = (labels_N != IGNORE).nonzero()[:, 0]
    weight_N = torch.zeros(len(labels_N), device=labels_N.device)
    for part in torch.split(at, positions_at_a_time(elements, len(head.weight))):
        states = states_ND[part].to(head.weight.device, head.weight.dtype)
        found = _of_scores(head.logits(states), labels_N[part].to(states.device), kind)
        weight_N[part] = found.to(weight_N)
    return weight_N


@torch.no_grad()
def confidence_of_logits(logits_NV: Tensor, labels_N: Tensor, kind: Confidence) -> Tensor:
    """[N] float32 weights from the teacher's whole logits [N, V]; labels of -100 have the weight 0."""
    found = _of_scores(logits_NV.float(), labels_N.clamp(min=0), kind)
    return torch.where(labels_N == IGNORE, 0.0, found)


@torch.no_grad()
def confidence_of_top(top: TopTeacher, tau: float, labels_N: Tensor, kind: Confidence) -> Tensor:
    """[N] float32 weights from the k likeliest tokens alone; 0 where the label is not one of them.

    At temperature 1 the probabilities are the τ-th powers of those at τ, divided by their sum. The sum over the tail is
    not known and counts as 0, so a weight is p^T(y_t) / (1 - tail at 1): too large, and equal to it with k = V.

    Args:
        top: the teacher's softmax at τ.
        tau: τ.
        labels_N: [N] int64; -100 is not a label.
        kind: which weight.
    """
    scores_Nk = top.log_probs.float() * tau
    if top.ids is None:
        found = _of_scores(scores_Nk, labels_N.clamp(min=0), kind)
    else:
        own = scores_Nk.masked_fill(top.ids != labels_N[:, None], -torch.inf).amax(-1)
        found = _weigh(own, scores_Nk, kind)
    return torch.where(labels_N == IGNORE, 0.0, found)


def _of_scores(scores_NV: Tensor, labels_N: Tensor, kind: Confidence) -> Tensor:
    return _weigh(scores_NV.gather(-1, labels_N[:, None])[:, 0], scores_NV, kind)


def _weigh(own_N: Tensor, scores_NV: Tensor, kind: Confidence) -> Tensor:
    if kind == "agreement":
        return (own_N >= scores_NV.amax(-1)).float()
    return (own_N - scores_NV.logsumexp(-1)).exp().float()
