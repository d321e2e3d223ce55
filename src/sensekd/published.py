"""The published code's targets (DSKD, arXiv 2602.22351), for comparison alone: `loss.targets: published`.

What it does differently from `sensekd.targets`:

- Only neighbours of two pieces and more count: single-token neighbours are collected there, but never saved.
- At a position with relations up to n synonyms, and up to n antonyms, are drawn anew every time.
- The own senses stand among the negative rows too, and a row may be both positive and negative.
- Positions are sub-sampled: a share of those with relations, then as many again with the own rows alone.
- Both terms are divided by the number of picked positions; one without rows counts as a zero.

Shapes: N label positions, n drawn-from positions, V vocabulary, S spans, E pairs (position, row).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensekd.targets import (
    Kept,
    Ragged,
    SenseTable,
    SenseTargets,
    build_table,
    compose_spans,
    nearest,
    squared_distances,
    targets_of,
)

if TYPE_CHECKING:
    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary


@dataclass(frozen=True)
class Neighbours:
    """Relations before they are merged into rows.

    Attributes:
        synonyms: span ids by token.
        antonyms: span ids by token.
        spans: row ids by span.
    """

    synonyms: Ragged
    antonyms: Ragged
    spans: Ragged

    def to(self, device: torch.device | str) -> Neighbours:
        """The same on another device."""
        return Neighbours(self.synonyms.to(device), self.antonyms.to(device), self.spans.to(device))


@dataclass(frozen=True, kw_only=True)
class PublishedTable(SenseTable):
    """A table that also knows which neighbour a row comes from, so that neighbours can be drawn."""

    neighbours: Neighbours

    def to(self, device: torch.device | str) -> PublishedTable:
        """The same table on another device."""
        moved = super().to(device)
        assert isinstance(moved, PublishedTable)
        return replace(moved, neighbours=self.neighbours.to(device))

    def related(self, labels: Tensor, whole: Tensor) -> Tensor:
        """Bool like `labels`: whole words with a synonym or an antonym that has senses."""
        known = labels.clamp(min=0)
        has = self.neighbours.synonyms.nonempty(known) | self.neighbours.antonyms.nonempty(known)
        return (labels >= 0) & whole & has


def build_published(
    dictionary: SenseDictionary, relations: TokenRelations | None, *, synonyms: bool = True, antonyms: bool = True
) -> PublishedTable:
    """The rows of `build_table` with the relations that the published code keeps.

    Args:
        dictionary: senses of the teacher's tokens.
        relations: linked lexicon; None leaves own senses alone.
        synonyms: keep synonyms.
        antonyms: keep antonyms.
    """
    table = build_table(dictionary, relations, synonyms=synonyms, antonyms=antonyms)
    vocabulary = len(table.own.indptr) - 1
    none = Ragged(torch.zeros(vocabulary + 1, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    found, spans = [none, none], Ragged(torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    if relations is not None and (synonyms or antonyms):
        _, spans, _ = compose_spans(
            relations.span_indptr, relations.span_pieces, table.own, table.rows[: len(dictionary.centroids)]
        )
        usable = (relations.span_indptr.diff() > 1) & (spans.counts > 0)
        if synonyms:
            found[0] = _only(Ragged(relations.synonym_indptr, relations.synonym_spans), usable)
        if antonyms:
            found[1] = _only(Ragged(relations.antonym_indptr, relations.antonym_spans), usable)
    shared = {name: getattr(table, name) for name in SenseTable.__dataclass_fields__}
    return PublishedTable(**shared, neighbours=Neighbours(found[0], found[1], spans))


def _only(lists: Ragged, usable: Tensor) -> Ragged:
    kept = usable[lists.ids]
    before = F.pad(kept.cumsum(0), (1, 0))
    return Ragged(before[lists.indptr], lists.ids[kept])


def draw_neighbours(lists: Ragged, tokens: Tensor, draws: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Up to `limit` of each token's spans, at random.

    Args:
        lists: span ids by token.
        tokens: [n] int64.
        draws: [n] random numbers in [0, 1); with the span id they decide, so a batch may be cut in any way.
        limit: how many.

    Returns:
        crow [n + 1] and span ids, in no particular order within a position.
    """
    crow, spans = lists.expand(tokens)
    position = torch.arange(len(tokens), device=tokens.device).repeat_interleave(crow.diff(), output_size=len(spans))
    key = _mixed((draws * 2.0**53).long()[position] ^ _mixed(spans + 1))
    order = key.argsort(stable=True)
    order = order[position[order].argsort(stable=True)]
    rank = torch.arange(len(spans), device=spans.device) - crow[:-1][position]
    chosen = rank < limit
    counts = torch.bincount(position[chosen], minlength=len(tokens))
    return F.pad(counts.cumsum(0), (1, 0)), spans[order][chosen]


def _mixed(values: Tensor) -> Tensor:
    """A hash of int64 numbers: multiplications wrap around, shifts bring high bits down."""
    for factor in (-0x61C8864680B583EB, -0x4B47D0C5A1A6B9E7):
        values = (values ^ (values >> 31)) * factor
    return values ^ (values >> 29)


def _candidates(table: PublishedTable, lists: Ragged, picked: tuple[Tensor, Tensor, Tensor], limit: int) -> Ragged:
    """Rows of each picked position: its own, and those of drawn neighbours where relations apply; ascending, once."""
    labels, related, draws = picked
    own_crow, own_rows = table.own.expand(labels)
    at = related.nonzero()[:, 0]
    crow, spans = draw_neighbours(lists, labels[at], draws[at], limit)
    row_crow, rows = table.neighbours.spans.expand(spans)
    owner = at.repeat_interleave(crow.diff()).repeat_interleave(row_crow.diff())
    here = torch.arange(len(labels), device=labels.device).repeat_interleave(own_crow.diff())
    total = len(table.rows)
    pairs = torch.unique(torch.cat([here, owner]) * total + torch.cat([own_rows, rows]))
    counts = torch.bincount(pairs // total, minlength=len(labels))
    return Ragged(F.pad(counts.cumsum(0), (1, 0)), pairs % total)


@torch.no_grad()
def select_published(
    table: PublishedTable,
    labels_N: Tensor,
    related_N: Tensor,
    teacher_ND: Tensor,
    draws_N: Tensor,
    sizes: tuple[int, int],
) -> SenseTargets:
    """Keep the κ rows nearest to h^T_t of own ∪ drawn synonyms' rows, and of own ∪ drawn antonyms' rows.

    Args:
        table: rows and neighbours.
        labels_N: [N] int64; -100 where a position was not picked.
        related_N: [N] bool, picked for its relations; elsewhere the own rows alone are pulled to.
        teacher_ND: [N, D] teacher states h^T.
        draws_N: [N] random numbers in [0, 1).
        sizes: κ, and how many neighbours are drawn.
    """
    kappa, limit = sizes
    kept = []
    for lists, where in (
        (table.neighbours.synonyms, labels_N >= 0),
        (table.neighbours.antonyms, related_N & table.neighbours.antonyms.nonempty(labels_N.clamp(min=0))),
    ):
        at = where.nonzero()[:, 0]
        rows = _candidates(table, lists, (labels_N[at], related_N[at], draws_N[at]), limit)
        have = (rows.counts > 0).nonzero()[:, 0]
        at, crow = at[have], F.pad(rows.counts[have].cumsum(0), (1, 0))
        ids, mask = nearest(squared_distances(teacher_ND[at], table, crow, rows.ids), crow, rows.ids, kappa)
        kept.append((at, ids, mask))
    return targets_of(table, Kept(*kept[0], *kept[1]))
