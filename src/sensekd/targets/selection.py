"""The rows that every position of a batch is pulled to and pushed from: tensor operations over all positions at once.

Shapes: N label positions, R rows, D width, E candidate pairs (position, row), κ kept rows.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensekd.targets.records import Kept, Ragged, SenseTargets
from sensekd.targets.table import SenseTable

# The warning is about the format's age; the one operation used here (sampled_addmm) is tested against the definition.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


def squared_distances(states_ND: Tensor, table: SenseTable, crow: Tensor, ids_E: Tensor) -> Tensor:
    """Squared distances of chosen (state, row) pairs, without gathering a row per pair.

    Only the wanted dot products are computed (`sampled_addmm`); |s - h|² = |s|² + |h|² - 2 s·h in float32.

    Args:
        states_ND: [N, D].
        table: the rows.
        crow: [N + 1] where the candidates of each state begin in `ids_E`.
        ids_E: [E] row ids.

    Returns:
        [E] float32, not negative.
    """
    states_ND = states_ND.float()
    pattern = torch.sparse_csr_tensor(
        crow,
        ids_E,
        torch.zeros(len(ids_E), device=ids_E.device),
        (len(states_ND), len(table.rows)),
        check_invariants=False,
    )
    dots_E: Tensor = torch.sparse.sampled_addmm(pattern, states_ND, table.rows.T, beta=0.0).values()
    norms_E = states_ND.square().sum(-1).repeat_interleave(crow.diff(), output_size=len(ids_E))
    return (table.norms[ids_E] + norms_E - 2 * dots_E).clamp_(min=0)


def nearest(distances_E: Tensor, crow: Tensor, ids_E: Tensor, kappa: int) -> tuple[Tensor, Tensor]:
    """The κ nearest candidates of every position; ties go to the lower row id.

    Args:
        distances_E: [E], not negative.
        crow: [N + 1].
        ids_E: [E] row ids, ascending within a position.
        kappa: κ.

    Returns:
        ids [N, κ'] and mask [N, κ'], κ' = min(κ, longest list) and at least 1; masked entries hold row 0.
    """
    chosen, mask = _nearest_at(distances_E, crow, kappa)
    return torch.where(mask, ids_E[chosen] if len(ids_E) else chosen, 0), mask


def _nearest_at(distances_E: Tensor, crow: Tensor, kappa: int) -> tuple[Tensor, Tensor]:
    """Places among the E candidates, [N, κ'], of the κ nearest of every position, and their mask."""
    length = crow.diff()
    widest = max(1, int(length.max())) if len(length) else 1
    position = torch.arange(len(length), device=crow.device).repeat_interleave(length, output_size=len(distances_E))
    slot = torch.arange(len(distances_E), device=crow.device) - crow[:-1][position]
    # Bits of a non-negative float order like the float; the slot below them makes keys unique, so ties are settled.
    empty = torch.iinfo(torch.int64).max
    keys = torch.full((len(length), widest), empty, dtype=torch.int64, device=crow.device)
    keys[position, slot] = (distances_E.contiguous().view(torch.int32).long() << 32) | slot
    best = keys.topk(min(kappa, widest), dim=1, largest=False, sorted=True).values
    mask = best != empty
    return torch.where(mask, crow[:-1, None] + (best & 0xFFFFFFFF), 0), mask


def _keep(lists: Ragged, tokens: Tensor, states: Tensor, table: SenseTable, kappa: int) -> tuple[Tensor, Tensor]:
    crow, ids = lists.expand(tokens)
    return nearest(squared_distances(states, table, crow, ids), crow, ids, kappa)


def _keep_softly(
    lists: Ragged, tokens: Tensor, states: Tensor, table: SenseTable, kappa: int, temperature: float
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Ids and mask as `_keep` gives them, and the weights softmax(-d²(row, h^T) / temperature), 0 where masked."""
    crow, ids = lists.expand(tokens)
    distances = squared_distances(states, table, crow, ids)
    chosen, mask = _nearest_at(distances, crow, kappa)
    if not len(ids):
        return (torch.zeros_like(chosen), mask), mask.float()
    d2 = distances[chosen] / (states.shape[1] * table.sigma2)
    weight = (-d2 / temperature).masked_fill(~mask, -torch.inf).softmax(1)
    return (torch.where(mask, ids[chosen], 0), mask), weight


def _pull(table: SenseTable, ids: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean [P, D] and spread [P] of the kept positive rows."""
    weight = mask / mask.sum(1, keepdim=True) if weight is None else weight
    # A weighted bag reads κ rows a position and writes one; the [P, κ, D] tensor is never made.
    mean = F.embedding_bag(ids, table.rows, mode="sum", per_sample_weights=weight.to(table.rows.dtype))
    spread = (_taken(table.norms, ids) * weight).sum(1) - mean.square().sum(-1)
    return mean, spread.clamp(min=0) / mean.shape[1]


def _taken(values: Tensor, ids: Tensor) -> Tensor:
    """`values[ids]`; on a CPU whole rows are copied twice as fast."""
    return values.index_select(0, ids.reshape(-1)).view(*ids.shape, *values.shape[1:])


@torch.no_grad()
def targets_of(table: SenseTable, kept: Kept) -> SenseTargets:
    """The vectors behind kept row ids."""
    mean, spread = _pull(table, kept.pull_ids, kept.pull_mask, kept.pull_weight)
    own_nearest = None if kept.own_ids is None else table.rows[kept.own_ids]
    rows = _taken(table.rows, kept.push_ids)
    return SenseTargets(kept.pull_at, mean, spread, kept.push_at, rows, kept.push_mask, own_nearest, kept)


@torch.no_grad()
def select(
    table: SenseTable,
    labels_N: Tensor,
    whole_N: Tensor,
    teacher_ND: Tensor,
    kappa: int,
    *,
    own: bool = False,
    temperature: float | None = None,
    reach: bool = False,
) -> SenseTargets:
    """Keep the min(κ, |C|) rows of P_t and of N_t that are nearest to h^T_t in L2, for all positions at once.

    Args:
        table: candidate rows, on the device of the labels.
        labels_N: [N] int64; -100 is not supervised.
        whole_N: [N] bool, the label is a whole word in its text; relations apply there only.
        teacher_ND: [N, D] teacher states h^T.
        kappa: κ.
        own: also find the nearest own sense, for the relative and the contrastive push.
        temperature: weigh the kept rows of P_t by softmax(-d²(row, h^T_t) / temperature), d² in units of σ²; None gives
            each of them the same weight.
        reach: also find how near h^T_t itself is, for a pull that ends there.

    Returns:
        Targets at positions with at least one row; positions without are absent, not zero.
    """
    table = table.gathered(labels_N, whole_N, own=own)
    pull_at = table.pulled(labels_N, whole_N).nonzero()[:, 0]
    push_at = table.pushed(labels_N, whole_N, relative=own).nonzero()[:, 0]
    lists = table.positive_list(labels_N[pull_at], whole_N[pull_at])
    weight: Tensor | None = None
    if temperature is None:
        pulled = _keep(table.positive, lists, teacher_ND[pull_at], table, kappa)
    else:
        pulled, weight = _keep_softly(table.positive, lists, teacher_ND[pull_at], table, kappa, temperature)
    tokens, states = labels_N[push_at], teacher_ND[push_at]
    pushed = _keep(table.negative, tokens, states, table, kappa)
    own_ids = _keep(table.own, tokens, states, table, 1)[0][:, 0] if own else None
    targets = targets_of(table, Kept(pull_at, *pulled, push_at, *pushed, own_ids, weight))
    if not reach:
        return targets
    distances = F.mse_loss(teacher_ND[pull_at].float(), targets.pull_mean, reduction="none").mean(-1)
    return replace(targets, pull_reach=distances)
