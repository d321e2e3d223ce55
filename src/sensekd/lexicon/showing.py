"""A word's relations for a person to read: by relation, part of speech and sense."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import polars as pl

from sensekd.lexicon.relations import ANTONYM, SYNONYM, Lexicon, base_language, base_languages

_TITLES: Final = {SYNONYM: "synonyms", ANTONYM: "antonyms"}
_ORDER: Final = (SYNONYM, ANTONYM)
_GROUP: Final = ("language", "relation", "pos", "gloss")


def relations_of(lexicon: Lexicon, word: str, language: str | None = None) -> list[dict[str, Any]]:
    """The rows of a word in any case, grouped: synonyms, antonyms, others; then by part of speech and gloss.

    Args:
        lexicon: where to look.
        word: the head.
        language: only rows in it (`en` takes `en-GB`); None takes all.
    """
    rows = lexicon.of(word)
    if language is not None:
        rows = rows.filter(base_languages(rows["language"]) == base_language(language))
    order = pl.col("relation").replace_strict({name: at for at, name in enumerate(_ORDER)}, default=len(_ORDER))
    heaviest = pl.col("weight").neg()
    return rows.sort("language", order, "relation", "pos", "gloss", heaviest, "tail", "head").to_dicts()


def render(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of text: a heading for each relation and sense, then a line a neighbour with weight, tags and sources."""
    lines: list[str] = []
    before: tuple[str, ...] = ("", "")
    for (language, relation, pos, gloss), members in groupby(rows, key=lambda row: tuple(row[name] for name in _GROUP)):
        if (language, relation) != before:
            lines.append(f"{_TITLES.get(relation, relation)}{f' ({language})' if language else ''}")
            before = (language, relation)
        lines.append(f"  {pos or '-'}  {gloss or '(no sense named)'}")
        for row in members:
            tags = f"  [{', '.join(row['tags'])}]" if row["tags"] else ""
            lines.append(f"     {row['tail']:<28} {row['weight']:.2f}  {row['source']}{tags}")
    return lines
