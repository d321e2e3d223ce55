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


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A sum over supervised positions and how many there were, both scalar tensors."""

    sum: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """sum / count; 0 where nothing was supervised, so that an absent term adds nothing."""
        return self.sum / self.count.clamp(min=1)


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


def sense_pull(student_ND: Tensor, targets: SenseTargets, sigma2: float) -> LossTerm:
    """Σ pull_t: the mean over the kept rows of P_t of d².

    Args:
        student_ND: [N, D] student states.
        targets: what `targets.select` kept.
        sigma2: σ².
    """
    states_PD = _at(student_ND, targets.pull_at).float()
    # One pass forward and one back, with the bits of (s - h)² and of its gradient.
    d2_P = F.mse_loss(states_PD, targets.pull_mean, reduction="none").mean(-1)
    per_position = (d2_P + targets.pull_spread) / sigma2
    return LossTerm(per_position.sum(), _count(targets.pull_at))


def sense_push(
    student_ND: Tensor,
    targets: SenseTargets,
    sigma2: float,
    margin: float,
    form: Literal["absolute", "relative"] = "absolute",
) -> tuple[LossTerm, LossTerm]:
    """Σ push_t, and how many of the kept rows of N_t are inside the margin.

    absolute: max(0, margin - d²); relative: max(0, margin + d²(own, t) - d²), own = the own sense nearest to h^T_t.

    Args:
        student_ND: [N, D] student states.
        targets: what `targets.select` kept.
        sigma2: σ².
        margin: in units of σ².
        form: which hinge.

    Returns:
        The push (count: positions Q), and the active rows (count: kept rows).

    Raises:
        ValueError: `relative` with targets that were selected without own senses.
    """
    states_QD = _at(student_ND, targets.push_at).float()
    rows_QKD = targets.push_rows.float()
    d2_QK = F.mse_loss(rows_QKD, states_QD[:, None].expand_as(rows_QKD), reduction="none").mean(-1) / sigma2
    threshold: Tensor | float = margin
    if form == "relative":
        if targets.own_nearest is None:
            raise ValueError("the relative push needs targets selected with own=True")
        threshold = margin + (targets.own_nearest - states_QD).square().mean(-1, keepdim=True) / sigma2
    hinge_QK = torch.where(targets.push_mask, (threshold - d2_QK).clamp(min=0), 0.0)
    per_position = hinge_QK.sum(-1) / targets.push_mask.sum(-1).clamp(min=1)
    active = LossTerm((hinge_QK.detach() > 0).sum().float(), targets.push_mask.sum())
    return LossTerm(per_position.sum(), _count(targets.push_at)), active


def _at(states_ND: Tensor, positions: Tensor) -> Tensor:
    """The states at ascending positions; the states themselves where these are all: nothing is then scattered back."""
    return states_ND if len(positions) == len(states_ND) else states_ND[positions]


def _count(indices: Tensor) -> Tensor:
    return torch.tensor(indices.numel(), device=indices.device)
