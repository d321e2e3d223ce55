"""Which tokens spell a word of the lexicon."""

from __future__ import annotations

from typing import Final

import polars as pl

from sensekd.lexicon.relations import fold

# Case may be taken away from spellings of so many characters. Shorter ones are symbols and abbreviations (At, He, IT,
# US), and without their capitals function words: 3 to 5 % of the whole words of English text. Tokens that begin
# inside a word are spared, as they are whole words in 0.002 % of the cases (0.2 % where every line is broken by hand).
_CASE_MATTERS_BELOW: Final = 3


def head_triples(tokens: pl.DataFrame, words: pl.DataFrame) -> pl.DataFrame:
    """What the lexicon says of each token, once.

    A token spells a word when its text, without white space around it, is a spelling of the lexicon in another case at
    most. Case may be added freely ("Red", "RED" for `red`). It is taken away only where the lexicon has no spelling
    that fits the token as it is, and only from spellings of three characters or more, or for a lower-case token that
    continues a word: "london" is `London`, but "polish" is not `Polish` where `polish` is a word too, and neither " in"
    nor " In" is `IN`. Where no token has an upper-case letter, case does not count. An ß is an ss in upper case alone,
    because Maße are no Masse.

    Args:
        tokens: `id`, `text` and `byte`, as `texts.token_texts` gives them.
        words: `head`, `relation`, `tail` and `key`, the folded head.

    Returns:
        `id`, `key`, `relation`, `tail`, sorted and without duplicates.
    """
    fitting = matches(tokens, words.select("head", "key").unique())
    return fitting.join(words, on=["key", "head"]).select("id", "key", "relation", "tail").unique().sort(
        "id", "relation", "tail"
    )  # fmt: skip


def matches(tokens: pl.DataFrame, spellings: pl.DataFrame) -> pl.DataFrame:
    """`id`, `key`, `head`: the spellings of the lexicon that each token stands for."""
    text = pl.col("text")
    spelling = text.str.strip_chars()
    piece = text == spelling.str.to_lowercase()
    heads = tokens.filter(~pl.col("byte")).select("id", spelling.alias("spelling"), piece.alias("piece"))
    heads = heads.with_columns(fold(heads["spelling"]).alias("key"))
    joined = heads.join(spellings, on="key")
    if (heads["spelling"] == heads["spelling"].str.to_lowercase()).all():
        return joined.select("id", "key", "head")
    spelling, head = pl.col("spelling"), pl.col("head")
    lower, upper = head.str.to_lowercase(), head.str.to_uppercase()
    kept = ((head == lower) & (spelling.str.to_lowercase() == lower)) | (spelling == head) | (spelling == upper)
    long = head.str.len_chars() >= _CASE_MATTERS_BELOW
    taken = (spelling.str.to_lowercase() == lower) & (long | pl.col("piece"))
    joined = joined.with_columns(kept.alias("kept")).filter(kept | taken)
    return joined.filter(pl.col("kept") | ~pl.col("kept").any().over("id")).select("id", "key", "head")
