"""The terms of the distillation loss: each a sum and a count, divided once by the global count of what it supervises.

Shapes: N label positions, P pulled positions, Q pushed positions, κ kept rows, D hidden width, V vocabulary.
A loss knows tensors alone: no model, no configuration, no dictionary. Sums are float32 whatever the input.
Squared distances are per dimension and in units of σ²: d²(s, h) = (1/D) Σ (s - h)² / σ².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

if TYPE_CHECKING:
    from sensekd.targets import SenseTargets

IGNORE: Final = -100
Push = Literal["absolute", "relative", "contrastive"]


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A sum over supervised positions and how many there were, both scalar tensors.

    Of weighted positions the sum is weighted, and the count is the sum of the weights.
    """

    sum: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """sum / count; 0 where nothing was supervised, so that an absent term adds nothing."""
        return self.sum / divisor(self.count)


def divisor(count: Tensor) -> Tensor:
    """What a sum over so many positions, or over weights of this sum, is divided by: 1 where there is nothing."""
    return torch.where(count > 0, count, 1.0) if count.is_floating_point() else count.clamp(min=1)


def cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> LossTerm:
    """Next-token cross-entropy, L_CE.

    Args:
        logits_NV: [N, V] student logits.
        labels_N: [N] int64; -100 is not a label.
    """
    total = F.cross_entropy(logits_NV.float(), labels_N, ignore_index=IGNORE, reduction="sum")
    return LossTerm(total, (labels_N != IGNORE).sum())


def hidden_mse(teacher_ND: Tensor, student_ND: Tensor, sigma2: float, mask_N: Tensor) -> LossTerm:
    """d²(h^T_t, h^S_t), L_hid.

    Args:
        teacher_ND: [N, D] teacher states.
        student_ND: [N, D] student states.
        sigma2: σ², the unit of squared distance.
        mask_N: [N] bool, True at labels.
    """
    per_position = (teacher_ND.float() - student_ND.float()).square().mean(-1) / sigma2
    return LossTerm(torch.where(mask_N, per_position, 0.0).sum(), mask_N.sum())


def sense_pull(student_ND: Tensor, targets: SenseTargets, sigma2: float, weight_N: Tensor | None = None) -> LossTerm:
    """Σ pull_t: the mean over the kept rows of P_t of d², weighted where the targets were selected with weights.

    Targets with `pull_reach` give max(0, d²(m_t, h^S_t) - d²(m_t, h^T_t)) instead, m_t the mean of the rows: exactly 0
    where the student is as near to its senses as the teacher is, so that a perfect student is not pulled away.

    Args:
        student_ND: [N, D] student states.
        targets: what `targets.select` kept.
        sigma2: σ².
        weight_N: [N] weights of the positions, not negative; None where each counts as one.
    """
    states_PD = _at(student_ND, targets.pull_at).float()
    # One pass forward and one back, with the bits of (s - h)² and of its gradient.
    d2_P = F.mse_loss(states_PD, targets.pull_mean, reduction="none").mean(-1)
    if targets.pull_reach is None:
        per_position = (d2_P + targets.pull_spread) / sigma2
    else:
        # relu, not clamp: its gradient at exactly 0 is 0.
        per_position = F.relu(d2_P - targets.pull_reach) / sigma2
    return _term(per_position, targets.pull_at, weight_N)


def sense_push(
    student_ND: Tensor,
    targets: SenseTargets,
    sigma2: float,
    margin: float,
    form: Push = "absolute",
    *,
    temperature: float = 1.0,
    weight_N: Tensor | None = None,
) -> tuple[LossTerm, LossTerm]:
    """Σ push_t, and how many of the kept rows of N_t are inside the margin.

    absolute: mean over the rows of max(0, margin - d²); relative: of max(0, margin + d²(own, t) - d²), own = the own
    sense nearest to h^T_t; contrastive: -log(e^(-d²(own, t) / T) / (e^(-d²(own, t) / T) + Σ e^(-d² / T))), the sum over
    the rows (InfoNCE, arXiv 1807.03748, equation 4, over squared distances).

    Args:
        student_ND: [N, D] student states.
        targets: what `targets.select` kept.
        sigma2: σ².
        margin: in units of σ²; the contrastive form has none.
        form: which of them.
        temperature: T of the contrastive form, in units of σ².
        weight_N: [N] weights of the positions, not negative; None where each counts as one.

    Returns:
        The push (count: positions Q), and the active rows (count: kept rows): those with a hinge above 0, or, in the
        contrastive form, those nearer to the student's state than the own sense is.

    Raises:
        ValueError: `relative` or `contrastive` with targets that were selected without own senses.
    """
    states_QD = _at(student_ND, targets.push_at).float()
    rows_QKD = targets.push_rows.float()
    d2_QK = F.mse_loss(rows_QKD, states_QD[:, None].expand_as(rows_QKD), reduction="none").mean(-1) / sigma2
    threshold: Tensor | float = margin
    if form != "absolute":
        if targets.own_nearest is None:
            raise ValueError(f"the {form} push needs targets selected with own=True")
        own_Q1 = (targets.own_nearest - states_QD).square().mean(-1, keepdim=True) / sigma2
        threshold = own_Q1 if form == "contrastive" else margin + own_Q1
    inside_QK = threshold - d2_QK
    if form == "contrastive":
        # -log softmax of the own sense: log(1 + Σ e^((d²(own) - d²) / T)).
        rows = torch.where(targets.push_mask, inside_QK / temperature, -torch.inf).logsumexp(-1)
        per_position = F.softplus(rows)
    else:
        hinge_QK = torch.where(targets.push_mask, inside_QK.clamp(min=0), 0.0)
        per_position = hinge_QK.sum(-1) / targets.push_mask.sum(-1).clamp(min=1)
    active = (targets.push_mask & (inside_QK.detach() > 0)).sum().float()
    return _term(per_position, targets.push_at, weight_N), LossTerm(active, targets.push_mask.sum())


def _term(per_position: Tensor, at: Tensor, weight_N: Tensor | None) -> LossTerm:
    """Sum and count of the values at the positions `at`, or both of them weighted."""
    if weight_N is None:
        return LossTerm(per_position.sum(), torch.tensor(at.numel(), device=at.device))
    weight = weight_N[at].float()
    return LossTerm((per_position * weight).sum(), weight.sum())


def _at(states_ND: Tensor, positions: Tensor) -> Tensor:
    """The states at ascending positions; the states themselves where these are all: nothing is then scattered back."""
    return states_ND if len(positions) == len(states_ND) else states_ND[positions]
