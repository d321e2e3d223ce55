"""Negating affixes turn synonyms into antonyms: who is unhappy is sad, so `happy` and `sad` are opposites.

A word d that is a negating affix and a base b gives each of d's synonyms x to b as an antonym, b ⊣ x, unless

* b is no known word: one of the lexicon, or the stem that an etymology names and that is what the word spells without
  its prefix (nothing is guessed: `penniless` has no base `penni`),
* the lexicon has d and b as synonyms (the affix does not negate here: `unravel`, `inflammable`),
* b is not known in the part of speech of (d ~ x) (`hopeless ~ desperate` says nothing about the noun `hope`),
* the lexicon has b and x as synonyms already (`valuable ~ precious`), or as antonyms.

What the lexicon states is never changed or turned round: (happy ⊣ unhappy) stands as it is, and antonyms of d are not
made synonyms of b, since two opposites of one word need not mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import polars as pl

from sensekd.lexicon.affixes import Parts, negating, parts_of_template
from sensekd.lexicon.relations import ANTONYM, SCHEMA, SYNONYM, base_languages, fold, fold_word

# What is inferred counts half of what is stated.
DERIVED_WEIGHT: Final = 0.5


class Negation(NamedTuple):
    """A word with a negating affix, and what may be its base, likeliest first (folded).

    `certain` says that the first of them is a word even if the lexicon does not know it.
    """

    word: str
    bases: tuple[str, ...]
    affix: str
    language: str
    source: str
    certain: bool


def negation_of(word: str, parts: Parts, language: str, source: str) -> Negation | None:
    """The negation in a word; None if there is none, or if negating affixes are several.

    The affix has to stand outermost. The base is the stem as stated where nothing but stem and affix was stated, and
    the spelling of the word without the affix; never a spelling that was made up.
    """
    if not parts.stems:
        return None
    before = [negating(prefix, language, prefix=True) for prefix in parts.prefixes]
    behind = [negating(suffix, language, prefix=False) for suffix in parts.suffixes]
    if sum(map(bool, before)) + sum(map(bool, behind)) != 1:
        return None
    folded = fold_word(word)
    if before and before[0]:
        rests = [folded.removeprefix(s) for s in before[0] if folded.startswith(s)]
        affix = parts.prefixes[0].casefold() + "-"
    elif behind and behind[-1]:
        rests = [folded.removesuffix(s) for s in behind[-1] if folded.endswith(s)]
        affix = "-" + parts.suffixes[-1].casefold()
    else:
        return None
    alone = len(parts.stems) == 1 and len(before) + len(behind) == 1
    bases = dict.fromkeys([*([fold_word(parts.stems[0])] if alone else []), *(rest.strip("- ") for rest in rests)])
    found = tuple(base for base in bases if base and base != folded)
    # A stem that a suffix follows is of another part of speech, which is to be looked up.
    certain = alone and bool(before) and fold_word(parts.stems[0]) in rests
    return Negation(folded, found, affix, language, source, certain) if found else None


def negations_of_entry(entry: Mapping[str, Any], language: str, source: str) -> list[Negation]:
    """The negations that the etymology templates of a Wiktextract entry state."""
    templates = entry.get("etymology_templates")
    if not isinstance(templates, list):
        return []
    parts = [parts_of_template(template, language) for template in templates if isinstance(template, dict)]
    found = [negation_of(entry["word"], part, language, source) for part in parts if part is not None]
    return [negation for negation in found if negation is not None]


def derive(stated: pl.DataFrame, negations: Sequence[Negation]) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The antonyms that follow from synonyms of negated words.

    Args:
        stated: a merged table with both directions of every pair.
        negations: in any order, with duplicates.

    Returns:
        Rows of `SCHEMA`, both directions, of `DERIVED_WEIGHT` times the synonym's weight; and the counts: `words` with
        a negating affix, `used`, `refused` (words) by reason, `rows` dropped by reason and `antonyms` (unordered
        pairs).
    """
    words = stated.select(
        "head", "relation", "pos", base_languages(stated["language"]).alias("base_l"),
        fold(stated["head"]).alias("d"), fold(stated["tail"]).alias("x"), "tail", "weight", "language", "gloss", "tags",
        "source",
    )  # fmt: skip
    known = words.group_by("base_l", "d").agg(pl.col("pos").unique(), pl.col("head").min().alias("spelled"))
    chosen, refused = _with_base(_candidates(negations), known, words)
    synonyms = words.filter(pl.col("relation") == SYNONYM).join(chosen, on=["base_l", "d"])
    rows, dropped = _usable(synonyms, words)
    table = _both_ways(rows)
    counts = {
        "words": len({(n.language, n.word) for n in negations}),
        "used": rows.select("base_l", "d").n_unique(),
        "refused": refused,
        "rows": dropped,
        "antonyms": rows.select(
            "base_l", pl.min_horizontal("b", "x"), pl.max_horizontal("b", "x").alias("y")
        ).n_unique(),
    }
    return table, counts


def _candidates(negations: Sequence[Negation]) -> pl.DataFrame:
    """base_l, d, b, rank, affix, from, certain: one row for each possible base, sorted."""
    rows = sorted({
        (n.language, n.word, base, rank, n.affix, n.source, n.certain and rank == 0)
        for n in negations
        for rank, base in enumerate(n.bases)
    })  # fmt: skip
    kinds: dict[str, pl.DataType] = {name: pl.String() for name in ("base_l", "d", "b")}
    kinds |= {"rank": pl.Int64(), "affix": pl.String(), "from": pl.String(), "certain": pl.Boolean()}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def _with_base(
    candidates: pl.DataFrame, known: pl.DataFrame, words: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """One base for each negated word: the likeliest that the lexicon knows."""
    all_words = candidates.select("base_l", "d").n_unique()
    bases = candidates.join(known.rename({"d": "b", "pos": "base_pos"}), on=["base_l", "b"], how="left")
    bases = bases.filter(pl.col("spelled").is_not_null() | pl.col("certain")).with_columns(
        pl.col("spelled").fill_null(pl.col("b")), pl.col("base_pos").fill_null(pl.lit([""], dtype=pl.List(pl.String())))
    )
    bases = bases.sort("base_l", "d", "rank", "b", "affix", "from").unique(["base_l", "d"], keep="first")
    synonyms = words.filter(pl.col("relation") == SYNONYM).select("base_l", "d", pl.col("x").alias("b")).unique()
    kept = bases.join(synonyms, on=["base_l", "d", "b"], how="anti")
    return kept, {"unknown_base": all_words - bases.height, "synonym_of_base": bases.height - kept.height}


def _usable(synonyms: pl.DataFrame, words: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    dropped = {}
    kept = synonyms.filter(pl.col("x") != pl.col("b"))
    dropped["base_itself"] = synonyms.height - kept.height
    fits = (
        (pl.col("pos") == "") | pl.col("base_pos").list.contains(pl.col("pos")) | pl.col("base_pos").list.contains("")
    )
    rows, kept = kept, kept.filter(fits)
    dropped["part_of_speech"] = rows.height - kept.height
    for relation, reason in ((SYNONYM, "contradicted"), (ANTONYM, "stated")):
        pairs = words.filter(pl.col("relation") == relation).select("base_l", pl.col("d").alias("b"), "x").unique()
        rows, kept = kept, kept.join(pairs, on=["base_l", "b", "x"], how="anti")
        dropped[reason] = rows.height - kept.height
    return kept, dropped


def _both_ways(rows: pl.DataFrame) -> pl.DataFrame:
    """Head b, tail x, and back; neither sense is known, so no gloss."""
    source = pl.col("source") + " + " + pl.col("affix") + " of " + pl.col("from")
    shared = rows.with_columns(
        source.alias("source"),
        pl.lit(ANTONYM).alias("relation"),
        pl.col("weight") * DERIVED_WEIGHT,
        pl.lit("").alias("gloss"),
    )
    there = shared.with_columns(pl.col("spelled").alias("head")).select(list(SCHEMA))
    back = shared.with_columns(pl.col("tail").alias("head"), pl.col("spelled").alias("tail")).select(list(SCHEMA))
    return pl.concat([there, back])
