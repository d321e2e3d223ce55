"""Rows of numbers in files: scattered into a mapped file, gathered back, never held in memory as a whole."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.errors import SenseKDError

_GROWTH: Final = 16
_FIRST: Final = 16


def gather(path: Path, offset: int, shape: tuple[int, int], dtype: torch.dtype, rows: NDArray[np.int64]) -> Tensor:
    """Rows of a matrix in a file, as a copy; no page of the file stays mapped.

    Args:
        path: the file.
        offset: where the matrix begins, in bytes.
        shape: of the whole matrix.
        dtype: of its elements.
        rows: [n] which rows.

    Returns:
        [n, width].
    """
    count, width = shape[0] * shape[1], shape[1]
    if not len(rows) or not count:
        return torch.empty(len(rows), width, dtype=dtype)
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY) as pages:
        # ACCESS_COPY because torch wants memory it could write to; nothing is written, so nothing is copied.
        whole = torch.frombuffer(pages, dtype=dtype, count=count, offset=offset).view(-1, width)
        found = whole.index_select(0, torch.from_numpy(rows))
        del whole
    return found


class RowFile:
    """[capacity, D] in a file of its own. Rows are written wherever a slot is free, and read by slot.

    The file is mapped while rows are written; `release` gives the pages back to the system (they stay in its cache).
    Room is reserved before it is written to, so that a full disk is an error and not a crash.

    Args:
        path: the file; what it holds already stays.
        width: D.
        dtype: of the elements.
    """

    def __init__(self, path: Path, width: int, dtype: torch.dtype) -> None:
        self.path, self._width, self._dtype = path, width, dtype
        self._row = width * dtype.itemsize
        self._pages: mmap.mmap | None = None
        self._rows: Tensor | None = None
        path.touch()
        self.capacity = path.stat().st_size // self._row
        self._free: NDArray[np.int64] = np.arange(self.capacity)

    def keep_only(self, slots: NDArray[np.int64]) -> None:
        """Every slot but these becomes free."""
        free = np.ones(self.capacity, dtype=bool)
        free[slots] = False
        self._free = np.flatnonzero(free)

    def write(self, states: Tensor) -> NDArray[np.int64]:
        """Put rows [n, D] (on the CPU, of the file's dtype) into free slots, and say which.

        Raises:
            SenseKDError: the disk is full.
        """
        if len(self._free) < len(states):
            self._grow(len(states) - len(self._free))
        slots, self._free = self._free[: len(states)], self._free[len(states) :]
        self._mapped().index_copy_(0, torch.from_numpy(slots), states)
        return slots

    def read(self, slots: NDArray[np.int64]) -> Tensor:
        """[n, D], a copy."""
        return gather(self.path, 0, (self.capacity, self._width), self._dtype, slots)

    def release(self) -> None:
        """Unmap the file; what was written is the system's to write back."""
        self._rows = None
        self._pages = None

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        if self._pages is not None:
            self._pages.flush()
        with self.path.open("rb") as handle:
            os.fsync(handle.fileno())

    def _mapped(self) -> Tensor:
        if self._rows is None:
            with self.path.open("r+b") as handle:
                self._pages = mmap.mmap(handle.fileno(), self.capacity * self._row)
            self._rows = torch.frombuffer(self._pages, dtype=self._dtype).view(-1, self._width)
        return self._rows

    def _grow(self, missing: int) -> None:
        self.release()
        more = max(missing, self.capacity // _GROWTH, _FIRST)
        with self.path.open("r+b") as handle:
            try:
                os.posix_fallocate(handle.fileno(), self.capacity * self._row, more * self._row)
            except OSError as error:
                raise SenseKDError(
                    f"no room for {more} further states ({more * self._row / 1e9:.3f} GB) in {self.path.parent}: "
                    f"{error.strerror}; make room and start the same command again"
                ) from error
        self._free = np.concatenate([self._free, np.arange(self.capacity, self.capacity + more)])
        self.capacity += more
