"""The table of lexical relations: its schema, how sources are merged, and how it stands on disk."""

from __future__ import annotations

import hashlib
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import polars as pl

from sensekd.artefacts import Manifest, atomic_directory, read_manifest, write_manifest
from sensekd.errors import InputError

SYNONYM: Final = "synonym"
ANTONYM: Final = "antonym"
# Only these hold in both directions; a hypernym read backwards is another relation.
SYMMETRIC: Final = (SYNONYM, ANTONYM)

SCHEMA: Final[dict[str, pl.DataType]] = {
    "head": pl.String(),
    "tail": pl.String(),
    "relation": pl.String(),
    "weight": pl.Float64(),
    "language": pl.String(),
    "pos": pl.String(),
    "gloss": pl.String(),
    "tags": pl.List(pl.String()),
    "source": pl.String(),
}
# Rows that agree in these say the same thing about the same sense.
_KEY: Final = ["head", "tail", "relation", "language", "pos", "gloss"]
_PAIR: Final = ["head", "tail", "relation", "language"]
_JOINER: Final = "; "
_KIND: Final = "lexicon"
_FORMAT: Final = 1
_TABLE: Final = "relations.parquet"


def fold(words: pl.Series) -> pl.Series:
    """The form in which two spellings count as one word: NFC, case-folded."""
    return pl.Series(words.name, [fold_word(word) for word in words.to_list()], dtype=pl.String)


def fold_word(word: str) -> str:
    """`fold` of one word."""
    # Case folding may leave a decomposed sequence, hence NFC once more behind it.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", word).casefold())


def relation_frame(columns: Mapping[str, Any]) -> pl.DataFrame:
    """A frame of `SCHEMA` from the columns that a source knows; the others take their neutral value.

    Args:
        columns: `head`, `tail` and `relation` at least; a string stands for a whole column of itself.
    """
    constants: dict[str, Any] = {"weight": 1.0, "language": "", "pos": "", "gloss": "", "tags": [], "source": ""}
    constants.update({name: value for name, value in columns.items() if isinstance(value, (str, float))})
    given = {name: value for name, value in columns.items() if not isinstance(value, (str, float))}
    frame = pl.DataFrame(given, schema={name: SCHEMA[name] for name in given})
    for name, dtype in SCHEMA.items():
        if name not in given:
            frame = frame.with_columns(pl.lit(constants[name], dtype=dtype).alias(name))
    return frame.select(list(SCHEMA))


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Relations between words.

    Attributes:
        relations: columns as in `SCHEMA`; both directions of a symmetric pair stand in it; sorted; without duplicates.
            `gloss` and `pos` (n, v, a, r where known) describe the sense of the head.
        facts: counts of what was read, kept and dropped, by reason (see `merge`).
        made_from: identities of the sources.
        config: the settings that shaped it.
    """

    relations: pl.DataFrame
    facts: Mapping[str, Any] = field(default_factory=dict)
    made_from: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def folded(self) -> pl.Series:
        """The folded head of each row."""
        return fold(self.relations["head"])

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the relations, whatever they were read from."""
        digest = hashlib.sha256()
        for part in self.relations.iter_slices(100_000):
            buffer = io.BytesIO()
            part.write_ndjson(buffer)
            digest.update(buffer.getvalue())
        return digest.hexdigest()[:32]

    def of(self, word: str) -> pl.DataFrame:
        """The rows whose head is `word`, in any case."""
        return self.relations.filter(self.folded == fold_word(word))

    def save(self, folder: Path) -> Manifest:
        """Write `relations.parquet` and the manifest; the folder appears whole or not at all."""
        with atomic_directory(folder) as temporary:
            self.relations.rechunk().write_parquet(temporary / _TABLE, compression="zstd")
            facts = {**self.facts, "fingerprint": self.fingerprint}
            return write_manifest(temporary, Manifest(_KIND, _FORMAT, self.made_from, self.config, facts))

    @classmethod
    def load(cls, folder: Path) -> Lexicon:
        """Read what `save` wrote.

        Raises:
            InputError: missing, damaged, or not a lexicon of this format.
        """
        manifest = read_manifest(folder, _KIND, _FORMAT, verify=True)
        relations = pl.read_parquet(folder / _TABLE)
        _check_schema(relations)
        return cls(relations, manifest.facts, manifest.made_from, manifest.config)


def merge(
    frames: Iterable[pl.DataFrame],
    *,
    drop_tags: Sequence[str] = (),
    made_from: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Lexicon:
    """One table out of many. The result does not depend on the order of the frames or of their rows.

    In this order: spellings are normalised (NFC, single spaces); rows tagged with one of `drop_tags`, rows without a
    word and pairs of a word with itself (in any case) go; of a pair that is both synonym and antonym the antonym
    stays, whatever part of speech or sense it was stated for, because a pull towards an antonym costs more than a
    synonym lost; missing directions are added; rows that say the same are joined (largest weight, all tags, all
    sources). A direction that no source states takes over the gloss of a synonym, since both words share that sense,
    and no gloss for an antonym.

    `facts` of the result: `read` (rows), `dropped` with `tagged`, `empty`, `self` and `conflict` (rows as read) and
    `duplicate` (rows of the symmetric table that were joined into another), `conflicting_pairs` (unordered, of folded
    words), `rows`, `words` (folded heads), `pairs` (unordered, folded) by relation.

    Args:
        frames: each with the columns of `SCHEMA`.
        drop_tags: tags such as `archaic`, in any case.
        made_from: identities of the sources, kept beside the table.
        config: settings, kept beside the table.

    Raises:
        InputError: a frame with other columns.
    """
    rows = pl.concat([_check_schema(frame) for frame in frames] or [pl.DataFrame(schema=SCHEMA)])
    read = rows.height
    rows, dropped = _without_unusable(rows, drop_tags)
    rows, conflicts = _without_conflicts(rows)
    dropped["conflict"] = conflicts[0]
    rows = _both_directions(rows)
    merged = _without_duplicates(rows)
    dropped["duplicate"] = rows.height - merged.height
    facts = {
        "read": read,
        "dropped": dropped,
        "conflicting_pairs": conflicts[1],
        "rows": merged.height,
        **_counts(merged),
    }
    return Lexicon(merged, facts, made_from or {}, config or {})


def _check_schema(frame: pl.DataFrame) -> pl.DataFrame:
    if dict(frame.schema) != SCHEMA:
        raise InputError(f"a table of relations with the columns {dict(frame.schema)}", f"the columns {SCHEMA}")
    return frame


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
    """Leave out synonyms that are antonyms as well; count them in rows and in pairs."""
    pair = ["language", "low", "high"]
    antonyms = rows.filter(pl.col("relation") == ANTONYM).select(pair).unique()
    synonyms = rows.filter(pl.col("relation") == SYNONYM)
    lost = synonyms.join(antonyms, on=pair, how="semi")
    kept = pl.concat([rows.filter(pl.col("relation") != SYNONYM), synonyms.join(antonyms, on=pair, how="anti")])
    return kept.select(list(SCHEMA)), (lost.height, lost.select(pair).unique().height)


def _both_directions(rows: pl.DataFrame) -> pl.DataFrame:
    gloss = pl.when(pl.col("relation") == ANTONYM).then(pl.lit("")).otherwise(pl.col("gloss")).alias("gloss")
    turned = rows.filter(pl.col("relation").is_in(SYMMETRIC)).with_columns(
        pl.col("tail").alias("head"), pl.col("head").alias("tail"), gloss
    )
    return pl.concat([rows, turned.join(rows, on=_PAIR, how="anti")])


def _without_duplicates(rows: pl.DataFrame) -> pl.DataFrame:
    sources = pl.col("source").str.split(_JOINER).explode().unique().sort().str.join(_JOINER)
    tags = pl.col("tags").explode().drop_nulls().unique().sort()
    return rows.group_by(_KEY).agg(pl.col("weight").max(), tags, sources).select(list(SCHEMA)).sort(_KEY)


def _counts(rows: pl.DataFrame) -> dict[str, Any]:
    folded = rows.select("relation", "language", fold(rows["head"]).alias("a"), fold(rows["tail"]).alias("b"))
    pairs = folded.select(
        "relation", "language", pl.min_horizontal("a", "b").alias("low"), pl.max_horizontal("a", "b").alias("high")
    ).unique()
    by_relation = pairs.group_by("relation").len().sort("relation")
    return {"words": folded["a"].n_unique(), "pairs": dict(by_relation.iter_rows())}
