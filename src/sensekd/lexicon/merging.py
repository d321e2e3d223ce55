"""Many sources to one table: what is left out, which side of a contradiction stays, what counts as the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import polars as pl

from sensekd.lexicon.caps import Caps, cap
from sensekd.lexicon.polarity import Negation, derive
from sensekd.lexicon.relations import (
    ANTONYM,
    HYPERNYM,
    SCHEMA,
    SYMMETRIC,
    SYNONYM,
    Lexicon,
    base_languages,
    checked,
    fold,
)  # fmt: skip

# Rows that agree in these say the same thing about the same sense.
_KEY: Final = ["head", "tail", "relation", "language", "pos", "gloss"]
_PAIR: Final = ["head", "tail", "relation", "language"]
JOINER: Final = "; "


def merge(
    frames: Iterable[pl.DataFrame],
    *,
    drop_tags: Sequence[str] = (),
    negations: Sequence[Negation] | None = None,
    caps: Caps | None = None,
    made_from: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Lexicon:
    """One table out of many. The result does not depend on the order of the frames or of their rows.

    In this order: spellings are normalised (NFC, single spaces); rows tagged with one of `drop_tags`, rows without a
    word and pairs of a word with itself (in any case) go; of a pair that is both synonym and antonym the antonym
    stays, whatever part of speech, sense or region it was stated for (`en-GB` is `en` here), because a pull towards an
    antonym costs more than a synonym lost, and a hypernym goes as a synonym does; missing directions are added; rows
    that say the same are joined (largest weight, all tags, all sources). A direction that no source states takes over
    the gloss of a synonym, since both words share that sense, and no gloss for an antonym. Then antonyms that follow
    from negating affixes are added (`polarity.derive`), and words with too many relations keep the most trustworthy
    (`caps.cap`).

    `facts` of the result: `read` (rows), `dropped` with `tagged`, `empty`, `self` and `conflict` (rows as read) and
    `duplicate` (rows of the symmetric table that were joined into another), `conflicting_pairs` (unordered, of folded
    words), `rows`, `words` (folded heads), `pairs` (unordered, folded) by relation; with negations `polarity`, with
    caps `dropped.capped` (rows).

    Args:
        frames: each with the columns of `SCHEMA`.
        drop_tags: tags such as `archaic`, in any case.
        negations: words with a negating affix; None leaves the step out.
        caps: most relations a word; None leaves the step out.
        made_from: identities of the sources, kept beside the table.
        config: settings, kept beside the table.

    Raises:
        InputError: a frame with other columns.
    """
    rows = pl.concat([checked(frame) for frame in frames] or [pl.DataFrame(schema=SCHEMA)])
    read = rows.height
    rows, dropped = _without_unusable(rows, drop_tags)
    rows, conflicts = _without_conflicts(rows)
    dropped["conflict"] = conflicts[0]
    rows = _both_directions(rows)
    merged = _without_duplicates(rows)
    dropped["duplicate"] = rows.height - merged.height
    more: dict[str, Any] = {}
    if negations is not None:
        derived, more["polarity"] = derive(merged, negations)
        merged = _without_duplicates(pl.concat([merged, derived]))
    if caps is not None:
        merged, dropped["capped"] = cap(merged, caps)
    facts = {
        "read": read,
        "dropped": dropped,
        "conflicting_pairs": conflicts[1],
        "rows": merged.height,
        **_counts(merged),
        **more,
    }
    return Lexicon(merged, facts, made_from or {}, config or {})


def _spelling(name: str) -> pl.Expr:
    return pl.col(name).str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars()


def _without_unusable(rows: pl.DataFrame, drop_tags: Sequence[str]) -> tuple[pl.DataFrame, dict[str, int]]:
    """Normalise, fold, and leave out tagged, empty and reflexive rows. Adds `low` and `high`, the folded pair."""
    unwanted = [tag.casefold() for tag in drop_tags]
    tagged = pl.col("tags").list.eval(pl.element().str.to_lowercase().is_in(unwanted)).list.any()
    kept = rows.filter(~tagged.fill_null(False)).with_columns(_spelling("head"), _spelling("tail"))
    dropped = {"tagged": rows.height - kept.height}
    rows, kept = kept, kept.filter((pl.col("head") != "") & (pl.col("tail") != ""))
    dropped["empty"] = rows.height - kept.height
    rows = kept.with_columns(fold(kept["head"]).alias("low"), fold(kept["tail"]).alias("high"))
    kept = rows.filter(pl.col("low") != pl.col("high"))
    dropped["self"] = rows.height - kept.height
    ordered = kept.with_columns(pl.min_horizontal("low", "high").alias("low"),
                                pl.max_horizontal("low", "high").alias("high"))  # fmt: skip
    return ordered, dropped


def _without_conflicts(rows: pl.DataFrame) -> tuple[pl.DataFrame, tuple[int, int]]:
    """Leave out synonyms and hypernyms that are antonyms as well; count them in rows and in pairs."""
    pair = ["base", "low", "high"]
    rows = rows.with_columns(base_languages(rows["language"]).alias("base"))
    antonyms = rows.filter(pl.col("relation") == ANTONYM).select(pair).unique()
    close = pl.col("relation").is_in([SYNONYM, HYPERNYM])
    lost = rows.filter(close).join(antonyms, on=pair, how="semi")
    kept = pl.concat([rows.filter(~close), rows.filter(close).join(antonyms, on=pair, how="anti")])
    return kept.select(list(SCHEMA)), (lost.height, lost.select(pair).unique().height)


def _both_directions(rows: pl.DataFrame) -> pl.DataFrame:
    gloss = pl.when(pl.col("relation") == ANTONYM).then(pl.lit("")).otherwise(pl.col("gloss")).alias("gloss")
    turned = rows.filter(pl.col("relation").is_in(SYMMETRIC)).with_columns(
        pl.col("tail").alias("head"), pl.col("head").alias("tail"), gloss
    )
    return pl.concat([rows, turned.join(rows, on=_PAIR, how="anti")])


def _without_duplicates(rows: pl.DataFrame) -> pl.DataFrame:
    sources = pl.col("source").str.split(JOINER).explode().unique().sort().str.join(JOINER)
    tags = pl.col("tags").explode().drop_nulls().unique().sort()
    return rows.group_by(_KEY).agg(pl.col("weight").max(), tags, sources).select(list(SCHEMA)).sort(_KEY)


def _counts(rows: pl.DataFrame) -> dict[str, Any]:
    language = base_languages(rows["language"])
    folded = rows.select("relation", language, fold(rows["head"]).alias("a"), fold(rows["tail"]).alias("b"))
    pairs = folded.select(
        "relation", "language", pl.min_horizontal("a", "b").alias("low"), pl.max_horizontal("a", "b").alias("high")
    ).unique()
    by_relation = pairs.group_by("relation").len().sort("relation")
    return {"words": folded["a"].n_unique(), "pairs": dict(by_relation.iter_rows())}
