"""Lines of files that nobody vouches for: plain or compressed, in flat memory, limited in what they may unpack to."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, cast
from xml.parsers import expat

from sensekd.errors import InputError

# A line of a dump is at most a few MB; more is no entry, and a parser may take twenty times the bytes of its input.
MAX_LINE: Final = 16 << 20
# Dictionaries pack 5 to 30 times. Beyond RATIO a file is a bomb, once it has unpacked to more than FREE.
RATIO: Final = 400
FREE: Final = 16 << 20
# Small enough for the cache, where splitting it into lines is fastest.
_CHUNK: Final = 1 << 17
_OPENERS: Final[dict[bytes, Callable[[IO[bytes]], IO[bytes]]]] = {
    b"\x1f\x8b": lambda raw: cast(IO[bytes], gzip.GzipFile(fileobj=raw)),
    b"BZh": lambda raw: cast(IO[bytes], bz2.BZ2File(raw)),
    b"\xfd7zXZ": lambda raw: cast(IO[bytes], lzma.LZMAFile(raw)),  # noqa: SIM115 (closed by the stream's own stack)
}
_FOREIGN: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z"}
_DAMAGED: Final = (EOFError, OSError, lzma.LZMAError, zlib.error)


class GuardedStream:
    """The unpacked bytes of a file; gzip, bzip2 and xz are told by their first bytes, not by the name.

    Raises:
        InputError: no such file, a format that is not read, a damaged archive, or one that unpacks to more than `RATIO`
            times its size.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._stack, self._out = path, ExitStack(), 0
        try:
            self._raw: IO[bytes] = self._stack.enter_context(path.open("rb"))
            start = self._raw.read(6)
            self._raw.seek(0)
        except OSError as error:
            self._stack.close()
            raise InputError(f"{path} cannot be read: {error.strerror}", "a file", "correct the path") from error
        foreign = next((name for magic, name in _FOREIGN.items() if start.startswith(magic)), None)
        if foreign:
            self._stack.close()
            raise InputError(f"{path} is packed with {foreign}", "plain, gzip, bzip2 or xz", "unpack or repack it")
        opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
        self.packed = opener is not None
        self._stream: IO[bytes] = self._raw
        if opener is not None:
            self._stream = self._stack.enter_context(opener(self._raw))

    def read(self, size: int = _CHUNK) -> bytes:
        """At most `size` bytes; none at the end."""
        try:
            data = self._stream.read(size)
        except _DAMAGED as error:
            raise InputError(
                f"{self._path} cannot be unpacked after {self._out} bytes: {error}", "a whole archive", "fetch it again"
            ) from error
        self._out += len(data)
        # Archives are read in small blocks, so what the file has given by now is what was needed for these bytes.
        if self.packed and self._out > FREE and self._out > RATIO * self._raw.tell():
            raise InputError(
                f"{self._path} unpacks to more than {RATIO} times its size",
                "a dictionary, which packs 5 to 30 times",
                "if you trust it, unpack it yourself and give the plain file",
            )
        return data

    def __enter__(self) -> GuardedStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@dataclass(frozen=True)
class Block:
    """Consecutive lines without their line feeds; `first` is the number of the first, counted from 1.

    A line that is longer than the limit stands as None.
    """

    first: int
    lines: list[bytes | None]


def read_blocks(path: Path, *, limit: int = MAX_LINE) -> Iterator[Block]:
    """The lines of a file in blocks of some hundred kilobytes; no line of more than `limit` bytes is ever held.

    Raises:
        InputError: as for `GuardedStream`.
    """
    with GuardedStream(path) as stream:
        number, rest, skipping, start = 1, b"", False, True
        while chunk := stream.read(min(_CHUNK, limit)):
            if start:
                chunk, start = chunk.removeprefix(b"\xef\xbb\xbf"), False
            lines: list[bytes | None] = list((rest + chunk if rest else chunk).split(b"\n"))
            rest = lines.pop() or b""
            if lines and (skipping or len(lines[0] or b"") > limit):
                lines[0], skipping = None, False
            if len(rest) > limit:
                rest, skipping = b"", True
            elif skipping:
                rest = b""
            if lines:
                yield Block(number, lines)
                number += len(lines)
        if rest or skipping:
            yield Block(number, [None if skipping else rest])


class _PrologOverError(Exception):
    """The prolog is over."""


def refuse_entities(path: Path, name: str) -> None:
    """Refuse XML that declares entities: a few lines of them may stand for terabytes.

    Args:
        path: an XML file, unpacked.
        name: what messages call it.

    Raises:
        InputError: an entity is declared. Anything else that is wrong with the file is left to its parser.
    """

    def declared(*_: object) -> None:
        raise InputError(f"{name} declares XML entities", "XML without them", "do not trust this file")

    def first_element(*_: object) -> None:
        raise _PrologOverError

    parser = expat.ParserCreate()
    parser.EntityDeclHandler, parser.StartElementHandler = declared, first_element
    with path.open("rb") as handle, contextlib.suppress(_PrologOverError, expat.ExpatError):
        parser.ParseFile(handle)
