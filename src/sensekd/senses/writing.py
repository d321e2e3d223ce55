"""Writing a sample front to back: one safetensors file of any size, in pieces, that a killed writer can go on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FILE: Final = "sample.safetensors"
CONTEXT: Final = 24
# Rows that are written at once where nothing else limits them.
PIECE: Final = 1 << 14
_KINDS: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class SampleColumns:
    """A sample's bookkeeping, everything but states and contexts; the fields are those of `StateSample`."""

    tokens: NDArray[np.int64]
    indptr: NDArray[np.int64]
    priority: NDArray[np.uint64]
    document: NDArray[np.uint64]
    position: NDArray[np.int32]
    seen: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.priority)

    @classmethod
    def filed(
        cls,
        token: NDArray[Any],
        priority: NDArray[np.uint64],
        document: NDArray[np.uint64],
        position: NDArray[Any],
        seen: NDArray[np.uint64],
    ) -> SampleColumns:
        """From rows [N] that are sorted by token."""
        tokens, counts = np.unique(token, return_counts=True)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(tokens.astype(np.int64), indptr, priority, document, position.astype(np.int32), np.unique(seen))


Contexts = Callable[[slice], NDArray[np.int32]]


class SampleFile:
    """A sample on its way to the disk: bookkeeping and contexts first, then states, appended in the order of the rows.

    The widest elements stand first, so that every tensor is aligned.

    Args:
        path: the file.
        columns: the bookkeeping.
        contexts: the contexts of a slice of the rows, [n, L] int32.
        dtype: of the states.
        width: D.
        rows: states that stand in the file already; what follows them is cut off.
    """

    def __init__(
        self,
        path: Path,
        columns: SampleColumns,
        contexts: Contexts,
        dtype: torch.dtype,
        width: int,
        *,
        rows: int = 0,
    ) -> None:
        self._row = width * dtype.itemsize
        small = {
            name: getattr(columns, name) for name in ("tokens", "indptr", "priority", "document", "seen", "position")
        }
        count = len(columns)
        shapes = {name: (_kind(array), list(array.shape), array.nbytes) for name, array in small.items()}
        shapes["context"] = ("I32", [count, CONTEXT], count * CONTEXT * 4)
        shapes["states"] = (_KINDS[dtype], [count, width], count * self._row)
        head, offset = {}, 0
        for name, (kind, shape, size) in shapes.items():
            head[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(head, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text) + offset - count * self._row
        if rows:
            os.truncate(path, start + rows * self._row)
            self._handle = path.open("ab")
            return
        self._handle = path.open("wb")
        self._handle.write(len(text).to_bytes(8, "little") + text)
        for array in small.values():
            np.ascontiguousarray(array).tofile(self._handle)
        for first in range(0, count, PIECE):
            contexts(slice(first, min(first + PIECE, count))).astype("<i4", copy=False).tofile(self._handle)

    def append(self, states: Tensor) -> None:
        """Write the states of the next rows, [n, D] on the CPU."""
        if len(states):
            self._handle.write(states.contiguous().view(torch.uint8).numpy().data)

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype.kind.upper()}{array.dtype.itemsize * 8}"


def states_offset(path: Path) -> int:
    """Where the states of a sample begin in its file, in bytes."""
    with path.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        return 8 + size + int(json.loads(handle.read(size))["states"]["data_offsets"][0])
