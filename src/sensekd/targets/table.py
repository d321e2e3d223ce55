"""Candidate rows of every token: all of the targets that follows from teacher, dictionary and lexicon alone.

Shapes: V vocabulary, R rows (dictionary rows, then the composed rows of multi-piece spans), D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensekd.senses.residence import HostRows, RowGatherer
from sensekd.senses.store import StoredRows
from sensekd.targets.records import Kept, Ragged
from sensekd.targets.spans import compose_spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary


@dataclass(frozen=True)
class SenseTable:
    """Everything about targets that follows from teacher, dictionary and lexicon alone.

    Attributes:
        rows: [R, D] float32; [0, D] where they stay on the host.
        norms: [R] squared length of every row.
        sigma2: σ².
        own: S[v] of every token.
        positive: 2 V lists, P_t by label: first the own senses (a label that is cut out of a word), then own senses and
            the senses of synonyms (a whole word).
        negative: the senses of antonyms without any row of `positive` (whole words).
        dropped_spans: spans with a piece that has no senses.
        host: the rows where they stay on the host: `select` brings those of its batch to the device.
    """

    rows: Tensor
    norms: Tensor
    sigma2: float
    own: Ragged
    positive: Ragged
    negative: Ragged
    dropped_spans: int = 0
    host: RowGatherer | None = None

    def to(self, device: torch.device | str) -> SenseTable:
        """The same table on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("rows", "norms", "own", "positive", "negative")}
        return replace(self, **moved, host=None if self.host is None else self.host.to(device))

    def take(self, ids: Tensor) -> Tensor:
        """Rows [n, D] of any ids [n], in their order, on the device; of those on the host only these are brought."""
        if self.host is None:
            return self.rows[ids]
        held, places = torch.unique(ids, return_inverse=True)
        return self.host.rows.take(held.cpu(), ids.device)[places]

    def row_blocks(self) -> Iterator[Tensor]:
        """All rows in order, float32, wherever they are; a few at a time where they stay on the host."""
        return iter([self.rows]) if self.host is None else self.host.rows.blocks()

    def prefetch(self, labels: Tensor, whole: Tensor, *, own: bool = False) -> None:
        """Begin to bring the rows of a batch to the device (contiguous labels); does nothing where they are there."""
        if self.host is not None:
            self.host.submit(labels, whole, lambda: self._candidates(labels, whole, own))

    def gathered(self, labels: Tensor, whole: Tensor, *, own: bool = False) -> SenseTable:
        """A table for these labels alone, with its rows on the device; this one where they are there already."""
        if self.host is None:
            return self
        found = self.host.collect(labels, whole, lambda: self._candidates(labels, whole, own))
        lists = {name: replace(getattr(self, name), held=found.ids) for name in ("own", "positive", "negative")}
        return replace(self, rows=found.rows, norms=self.norms[found.ids], host=None, **lists)

    def prefetch_kept(self, labels: Tensor, whole: Tensor, kept: Kept) -> None:
        """Begin to bring the kept rows of a batch to the device; does nothing where they are there."""
        if self.host is not None:
            self.host.submit(labels, whole, kept.rows)

    def holding(self, labels: Tensor, whole: Tensor, kept: Kept) -> tuple[SenseTable, Kept]:
        """A table with these rows on the device, and their ids in it; both as they are where no row is on the host."""
        if self.host is None:
            return self, kept
        found = self.host.collect(labels, whole, kept.rows)
        table = replace(self, rows=found.rows, norms=self.norms[found.ids], host=None)
        return table, kept.among(found.ids)

    def _candidates(self, labels: Tensor, whole: Tensor, own: bool) -> Tensor:
        """[U] ids of the rows that selection looks at, ascending. Own rows are among the positive ones."""
        valid = labels >= 0
        _, pulled = self.positive.expand(torch.unique(self.positive_list(labels[valid], whole[valid])))
        _, pushed = self.negative.expand(torch.unique(labels[self.pushed(labels, whole, relative=own)]))
        found: Tensor = torch.unique(torch.cat([pulled, pushed]))
        return found

    def pulled(self, labels: Tensor, whole: Tensor) -> Tensor:
        """Bool like `labels`: positions with at least one positive row. Labels of -100 have none."""
        return (labels >= 0) & self.positive.nonempty(self.positive_list(labels.clamp(min=0), whole))

    def positive_list(self, labels: Tensor, whole: Tensor) -> Tensor:
        """Index of each label's list in `positive`."""
        return labels + (len(self.own.indptr) - 1) * whole

    def pushed(self, labels: Tensor, whole: Tensor, *, relative: bool = False) -> Tensor:
        """Bool like `labels`: positions with at least one negative row (and, if `relative`, an own sense)."""
        pushed = whole & _has(self.negative, labels)
        return pushed & _has(self.own, labels) if relative else pushed


def _has(lists: Ragged, labels: Tensor) -> Tensor:
    return (labels >= 0) & lists.nonempty(labels.clamp(min=0))


def whole_words(
    input_ids: Tensor, starts_word: Tensor, ends_word: Tensor, position_ids: Tensor | None = None
) -> Tensor:
    """Whether each label y_t = x_{t+1} is a whole word in its text: a boundary on both sides.

    The text after the last id is unknown; that label counts as cut, so that no relation is applied by guess.

    Args:
        input_ids: [B, T] int64.
        starts_word: [V] bool, the token begins inside a word.
        ends_word: [V] bool, the token ends inside a word.
        position_ids: [B, T] int64 of packed documents, where a position that does not follow its neighbour starts
            another document; each document then counts as a text of its own, so that its last label is cut too.

    Returns:
        [B, T - 1] bool.
    """
    joined = ends_word[input_ids[:, :-1]] & starts_word[input_ids[:, 1:]]
    after = torch.ones_like(joined)
    if position_ids is None:
        after[:, :-1] = joined[:, 1:]
    else:
        apart = position_ids[:, 1:] != position_ids[:, :-1] + 1
        joined &= ~apart
        after[:, :-1] = joined[:, 1:] | apart[:, 1:]
    return ~joined & ~after


def _from_pairs(tokens: Tensor, ids: Tensor, vocabulary: int, rows: int) -> Ragged:
    """Lists from unordered (token, row id) pairs; duplicates count once."""
    keys: Tensor = torch.unique(tokens * rows + ids)
    counts = torch.bincount(keys // max(rows, 1), minlength=vocabulary)
    return Ragged(F.pad(counts.cumsum(0), (1, 0)), keys % max(rows, 1))


def _owners(lists: Ragged) -> Tensor:
    return torch.arange(len(lists.indptr) - 1).repeat_interleave(lists.counts)


def _related(indptr: Tensor, spans: Tensor, span_rows: Ragged) -> tuple[Tensor, Tensor]:
    """(token, row id) pairs of one relation."""
    heads = torch.arange(len(indptr) - 1).repeat_interleave(indptr.diff())
    crow, ids = span_rows.expand(spans)
    return heads.repeat_interleave(crow.diff()), ids


def build_table(
    dictionary: SenseDictionary,
    relations: TokenRelations | None,
    *,
    synonyms: bool = True,
    antonyms: bool = True,
    limit: int | None = None,
) -> SenseTable:
    """Candidate rows of every token.

    P = own ∪ senses of synonyms; N = senses of antonyms without any row that is in P.

    Args:
        dictionary: senses of the teacher's tokens.
        relations: linked lexicon; None uses own senses alone.
        synonyms: pull to the senses of synonyms too.
        antonyms: push from the senses of antonyms.
        limit: rows that take more bytes than this (float32, composed ones included) stay on the host, the dictionary's
            in the form of its store; None sets no limit, 0 always leaves them there.
    """
    stored = StoredRows(dictionary.centroids, getattr(dictionary, "scale", None))
    vocabulary, total = len(dictionary.indptr) - 1, len(stored)
    composed = torch.empty(0, dictionary.centroids.shape[1])
    own = Ragged(dictionary.indptr, torch.arange(total))
    nothing = Ragged(torch.zeros(vocabulary + 1, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    linked, negative, dropped = own, nothing, 0
    if relations is not None and (synonyms or antonyms):
        composed, span_rows, dropped = compose_spans(relations.span_indptr, relations.span_pieces, own, stored)
        count = total + len(composed)
        if synonyms:
            tokens, ids = _related(relations.synonym_indptr, relations.synonym_spans, span_rows)
            linked = _from_pairs(torch.cat([_owners(own), tokens]), torch.cat([own.ids, ids]), vocabulary, count)
        if antonyms:
            tokens, ids = _related(relations.antonym_indptr, relations.antonym_spans, span_rows)
            taken = torch.isin(tokens * count + ids, _owners(linked) * count + linked.ids)
            negative = _from_pairs(tokens[~taken], ids[~taken], vocabulary, count)
    positive = Ragged(torch.cat([own.indptr, linked.indptr[1:] + own.indptr[-1]]), torch.cat([own.ids, linked.ids]))
    lists = (dictionary.sigma2, own, positive, negative, dropped)
    host = HostRows((stored, StoredRows(composed)))
    if limit is not None and len(host) * composed.shape[1] * composed.element_size() > limit:
        return SenseTable(composed[:0], host.norms(), *lists, RowGatherer(host, torch.device("cpu")))
    centroids = stored.between(0, total)
    rows = torch.cat([centroids, composed]) if len(composed) else centroids
    return SenseTable(rows, rows.square().sum(-1), *lists)
