"""WordNets: members of a synset are synonyms; antonymy stands between senses.

WN-LMF is parsed by `wn` straight into memory: the whole of WordNet 3.0 takes some 5 s and 400 MB that way. A lexicon
installed in the database of `wn` is exported to WN-LMF first, which takes half a minute for a WordNet of that size, and
then read by the same code: give the file where there is one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from sensekd.errors import InputError, require
from sensekd.lexicon.relations import ANTONYM, HYPERNYM, SCHEMA, SYNONYM, base_language
from sensekd.lexicon.streams import GuardedStream, refuse_entities

# Adjective satellites are adjectives.
_POS: Final = {"s": "a"}
_HYPERNYMS: Final = ("hypernym", "instance_hypernym")
_TEXT: Final = {name: pl.String() for name in ("synset", "pos", "gloss", "sense", "word", "own", "target")}


@dataclass(frozen=True)
class _Senses:
    """Senses of one file: `senses` (sense, synset, word, pos, gloss), `antonyms` (sense, target) and, of synsets,
    `hypernyms` (synset, target)."""

    senses: pl.DataFrame
    antonyms: pl.DataFrame
    hypernyms: pl.DataFrame


def read_wordnet(path: Path, *, language: str = "en", hypernyms: float | None = None) -> pl.DataFrame:
    """Read the relations of a WN-LMF file.

    Args:
        path: XML, plain or compressed (gzip, bzip2, xz), a tar archive of one, or the folder of a WordNet package.
        language: lexicons of the file in other languages are passed over; `en` takes `en-GB` as well.
        hypernyms: weight of the words of hypernym synsets, below 1; None leaves them out.

    Raises:
        InputError: `wn` is not installed, the file is not WN-LMF, declares entities or unpacks to too much, or it holds
            nothing in `language`.
    """
    wn = require("wn", "wordnet")
    if not path.exists():
        raise InputError(
            f"no WordNet at {path}", "a WN-LMF file (.xml, .xml.gz, .xml.xz) or package", "correct the path"
        )
    try:
        resources = _resources(path)
    # wn asserts what the format demands, and reads values from attributes unguarded.
    except (wn.Error, AssertionError, LookupError, ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as WN-LMF: {error}", "a valid WN-LMF file", None) from error
    lexicons = [lexicon for resource in resources for lexicon in resource["lexicons"]]
    wanted = [lexicon for lexicon in lexicons if base_language(lexicon["language"]) == base_language(language)]
    if not wanted:
        found = sorted({lexicon["language"] for lexicon in lexicons})
        raise InputError(f"{path} holds the languages {found}", f"a lexicon in {language!r}", "set `language`")
    return pl.concat([_relations(lexicon, lexicons, hypernyms) for lexicon in wanted])


def read_installed(name: str, *, language: str = "en", hypernyms: float | None = None) -> pl.DataFrame:
    """Read the relations of a lexicon that is installed in the database of `wn`.

    Args:
        name: its specifier, such as `oewn:2024`; `*` takes every installed lexicon of the language, as after
            `python -m wn download omw`.
        language: as for `read_wordnet`.
        hypernyms: as for `read_wordnet`.

    Raises:
        InputError: `wn` is not installed, or no such lexicon is.
    """
    wn = require("wn", "wordnet")
    lexicons = _installed(name, language)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lexicon.xml"
        try:
            wn.export(lexicons, file)
        except wn.Error as error:
            raise InputError(f"the lexicon {name!r} of wn cannot be exported: {error}", None, None) from error
        return read_wordnet(file, language=language, hypernyms=hypernyms)


def installed_identity(name: str, language: str = "en") -> str:
    """`id:version` of the installed lexicons that `name` means (those of `language`, if it is `*`).

    Raises:
        InputError: there is none.
    """
    return " ".join(sorted(lexicon.specifier() for lexicon in _installed(name, language)))


def _installed(name: str, language: str) -> Sequence[Any]:
    wn = require("wn", "wordnet")
    try:
        lexicons: Sequence[Any] = wn.lexicons(lexicon=name)
    except wn.Error:
        lexicons = []
    if name == "*":
        lexicons = [lexicon for lexicon in lexicons if base_language(lexicon.language) == base_language(language)]
    if not lexicons:
        known = ", ".join(sorted(lexicon.specifier() for lexicon in wn.lexicons())) or "none"
        raise InputError(f"no lexicon {name!r} is installed in wn", f"one of: {known}", f"python -m wn download {name}")
    return lexicons


def _resources(path: Path) -> list[Mapping[str, Any]]:
    """Everything that `wn` finds at a path; what is packed is unpacked here, under a limit."""
    project = require("wn.project", "wordnet")
    with tempfile.TemporaryDirectory() as folder:
        if path.is_file():
            plain = Path(folder) / "unpacked"
            with GuardedStream(path) as stream:
                if stream.packed:
                    with plain.open("wb") as handle:
                        for chunk in iter(stream.read, b""):
                            handle.write(chunk)
            plain = plain if plain.exists() else path
            refuse_entities(plain, str(path))
            packages = project.iterpackages(plain)
        else:
            packages = project.iterpackages(path)
        return [_load(package.resource_file(), path) for package in packages]


def _load(file: Path, path: Path) -> Mapping[str, Any]:
    lmf = require("wn.lmf", "wordnet")
    refuse_entities(file, str(path))
    resource: Mapping[str, Any] = lmf.load(file, progress_handler=None)
    return resource


def _relations(
    lexicon: Mapping[str, Any], lexicons: Sequence[Mapping[str, Any]], hypernyms: float | None
) -> pl.DataFrame:
    """The rows of one lexicon; an extension finds the words that it extends in the other lexicons of the file."""
    table = _senses(lexicon, lexicons)
    senses = table.senses
    tails = senses.select(pl.col("sense").alias("target"), "synset", pl.col("word").alias("tail"))
    synonyms = (
        senses.join(tails, on="synset")
        .filter(pl.col("sense") != pl.col("target"))
        .with_columns(pl.lit(SYNONYM).alias("relation"))
    )
    antonyms = (
        senses.join(table.antonyms, on="sense")
        .join(tails.drop("synset"), on="target")
        .with_columns(pl.lit(ANTONYM).alias("relation"))
    )
    above = senses.join(table.hypernyms, on="synset").join(
        tails.select(pl.col("synset").alias("target"), "tail"), on="target"
    )
    above = above.with_columns(pl.lit(HYPERNYM).alias("relation"))
    columns = ["word", "tail", "relation", "pos", "gloss"]
    close = pl.concat([synonyms.select(columns), antonyms.select(columns)]).with_columns(pl.lit(1.0).alias("weight"))
    rows = close.rename({"word": "head"})
    if hypernyms is not None:
        weak = above.select(columns).with_columns(pl.lit(hypernyms).alias("weight")).rename({"word": "head"})
        rows = pl.concat([rows, weak])
    return rows.with_columns(
        pl.lit(base_language(lexicon["language"])).alias("language"),
        pl.lit([], dtype=SCHEMA["tags"]).alias("tags"),
        pl.lit(f"{lexicon['id']}:{lexicon['version']}").alias("source"),
    ).select(list(SCHEMA))


def _senses(lexicon: Mapping[str, Any], lexicons: Sequence[Mapping[str, Any]]) -> _Senses:
    words: dict[str, tuple[str, str]] = {}
    for entry in (entry for other in (*lexicons, lexicon) for entry in other.get("entries", [])):
        lemma = entry.get("lemma") or {}
        if "writtenForm" in lemma:
            words[entry["id"]] = (lemma["writtenForm"].replace("_", " "), lemma.get("partOfSpeech", ""))
    synsets = pl.DataFrame(
        list(_glosses(lexicon, lexicons)), schema=["synset", "pos", "gloss"], schema_overrides=_TEXT, orient="row"
    ).unique("synset", keep="last", maintain_order=True)
    rows, antonyms = [], []
    for entry in lexicon.get("entries", []):
        own = entry.get("lemma") or {}
        word, pos = words.get(entry["id"], ("", ""))
        # Two entries under one identifier: each keeps its own word.
        word = own.get("writtenForm", word).replace("_", " ")
        for sense in entry.get("senses", []):
            if word and "synset" in sense:
                rows.append((sense["id"], sense["synset"], word, pos))
            antonyms += [(sense["id"], r["target"]) for r in sense.get("relations", []) if r["relType"] == "antonym"]
    frame = pl.DataFrame(rows, schema=["sense", "synset", "word", "own"], schema_overrides=_TEXT, orient="row")
    senses = frame.join(synsets, on="synset", how="left").with_columns(
        pl.coalesce(pl.col("pos").replace("", None), "own").replace(_POS).alias("pos"),
        pl.col("gloss").fill_null(""),
    )
    pairs = pl.DataFrame(antonyms, schema=["sense", "target"], schema_overrides=_TEXT, orient="row")
    return _Senses(senses.drop("own"), pairs, _hypernyms(lexicon))


def _hypernyms(lexicon: Mapping[str, Any]) -> pl.DataFrame:
    pairs = [
        (synset["id"], relation["target"])
        for synset in lexicon.get("synsets", [])
        for relation in synset.get("relations", [])
        if relation["relType"] in _HYPERNYMS
    ]
    return pl.DataFrame(pairs, schema=["synset", "target"], schema_overrides=_TEXT, orient="row")


def _glosses(lexicon: Mapping[str, Any], lexicons: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for synset in (synset for other in (*lexicons, lexicon) for synset in other.get("synsets", [])):
        if not synset.get("external"):
            definitions = synset.get("definitions") or [{"text": ""}]
            yield synset["id"], synset.get("partOfSpeech", ""), " ".join(definitions[0]["text"].split())
