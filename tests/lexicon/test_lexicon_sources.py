"""WNDB folders, MorphoLex as workbook and table, caps."""

from __future__ import annotations

import zipfile
from pathlib import Path

import polars as pl
import pytest

from sensekd.config import LexiconConfig, LexiconSource
from sensekd.errors import InputError
from sensekd.lexicon import ANTONYM, HYPERNYM, SYNONYM, build_lexicon, merge, relation_frame
from sensekd.lexicon.caps import Caps, cap, read_frequencies
from sensekd.lexicon.morpholex import read_morpholex
from sensekd.lexicon.wndb import read_wndb

ADJ = """  1 A licence stands here.
  2 With two spaces before each line.
00000100 00 a 02 quick 0 fast(a) 1 003 ! 00000200 a 0101 & 00000300 s 0000 ! 00000200 a 0000 | moving  at speed; "x | y"
00000200 00 a 01 slow 0 001 ! 00000100 a 0101 | taking long
00000300 00 s 02 Quick 2 hot_off_the_press(p) 0 001 & 00000100 a 0000 | new
"""
NOUN = """00000100 03 n 02 dog 0 domestic_dog 0 002 @ 00000200 n 0000 ! 00009999 n 0101 | barks
00000200 03 n 01 animal 0 001 ~ 00000100 n 0000 | lives
00000300 18 n 0a a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 000 | ten words, counted in hexadecimal
"""


@pytest.fixture
def wndb(tmp_path: Path) -> Path:
    folder = tmp_path / "dict"
    folder.mkdir()
    (folder / "data.adj").write_text(ADJ)
    (folder / "data.noun").write_text(NOUN)
    (folder / "index.sense").write_text("quick%3:00:00:: 00000100 1 5\n")
    return folder


def test_wndb(wndb: Path) -> None:
    frame = read_wndb(wndb, hypernyms=0.5)
    rows = set(frame.select("head", "tail", "relation", "weight", "pos", "gloss").rows())
    speed = 'moving at speed; "x | y"'
    assert {row for row in rows if row[4] == "a"} == {
        ("quick", "fast", SYNONYM, 1.0, "a", speed), ("fast", "quick", SYNONYM, 1.0, "a", speed),
        ("Quick", "hot off the press", SYNONYM, 1.0, "a", "new"),
        ("hot off the press", "Quick", SYNONYM, 1.0, "a", "new"),
        ("quick", "slow", ANTONYM, 1.0, "a", speed), ("slow", "quick", ANTONYM, 1.0, "a", "taking long"),
    }  # fmt: skip
    assert {row[:4] for row in rows if row[5] == "barks"} == {
        ("dog", "domestic dog", SYNONYM, 1.0), ("domestic dog", "dog", SYNONYM, 1.0),
        ("dog", "animal", HYPERNYM, 0.5), ("domestic dog", "animal", HYPERNYM, 0.5),
    }  # fmt: skip
    assert len([row for row in rows if row[5].startswith("ten")]) == 90
    assert frame["source"].unique().to_list() == ["dict"]
    assert HYPERNYM not in read_wndb(wndb)["relation"].to_list()


@pytest.mark.parametrize(
    "line", ["00000100 00 a 02 quick 0", "x", "00000100 00 q 01 a 0 000 | g", "1 0 a zz a 0 000 | g"]
)
def test_what_is_no_synset_is_named(wndb: Path, line: str) -> None:
    (wndb / "data.verb").write_text("00000100 00 v 01 go 0 000 00 | g\n" + line + "\n")
    with pytest.raises(InputError, match=r"data\.verb:2: "):
        read_wndb(wndb)
    with pytest.raises(InputError, match=r"no data\.noun"):
        read_wndb(wndb / "absent")


SHEET = '<?xml version="1.0"?><worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
SHARED = '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{}</sst>'


def workbook(path: Path, sheets: list[list[list[str]]], *, prolog: str = "") -> Path:
    """Shared strings in the first column, strings in place in the others; empty cells are left out."""
    shared = sorted({row[0] for rows in sheets for row in rows if row and row[0]})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        strings = "".join(f"<si><r><t>{t[:2]}</t></r><r><t>{t[2:]}</t></r><rPh><t>no</t></rPh></si>" for t in shared)
        archive.writestr("xl/sharedStrings.xml", prolog + SHARED.format(strings))
        for number, rows in enumerate(sheets, 1):
            body = ""
            for at, row in enumerate(rows, 1):
                cells = ""
                for column, text in enumerate(row):
                    where = f'r="{"ABCDEFG"[column]}{at}"'
                    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
                    if text and column == 0:
                        cells += f'<c {where} t="s"><v>{shared.index(text)}</v></c>'
                    elif text:
                        cells += f'<c {where} t="inlineStr"><is><t>{escaped}</t></is></c>'
                body += f'<row r="{at}">{cells}</row>'
            archive.writestr(f"xl/worksheets/sheet{number}.xml", SHEET.format(body))
    return path


def test_a_workbook_and_a_table_say_the_same(tmp_path: Path) -> None:
    header = ["Word", "POS", "", "MorphoLexSegm"]
    rows = [["unhappy", "JJ", "", "<un<{(happy)}"], ["happy", "JJ", "1", "{(happy)}"], ["odd", "JJ", "", ""],
            ["until", "IN", "", "<un<(til)"]]  # fmt: skip
    book = workbook(
        tmp_path / "m.xlsx", [[["About this file"], ["Word"]], [header, *rows[:2]], [header, *rows[2:]], []]
    )
    table = tmp_path / "m.tsv"
    table.write_text("word\tsegmentation\r\n" + "".join(f"{row[0]}\t{row[3]}\r\n" for row in rows))
    for path in (book, table):
        negations, facts = read_morpholex(path)
        assert facts == {"read": 4, "negation": 2, "empty": 1}
        assert [(n.word, n.bases, n.affix, n.certain) for n in negations] == [
            ("unhappy", ("happy",), "un-", True), ("until", ("til",), "un-", False),
        ]  # fmt: skip


@pytest.mark.data
def test_the_real_sample_of_morpholex(data_dir: Path) -> None:
    negations, facts = read_morpholex(data_dir / "lexicon/morphology/morpholex_en_sample.tsv")
    assert facts["read"] == 69
    found = {n.word: n.bases for n in negations}
    assert found["unacceptable"] == ("acceptable",)
    assert found["unaffected"] == ("affected",)
    assert found["tuneless"] == ("tune",)
    assert not {"unanimously", "ultramodern", "unawares", "tying"} & set(found)


def test_workbooks_that_are_bombs_or_damaged_are_refused(tmp_path: Path) -> None:
    prolog = '<!DOCTYPE lol [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    with pytest.raises(InputError, match="declares a document type"):
        read_morpholex(workbook(tmp_path / "e.xlsx", [[["Word", "MorphoLexSegm"]]], prolog=prolog))
    big = workbook(tmp_path / "b.xlsx", [[["Word", "MorphoLexSegm"]]])
    with zipfile.ZipFile(big, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet9.xml", b" " * (40 << 20))
    with pytest.raises(InputError, match="unpacks to 41943040 bytes"):
        read_morpholex(big)
    cut = workbook(tmp_path / "c.xlsx", [[["Word", "MorphoLexSegm"]]])
    with zipfile.ZipFile(cut, "a") as archive:
        archive.writestr("xl/worksheets/sheet8.xml", b"<worksheet><row>")
    with pytest.raises(InputError, match="cannot be read as a workbook"):
        read_morpholex(cut)
    with pytest.raises(InputError, match="no columns Word"):
        read_morpholex(workbook(tmp_path / "n.xlsx", [[["a", "b"]]]))
    (tmp_path / "l.tsv").write_bytes(b"word\tsegmentation\n\xff\n")
    with pytest.raises(InputError, match=r"l\.tsv:2 is not UTF-8"):
        read_morpholex(tmp_path / "l.tsv")


def frame(*rows: tuple[str, str, str, float, str], relation: str = SYNONYM) -> pl.DataFrame:
    """head, tail, gloss, weight, source"""
    names = ("head", "tail", "gloss", "weight", "source")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    return relation_frame({**columns, "relation": relation, "language": "en"})


def test_caps_keep_what_most_sources_then_weight_then_frequency_support() -> None:
    rows = [("w", "rare", "", 1.0, "s"), ("w", "often", "", 1.0, "s"), ("w", "weak", "", 0.5, "s"),
            ("w", "two", "", 0.5, "s"),
            ("W", "two", "g", 0.5, "t"), ("w", "abc", "", 1.0, "s")]  # fmt: skip
    frames = [frame(*rows), frame(("w", "o", "", 1.0, "s"), relation=ANTONYM)]
    for most, kept in {
        1: {"two"},
        2: {"two", "often"},
        3: {"two", "often", "abc"},
        5: {"two", "often", "abc", "rare", "weak"},
    }.items():
        lexicon = merge(frames, caps=Caps({SYNONYM: most}, {"often": 5.0}))
        assert set(lexicon.of("w").filter(relation=SYNONYM)["tail"]) == kept
        assert lexicon.of("w").filter(relation=ANTONYM).height == 1
        pairs = set(lexicon.relations.select("head", "tail", "relation").rows())
        assert {(tail, head, relation) for head, tail, relation in pairs} == pairs
    assert merge(frames, caps=Caps({SYNONYM: 1})).facts["dropped"]["capped"] == 8


def test_a_pair_is_within_the_cap_of_both_words() -> None:
    rows = merge([frame(*[(f"w{i}", "hub", "", 1.0 - i / 10, "s") for i in range(5)])]).relations
    kept, lost = cap(rows, Caps({SYNONYM: 2}))
    assert set(kept["head"]) == {"hub", "w0", "w1"}
    assert lost == 6
    assert cap(rows, Caps())[0].equals(rows)


def test_frequencies(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("Big\t3\nbig\t2\n\nhot dog\t1.5\n")
    assert read_frequencies(path) == {"big": 5.0, "hot dog": 1.5}
    for bad in ("big 3", "big\tx", "big\t-1", "\t3", "big\tnan"):
        path.write_text(f"a\t1\n{bad}\n")
        with pytest.raises(InputError, match=r"f:2: "):
            read_frequencies(path)


def test_a_recipe_with_everything(tmp_path: Path, wndb: Path) -> None:
    (tmp_path / "w.jsonl").write_text(
        '{"word": "unhappy", "lang_code": "en", "pos": "adj", "senses": [{"synonyms": [{"word": "sad"}]}], '
        '"etymology_templates": [{"name": "prefix", "args": {"1": "en", "2": "un", "3": "happy"}}]}\n'
    )
    (tmp_path / "m.tsv").write_text("word\tsegmentation\nunhappy\t<un<{(happy)}\n")
    sources = (
        LexiconSource(kind="wndb", path=str(wndb)),
        LexiconSource(kind="wiktionary", path=str(tmp_path / "w.jsonl")),
        LexiconSource(kind="morpholex", path=str(tmp_path / "m.tsv")),
    )
    lexicon = build_lexicon(LexiconConfig(sources=sources, polarity=True, hypernyms=0.3, max_synonyms=3))
    assert lexicon.of("happy").select("tail", "relation").rows() == [("sad", ANTONYM)]
    assert lexicon.relations.filter(relation=HYPERNYM)["weight"].unique().to_list() == [0.3]
    assert [part["source"] for part in lexicon.facts["sources"]] == ["m.tsv", "w.jsonl"]
    assert lexicon.config["max_synonyms"] == 3
    other = build_lexicon(LexiconConfig(sources=sources[::-1], polarity=True, hypernyms=0.3, max_synonyms=3))
    assert other.relations.equals(lexicon.relations)
    assert other.facts == lexicon.facts


def test_settings_without_use_are_refused() -> None:
    with pytest.raises(ValueError, match="polarity"):
        LexiconConfig(sources=(LexiconSource(kind="morpholex", path="x"),))
    with pytest.raises(ValueError, match="max_synonyms"):
        LexiconConfig(frequencies="x")
    with pytest.raises(ValueError, match="needs `path`"):
        LexiconSource(kind="wiktionary")
