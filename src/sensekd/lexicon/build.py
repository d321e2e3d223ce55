"""From the recipe's list of sources to one lexicon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from sensekd.artefacts import canonical_json, file_digest
from sensekd.config import LexiconConfig, LexiconSource
from sensekd.errors import InputError
from sensekd.lexicon.caps import Caps, read_frequencies
from sensekd.lexicon.merging import merge
from sensekd.lexicon.morpholex import read_morpholex
from sensekd.lexicon.pairs import read_pairs
from sensekd.lexicon.polarity import Negation
from sensekd.lexicon.relations import ANTONYM, SCHEMA, SYNONYM, Lexicon
from sensekd.lexicon.wiktionary import read_wiktionary
from sensekd.lexicon.wndb import read_wndb


def build_lexicon(config: LexiconConfig) -> Lexicon:
    """Read every source and merge them (`sensekd.lexicon.merging.merge` states the rules).

    Raises:
        InputError: no sources, a source that cannot be read, or no relation left.
    """
    if not config.sources:
        raise InputError("the lexicon has no sources", "at least one under `lexicon.sources`", "add one to the recipe")
    identity = lexicon_identity(config)
    read = [_read(source, config) for source in config.sources]
    most = {SYNONYM: config.max_synonyms, ANTONYM: config.max_antonyms}
    caps = {relation: number for relation, number in most.items() if number is not None}
    frequency = read_frequencies(Path(config.frequencies)) if config.frequencies is not None else {}
    lexicon = merge(
        [part.relations for part in read],
        drop_tags=config.drop_tags,
        negations=[negation for part in read for negation in part.negations] if config.polarity else None,
        caps=Caps(caps, frequency) if caps else None,
        made_from=identity,
        config=lexicon_settings(config),
    )
    described = sorted((part.facts for part in read if part.facts), key=canonical_json)
    if described:
        lexicon = replace(lexicon, facts={**lexicon.facts, "sources": described})
    if lexicon.relations.is_empty():
        raise InputError(
            f"no relation is left of {lexicon.facts['read']} that were read; dropped: {lexicon.facts['dropped']}",
            f"sources with synonyms or antonyms in {config.language!r}",
            "look at the files, at `label` and at `drop_tags`",
        )
    return lexicon


def lexicon_identity(config: LexiconConfig) -> dict[str, Any]:
    """What a lexicon of this configuration is made from: `sources`, one entry each, in an order of their own.

    Files are named by content, so the same lexicon at another path is the same.

    Raises:
        InputError: a source that is not there.
    """
    sources = [_identity(source, config.language) for source in config.sources]
    identity: dict[str, Any] = {"sources": sorted(sources, key=canonical_json)}
    if config.frequencies is not None:
        identity["frequencies"] = _digest(Path(config.frequencies))
    return identity


def lexicon_settings(config: LexiconConfig) -> dict[str, Any]:
    """The settings, beside the sources, that shape a lexicon; of those that are off at the start only what is set."""
    settings: dict[str, Any] = {"language": config.language, "drop_tags": sorted(set(config.drop_tags))}
    for name in ("hypernyms", "polarity", "max_synonyms", "max_antonyms"):
        if value := getattr(config, name):
            settings[name] = value
    return settings


def _identity(source: LexiconSource, language: str) -> dict[str, Any]:
    identity: dict[str, Any] = {"kind": source.kind}
    if source.kind == "pairs":
        identity |= {"relation": source.relation, "delimiter": source.delimiter, "label": source.label}
    if source.lexicon is not None:
        from sensekd.lexicon.wordnet import installed_identity

        return {**identity, "installed": installed_identity(source.lexicon, language)}
    return {**identity, "sha256": _digest(Path(source.path or ""))}


def _digest(path: Path) -> str | list[tuple[str, str]]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [(str(file.relative_to(path)), file_digest(file)) for file in files]
    if not path.is_file():
        raise InputError(f"no lexicon source at {path}", "a file", "correct `path` in the recipe")
    return file_digest(path)


@dataclass(frozen=True)
class _Part:
    """What one source gives; `facts` stand in the lexicon's, where the kind of source has any."""

    relations: pl.DataFrame
    negations: Sequence[Negation] = ()
    facts: Mapping[str, Any] | None = None


def _read(source: LexiconSource, config: LexiconConfig) -> _Part:
    path, language, hypernyms = Path(source.path or ""), config.language, config.hypernyms
    if source.kind == "pairs":
        return _Part(
            read_pairs(path, source.relation or "", delimiter=source.delimiter, label=source.label, language=language)
        )
    if source.kind == "wiktionary":
        found = read_wiktionary(
            path, language=language, hypernyms=hypernyms, polarity=config.polarity, strict=config.strict
        )
        return _Part(found.relations, found.negations, {"source": path.name, "kind": source.kind, **found.facts})
    if source.kind == "wndb":
        return _Part(read_wndb(path, language=language, hypernyms=hypernyms))
    if source.kind == "morpholex":
        negations, counts = read_morpholex(path, language=language)
        facts = {"source": path.name, "kind": source.kind, "rows": counts}
        return _Part(pl.DataFrame(schema=SCHEMA), negations, facts)
    from sensekd.lexicon.wordnet import read_installed, read_wordnet

    if source.lexicon is not None:
        return _Part(read_installed(source.lexicon, language=language, hypernyms=hypernyms))
    return _Part(read_wordnet(path, language=language, hypernyms=hypernyms))
