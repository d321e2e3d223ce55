"""Rows of whole documents: attention, positions, labels and senses stop where a document stops.

A row is told apart by its `position_ids`, which start again at 0 with every document and with the padding.
transformers builds the block-diagonal mask of a layer from them (causal and sliding windows alike), for `sdpa` and
`eager` attention; `refuse_mixing` tries it on the very model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from sensekd.errors import InputError
from sensekd.losses import IGNORE
from sensekd.training.data import Item, TokenBlocks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from sensekd.config import TrainingConfig
    from sensekd.corpus import TokenDocuments

    Ints = NDArray[np.int64]

# Padding is neither attended to by any document nor supervised; any id of the vocabulary does.
_PAD: Final = 0
_PROBE: Final = (5, 3, 8)


@dataclass(frozen=True)
class Pieces:
    """Parts of documents that are packed, in the order of the corpus.

    Attributes:
        start: [P] position of the first token in the token set.
        length: [P] tokens, at most one row.
        document: [P] number of the document.
    """

    start: Ints
    length: Ints
    document: Ints

    def __len__(self) -> int:
        return len(self.start)


def cut(indptr: Ints, capacity: int, mask: NDArray[np.bool_] | None) -> Pieces:
    """Cut documents longer than a row, and leave out what has no label.

    Without completions a document is cut from its start. With them it is cut from its end, so that its last completion
    keeps as much of its context as a row holds.

    Args:
        indptr: [documents + 1] boundaries of the documents.
        capacity: T, tokens of a row.
        mask: [N] the tokens of completions, None where every token is one.
    """
    lengths = np.diff(indptr)
    counts = -(-lengths // capacity)
    document = np.repeat(np.arange(len(lengths)), counts)
    first = np.cumsum(counts) - counts
    rank = np.arange(len(document)) - np.repeat(first, counts)
    total = lengths[document]
    if mask is None:
        low, high = rank * capacity, np.minimum((rank + 1) * capacity, total)
    else:
        back = counts[document] - 1 - rank
        low, high = np.maximum(total - (back + 1) * capacity, 0), total - back * capacity
    start, length = indptr[document] + low, high - low
    labels = length - 1
    if mask is not None and len(start):
        # Sums of mask[start + 1 : start + length], without a running sum over the whole token set; the last token of
        # the set ends the last sum by itself.
        edges = np.stack([np.minimum(start + 1, len(mask) - 1), start + length], axis=1).ravel()
        edges = edges[:-1] if edges[-1] == len(mask) else edges
        labels = np.where(length > 1, np.add.reduceat(mask, edges, dtype=np.int64)[::2], 0)
    kept = labels > 0
    return Pieces(start[kept], length[kept], document[kept])


def pack(lengths: Ints, capacity: int) -> Ints:
    """Best fit decreasing: the bin of every piece.

    The longest piece comes first and goes where it leaves the least room. Bins with equal room are alike, and so are
    pieces of equal length: they are handled together, so that the work grows with T, not with the number of pieces.

    Args:
        lengths: [P] between 1 and `capacity`.
        capacity: T, room of a bin.

    Returns:
        [P] bin of each piece; bins are numbered in the order in which they were opened.
    """
    order = np.argsort(-lengths, kind="stable")
    sizes, starts = np.unique(-lengths[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    bins = np.empty(len(lengths), dtype=np.int64)
    # Open bins by the room that they have left, the oldest first.
    room: list[list[Ints]] = [[] for _ in range(capacity + 1)]
    available = np.zeros(capacity + 1, dtype=bool)
    opened = 0
    for size, low, high in zip((-sizes).tolist(), starts.tolist(), ends.tolist(), strict=True):
        at = low
        for left in (np.flatnonzero(available[size:]) + size).tolist():
            if at == high:
                break
            at += _fill(room, available, left, size, bins, order[at:high])
        if at < high:
            each = capacity // size
            fresh = np.arange(opened, opened - (at - high) // each)
            opened += len(fresh)
            room[capacity].append(fresh)
            _fill(room, available, capacity, size, bins, order[at:high])
    return bins


def _fill(room: list[list[Ints]], available: NDArray[np.bool_], left: int, size: int, bins: Ints, pieces: Ints) -> int:
    """Fill the bins with `left` tokens of room, one after the other, with pieces of one size; how many found a place.

    Best fit goes on filling the bin that it has just put a piece into: no other has as little room that is enough.
    """
    here = np.concatenate(room[left])
    each = left // size
    used = -(-len(pieces) // each)
    taken = here[:used]
    fitted = min(len(pieces), len(taken) * each)
    bins[pieces[:fitted]] = np.repeat(taken, each)[:fitted]
    room[left] = [here[used:]] if used < len(here) else []
    available[left] = bool(room[left])
    rest = fitted - (len(taken) - 1) * each
    for chosen, remaining in ((taken[:-1], left - each * size), (taken[-1:], left - rest * size)):
        if len(chosen):
            room[remaining].append(chosen)
            available[remaining] = True
    return fitted


class PackedBlocks(TokenBlocks):
    """Rows of `length` tokens that hold whole documents, apart from each other, and padding at the end.

    A label belongs to a document: its first token is none, for nothing before it is its context.

    Args:
        documents: a tokenised corpus.
        length: T, tokens per row; longer documents are cut.
        together: several documents a row, by best fit; False gives every document a row of its own.
        supervise: see `TokenBlocks`.
        numbered: see `TokenBlocks`.
        left: padding before the documents.

    Raises:
        InputError: not a single label.
    """

    def __init__(
        self, documents: TokenDocuments, length: int, *, together: bool = True, supervise: str = "completion",
        numbered: bool = False, left: bool = False,
    ) -> None:  # fmt: skip
        self.packing = "documents" if together else "none"
        self.left = left
        super().__init__(documents, length, supervise=supervise, numbered=numbered)

    def _arrange(self) -> int:
        pieces = cut(self.documents.indptr, self.length, self.mask)
        if len(pieces) == 0:
            raise InputError(
                f"{self.documents.folder} has no document with a label", "at least one document of two tokens",
                "check the corpus, and `training.supervise`",
            )  # fmt: skip
        bins = pack(pieces.length, self.length) if self.packing == "documents" else np.arange(len(pieces))
        order = np.argsort(bins, kind="stable")
        self.pieces = Pieces(pieces.start[order], pieces.length[order], pieces.document[order])
        self._rows = np.concatenate([[0], np.cumsum(np.bincount(bins))])
        return len(self._rows) - 1

    @property
    def filled(self) -> float:
        """Share of the tokens of all rows that is not padding."""
        return float(self.pieces.length.sum() / (len(self) * self.length))

    def _item(self, index: int) -> Item:
        here = slice(self._rows[index], self._rows[index + 1])
        start, length = self.pieces.start[here], self.pieces.length[here]
        before = np.cumsum(length) - length
        position = np.arange(int(length.sum())) - np.repeat(before, length)
        where = np.repeat(start, length) + position
        ids = np.asarray(self.documents.tokens[where], dtype=np.int64)
        kept = position > 0
        if self.mask is not None:
            kept &= np.asarray(self.mask[where])
        padding = self.length - len(ids)
        sides = (padding, 0) if self.left else (0, padding)
        rest = np.arange(padding)
        return {
            "input_ids": torch.from_numpy(np.pad(ids, sides, constant_values=_PAD)),
            "labels": torch.from_numpy(np.pad(np.where(kept, ids, IGNORE), sides, constant_values=IGNORE)),
            "position_ids": torch.from_numpy(np.concatenate([rest, position] if self.left else [position, rest])),
        }

    def _documents_in(self, index: int) -> NDArray[Any]:
        return self.pieces.document[self._rows[index] : self._rows[index + 1]]


def make_blocks(documents: TokenDocuments, config: TrainingConfig) -> TokenBlocks:
    """The training data as the recipe packs and masks it, every item with its number.

    Raises:
        InputError: not a single block, or not a single label.
    """
    length, supervise = config.sequence_length, config.supervise
    if config.packing == "concat":
        return TokenBlocks(documents, length, supervise=supervise, numbered=True)
    together = config.packing == "documents"
    return PackedBlocks(documents, length, together=together, supervise=supervise, numbered=True)


def refuse_mixing(blocks: TokenBlocks, *models: PreTrainedModel) -> None:
    """Where rows hold several documents apart, try on every model that these do not see each other.

    Raises:
        InputError: the logits of a document change with the document before it.
    """
    if blocks.packing == "documents":
        for model in models:
            _refuse_mixing(model)


@torch.no_grad()
def _refuse_mixing(model: PreTrainedModel) -> None:
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = (torch.arange(2 * sum(_PROBE)) * 7 + 3).reshape(2, -1).remainder(vocabulary)
    first = _PROBE[0]
    other = ids.clone()
    other[:, :first] = (other[:, :first] + 1) % vocabulary
    positions = torch.cat([torch.arange(length) for length in _PROBE]).expand(2, -1)
    was_training = model.training
    model.eval()
    try:
        one, two = (_logits(model, each, positions)[:, first:] for each in (ids, other))
        alone = _logits(model, ids[:, first : first + _PROBE[1]], positions[:, first : first + _PROBE[1]])
    finally:
        model.train(was_training)
    # Rounding may differ between the three (experts see other batches); a document in sight changes far more.
    tolerance = one.abs().max() * max(1e-4, 16 * torch.finfo(model.dtype).eps)
    change = torch.maximum((one - two).abs().max(), (one[:, : _PROBE[1]] - alone).abs().max())
    if not bool(change <= tolerance):
        attention = getattr(model.config, "_attn_implementation", "unknown")
        raise InputError(
            f"{type(model).__name__} with {attention!r} attention lets the documents of a packed row see each other",
            "a model that keeps them apart by position_ids",
            "set training.packing to none or concat, or use sdpa or eager attention",
        )


def _logits(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
    device = model.device
    logits: Tensor = model(input_ids=ids.to(device), position_ids=positions.to(device), use_cache=False).logits
    return logits.float()
