"""The table of lexical relations: its schema, and how it stands on disk."""

from __future__ import annotations

import hashlib
import io
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import polars as pl

from sensekd.artefacts import Manifest, atomic_directory, read_manifest, readable, write_manifest
from sensekd.errors import InputError

SYNONYM: Final = "synonym"
ANTONYM: Final = "antonym"
HYPERNYM: Final = "hypernym"
# Only these hold in both directions; a hypernym read backwards is another relation.
SYMMETRIC: Final = (SYNONYM, ANTONYM)
# What is linked to tokens; a hypernym is a weak synonym of its head (the other way round it is nothing).
LINKED: Final = (*SYMMETRIC, HYPERNYM)

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


def base_language(code: str) -> str:
    """The language of a code without region, script and variant: `en-GB` and `en_us` are `en`.

    Three letters behind the language name another one (`roa-opt` is Old Portuguese), and stay.
    """
    first, *more = code.replace("_", "-").split("-")
    kept = [first.casefold()]
    for part in more:
        if len(part) != 3 or not part.isalpha():
            break
        kept.append(part.casefold())
    return "-".join(kept)


def base_languages(codes: pl.Series) -> pl.Series:
    """`base_language` of each code."""
    names = {code: base_language(code) for code in codes.unique().to_list()}
    return codes.replace_strict(names, return_dtype=pl.String) if names else codes


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
        with readable(folder / _TABLE):
            relations = pl.read_parquet(folder / _TABLE)
        return cls(checked(relations), manifest.facts, manifest.made_from, manifest.config)


def checked(frame: pl.DataFrame) -> pl.DataFrame:
    """The table itself, if its columns are those of `SCHEMA`.

    Raises:
        InputError: they are not.
    """
    if dict(frame.schema) != SCHEMA:
        raise InputError(f"a table of relations with the columns {dict(frame.schema)}", f"the columns {SCHEMA}")
    return frame
