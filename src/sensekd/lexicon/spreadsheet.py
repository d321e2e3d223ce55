"""The cells of an .xlsx workbook as text, row by row; document types (they may hold entities) and bombs are refused."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final
from xml.parsers import expat

from sensekd.errors import InputError
from sensekd.lexicon.streams import FREE, RATIO

_CHUNK: Final = 1 << 16
_MOST: Final = 1 << 30
_SHEET: Final = re.compile(r"xl/worksheets/[^/]+\.xml")
_SHARED: Final = "xl/sharedStrings.xml"
_DAMAGED: Final = (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, OSError, NotImplementedError)
_LETTERS: Final = re.compile(r"([A-Z]{1,3})\d+")


def is_spreadsheet(path: Path) -> bool:
    """Whether a file is a zip archive with a workbook in it."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError):
        return False


def read_sheets(path: Path) -> Iterator[Iterator[list[str]]]:
    """The rows of every sheet, in the order of their file names; empty cells are empty strings.

    Raises:
        InputError: damaged, with a document type (which may declare entities), or larger than `RATIO` times its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size > min(_MOST, max(FREE, RATIO * member.compress_size)):
                    raise InputError(
                        f"{path}: {member.filename} unpacks to {member.file_size} bytes", "a workbook", None
                    )
            shared = _shared_strings(path, archive) if _SHARED in archive.namelist() else []
            for name in sorted(name for name in archive.namelist() if _SHEET.fullmatch(name)):
                with archive.open(name) as stream:
                    yield _rows(path, stream, shared)
    except _DAMAGED as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read as a workbook: {error}", "an .xlsx file", "save it again")


class _Parser:
    """Expat without document types, in chunks; elements are told by local name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = lambda name, attributes: self.start(name.rpartition(" ")[2], attributes)
        self._parser.EndElementHandler = lambda name: self.end(name.rpartition(" ")[2])
        self._parser.CharacterDataHandler = self.data
        self._parser.buffer_text = True

    def _refuse(self, *_: object) -> None:
        raise InputError(f"{self._path} declares a document type", "a workbook, which has none", "do not trust it")

    def feed(self, stream: IO[bytes]) -> Iterator[None]:
        """Parse; one step a chunk."""
        more = True
        while more:
            try:
                chunk = stream.read(_CHUNK)
                more = bool(chunk)
                self._parser.Parse(chunk, not more)
            except _DAMAGED as error:
                raise _unreadable(self._path, error) from error
            yield

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""

    def end(self, name: str) -> None:
        """An element ends."""

    def data(self, text: str) -> None:
        """Character data."""


class _Strings(_Parser):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.found: list[str] = []
        self._text: list[str] = []
        self._inside = self._phonetic = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "si":
            self._text = []
        self._phonetic = self._phonetic or name == "rPh"
        self._inside = name == "t" and not self._phonetic

    def end(self, name: str) -> None:
        self._inside = False
        if name == "rPh":
            self._phonetic = False
        if name == "si":
            self.found.append("".join(self._text))

    def data(self, text: str) -> None:
        if self._inside:
            self._text.append(text)


class _Sheet(_Parser):
    def __init__(self, path: Path, shared: list[str]) -> None:
        super().__init__(path)
        self.rows: list[list[str]] = []
        self._shared = shared
        self._cells: dict[int, str] = {}
        self._column = -1
        self._kind = ""
        self._text: list[str] = []
        self._inside = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "row":
            self._cells, self._column = {}, -1
        elif name == "c":
            match = _LETTERS.fullmatch(attributes.get("r", ""))
            self._column = _column(match[1]) if match else self._column + 1
            self._kind, self._text = attributes.get("t", "n"), []
        self._inside = name in {"v", "t"}

    def end(self, name: str) -> None:
        self._inside = False
        if name == "c":
            text = "".join(self._text)
            if self._kind == "s" and text.isdecimal() and int(text) < len(self._shared):
                text = self._shared[int(text)]
            self._cells[self._column] = text
        elif name == "row":
            width = max(self._cells, default=-1) + 1
            self.rows.append([self._cells.get(column, "") for column in range(width)])

    def data(self, text: str) -> None:
        if self._inside:
            self._text.append(text)


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - 64
    return number - 1


def _shared_strings(path: Path, archive: zipfile.ZipFile) -> list[str]:
    parser = _Strings(path)
    with archive.open(_SHARED) as stream:
        for _ in parser.feed(stream):
            pass
    return parser.found


def _rows(path: Path, stream: IO[bytes], shared: list[str]) -> Iterator[list[str]]:
    parser = _Sheet(path, shared)
    for _ in parser.feed(stream):
        yield from parser.rows
        parser.rows = []
