"""Antonym pairs that training does not get, so that a model can be judged on others than those it was pushed from.

They are chosen in the merged lexicon, after derivation by affixes and after caps. Taken out of the sources, a pair
would bring back the synonym that it had outvoted, and training would pull together what it is to know nothing about.
"""

from __future__ import annotations

import hashlib
from typing import Final

import polars as pl

from sensekd.lexicon.relations import ANTONYM, Lexicon, fold

PAIR: Final = ("low", "high")
_RANGE: Final = 1 << 64


def unordered(first: pl.Series, second: pl.Series) -> pl.DataFrame:
    """`low`, `high`: two columns of words, folded and each row in order."""
    folded = pl.DataFrame({"a": fold(first), "b": fold(second)})
    return folded.select(pl.min_horizontal("a", "b").alias(PAIR[0]), pl.max_horizontal("a", "b").alias(PAIR[1]))


def _place(low: str, high: str, seed: int) -> int:
    """A number below 2^64 that depends on the seed and the pair alone."""
    digest = hashlib.blake2b(f"{seed}\0{low}\0{high}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def withheld_pairs(lexicon: Lexicon, share: float, seed: int = 0) -> pl.DataFrame:
    """The antonym pairs that are withheld.

    Each pair of folded words is in or out by a hash of its own: neither order, case, sources nor the other pairs of the
    lexicon change that, and those withheld at a smaller share are among those of a larger one.

    Args:
        lexicon: merged.
        share: which part of the pairs, 0 to 1; the hash meets it on average.
        seed: another one chooses others.

    Returns:
        `low`, `high`, sorted and without duplicates.
    """
    rows = lexicon.relations.filter(pl.col("relation") == ANTONYM)
    pairs = unordered(rows["head"], rows["tail"]).unique().sort(PAIR)
    chosen = [_place(low, high, seed) < share * _RANGE for low, high in pairs.iter_rows()]
    return pairs.filter(pl.Series(chosen, dtype=pl.Boolean))
