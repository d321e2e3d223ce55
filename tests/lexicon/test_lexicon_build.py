from __future__ import annotations

from pathlib import Path

import pytest

from sensekd.config import LexiconConfig, LexiconSource
from sensekd.errors import InputError
from sensekd.lexicon import ANTONYM, SYNONYM, build_lexicon, lexicon_identity


def source(path: Path, relation: str, text: str) -> LexiconSource:
    path.write_text(text, encoding="utf-8")
    return LexiconSource.model_validate({"kind": "pairs", "path": str(path), "relation": relation})


def test_sources_become_one_lexicon(tmp_path: Path) -> None:
    same = source(tmp_path / "same.tsv", SYNONYM, "big\tlarge\nbig\tsmall\n")
    opposite = source(tmp_path / "opposite.tsv", ANTONYM, "small\tbig\n")
    lexicon = build_lexicon(LexiconConfig(sources=(same, opposite)))
    assert lexicon.relations.select("head", "tail", "relation", "source").rows() == [
        ("big", "large", SYNONYM, "same.tsv"),
        ("big", "small", ANTONYM, "opposite.tsv"),
        ("large", "big", SYNONYM, "same.tsv"),
        ("small", "big", ANTONYM, "opposite.tsv"),
    ]
    other = build_lexicon(LexiconConfig(sources=(opposite, same)))
    other.save(tmp_path / "other")
    lexicon.save(tmp_path / "lexicon")
    assert (tmp_path / "other/manifest.json").read_bytes() == (tmp_path / "lexicon/manifest.json").read_bytes()


def test_the_identity_follows_content_and_reading_but_not_the_path(tmp_path: Path) -> None:
    first = source(tmp_path / "a.tsv", SYNONYM, "big\tlarge\n")
    moved = source(tmp_path / "b.tsv", SYNONYM, "big\tlarge\n")
    changed = source(tmp_path / "c.tsv", SYNONYM, "big\thuge\n")
    read_otherwise = source(tmp_path / "d.tsv", ANTONYM, "big\tlarge\n")
    base, *others = (lexicon_identity(LexiconConfig(sources=(s,))) for s in (first, moved, changed, read_otherwise))
    assert [other == base for other in others] == [True, False, False]


def test_nothing_to_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sources"):
        build_lexicon(LexiconConfig())
    with pytest.raises(InputError, match="no relation is left of 1"):
        build_lexicon(LexiconConfig(sources=(source(tmp_path / "self.tsv", SYNONYM, "a\tA\n"),)))
    missing = LexiconSource(kind="pairs", path=str(tmp_path / "absent"), relation="synonym")
    with pytest.raises(InputError, match="no lexicon source"):
        build_lexicon(LexiconConfig(sources=(missing,)))
