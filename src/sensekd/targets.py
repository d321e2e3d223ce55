"""Which sense rows every position is pulled to and pushed from: tensor operations over all positions of a batch.

Shapes: N label positions, V vocabulary, R rows (dictionary rows, then the composed rows of multi-piece spans), D width,
E candidate pairs (position, row), κ kept rows.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensekd.senses.residence import HostRows, RowGatherer
from sensekd.senses.store import StoredRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary

# The warning is about the format's age; the one operation used here (sampled_addmm) is tested against the definition.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

# Elements of the largest temporary when spans are composed or distances are gathered: 32M floats, 128 MB.
_TEMPORARY: Final = 1 << 25


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
        own_ids: [Q] the own sense nearest to the teacher's state (relative push), or None.
    """

    pull_at: Tensor
    pull_ids: Tensor
    pull_mask: Tensor
    push_at: Tensor
    push_ids: Tensor
    push_mask: Tensor
    own_ids: Tensor | None = None

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
    a position is enough for the pull.

    Attributes:
        pull_at: [P] int64, indices into the N label positions.
        pull_mean: [P, D] mean of the kept rows of P_t.
        pull_spread: [P] mean squared distance per dimension of the kept rows to their mean.
        push_at: [Q] int64, indices into the N label positions.
        push_rows: [Q, κ, D] kept rows of N_t.
        push_mask: [Q, κ] bool, False where N_t has fewer than κ rows.
        own_nearest: [Q, D] the own sense nearest to the teacher's state (relative push), or None.
        kept: the row ids behind the vectors.
    """

    pull_at: Tensor
    pull_mean: Tensor
    pull_spread: Tensor
    push_at: Tensor
    push_rows: Tensor
    push_mask: Tensor
    own_nearest: Tensor | None = None
    kept: Kept | None = None


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


def _nearest_of(running: Tensor, piece: Tensor, own: Ragged, centroids: StoredRows) -> Tensor:
    """For each running row [E, D] the sense [E, D] of its piece [E] that is nearest; ties go to the lower row id."""
    start, count = own.indptr[piece], own.counts[piece]
    widest = int(count.max()) if len(count) else 1
    chosen = torch.empty_like(running)
    step = max(1, _TEMPORARY // (widest * running.shape[1]))
    slots = torch.arange(widest)
    for low in range(0, len(running), step):
        part = slice(low, low + step)
        ids = start[part, None] + torch.minimum(slots, count[part, None] - 1)
        distance = (centroids.take(ids) - running[part, None]).square().sum(-1)
        best = distance.argmin(1, keepdim=True)
        chosen[part] = centroids.take(ids.gather(1, best)[:, 0])
    return chosen


def compose_spans(
    span_indptr: Tensor, span_pieces: Tensor, own: Ragged, centroids: Tensor | StoredRows
) -> tuple[Tensor, Ragged, int]:
    """Senses of spans of tokens (DSKD, arXiv 2602.22351, multi-token neighbours).

    A span of one piece has that token's rows. A longer one starts with the rows of its first piece, adds for each
    further piece the sense nearest to row / (pieces so far), and is divided by its length. A span with a piece that
    has no senses has no rows.

    Args:
        span_indptr: [S + 1] int64.
        span_pieces: [*] int64 token ids.
        own: the dictionary's rows of every token.
        centroids: [R, D]; of stored rows only those of the spans' pieces are read.

    Returns:
        Composed rows [C, D] float32 in the order of the spans (their ids start at R), the row ids of every span, and
        how many spans were dropped.
    """
    centroids = centroids if isinstance(centroids, StoredRows) else StoredRows(centroids)
    length, counts = span_indptr.diff(), own.counts
    spans = torch.arange(len(length))
    span_of_piece = spans.repeat_interleave(length)
    bare = torch.zeros(len(length), dtype=torch.bool)
    bare[span_of_piece[counts[span_pieces] == 0]] = True
    first = span_pieces[span_indptr[:-1]] if len(length) else span_pieces
    size = torch.where(bare, 0, counts[first])
    many = torch.where(length > 1, size, 0)
    owner = spans.repeat_interleave(many)
    _, ids = own.expand(first[many > 0])
    composed = centroids.take(ids)
    for piece in range(1, int(length.max()) if len(length) else 0):
        active = (length[owner] > piece).nonzero()[:, 0]
        tokens = span_pieces[span_indptr[owner[active]] + piece]
        composed[active] += _nearest_of(composed[active] / piece, tokens, own, centroids)
    composed /= length[owner, None].to(composed.dtype)
    indptr = F.pad(size.cumsum(0), (1, 0))
    flat = torch.arange(int(indptr[-1])) - indptr[:-1].repeat_interleave(size)
    base = torch.where(length > 1, len(centroids) + F.pad(many.cumsum(0), (1, 0))[:-1], own.indptr[first])
    return composed, Ragged(indptr, base.repeat_interleave(size) + flat), int(bare.sum())


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
    length = crow.diff()
    widest = max(1, int(length.max())) if len(length) else 1
    position = torch.arange(len(length), device=crow.device).repeat_interleave(length, output_size=len(ids_E))
    slot = torch.arange(len(ids_E), device=crow.device) - crow[:-1][position]
    # Bits of a non-negative float order like the float; the slot below them makes keys unique, so ties are settled.
    empty = torch.iinfo(torch.int64).max
    keys = torch.full((len(length), widest), empty, dtype=torch.int64, device=crow.device)
    keys[position, slot] = (distances_E.contiguous().view(torch.int32).long() << 32) | slot
    best = keys.topk(min(kappa, widest), dim=1, largest=False, sorted=True).values
    mask = best != empty
    chosen = torch.where(mask, crow[:-1, None] + (best & 0xFFFFFFFF), 0)
    return torch.where(mask, ids_E[chosen] if len(ids_E) else chosen, 0), mask


def _keep(lists: Ragged, tokens: Tensor, states: Tensor, table: SenseTable, kappa: int) -> tuple[Tensor, Tensor]:
    crow, ids = lists.expand(tokens)
    return nearest(squared_distances(states, table, crow, ids), crow, ids, kappa)


def _pull(table: SenseTable, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [P, D] and spread [P] of the kept positive rows."""
    weight = mask / mask.sum(1, keepdim=True)
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
    mean, spread = _pull(table, kept.pull_ids, kept.pull_mask)
    own_nearest = None if kept.own_ids is None else table.rows[kept.own_ids]
    rows = _taken(table.rows, kept.push_ids)
    return SenseTargets(kept.pull_at, mean, spread, kept.push_at, rows, kept.push_mask, own_nearest, kept)


@torch.no_grad()
def select(
    table: SenseTable, labels_N: Tensor, whole_N: Tensor, teacher_ND: Tensor, kappa: int, *, own: bool = False
) -> SenseTargets:
    """Keep the min(κ, |C|) rows of P_t and of N_t that are nearest to h^T_t in L2, for all positions at once.

    Args:
        table: candidate rows, on the device of the labels.
        labels_N: [N] int64; -100 is not supervised.
        whole_N: [N] bool, the label is a whole word in its text; relations apply there only.
        teacher_ND: [N, D] teacher states h^T.
        kappa: κ.
        own: also find the nearest own sense, for the relative push.

    Returns:
        Targets at positions with at least one row; positions without are absent, not zero.
    """
    table = table.gathered(labels_N, whole_N, own=own)
    pull_at = table.pulled(labels_N, whole_N).nonzero()[:, 0]
    push_at = table.pushed(labels_N, whole_N, relative=own).nonzero()[:, 0]
    lists = table.positive_list(labels_N[pull_at], whole_N[pull_at])
    pulled = _keep(table.positive, lists, teacher_ND[pull_at], table, kappa)
    tokens, states = labels_N[push_at], teacher_ND[push_at]
    pushed = _keep(table.negative, tokens, states, table, kappa)
    own_ids = _keep(table.own, tokens, states, table, 1)[0][:, 0] if own else None
    return targets_of(table, Kept(pull_at, *pulled, push_at, *pushed, own_ids))
