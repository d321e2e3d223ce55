"""Antonym pairs that training never sees, so that what it says of antonyms can be judged on others than those it had.

The pairs are chosen in the merged lexicon, after derivation by affixes and after caps. A pair that were taken out of the
sources would give back the synonyms that it had outvoted, and pairs that the caps had left out would move up in its
place: the pull would then say something about the very pairs that are to be unknown.
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
