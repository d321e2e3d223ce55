"""From the recipe's list of sources to one lexicon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from sensekd.artefacts import canonical_json, file_digest
from sensekd.config import LexiconConfig, LexiconSource
from sensekd.errors import InputError
from sensekd.lexicon.merging import merge
from sensekd.lexicon.pairs import read_pairs
from sensekd.lexicon.relations import Lexicon


def build_lexicon(config: LexiconConfig) -> Lexicon:
    """Read every source and merge them (`sensekd.lexicon.relations.merge` states the rules).

    Raises:
        InputError: no sources, a source that cannot be read, or no relation left.
    """
    if not config.sources:
        raise InputError("the lexicon has no sources", "at least one under `lexicon.sources`", "add one to the recipe")
    identity = lexicon_identity(config)
    lexicon = merge(
        [_read(source, config.language) for source in config.sources],
        drop_tags=config.drop_tags,
        made_from=identity,
        config=lexicon_settings(config),
    )
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
    sources = [_identity(source) for source in config.sources]
    return {"sources": sorted(sources, key=canonical_json)}


def lexicon_settings(config: LexiconConfig) -> dict[str, Any]:
    """The settings, beside the sources, that shape a lexicon."""
    return {"language": config.language, "drop_tags": sorted(set(config.drop_tags))}


def _identity(source: LexiconSource) -> dict[str, Any]:
    identity: dict[str, Any] = {"kind": source.kind}
    if source.kind == "pairs":
        identity |= {"relation": source.relation, "delimiter": source.delimiter, "label": source.label}
    if source.lexicon is not None:
        from sensekd.lexicon.wordnet import installed_identity

        return {**identity, "installed": installed_identity(source.lexicon)}
    return {**identity, "sha256": _digest(Path(source.path or ""))}


def _digest(path: Path) -> str | list[tuple[str, str]]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [(str(file.relative_to(path)), file_digest(file)) for file in files]
    if not path.is_file():
        raise InputError(f"no lexicon source at {path}", "a file", "correct `path` in the recipe")
    return file_digest(path)


def _read(source: LexiconSource, language: str) -> pl.DataFrame:
    if source.kind == "pairs":
        return read_pairs(
            Path(source.path or ""), source.relation or "", delimiter=source.delimiter, label=source.label,
            language=language,
        )  # fmt: skip
    from sensekd.lexicon.wordnet import read_installed, read_wordnet

    if source.lexicon is not None:
        return read_installed(source.lexicon, language=language)
    return read_wordnet(Path(source.path or ""), language=language)
