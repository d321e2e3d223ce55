"""Wiktionary as Wiktextract leaves it (kaikki.org): JSON lines of any edition and language, read as a stream.

Most of a dump says nothing about synonyms, so most of it is not parsed. A line without the bytes of a wanted key has no
relation, and one without the language's code between quotation marks is of another language. Of the others, long lists
that are not wanted (translations, inflected forms, derived words) are cut out before parsing, where the bytes show that
exactly one member of the object is cut (`_without_long_lists`). `strict` parses every byte instead, and ends at the
first line that is no entry.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl

from sensekd.errors import InputError
from sensekd.lexicon.entries import EntryReader
from sensekd.lexicon.polarity import Negation, negations_of_entry
from sensekd.lexicon.relations import ANTONYM, HYPERNYM, SCHEMA, SYNONYM, base_language
from sensekd.lexicon.streams import MAX_LINE, read_blocks

_BATCH: Final = 20_000
_PROBLEMS: Final = 20
# Lists of plain objects that fill most of a dump's bytes.
_LONG: Final = tuple(f', "{name}": [{{'.encode() for name in ("translations", "forms", "derived"))
_NOT_BETWEEN: Final = re.compile(rb"\}(?!, \{)")
_KEY_FOLLOWS: Final = re.compile(rb'\}\], "[A-Za-z]').match
# A redirect is a line of two or three short members.
_REDIRECT_SIZE: Final = 2048


@dataclass
class LineCounts:
    """Where every line of a source went.

    Attributes:
        read: lines, blank ones included.
        kept: lines with a relation that was taken.
        without_relations: entries (in whatever language) that state none.
        blank: lines of white space.
        dropped: lines left out, by reason: `malformed` (no JSON, or no object), `too_long`, `redirect`,
            `other_language`, `no_word`, `nothing_usable` (the reasons stand with the linkages).
        problems: file:line of the first malformed and too long lines.
    """

    read: int = 0
    kept: int = 0
    without_relations: int = 0
    blank: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class WiktionaryRelations:
    """What a Wiktextract source gave.

    Attributes:
        relations: columns of `SCHEMA`, as stated (one direction); in the order of the files.
        negations: words with a negating affix, where polarity was asked for.
        facts: `lines` (`LineCounts`) and `linkages` (read, kept, dropped by reason, unresolved), for the manifest.
    """

    relations: pl.DataFrame
    negations: list[Negation]
    facts: Mapping[str, Any]


def read_wiktionary(
    path: Path,
    *,
    language: str = "en",
    hypernyms: float | None = None,
    polarity: bool = False,
    strict: bool = False,
    max_line: int = MAX_LINE,
) -> WiktionaryRelations:
    """Read the relations of Wiktextract lines.

    Args:
        path: a file (plain, gzip, bzip2 or xz), or a folder whose files, all of them, are such files.
        language: of the entries that are taken (`lang_code`); a base language takes its variants as well.
        hypernyms: weight of hypernyms, below 1; None leaves them out.
        polarity: collect negating affixes from etymology templates.
        strict: parse every line, and end at the first that is no entry or too long.
        max_line: longest line in bytes.

    Raises:
        InputError: no such file, an archive that is damaged or a bomb; with `strict`, a line that is no entry.
    """
    reader = _Reader(path.name, base_language(language), hypernyms, polarity, strict, max_line)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise InputError(f"no file in {path}", "JSON lines of Wiktextract", "correct the path")
    # Shards of a folder are one source: how lines are spread over them makes no difference.
    frames = [frame for file in files for frame in reader.frames(file)]
    relations = pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA)
    return WiktionaryRelations(relations, reader.negations, reader.facts())


class _Reader:
    """Streams files into rows."""

    def __init__(
        self, source: str, language: str, hypernyms: float | None, polarity: bool, strict: bool, max_line: int
    ) -> None:
        self._source = source
        self._language, self._polarity, self._strict, self._max_line = language, polarity, strict, max_line
        linkages = {"synonyms": (SYNONYM, 1.0), "antonyms": (ANTONYM, 1.0)}
        if hypernyms is not None:
            linkages["hypernyms"] = (HYPERNYM, hypernyms)
        self._entries = EntryReader(linkages)
        self._keys = [f'"{key}"'.encode() for key in linkages]
        # The code's bytes stand in every line of the language, whatever else they stand in.
        self._code = f'"{language}'.encode()
        self._lines = LineCounts()
        self.negations: list[Negation] = []

    def frames(self, file: Path) -> Iterator[pl.DataFrame]:
        """The rows of a file in batches."""
        for block in read_blocks(file, limit=self._max_line):
            self._read_block(file, block.first, block.lines)
            if self._entries.waiting >= _BATCH:
                yield self._entries.take(self._source)
        if self._entries.waiting:
            yield self._entries.take(self._source)

    def facts(self) -> dict[str, Any]:
        """Counts for the manifest."""
        lines, entries = self._lines, self._entries
        return {
            "lines": {
                "read": lines.read, "kept": lines.kept, "without_relations": lines.without_relations,
                "blank": lines.blank, "dropped": dict(sorted(lines.dropped.items())), "problems": lines.problems,
            },
            "linkages": {
                "read": entries.items, "kept": entries.kept, "dropped": dict(sorted(entries.dropped.items())),
                "unresolved": entries.unresolved,
            },
        }  # fmt: skip

    def _read_block(self, file: Path, first: int, lines: list[bytes | None]) -> None:
        synonyms, antonyms, *more = self._keys
        without, foreign, blank = 0, 0, 0
        for number, line in enumerate(lines, first):
            if line is None:
                self._bad(file, number, "too_long", f"more than {self._max_line} bytes")
            elif not line or line.isspace():
                blank += 1
            elif self._strict or not (line.startswith(b"{") and line.endswith(b"}")):
                self._read_line(file, number, line, shorten=False)
            elif synonyms in line or antonyms in line or (more and more[0] in line):
                if self._code in line:
                    self._read_line(file, number, line, shorten=True)
                else:
                    foreign += 1
            elif len(line) < _REDIRECT_SIZE and b'"redirect"' in line:
                self._read_line(file, number, line, shorten=False)
            elif self._polarity and b'"etymology_templates"' in line:
                self._read_line(file, number, line, shorten=True)
            else:
                without += 1
        self._lines.read += len(lines)
        self._lines.without_relations += without
        self._lines.blank += blank
        if foreign:
            self._lines.dropped["other_language"] += foreign

    def _read_line(self, file: Path, number: int, line: bytes, *, shorten: bool) -> None:
        entry = _parse(line, shorten=shorten)
        if not isinstance(entry, dict):
            self._bad(file, number, "malformed", "no JSON object")
            return
        reason = self._refusal(entry)
        if reason is None:
            outcome = self._entries.read(entry, self._language)
            if self._polarity:
                self.negations += negations_of_entry(entry, self._language, self._source)
            if outcome == "kept":
                self._lines.kept += 1
                return
            if outcome == "without_relations":
                self._lines.without_relations += 1
                return
            reason = outcome
        self._lines.dropped[reason] += 1

    def _refusal(self, entry: Mapping[str, Any]) -> str | None:
        """Why an object is no entry of the language, if so."""
        if "redirect" in entry:
            return "redirect"
        code, word = entry.get("lang_code"), entry.get("word")
        if not isinstance(word, str) or not word.strip():
            return "no_word"
        if code != self._language and not (isinstance(code, str) and base_language(code) == self._language):
            return "other_language"
        return None

    def _bad(self, file: Path, number: int, reason: str, why: str) -> None:
        if self._strict:
            raise InputError(
                f"{file}:{number}: {why}", "one entry of Wiktextract a line", "mend the line, or leave out --strict"
            )
        self._lines.dropped[reason] += 1
        if len(self._lines.problems) < _PROBLEMS:
            self._lines.problems.append(f"{file.name}:{number}: {reason}")


def _parse(line: bytes, *, shorten: bool) -> object:
    if shorten:
        shorter = _without_long_lists(line)
        if shorter is not line:
            try:
                return orjson.loads(shorter)
            except orjson.JSONDecodeError:
                pass
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _without_long_lists(line: bytes) -> bytes:
    """Cut members out of a JSON object that hold lists of plain objects.

    A cut begins at `, "name": [{`, where the quotation marks can only be those of a key, and ends behind the first `}`
    that is not followed by `, {`, if `], "` and a letter follow. In a line that is JSON such a quotation mark opens a
    key (behind one that ends a string comes no letter), and so far every object of the list was followed by another.
    So either the list ends here, and exactly one member was cut; or something nested in it is still open, and what is
    left closes more than it opens, whatever else is cut: that is no JSON, and the caller parses the line as it is.
    """
    for start in _LONG:
        begin = line.find(start)
        if begin < 0:
            continue
        found = _NOT_BETWEEN.search(line, begin + len(start))
        if found is not None and _KEY_FOLLOWS(line, found.start()):
            line = line[:begin] + line[found.start() + 2 :]
    return line
