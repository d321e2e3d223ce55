"""Token documents as blocks of one length: map-style, so that a resumed training sees the very same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sensekd.errors import InputError

if TYPE_CHECKING:
    from sensekd.corpus import TokenDocuments

Item = dict[str, Tensor]


class TokenBlocks(Dataset[Item]):
    """All documents one after the other, cut into blocks of `length` tokens; the incomplete last block is dropped.

    Tokens stay memory-mapped. A block may hold the end of one document and the start of the next, and attention does
    not stop between them (packing that keeps documents apart is not offered yet).

    Args:
        documents: a tokenised corpus, every document with its end-of-text token.
        length: T, tokens per block; at least 2, since the first token is no label.

    Raises:
        InputError: not a single block.
    """

    def __init__(self, documents: TokenDocuments, length: int) -> None:
        if length < 2:
            raise InputError(
                f"a block length of {length}", "at least 2 tokens: one to read, one to predict",
                "raise the sequence length",
            )  # fmt: skip
        self.documents, self.length = documents, length
        self._count = len(documents.tokens) // length
        if self._count == 0:
            raise InputError(
                f"{documents.folder} has {len(documents.tokens)} tokens, fewer than one block of {length}",
                "at least one whole block",
                "use more text or a shorter sequence length",
            )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:
        """Block `index`: `input_ids` and `labels`, both int64 [length] (the shift to y_t = x_{t+1} is the loss's)."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        start = index * self.length
        ids = torch.from_numpy(np.asarray(self.documents.tokens[start : start + self.length], dtype=np.int64))
        return {"input_ids": ids, "labels": ids}

    @property
    def identity(self) -> dict[str, str | int]:
        """What a checkpoint remembers of the data it was trained on."""
        return {"tokens": self.documents.manifest.id, "length": self.length}


def collate(items: Sequence[Item]) -> Item:
    """Stack items key by key; tensors that two keys share stay shared."""
    stacked: dict[int, Tensor] = {}
    batch: Item = {}
    for key, first in items[0].items():
        if id(first) not in stacked:
            stacked[id(first)] = torch.stack([item[key] for item in items])
        batch[key] = stacked[id(first)]
    return batch
