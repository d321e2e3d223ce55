"""MorphoLex: words with their segmentation into affixes and roots, as the workbook (.xlsx) or as a table (.tsv).

Of the workbook the sheets count that have the columns `Word` and `MorphoLexSegm`; of a table the columns `word` and
`segmentation` (or the workbook's names), in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sensekd.errors import InputError
from sensekd.lexicon.affixes import parts_of_segmentation
from sensekd.lexicon.polarity import Negation, negation_of
from sensekd.lexicon.relations import fold_word
from sensekd.lexicon.spreadsheet import is_spreadsheet, read_sheets
from sensekd.lexicon.streams import read_blocks

_WORD: Final = ("word",)
_SEGMENTATION: Final = ("morpholexsegm", "segmentation")


def read_morpholex(path: Path, *, language: str = "en") -> tuple[list[Negation], dict[str, Any]]:
    """The words with a negating affix, and counts: rows `read`, with `negation`, `empty` (no word or segmentation).

    Raises:
        InputError: no such file, neither a workbook nor UTF-8 text, or no sheet or header with the two columns.
    """
    if not path.is_file():
        raise InputError(f"no MorphoLex at {path}", "a workbook (.xlsx) or a table (.tsv)", "correct the path")
    sheets = read_sheets(path) if is_spreadsheet(path) else [_table(path)]
    facts = {"read": 0, "negation": 0, "empty": 0}
    negations: list[Negation] = []
    words: set[str] = set()
    found = False
    for rows in sheets:
        for word, segmentation in _entries(rows):
            found = True
            if word is None:
                continue
            facts["read"] += 1
            words.add(fold_word(word))
            if not word or not segmentation:
                facts["empty"] += 1
                continue
            negation = negation_of(word, parts_of_segmentation(segmentation), language, path.name)
            if negation is not None:
                facts["negation"] += 1
                negations.append(negation)
    if not found:
        raise InputError(f"{path} has no columns Word and MorphoLexSegm", "MorphoLex, or word TAB segmentation", None)
    # Roots are often no words; the table's own words are.
    return [n._replace(certain=n.certain and n.bases[0] in words) for n in negations], facts


def _entries(rows: Iterable[Sequence[str]]) -> Iterator[tuple[str | None, str]]:
    """(word, segmentation) of each row of a sheet; first (None, "") for the header, nothing for other sheets."""
    columns: tuple[int, int] | None = None
    for row in rows:
        if columns is None:
            names = [cell.strip().casefold() for cell in row]
            word = next((names.index(name) for name in _WORD if name in names), None)
            segmentation = next((names.index(name) for name in _SEGMENTATION if name in names), None)
            if word is None or segmentation is None:
                return
            columns = word, segmentation
            yield None, ""
            continue
        cells = [row[column].strip() if column < len(row) else "" for column in columns]
        yield cells[0], cells[1]


def _table(path: Path) -> Iterator[Sequence[str]]:
    for block in read_blocks(path):
        for number, line in enumerate(block.lines, block.first):
            try:
                text = (line or b"").decode()
            except UnicodeDecodeError as error:
                raise InputError(f"{path}:{number} is not UTF-8", "UTF-8 text", "convert the file") from error
            if text.strip():
                yield text.rstrip("\r").split("\t")
