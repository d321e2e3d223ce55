"""At most so many relations a word: those that one can rely on most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl

from sensekd.errors import InputError
from sensekd.lexicon.relations import base_languages, fold, fold_word

_SOURCES: Final = "; "


@dataclass(frozen=True)
class Caps:
    """How many related words a word keeps.

    Attributes:
        most: relation -> largest number of neighbours; a relation that is not named is not capped.
        frequency: folded word -> how often it occurs; words that are missing count as 0.
    """

    most: Mapping[str, int] = field(default_factory=dict)
    frequency: Mapping[str, float] = field(default_factory=dict)


def cap(rows: pl.DataFrame, caps: Caps) -> tuple[pl.DataFrame, int]:
    """Keep of every word's neighbours the most trustworthy, by relation.

    Neighbours are ranked by the number of sources that state the pair, then by its largest weight, then by the
    frequency of the neighbour, then by spelling. A pair stays only if it is within the cap of both its words, so that
    the table stays symmetric and no word has more than it may.

    Args:
        rows: a merged table; words count as one whatever their case, senses of a pair stay or go together.
        caps: the numbers.

    Returns:
        The rows that stay, in their order, and how many went.
    """
    if not caps.most:
        return rows, 0
    keyed = rows.with_columns(
        fold(rows["head"]).alias("a"), fold(rows["tail"]).alias("b"), base_languages(rows["language"]).alias("base")
    )
    pair = ["relation", "base", "a", "b"]
    sources = pl.col("source").str.split(_SOURCES).explode().n_unique().alias("sources")
    pairs = keyed.group_by(pair).agg(sources, pl.col("weight").max())
    ranked = _ranked(pairs.with_columns(_frequency(pairs["b"], caps)))
    most = pl.col("relation").replace_strict(dict(caps.most), default=None, return_dtype=pl.Int64)
    over = ranked.filter(pl.col("rank") > most).select(pair)
    both = pl.concat([over, over.select("relation", "base", pl.col("b").alias("a"), pl.col("a").alias("b"))]).unique()
    kept = keyed.join(both, on=pair, how="anti", maintain_order="left").select(rows.columns)
    return kept, rows.height - kept.height


def _frequency(words: pl.Series, caps: Caps) -> pl.Series:
    return pl.Series("frequency", [caps.frequency.get(word, 0.0) for word in words.to_list()], dtype=pl.Float64)


def _ranked(pairs: pl.DataFrame) -> pl.DataFrame:
    """`rank` of each pair among those of its word and relation, 1 for the best."""
    word = ["relation", "base", "a"]
    order = pairs.sort(
        *word, "sources", "weight", "frequency", "b", descending=[False] * 3 + [True] * 3 + [False], maintain_order=True
    )
    return order.with_columns((pl.int_range(pl.len()).over(word) + 1).alias("rank"))


def read_frequencies(path: Path) -> dict[str, float]:
    """Read `word TAB count` lines; counts of spellings that fold to one word are added up.

    Raises:
        InputError: no such file, not UTF-8, or a line of another kind.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", "UTF-8 text, word TAB count", "correct the path") from error
    found: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        word, separator, count = line.rpartition("\t")
        try:
            value = float(count)
        except ValueError:
            value = -1.0
        if not separator or not word.strip() or not 0 <= value < float("inf"):
            raise InputError(f"{path}:{number}: {line[:80]!r}", "word TAB count", "correct the line")
        key = fold_word(word.strip())
        found[key] = found.get(key, 0.0) + value
    return found
