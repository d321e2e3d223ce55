"""A pool of candidate states: rows are written once into blocks, and one that falls out makes room for a later one."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.senses.sample import keep_smallest

_BLOCK: Final = 4096
_SLACK: Final = 4
_COLUMNS: Final = 16
_FREE: Final = -1


@dataclass(frozen=True)
class Occurrences:
    """Candidate occurrences in columns [N] on the CPU: token, sort key of the priority, document index, position."""

    token: NDArray[np.int64]
    key: NDArray[np.int64]
    document: NDArray[np.int64]
    position: NDArray[np.int64]

    def take(self, index: NDArray[Any]) -> Occurrences:
        """The occurrences at `index`."""
        return Occurrences(self.token[index], self.key[index], self.document[index], self.position[index])


def _mapped(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """[rows, width] on pages of its own, which go back to the system at once when the tensor is dropped."""
    pages = mmap.mmap(-1, rows * width * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).view(rows, width)


class SamplePool:
    """Keeps the `limit` smallest keys of each token, with their states.

    Memory: the states kept and at most a quarter more between two compactions. `threshold` ([V] int64, on the
    teacher's device) is the largest key that a token may still accept, so most candidates are refused where they arise.

    Args:
        vocabulary: V.
        limit: states per token.
        hashes: [documents] uint64, the documents' hashes, by which ties of priority go.
        dtype: in which states are kept.
        device: of the teacher.
    """

    def __init__(
        self, vocabulary: int, limit: int, hashes: NDArray[np.uint64], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._limit, self._hashes, self._dtype = limit, hashes, dtype
        self._blocks: list[Tensor] = []
        empty = np.empty(0, dtype=np.int64)
        self._rows = Occurrences(empty, empty, empty, empty)
        self._free: NDArray[np.int64] = empty
        self._pending = self._kept = 0
        self.threshold = torch.full((vocabulary,), torch.iinfo(torch.int64).max, device=device)

    def add(self, found: Occurrences, states: Tensor) -> None:
        """Take candidates in; `states` is [N, D] on any device."""
        count = len(found.key)
        while len(self._free) < count:
            self._grow(states.shape[-1])
        slots, self._free = self._free[:count], self._free[count:]
        for name in ("token", "key", "document", "position"):
            getattr(self._rows, name)[slots] = getattr(found, name)
        states = states.to(device="cpu", dtype=self._dtype)
        blocks = slots // _BLOCK
        for block in np.unique(blocks):
            chosen = torch.from_numpy(np.flatnonzero(blocks == block))
            self._blocks[block][torch.from_numpy(slots[chosen.numpy()] - block * _BLOCK)] = states[chosen]
        self._pending += count
        if self._pending > max(_BLOCK, self._kept // _SLACK):
            self._compact()

    def _grow(self, width: int) -> None:
        start = len(self._blocks) * _BLOCK
        # Several at once, so that the columns are copied seldom; a page that nothing was written to costs nothing.
        more = 1 + len(self._blocks) // (2 * _SLACK)
        self._blocks += [_mapped(_BLOCK, width, self._dtype) for _ in range(more)]
        fill = np.full(more * _BLOCK, _FREE, dtype=np.int64)
        columns = (self._rows.token, self._rows.key, self._rows.document, self._rows.position)
        self._rows = Occurrences(*(np.concatenate([column, fill]) for column in columns))
        self._free = np.concatenate([self._free, np.arange(start, start + len(fill))])

    def _survivors(self) -> NDArray[np.int64]:
        used = np.flatnonzero(self._rows.token != _FREE)
        rows = self._rows.take(used)
        order = keep_smallest(rows.token, rows.key, self._hashes[rows.document], rows.position, self._limit)
        return np.asarray(used[order], dtype=np.int64)

    def _compact(self) -> None:
        slots = self._survivors()
        lost = np.ones(len(self._rows.token), dtype=bool)
        lost[slots] = False
        self._rows.token[lost] = _FREE
        self._free = np.flatnonzero(lost)
        self._kept, self._pending = len(slots), 0
        tokens, last = np.unique(self._rows.token[slots][::-1], return_index=True)
        counts = np.bincount(self._rows.token[slots], minlength=len(self.threshold))
        full = counts[tokens] == self._limit
        largest = self._rows.key[slots][::-1][last]
        device = self.threshold.device
        self.threshold[torch.from_numpy(tokens[full]).to(device)] = torch.from_numpy(largest[full]).to(device)

    def finish(self) -> tuple[Occurrences, Tensor]:
        """The kept occurrences sorted by (token, key, document hash, position), and their states [N, D].

        The pool is empty afterwards. Sorting goes by groups of columns and blocks are released one by one as they are
        copied, so that there are never two copies of the states.
        """
        slots = self._survivors()
        rows = self._rows.take(slots)
        width = self._blocks[0].shape[-1] if self._blocks else 0
        order = torch.from_numpy(slots)
        step = max(1, -(-width // _COLUMNS))
        for left in range(0, width, step):
            columns = torch.cat([block[:, left : left + step] for block in self._blocks])[order]
            for number, piece in enumerate(torch.split(columns, _BLOCK)):
                self._blocks[number][: len(piece), left : left + step] = piece
        states = torch.empty(len(slots), width, dtype=self._dtype)
        blocks, self._blocks = self._blocks, []
        for start in range(0, len(blocks) * _BLOCK, _BLOCK):
            block = blocks.pop(0)
            states[start : start + _BLOCK] = block[: max(0, min(_BLOCK, len(slots) - start))]
        return rows, states
