"""A folder of Princeton WordNet's own files (WNDB: `data.noun`, `data.verb`, `data.adj`, `data.adv`).

A line of a data file is one synset: offset, file number, type, number of words (hexadecimal), words each with a number,
number of pointers, pointers (symbol, offset, type, and four hexadecimal digits: word numbers of both ends, or 0000 for
the whole synsets), frames for verbs, and behind ` | ` the gloss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from sensekd.errors import InputError
from sensekd.lexicon.relations import ANTONYM, HYPERNYM, SYNONYM, relation_frame

_FILES: Final = ("noun", "verb", "adj", "adv")
_POS: Final = {"n": "n", "v": "v", "a": "a", "s": "a", "r": "r"}
# Adjectives carry their position behind them: `galore(ip)`.
_MARKER: Final = re.compile(r"\((?:a|p|ip)\)$")
_ANTONYM, _HYPERNYMS = "!", ("@", "@i")


class _Pointer(NamedTuple):
    symbol: str
    target: tuple[str, str]
    source_word: int
    target_word: int


class _Synset(NamedTuple):
    key: tuple[str, str]
    words: list[str]
    pointers: list[_Pointer]
    gloss: str


def read_wndb(folder: Path, *, language: str = "en", hypernyms: float | None = None) -> pl.DataFrame:
    """Read the relations of a WNDB folder.

    Args:
        folder: with at least one of the data files; `index.*` files hold nothing that is needed.
        language: of the words; the files do not say.
        hypernyms: weight of the words of hypernym synsets, below 1; None leaves them out.

    Returns:
        Columns of `relations.SCHEMA`, one direction of each hypernym, both of what the files state in both.

    Raises:
        InputError: no data file, one that is not UTF-8, or a line that is no synset.
    """
    files = [folder / f"data.{name}" for name in _FILES if (folder / f"data.{name}").is_file()]
    if not files:
        raise InputError(f"no data.noun, data.verb, data.adj or data.adv in {folder}", "a folder of WNDB files", None)
    synsets = {synset.key: synset for file in files for synset in _synsets(file)}
    rows = [row for synset in synsets.values() for row in _rows(synset, synsets, hypernyms)]
    names = ("head", "tail", "relation", "weight", "pos", "gloss")
    columns = {name: [row[column] for row in rows] for column, name in enumerate(names)}
    return relation_frame({**columns, "language": language, "source": folder.name})


def _synsets(file: Path) -> Iterator[_Synset]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}", "a WNDB data file in UTF-8", None) from error
    for number, line in enumerate(lines, 1):
        # The licence at the top is indented.
        if not line.strip() or line.startswith("  "):
            continue
        try:
            yield _synset(line)
        except (ValueError, IndexError, KeyError) as error:
            found = f"{file}:{number}: {line[:80]!r} is no synset"
            raise InputError(found, "a line of a WNDB data file", None) from error


def _synset(line: str) -> _Synset:
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    offset, kind, count = fields[0], _POS[fields[2]], int(fields[3], 16)
    words = [_MARKER.sub("", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
    start = 4 + 2 * count
    pointers = []
    for position in range(start + 1, start + 1 + 4 * int(fields[start]), 4):
        symbol, target, target_kind, ends = fields[position : position + 4]
        source_word, target_word = int(ends[:2], 16), int(ends[2:], 16)
        if min(source_word, target_word) < 0:
            raise ValueError(line)
        pointers.append(_Pointer(symbol, (_POS[target_kind], target), source_word, target_word))
    if len(words) != count or not int(offset) >= 0:
        raise ValueError(line)
    return _Synset((kind, offset), words, pointers, " ".join(gloss.split()))


def _rows(
    synset: _Synset, synsets: dict[tuple[str, str], _Synset], hypernyms: float | None
) -> Iterator[tuple[str, str, str, float, str, str]]:
    pos, gloss, words = synset.key[0], synset.gloss, synset.words
    for head in words:
        for tail in words:
            if head != tail:
                yield head, tail, SYNONYM, 1.0, pos, gloss
    for pointer in synset.pointers:
        target = synsets.get(pointer.target)
        if target is None:
            continue
        if pointer.symbol == _ANTONYM and pointer.source_word and pointer.target_word:
            if pointer.source_word <= len(words) and pointer.target_word <= len(target.words):
                head, tail = words[pointer.source_word - 1], target.words[pointer.target_word - 1]
                yield head, tail, ANTONYM, 1.0, pos, gloss
        elif pointer.symbol in _HYPERNYMS and hypernyms is not None:
            for head in words:
                for tail in target.words:
                    yield head, tail, HYPERNYM, hypernyms, pos, gloss
