"""Sense rows as they stand on disk: their number formats, lookups that widen only what is asked for, and the mapping.

Shapes: R rows, D width, n rows asked for.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sensekd.errors import InputError

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}
# Names of the safetensors format, of what our artefacts hold.
_ON_DISK: Final[Mapping[str, torch.dtype]] = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
_LEVELS: Final = 127
# Rows that are widened at once: 8M floats, 32 MB.
_BLOCK: Final = 1 << 23
# Without a reservation the kernel does not count the private mapping against the memory that is free, so a file may be
# larger than that. Python names the flag from 3.13 on; this is its value on Linux.
_NO_RESERVE: Final = int(getattr(mmap, "MAP_NORESERVE", 0x4000))


@dataclass(frozen=True)
class StoredRows:
    """Rows in the form of the store; every lookup gives float32.

    Attributes:
        values: [R, D] float32, bfloat16, float16 or int8.
        scale: [R] float32 with int8 (row = values · scale), else None.
    """

    values: Tensor
    scale: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def name(self) -> str:
        """The form, as `senses.store` in a recipe names it."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.values.dtype)

    def between(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, [stop - start, D] float32; a view where the store is float32."""
        return widen(self.values[start:stop], None if self.scale is None else self.scale[start:stop])

    def take(self, ids: Tensor, device: torch.device | str | None = None) -> Tensor:
        """Chosen rows, [n, D] float32.

        Only these rows are read. They travel in the form of the store and are widened on `device`.

        Args:
            ids: int64 of any shape, [n] here, on the device of the rows.
            device: where the result is wanted; None leaves it with the rows. On CUDA the copy is only under way on
                the current stream when this returns.
        """
        return widen(
            _chosen(self.values, ids, device), None if self.scale is None else _chosen(self.scale, ids, device)
        )

    def blocks(self, elements: int = _BLOCK) -> Iterator[tuple[int, Tensor]]:
        """All rows in order, as (first row, [b, D] float32) with at most `elements` numbers at a time."""
        step = max(1, elements // max(1, self.values.shape[1]))
        for start in range(0, len(self), step):
            yield start, self.between(start, min(start + step, len(self)))

    def stored(self, name: str) -> StoredRows:
        """The same rows in another form, rounded to the nearest number that it has.

        int8 takes 127 steps from 0 to the largest magnitude of each row; a row of zeros stays one.

        Raises:
            InputError: an unknown form, or numbers that it cannot hold (float16 ends at 65,504).
        """
        if name not in DTYPES:
            raise InputError(f"senses.store {name!r}", f"one of {list(DTYPES)}", None)
        if name == self.name:
            return self
        values = torch.empty(self.values.shape, dtype=DTYPES[name])
        scale = torch.empty(len(self)) if name == "int8" else None
        for start, rows in self.blocks():
            part = slice(start, start + len(rows))
            if scale is not None:
                scale[part] = rows.abs().amax(1) / _LEVELS
                rows = (rows / scale[part].clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round()
            values[part] = rows.to(values.dtype)
            if name == "float16" and not bool(values[part].isfinite().all()):
                largest = float(rows.abs().amax())
                raise InputError(
                    f"a centroid holds {largest:.3g}", "at most 65504 in float16", "senses.store: bfloat16"
                )
        return StoredRows(values, scale)


def widen(values: Tensor, scale: Tensor | None) -> Tensor:
    """Stored values [n, D] and their scales [n] or None as float32 [n, D]; float32 is returned as it is."""
    wide = values.to(torch.float32)
    return wide if scale is None else wide * scale.unsqueeze(-1)


def _chosen(values: Tensor, ids: Tensor, device: torch.device | str | None) -> Tensor:
    target = values.device if device is None else torch.device(device)
    if target.type != "cuda" or values.is_cuda:
        return values[ids].to(target)
    # Only from pinned memory does a copy run beside the kernels; torch keeps it until the copy has ended.
    staged = torch.empty((*ids.shape, *values.shape[1:]), dtype=values.dtype, pin_memory=True)
    torch.index_select(values, 0, ids.flatten(), out=staged.view(-1, *values.shape[1:]))
    return staged.to(target, non_blocking=True)


def _bad(path: Path, why: str) -> InputError:
    return InputError(f"{path} cannot be read: {why}", "the file as it was written", "build it again")


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and what the file says of each."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= size - 8:
            raise _bad(path, f"its header would have {length} bytes, the file has {size}")
        try:
            entries = json.loads(handle.read(length))
        except ValueError as error:
            raise _bad(path, f"no header of a safetensors file ({error})") from error
    if not isinstance(entries, dict):
        raise _bad(path, "no header of a safetensors file")
    entries.pop("__metadata__", None)
    return 8 + length, entries


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, memory-mapped: nothing is read or copied before it is used.

    The library's own loader reserves memory for the whole file, and so refuses one larger than the machine's memory.
    Changing a tensor in place changes this process's copy of its pages, never the file.

    Raises:
        InputError: no safetensors file, or one whose sizes do not fit its header.
    """
    begin, entries = _header(path)
    with path.open("rb") as handle:
        flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        mapped = mmap.mmap(handle.fileno(), 0, flags=flags, prot=access)
    found, end = {}, begin
    for name, entry in entries.items():
        try:
            dtype, shape = _ON_DISK[entry["dtype"]], [int(size) for size in entry["shape"]]
            first, last = (begin + int(offset) for offset in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise _bad(path, f"tensor {name!r} is described as {entry}") from error
        count = 1
        for size in shape:
            count *= size
        if last - first != count * dtype.itemsize or not begin <= first <= last <= len(mapped):
            raise _bad(path, f"tensor {name!r} of shape {shape} does not fill bytes {first} to {last}")
        end = max(end, last)
        flat = (
            torch.frombuffer(mapped, dtype=dtype, count=count, offset=first) if count else torch.empty(0, dtype=dtype)
        )
        found[name] = flat.view(shape)
    if end != len(mapped):
        raise _bad(path, f"its tensors end at byte {end}, the file has {len(mapped)}")
    return found
