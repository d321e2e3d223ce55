"""Token documents as blocks of one length: map-style, so that a resumed training sees the very same order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sensekd.errors import InputError
from sensekd.losses import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sensekd.corpus import TokenDocuments

Item = dict[str, Tensor]


class DocumentId(NamedTuple):
    """A document of a token set: its number there, and the hash of its ids (hexadecimal), equal wherever it stands."""

    number: int
    hash: str


class TokenBlocks(Dataset[Item]):
    """All documents one after the other, cut into blocks of `length` tokens; the incomplete last block is dropped.

    Tokens stay memory-mapped. A block may hold the end of one document and the start of the next, and attention does
    not stop between them; `sensekd.training.packing.PackedBlocks` keeps documents apart.

    Args:
        documents: a tokenised corpus, every document with its end-of-text token.
        length: T, tokens per block; at least 2, since the first token is no label.
        supervise: `completion` masks the labels outside completions where the documents mark these; `all` does not.
        numbered: give every item its own number under `block`, from which `documents_of` names its documents.

    Raises:
        InputError: not a single block.
    """

    packing = "concat"

    def __init__(
        self, documents: TokenDocuments, length: int, *, supervise: str = "completion", numbered: bool = False
    ) -> None:
        if length < 2:
            raise InputError(
                f"a block length of {length}", "at least 2 tokens: one to read, one to predict",
                "raise the sequence length",
            )  # fmt: skip
        self.documents, self.length, self.supervise, self.numbered = documents, length, supervise, numbered
        self.mask = documents.supervised if supervise == "completion" else None
        self._count = self._arrange()
        if self._count == 0:
            raise InputError(
                f"{documents.folder} has {len(documents.tokens)} tokens, fewer than one block of {length}",
                "at least one whole block",
                "use more text or a shorter sequence length",
            )

    def _arrange(self) -> int:
        """Lay the blocks out; how many there are."""
        return len(self.documents.tokens) // self.length

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:
        """Block `index`: `input_ids` and `labels`, both int64 [length], -100 where there is no label.

        The shift to y_t = x_{t+1} is the loss's. Blocks that keep documents apart add `position_ids`.
        """
        if not 0 <= index < self._count:
            raise IndexError(index)
        item = self._item(index)
        if self.numbered:
            item["block"] = torch.tensor(index)
        return item

    def _item(self, index: int) -> Item:
        start = index * self.length
        ids = self._ids(start, start + self.length)
        if self.mask is None:
            return {"input_ids": ids, "labels": ids}
        kept = torch.from_numpy(np.array(self.mask[start : start + self.length]))
        return {"input_ids": ids, "labels": ids.masked_fill(~kept, IGNORE)}

    def _ids(self, start: int, end: int) -> Tensor:
        return torch.from_numpy(np.asarray(self.documents.tokens[start:end], dtype=np.int64))

    def documents_of(self, indices: Iterable[int]) -> tuple[DocumentId, ...]:
        """The documents that stand, whole or in part, in the blocks `indices`, each once, in the order of the corpus.

        Raises:
            IndexError: there is no such block.
        """
        found: set[int] = set()
        for index in indices:
            if not 0 <= index < self._count:
                raise IndexError(index)
            found.update(self._documents_in(index).tolist())
        return tuple(DocumentId(number, f"{int(self.documents.hashes[number]):016x}") for number in sorted(found))

    def _documents_in(self, index: int) -> NDArray[Any]:
        indptr, start = self.documents.indptr, index * self.length
        first = int(np.searchsorted(indptr, start, side="right")) - 1
        last = int(np.searchsorted(indptr, start + self.length, side="left"))
        inside = np.arange(first, last)
        return inside[indptr[inside] < indptr[inside + 1]]

    @property
    def identity(self) -> dict[str, str | int]:
        """What a checkpoint remembers of the data it was trained on."""
        found: dict[str, str | int] = {"tokens": self.documents.manifest.id, "length": self.length}
        if self.packing != "concat":
            found["packing"] = self.packing
        if self.supervise != "completion":
            found["supervise"] = self.supervise
        return found


def collate(items: Sequence[Item]) -> Item:
    """Stack items key by key; tensors that two keys share stay shared."""
    stacked: dict[int, Tensor] = {}
    batch: Item = {}
    for key, first in items[0].items():
        if id(first) not in stacked:
            stacked[id(first)] = torch.stack([item[key] for item in items])
        batch[key] = stacked[id(first)]
    return batch
