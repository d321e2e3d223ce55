"""Plain files of word pairs: two columns, or three where the third says which relation the line states."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sensekd.errors import InputError
from sensekd.lexicon.relations import relation_frame


def read_pairs(
    path: Path, relation: str, *, delimiter: str = "\t", label: str | None = None, language: str = "en"
) -> pl.DataFrame:
    """Read one pair a line; blank lines are passed over.

    Args:
        path: UTF-8 text.
        relation: what every pair of the result is to the other.
        delimiter: what stands between the columns.
        label: `None` for files of two columns. Otherwise the file has a third, and only the lines whose third column
            is `label` are taken: a file that marks antonyms with 1 and synonyms with 0 is read twice.
        language: of the words.

    Raises:
        InputError: no such file, not UTF-8, or a line with another number of columns or without a word.
    """
    if not path.is_file():
        raise InputError(f"no pair file at {path}", "a text file with one pair a line", "correct the path")
    if not delimiter:
        raise InputError(f"{path}: the delimiter is empty", 'a delimiter such as "\\t" or " "')
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})", "UTF-8 text", "convert the file") from error
    columns = 2 if label is None else 3
    pairs = []
    for number, line in enumerate(lines, 1):
        # A delimiter at the end of a line closes it; it opens no further column.
        fields = [part.strip() for part in line.removesuffix(delimiter).split(delimiter)] if line.strip() else []
        if not fields:
            continue
        if len(fields) != columns or not all(fields):
            raise _bad_line(path, number, line, columns, delimiter)
        if label is None or fields[2] == label:
            pairs.append(fields[:2])
    return relation_frame({
        "head": [head for head, _ in pairs], "tail": [tail for _, tail in pairs],
        "relation": relation, "language": language, "source": path.name,
    })  # fmt: skip


def _bad_line(path: Path, number: int, line: str, columns: int, delimiter: str) -> InputError:
    third = "set `label` where a third column marks the relation" if columns == 2 else "drop `label` for two columns"
    return InputError(
        f"{path}:{number}: {line[:80]!r}",
        f"{columns} non-empty columns, separated by {delimiter!r}",
        f"correct the line, or set `delimiter`, or {third}",
    )
