"""Senses of spans of tokens, composed once from the senses of their pieces."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensekd.senses.store import StoredRows
from sensekd.targets.records import Ragged

# Elements of the largest temporary when spans are composed: 32M floats, 128 MB.
_TEMPORARY: Final = 1 << 25


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
