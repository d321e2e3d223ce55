"""The files of a cache: records by block, memory-mapped, a checksum for every block, a manifest when all are there.

A block's place follows from its number and from the label positions before it, so that processes write where they like,
in any order, and the bytes are the same. A block stands when its checksum does: it is written last, and whatever a
killed process left half-written is found by it and written again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import xxhash
from torch import Tensor

from sensekd.artefacts import MANIFEST, Manifest, check_made_from, read_manifest, sweep, write_json, write_manifest
from sensekd.errors import InputError
from sensekd.losses import IGNORE
from sensekd.training.cache.layout import Layout
from sensekd.training.cache.residual import ResidualCode, codebook_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sensekd.training.data import TokenBlocks

FORMAT: Final = 1
KIND: Final = "teacher-cache"
_BLOCKS, _LABELS, _CHECKSUMS, _BEGUN = "blocks.bin", "labels.bin", "checksums.bin", "begun.json"
_CODEBOOKS: Final = "codebooks.safetensors"
_REBUILD: Final = "remove the folder, or give the training another one; the cache is then written anew"


def label_counts(blocks: TokenBlocks) -> NDArray[np.uint32]:
    """[blocks] label positions of every block."""
    if blocks.packing == "concat" and blocks.mask is None:
        return np.full(len(blocks), blocks.length - 1, dtype=np.uint32)
    counts = ((blocks[index]["labels"][1:] != IGNORE).sum() for index in range(len(blocks)))
    return np.fromiter((int(count) for count in counts), dtype=np.uint32, count=len(blocks))


def _checksum(data: bytes | memoryview) -> int:
    # 0 says that nothing was written yet.
    return xxhash.xxh3_64_intdigest(data) or 1


@dataclass(frozen=True)
class TeacherCache:
    """A cache on disk, complete or under way.

    Attributes:
        folder: where it stands.
        layout: of its records.
        made_from: what it belongs to.
        facts: what a training needs to know of the teacher besides (layers of the student, common vocabulary).
        starts: [blocks + 1] label positions before each block.
        written: [blocks] checksums, 0 where nothing was written; a view of the file, so what others write shows.
    """

    folder: Path
    layout: Layout
    made_from: Mapping[str, Any]
    facts: Mapping[str, Any]
    starts: NDArray[np.int64]
    written: NDArray[np.uint64]

    # ---- opening

    @classmethod
    def begin(
        cls, folder: Path, layout: Layout, made_from: Mapping[str, Any], facts: Mapping[str, Any], blocks: TokenBlocks
    ) -> TeacherCache:
        """Make the files of a new cache, or go on with one that was begun; any number of processes may.

        Raises:
            InputError: the folder holds a cache that was made from something else, or laid out otherwise.
        """
        folder.mkdir(parents=True, exist_ok=True)
        begun = {"kind": KIND, "format": FORMAT, "made_from": dict(made_from), "layout": layout.as_dict()}
        begun["facts"] = dict(facts)
        path = folder / _BEGUN
        if path.is_file():
            found = cls._begun(folder)
            _check(found, made_from, folder)
            if found["layout"] != begun["layout"]:
                raise InputError(
                    f"the cache at {folder} is laid out as {found['layout']}", str(begun["layout"]), _REBUILD
                )
        else:
            counts = label_counts(blocks)
            _extend(folder / _LABELS, counts.tobytes(), 0)
            size = int(counts.sum()) * layout.record + len(counts) * layout.constant
            _extend(folder / _BLOCKS, b"", size)
            _extend(folder / _CHECKSUMS, b"", 8 * len(counts))
            write_json(path, begun)
        return cls._open(folder, json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def open(cls, folder: Path, made_from: Mapping[str, Any] | None = None, *, verify: bool = False) -> TeacherCache:
        """A complete cache.

        Args:
            folder: where it stands.
            made_from: what it must belong to; None takes it as it is.
            verify: compare the checksums of the files, not only sizes; blocks are compared when they are read.

        Raises:
            InputError: none there, not complete, of another format, damaged, or made from something else.
        """
        if not (folder / MANIFEST).is_file() and (folder / _BEGUN).is_file():
            cache = cls._open(folder, cls._begun(folder))
            raise InputError(
                f"the cache at {folder} has {cache.done} of {len(cache)} blocks", "all of them",
                "start the training again: the cache is then written to its end",
            )  # fmt: skip
        manifest = read_manifest(folder, KIND, FORMAT, verify=verify)
        if made_from is not None:
            check_made_from(manifest, made_from, command=_REBUILD)
        return cls._open(folder, cls._begun(folder))

    @staticmethod
    def is_complete(folder: Path) -> bool:
        """Whether a cache at `folder` was written to its end."""
        return (folder / MANIFEST).is_file()

    @staticmethod
    def _begun(folder: Path) -> dict[str, Any]:
        try:
            begun: dict[str, Any] = json.loads((folder / _BEGUN).read_text(encoding="utf-8"))
            kind = (begun["kind"], begun["format"])
            if not begun.keys() >= {"made_from", "layout", "facts"}:
                raise KeyError("made_from")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / _BEGUN} cannot be read: {error}", "as it was written", _REBUILD) from error
        if kind != (KIND, FORMAT):
            raise InputError(
                f"{folder} holds {kind[0]!r} in format {kind[1]}", f"{KIND!r} in format {FORMAT}", _REBUILD
            )
        return begun

    @classmethod
    def _open(cls, folder: Path, begun: Mapping[str, Any]) -> TeacherCache:
        layout = Layout.from_dict(begun["layout"])
        counts = np.fromfile(folder / _LABELS, dtype=np.uint32)
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        written = np.memmap(folder / _CHECKSUMS, dtype=np.uint64, mode="r")
        size = int(starts[-1]) * layout.record + len(counts) * layout.constant
        found = (folder / _BLOCKS).stat().st_size
        if len(written) != len(counts) or found != size:
            raise InputError(f"{folder / _BLOCKS} has {found} bytes", f"{size}", _REBUILD)
        return cls(folder, layout, begun["made_from"], begun["facts"], starts, written)

    # ---- what stands

    def __len__(self) -> int:
        return len(self.written)

    @property
    def done(self) -> int:
        """Blocks that were written."""
        return int(np.count_nonzero(self.written))

    @property
    def codebooks(self) -> Path:
        """Where the codebooks of residuals stand, in a cache that has such."""
        return self.folder / _CODEBOOKS

    @cached_property
    def code(self) -> ResidualCode:
        """What residuals are coded with; only in a cache whose layout has codes.

        Raises:
            InputError: the codebooks are not there, or damaged.
        """
        return ResidualCode.load(self.codebooks)

    def has(self, blocks: Iterable[int]) -> bool:
        """Whether all these blocks were written."""
        return all(self.written[block] for block in blocks)

    def _span(self, block: int) -> tuple[int, int]:
        """Offset and bytes of a block."""
        first, last = (int(self.starts[number]) for number in (block, block + 1))
        record, constant = self.layout.record, self.layout.constant
        return first * record + block * constant, (last - first) * record + constant

    def missing(self) -> list[int]:
        """Blocks that were not written, or whose bytes are not those that were."""
        found = []
        with (self.folder / _BLOCKS).open("rb") as file:
            for block, expected in enumerate(self.written.tolist()):
                offset, size = self._span(block)
                if not expected or _checksum(os.pread(file.fileno(), size, offset)) != expected:
                    found.append(block)
        return found

    # ---- reading and writing

    def read(self, blocks: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Records of blocks, uint8 [n, record], and the states after the trunk, [B, T, D].

        Raises:
            InputError: the bytes of a block are not those that were written.
        """
        data = np.memmap(self.folder / _BLOCKS, dtype=np.uint8, mode="r") if self._size() else np.empty(0, np.uint8)
        records, trunks = [], []
        for block in blocks:
            offset, size = self._span(block)
            raw = data[offset : offset + size]
            if _checksum(raw.tobytes()) != int(self.written[block]):
                raise InputError(
                    f"{self.folder / _BLOCKS}: block {block} (bytes {offset} to {offset + size}) is damaged",
                    "the bytes that were written", _REBUILD,
                )  # fmt: skip
            stop = size - self.layout.constant
            records.append(raw[:stop].reshape(-1, self.layout.record) if self.layout.record else raw[:0].reshape(0, 0))
            trunks.append(raw[stop:])
        rows = torch.from_numpy(np.concatenate(records))
        trunk = self.layout.trunk
        if trunk is None:
            return rows, None
        states = torch.from_numpy(np.stack(trunks)).view(getattr(torch, self.layout.dtype))
        return rows, states.reshape(len(trunks), *trunk)

    def _size(self) -> int:
        return (self.folder / _BLOCKS).stat().st_size

    def write(self, blocks: Sequence[int], records: Tensor, trunk: Tensor | None) -> None:
        """Store blocks, the checksum of each after its bytes.

        Args:
            blocks: their numbers.
            records: uint8 [n, record] of all their label positions, one block after the other, on the CPU.
            trunk: [B, T, D] or None.
        """
        raw = records.numpy()
        after = None if trunk is None else trunk.contiguous().view(torch.uint8).reshape(len(blocks), -1).numpy()
        first = 0
        with (self.folder / _BLOCKS).open("r+b") as file, (self.folder / _CHECKSUMS).open("r+b") as sums:
            for number, block in enumerate(blocks):
                count = int(self.starts[block + 1] - self.starts[block])
                data = raw[first : first + count].tobytes()
                data += b"" if after is None else after[number].tobytes()
                first += count
                offset, size = self._span(block)
                assert len(data) == size, (block, len(data), size)
                os.pwrite(file.fileno(), data, offset)
                os.pwrite(sums.fileno(), _checksum(data).to_bytes(8, "little"), 8 * block)

    def seal(self) -> None:
        """Write the manifest: the cache is complete.

        Raises:
            ValueError: it is not.
        """
        if self.done < len(self):
            raise ValueError(f"{self.done} of {len(self)} blocks were written")
        # One that was killed at this very place left a manifest half-written, which is no part of the cache.
        sweep(self.folder)
        positions = int(self.starts[-1])
        facts = {
            **self.facts,
            "blocks": len(self),
            "positions": positions,
            "bytes_per_position": self.layout.record,
            "bytes_per_token": self._size() / max(1, positions),
            **self._code_facts(),
        }
        write_manifest(self.folder, Manifest(KIND, FORMAT, dict(self.made_from), self.layout.as_dict(), facts))

    def _code_facts(self) -> dict[str, Any]:
        if not self.layout.residual:
            return {}
        return {
            "sense_target_bytes": self.layout.sense_target,
            "codebook_bytes": codebook_bytes(self.layout.width),
            "relative_error": dict(self.code.errors),
        }


def _check(begun: Mapping[str, Any], made_from: Mapping[str, Any], folder: Path) -> None:
    manifest = Manifest(KIND, FORMAT, begun["made_from"], begun["layout"])
    check_made_from(manifest, made_from, command=f"{_REBUILD} ({folder})")


def _extend(path: Path, data: bytes, size: int) -> None:
    """A file that begins with `data` and has at least `size` bytes; what else stands in it stays."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if data:
            os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, max(size, len(data)))
    finally:
        os.close(descriptor)


def discard_damaged(folder: Path) -> None:
    """Remove a cache that says it is complete and is not what it says; one that was only begun stays."""
    if (folder / MANIFEST).is_file():
        try:
            TeacherCache.open(folder, verify=True)
        except InputError:
            shutil.rmtree(folder)
