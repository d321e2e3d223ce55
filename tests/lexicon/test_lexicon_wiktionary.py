from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from slow_wiktextract import relations_of

from sensekd.errors import InputError
from sensekd.lexicon import wiktionary
from sensekd.lexicon.wiktionary import WiktionaryRelations, read_wiktionary

COLUMNS = ["head", "tail", "relation", "weight", "pos", "gloss", "tags"]


def write(path: Path, *entries: Any) -> Path:
    lines = [entry if isinstance(entry, bytes) else json.dumps(entry, ensure_ascii=False).encode() for entry in entries]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def entry(word: str, **more: Any) -> dict[str, Any]:
    return {"word": word, "lang_code": "en", "pos": "adj", "senses": [{"glosses": ["g"]}], **more}


def rows(found: WiktionaryRelations) -> list[tuple[Any, ...]]:
    return [(*row[:-1], tuple(row[-1])) for row in found.relations.select(COLUMNS).rows()]


def check_against_reference(path: Path, language: str) -> WiktionaryRelations:
    """Rows entry by entry, counts of lines and of linkages."""
    found = read_wiktionary(path, language=language)
    assert read_wiktionary(path, language=language, strict=False).relations.equals(found.relations)
    expected, lines, lost = [], Counter[str](), Counter[str]()
    for line in path.read_bytes().removesuffix(b"\n").split(b"\n"):
        outcome, relations, reasons = relations_of(line, language)
        if outcome == "other_language" and not (b'"synonyms"' in line or b'"antonyms"' in line):
            outcome = "without_relations"  # whatever its language; such lines are not parsed
        lines[outcome] += 1
        lost.update(reasons)
        expected += relations
    assert rows(found) == [(*row[:3], pytest.approx(row[3]), *row[4:]) for row in expected]
    counted = found.facts["lines"]
    assert counted["kept"] == lines.pop("kept", 0)
    assert counted["without_relations"] == lines.pop("without_relations", 0)
    assert counted["blank"] == lines.pop("blank", 0)
    assert counted["dropped"] == dict(lines)
    assert found.facts["linkages"]["dropped"] == dict(lost)
    assert found.facts["linkages"]["read"] == found.facts["linkages"]["kept"] + lost.total()
    accounted = counted["kept"] + counted["without_relations"] + counted["blank"] + sum(counted["dropped"].values())
    assert counted["read"] == accounted == len(path.read_bytes().removesuffix(b"\n").split(b"\n"))
    return found


@pytest.mark.data
def test_every_real_file_gives_what_a_slow_reader_finds(data_dir: Path) -> None:
    files = sorted((data_dir / "lexicon/kaikki").glob("*.jsonl"))
    assert len(files) >= 11
    by_language = Counter[str]()
    for file in files:
        language = file.name.removeprefix("bench-")[:2].replace("si", "en")
        found = check_against_reference(file, language)
        assert "malformed" not in found.facts["lines"]["dropped"]
        by_language[language] += found.relations.height
        strict = read_wiktionary(file, language=language, strict=True)
        assert strict.relations.equals(found.relations)
    assert all(by_language[language] > 0 for language in ("en", "de", "fr", "es", "la", "fi")), by_language


@pytest.mark.data
def test_the_folder_is_one_source_and_each_language_finds_its_own(data_dir: Path) -> None:
    folder = data_dir / "lexicon/kaikki"
    for language in ("de", "fr"):
        whole = read_wiktionary(folder, language=language)
        parts = [read_wiktionary(file, language=language) for file in sorted(folder.iterdir())]
        assert rows(whole) == [row for part in parts for row in rows(part)]
        assert whole.relations["source"].str.starts_with("kaikki").all()


def test_where_linkages_stand_and_what_goes_with_them(tmp_path: Path) -> None:
    senses = [
        {"glosses": ["feeling", "feeling glad"], "synonyms": [{"word": "glad", "tags": ["rare"]}], "tags": ["formal"]},
        {"glosses": ["lucky"], "antonyms": [{"word": "bad luck"}]},
    ]
    more = {
        "synonyms": [{"word": "cheery", "source": "Thesaurus:happy"}],
        "antonyms": [{"word": "sad", "sense": "mood"}],
    }
    found = read_wiktionary(write(tmp_path / "en.jsonl", entry("happy", senses=senses, **more)))
    assert rows(found) == [
        ("happy", "glad", "synonym", 1.0, "a", "feeling glad", ("formal", "rare")),
        ("happy", "bad luck", "antonym", 1.0, "a", "lucky", ()),
        ("happy", "cheery", "synonym", 1.0, "a", "", ()),
        ("happy", "sad", "antonym", 1.0, "a", "mood", ()),
    ]
    assert found.relations["source"].to_list() == ["en.jsonl", "en.jsonl", "en.jsonl Thesaurus:happy", "en.jsonl"]
    assert found.facts["linkages"] == {"read": 4, "kept": 4, "dropped": {}, "unresolved": 1}


THREE = [{"glosses": ["one"]}, {"glosses": ["two"]}, {"glosses": ["three"], "tags": ["obsolete"]}]
NAMED = [{"glosses": ["one"], "sense_index": "1a"}, {"glosses": ["two"], "sense_index": "1b"},
         {"glosses": ["three"], "sense_index": "2"}]  # fmt: skip
FORM = [{"glosses": ["one"]}, {"glosses": ["two"], "tags": ["form-of"]}]


@pytest.mark.parametrize(
    ("item", "senses", "expected"),
    [
        ({"sense_index": "1"}, THREE, [("one", 1.0)]),
        ({"sense_index": 2}, THREE, [("two", 1.0)]),
        ({"sense_index": "1, 3"}, THREE, [("one", 1.0), ("three", 1.0)]),
        ({"sense_index": "[1-2]"}, THREE, [("one", 1.0), ("two", 1.0)]),
        ({"sense_index": "1–3"}, THREE, [("one", 1.0), ("two", 1.0), ("three", 1.0)]),
        ({"sense_index": "1b, 2"}, NAMED, [("two", 1.0), ("three", 1.0)]),
        ({"sense_index": "9"}, THREE, [("", 1.0)]),
        ({"sense_index": True}, THREE, [("", 1.0)]),
        ({"sense_index": "9", "sense": "Two"}, THREE, [("two", 1.0)]),
        ({"sense": "four"}, THREE, [("four", 1.0)]),
        ({"_dis1": "10 70 20"}, THREE, [("two", 0.7)]),
        ({"_dis1": "40 40 20"}, THREE, [("one", 0.4), ("two", 0.4)]),
        ({"_dis1": "40 60"}, THREE, [("", 1.0)]),
        ({"_dis1": "0 0 0"}, THREE, [("", 1.0)]),
        ({"_dis1": "nan 1 1"}, THREE, [("", 1.0)]),
        ({"_dis1": "25 75"}, FORM, [("one", 0.25)]),
        ({"sense_index": "2"}, FORM, []),
        ({}, FORM, [("one", 1.0)]),
        ({}, THREE, [("", 1.0)]),
        ({}, FORM[1:], []),
        ({}, [], [("", 1.0)]),
    ],
)
def test_which_senses_a_linkage_of_the_word_is_about(
    tmp_path: Path, item: dict[str, Any], senses: list[Any], expected: list[tuple[str, float]]
) -> None:
    file = write(tmp_path / "f", entry("head", senses=senses, synonyms=[{"word": "tail", **item}]))
    found = read_wiktionary(file)
    assert found.relations.select("gloss", "weight").rows() == expected
    assert found.facts["linkages"]["dropped"] == ({} if expected else {"form_of": 1})
    if any("obsolete" in sense.get("tags", ()) for sense in senses) and ("three", 1.0) in expected:
        assert ["obsolete"] in found.relations["tags"].to_list()


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"word": "Head"}, "self"), ({"word": " head "}, "self"), ({"word": ""}, "no_word"), ({"word": " "}, "no_word"),
        ({}, "no_word"), ({"word": None}, "no_word"), ({"word": 5}, "mistyped"),
        ("tail", "mistyped"), (None, "mistyped"), ({"word": "[[tail"}, "markup"),
        ({"word": "tail#English"}, "anchor"), ({"word": "#English"}, "anchor"),
        ({"word": "tail</sup>"}, "markup"), ({"word": "''tail''"}, "markup"), ({"word": "{{l|en|tail}}"}, "markup"),
        ({"word": "tail&nbsp;end"}, "markup"), ({"word": "a\u0000b"}, "markup"), ({"word": "Thesaurus:tail"}, "page"),
        ({"word": "C#"}, None),
        ({"word": "rock 'n' roll"}, None), ({"word": "A&P"}, None), ({"word": "tail:end"}, None),
    ],
)  # fmt: skip
def test_what_is_no_word_is_dropped_under_its_reason(tmp_path: Path, item: Any, reason: str | None) -> None:
    file = write(tmp_path / "f", entry("head", synonyms=[item]), entry("head", senses=[{"synonyms": [item]}]))
    found = read_wiktionary(file)
    assert found.facts["linkages"]["dropped"] == ({reason: 2} if reason else {})
    assert found.relations.height == (0 if reason else 2)
    assert found.facts["lines"]["dropped"] == ({"nothing_usable": 2} if reason else {})


def test_lines_are_accounted_for(tmp_path: Path) -> None:
    synonyms = [{"word": "tail"}]
    file = write(
        tmp_path / "f", entry("kept", synonyms=synonyms), entry("poor"), entry("x", synonyms=[]), b"", b"  \r",
        entry("fremd", lang_code="de", synonyms=synonyms), {"title": "a", "redirect": "b"}, b'{"word": "cut", "syno',
        b"[1, 2]", b'{"lang_code": "en", "synonyms": "\xff"}', {"lang_code": "en", "synonyms": synonyms},
        {"word": "no code", "synonyms": synonyms}, entry("huge", synonyms=synonyms, filler="x" * 2000), b"null",
    )  # fmt: skip
    found = read_wiktionary(file, max_line=1500)
    facts = found.facts["lines"]
    assert found.relations["head"].to_list() == ["kept"]
    assert facts["dropped"] == {
        "malformed": 4, "no_word": 1, "other_language": 2, "redirect": 1, "too_long": 1,
    }  # fmt: skip
    assert (facts["read"], facts["kept"], facts["without_relations"], facts["blank"]) == (14, 1, 2, 2)
    assert facts["problems"] == [
        "f:8: malformed",
        "f:9: malformed",
        "f:10: malformed",
        "f:13: too_long",
        "f:14: malformed",
    ]


@pytest.mark.parametrize(
    "bad", [b'{"word": "cut', b"5", b'{"forms": "\xff"}', b"[" * 5000, b'{"a": "' + b"x" * 2000 + b'"}']
)
def test_strict_ends_at_the_first_line_that_is_no_entry(tmp_path: Path, bad: bytes) -> None:
    file = write(tmp_path / "f", entry("good", synonyms=[{"word": "fine"}]), bad)
    with pytest.raises(InputError, match=r"f:2: "):
        read_wiktionary(file, strict=True, max_line=1500)
    assert read_wiktionary(file, max_line=1500).relations.height == 1


def test_packed_files_and_hypernyms(tmp_path: Path) -> None:
    content = write(
        tmp_path / "f", entry("dog", hypernyms=[{"word": "animal"}], synonyms=[{"word": "hound"}])
    ).read_bytes()
    for name, pack in {"f.gz": gzip.compress, "f.bz2": bz2.compress, "f.xz": lzma.compress}.items():
        (tmp_path / name).write_bytes(pack(content))
        assert read_wiktionary(tmp_path / name).relations["tail"].to_list() == ["hound"]
    found = read_wiktionary(tmp_path / "f", hypernyms=0.25)
    assert found.relations.select("tail", "relation", "weight").rows() == [
        ("hound", "synonym", 1.0), ("animal", "hypernym", 0.25),
    ]  # fmt: skip


def test_variants_of_a_language_are_it_and_other_languages_are_not(tmp_path: Path) -> None:
    codes = ["en", "en-GB", "enm", "roa-opt", "roa"]
    file = write(tmp_path / "f", *(entry(code, lang_code=code, synonyms=[{"word": "x"}]) for code in codes))
    assert read_wiktionary(file).relations.select("head", "language").rows() == [("en", "en"), ("en-GB", "en")]
    assert read_wiktionary(file, language="roa").relations["head"].to_list() == ["roa"]


LONG = b', "translations": [{"word": "a"}, {"word": "b", "tags": ["x"]}], "sounds": [], "synonyms": [{"word": "s"}]}'


@pytest.mark.parametrize(
    "middle",
    [
        LONG,
        # Nested, mixed, closed with white space, at the end of the object, or inside strings: all these are not cut, or
        # the cut is no JSON and the line is read whole.
        b', "translations": [{"a": [{"b": 1}], "word": "a"}], "synonyms": [{"word": "s"}], "x": 1}',
        b', "translations": [{"a": [1, {"b": 1}], "w": 1}, {"c": 1}], "synonyms": [{"word": "s"}], "x": 1}',
        b', "translations": [{"a": 1}, 5], "synonyms": [{"word": "s"}], "x": 1}',
        b', "translations": [{"a": 1} ], "synonyms": [{"word": "s"}], "x": 1}',
        b', "translations": [], "synonyms": [{"word": "s"}], "x": 1}',
        b', "translations": [{"a": "}], "}, {"b": 1}], "synonyms": [{"word": "s"}], "x": 1}',
        b', "translations": [{"a": "}], \\"b"}, {"b": 1}], "synonyms": [{"word": "s"}], "x": 1}',
        b', "note": ", \\"translations\\": [{", "synonyms": [{"word": "s"}], "x": 1}',
        b', "q\\"translations": [{"a": 1}], "synonyms": [{"word": "s"}], "x": 1}',
        b', "synonyms": [{"word": "s"}], "translations": [{"a": 1}]}',
        b', "forms": [{"a": 1, "translations": [{"b": [1, {"c": 1}], "d": 2}], "e": 3}], "synonyms": [{"word": "s"}]}',
    ],
)
def test_cutting_long_lists_out_never_changes_what_is_read(tmp_path: Path, middle: bytes) -> None:
    line = b'{"word": "w", "lang_code": "en"' + middle
    json.loads(line)
    found = read_wiktionary(write(tmp_path / "f", line))
    assert found.relations.select("head", "tail").rows() == [("w", "s")]


def test_long_lists_are_cut_out() -> None:
    line = b'{"word": "w", "lang_code": "en"' + LONG
    assert wiktionary._without_long_lists(line) == (
        b'{"word": "w", "lang_code": "en", "sounds": [], "synonyms": [{"word": "s"}]}'
    )
