"""Lists of rows by token, and what selection leaves of them.

Shapes: N label positions, P pulled and Q pushed ones, V vocabulary, E candidate pairs (position, row), κ kept rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Lists of row ids by token: token v has `ids[indptr[v]:indptr[v + 1]]`, in ascending order.

    Attributes:
        indptr: [V + 1] int64.
        ids: [*] int64.
        held: [U] int64, ascending: the only rows that the table holds; `expand` then gives places among them.
    """

    indptr: Tensor
    ids: Tensor
    held: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """[V] int64, the length of every list."""
        return self.indptr.diff()

    def expand(self, tokens_N: Tensor) -> tuple[Tensor, Tensor]:
        """The lists of many tokens one after the other: (crow [N + 1], ids [E])."""
        start = self.indptr[tokens_N]
        length = self.indptr[tokens_N + 1] - start
        crow = F.pad(length.cumsum(0), (1, 0))
        # The one number that has to come from the device; with it nothing below waits again.
        total = int(crow[-1])
        within = torch.arange(total, device=tokens_N.device) - crow[:-1].repeat_interleave(length, output_size=total)
        ids = self.ids[start.repeat_interleave(length, output_size=total) + within]
        return crow, ids if self.held is None else torch.searchsorted(self.held, ids)

    def nonempty(self, tokens: Tensor) -> Tensor:
        """Bool like `tokens`: whether the list of each has an entry."""
        return self.indptr[tokens + 1] > self.indptr[tokens]

    def to(self, device: torch.device | str) -> Ragged:
        """The same lists on another device."""
        held = None if self.held is None else self.held.to(device)
        return Ragged(self.indptr.to(device), self.ids.to(device), held)


@dataclass(frozen=True)
class Kept:
    """The row ids that selection keeps: all of it that depends on the teacher's states, small enough to be stored.

    Attributes:
        pull_at: [P] int64, indices into the N label positions.
        pull_ids, pull_mask: [P, κ] row ids and which of them count.
        push_at: [Q] int64, indices into the N label positions.
        push_ids, push_mask: [Q, κ] row ids and which of them count.
        own_ids: [Q] the own sense nearest to the teacher's state (relative and contrastive push), or None.
        pull_weight: [P, κ] float32, weights of the rows that sum to 1, or None where each counts as much as another.
    """

    pull_at: Tensor
    pull_ids: Tensor
    pull_mask: Tensor
    push_at: Tensor
    push_ids: Tensor
    push_mask: Tensor
    own_ids: Tensor | None = None
    pull_weight: Tensor | None = None

    def rows(self) -> Tensor:
        """[U] int64, ascending: every row that is named, row 0 among them (masked entries name it)."""
        named = [self.pull_ids.reshape(-1), self.push_ids.reshape(-1), self.pull_ids.new_zeros(1)]
        found: Tensor = torch.unique(torch.cat(named if self.own_ids is None else [*named, self.own_ids]))
        return found

    def among(self, held: Tensor) -> Kept:
        """The same rows as places among the rows `held` [U], ascending."""
        own = None if self.own_ids is None else torch.searchsorted(held, self.own_ids)
        pull, push = torch.searchsorted(held, self.pull_ids), torch.searchsorted(held, self.push_ids)
        return replace(self, pull_ids=pull, push_ids=push, own_ids=own)


@dataclass(frozen=True)
class SenseTargets:
    """Where the student's states are pulled to and pushed from (equations of the sense loss, DSKD, arXiv 2602.22351).

    The mean over kept rows of the distance to each equals the distance to their mean plus their spread, so one vector
    a position is enough for the pull. So it is with weights: the weighted mean of the distances is the distance to the
    weighted mean plus the weighted spread.

    Attributes:
        pull_at: [P] int64, indices into the N label positions.
        pull_mean: [P, D] mean, weighted or not, of the kept rows of P_t.
        pull_spread: [P] mean squared distance per dimension of the kept rows to their mean.
        push_at: [Q] int64, indices into the N label positions.
        push_rows: [Q, κ, D] kept rows of N_t.
        push_mask: [Q, κ] bool, False where N_t has fewer than κ rows.
        own_nearest: [Q, D] the own sense nearest to the teacher's state (relative and contrastive push), or None.
        kept: the row ids behind the vectors.
        pull_reach: [P] squared distance per dimension of h^T_t to `pull_mean`, where the pull ends there, or None.
    """

    pull_at: Tensor
    pull_mean: Tensor
    pull_spread: Tensor
    push_at: Tensor
    push_rows: Tensor
    push_mask: Tensor
    own_nearest: Tensor | None = None
    kept: Kept | None = None
    pull_reach: Tensor | None = None
