from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import polars as pl
import pytest

from sensekd.errors import InputError
from sensekd.lexicon import ANTONYM, SYNONYM, merge
from sensekd.lexicon.wordnet import read_installed, read_wordnet

wn = pytest.importorskip("wn")

HEADER = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
"""
ATTRIBUTES = 'label="Tiny" email="a@example.org" license="none" version="7"'
ENGLISH = f"""
<Lexicon id="tiny" language="en-GB" {ATTRIBUTES}>
  <LexicalEntry id="e1"><Lemma writtenForm="quick" partOfSpeech="a"/>
    <Sense id="s1" synset="y1"><SenseRelation relType="antonym" target="s4"/></Sense></LexicalEntry>
  <LexicalEntry id="e2"><Lemma writtenForm="fast" partOfSpeech="a"/>
    <Sense id="s2" synset="y1"/><Sense id="s3" synset="y3"/></LexicalEntry>
  <LexicalEntry id="e3"><Lemma writtenForm="slow" partOfSpeech="a"/><Sense id="s4" synset="y2">
    <SenseRelation relType="antonym" target="s1"/>
    <SenseRelation relType="derivation" target="s3"/></Sense></LexicalEntry>
  <LexicalEntry id="e4"><Lemma writtenForm="go_without_food" partOfSpeech="v"/>
    <Sense id="s5" synset="y3"/></LexicalEntry>
  <Synset id="y1" ili="" partOfSpeech="s"><Definition>moving
     at speed</Definition></Synset>
  <Synset id="y2" ili="" partOfSpeech="a"><Definition>taking long</Definition></Synset>
  <Synset id="y3" ili="" partOfSpeech="v"/>
</Lexicon>"""
EXTENSION = f"""
<LexiconExtension id="more" language="en" {ATTRIBUTES}><Extends id="tiny" version="7"/>
  <ExternalLexicalEntry id="e3"><Sense id="x1" synset="z1"/></ExternalLexicalEntry>
  <LexicalEntry id="x2"><Lemma writtenForm="dull" partOfSpeech="a"/><Sense id="x3" synset="z1"/></LexicalEntry>
  <Synset id="z1" ili="" partOfSpeech="a"/>
</LexiconExtension>"""
GERMAN = f"""
<Lexicon id="klein" language="de" {ATTRIBUTES}>
  <LexicalEntry id="d1"><Lemma writtenForm="Haus" partOfSpeech="n"/><Sense id="t1" synset="u1"/></LexicalEntry>
  <LexicalEntry id="d2"><Lemma writtenForm="Gebäude" partOfSpeech="n"/><Sense id="t2" synset="u1"/></LexicalEntry>
  <Synset id="u1" ili="" partOfSpeech="n"/>
</Lexicon>"""


def document(*lexicons: str) -> bytes:
    return (HEADER + "".join(lexicons) + "\n</LexicalResource>\n").encode()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.xml"
    path.write_bytes(document(ENGLISH, GERMAN))
    return path


ROWS = {
    ("quick", "fast", SYNONYM, "a", "moving at speed"),
    ("fast", "quick", SYNONYM, "a", "moving at speed"),
    ("fast", "go without food", SYNONYM, "v", ""),
    ("go without food", "fast", SYNONYM, "v", ""),
    ("quick", "slow", ANTONYM, "a", "moving at speed"),
    ("slow", "quick", ANTONYM, "a", "taking long"),
}
COLUMNS = ["head", "tail", "relation", "pos", "gloss"]


def test_members_are_synonyms_and_antonymy_stands_between_senses(tiny: Path) -> None:
    frame = read_wordnet(tiny)
    assert set(frame.select(COLUMNS).rows()) == ROWS
    assert frame.height == len(ROWS)
    assert frame.select("language", "source").unique().rows() == [("en", "tiny:7")]
    assert set(merge([frame]).relations.select(COLUMNS).rows()) == ROWS


def test_the_language_chooses_the_lexicon(tiny: Path) -> None:
    assert set(read_wordnet(tiny, language="de")["head"]) == {"Haus", "Gebäude"}
    with pytest.raises(InputError, match=r"\['de', 'en-GB'\]"):
        read_wordnet(tiny, language="fr")


def test_an_extension_finds_the_words_it_extends(tmp_path: Path) -> None:
    path = tmp_path / "extended.xml"
    path.write_bytes(document(ENGLISH, EXTENSION))
    added = set(read_wordnet(path).select(COLUMNS).rows()) - ROWS
    assert added == {("slow", "dull", SYNONYM, "a", ""), ("dull", "slow", SYNONYM, "a", "")}


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_compressed_files(tiny: Path, pack: object) -> None:
    packed = tiny.with_suffix(".packed")
    packed.write_bytes(pack(tiny.read_bytes()))  # type: ignore[operator]
    assert read_wordnet(packed).equals(read_wordnet(tiny))


@pytest.mark.parametrize(
    "content", [b"", b"<html></html>", document(ENGLISH)[:-60], document("<Lexicon id='x'></Lexicon>")]
)
def test_what_is_no_wordnet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.xml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.xml cannot be read as WN-LMF"):
        read_wordnet(path)
    with pytest.raises(InputError, match="no WordNet at"):
        read_wordnet(tmp_path / "absent.xml")


def test_an_installed_lexicon_reads_like_its_file(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wn.config, "data_directory", tmp_path / "wn")
    wn.add(tiny, progress_handler=None)
    assert set(read_installed("tiny:7").select(COLUMNS).rows()) == ROWS
    with pytest.raises(InputError, match="'absent' is installed") as caught:
        read_installed("absent")
    assert "tiny:7" in str(caught.value)


@pytest.mark.data
def test_the_whole_of_wordnet(data_dir: Path, wordnet_3: tuple[pl.DataFrame, float]) -> None:
    frame, seconds = wordnet_3
    lexicon = merge([frame])
    assert seconds < 25
    assert {"felicitous", "glad", "unhappy"} <= set(lexicon.of("happy")["tail"])
    assert lexicon.relations.filter(head="happy", relation=ANTONYM)["tail"].to_list() == ["unhappy"]
    assert lexicon.facts["pairs"][SYNONYM] > 150_000
    assert lexicon.facts["pairs"][ANTONYM] > 3_500
    # Counted apart from the reader: no antonym pointer of the file is lost.
    with lzma.open(data_dir / "lexicon/wordnet/wordnet-3.0.lmf.xml.xz", "rt", encoding="utf-8") as file:
        assert frame.filter(relation=ANTONYM).height == file.read().count('relType="antonym"')


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["mini-lmf-1.0", "mini-lmf-1.3", "mini-lmf-1.4", "E101-0", "W305-0", "sense-member-order"]
)
def test_small_and_odd_files_are_read(data_dir: Path, name: str) -> None:
    frame = read_wordnet(data_dir / f"lexicon/wordnet/{name}.xml")
    expected = {
        "mini-lmf-1.0": {"example", "illustration", "exemplify", "illustrate"},
        "mini-lmf-1.4": {"foo bar", "Foo Bar", "baz", "Baz", "BAZ"},
        "E101-0": {"foo", "foo2"},
        "sense-member-order": {"foo", "bar"},
    }
    assert set(frame["head"]) == expected.get(name, set())


def test_entities_and_bombs_are_refused(tmp_path: Path) -> None:
    entities = '<!DOCTYPE LexicalResource [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    path = tmp_path / "entities.xml"
    path.write_bytes(document(ENGLISH).replace(HEADER.splitlines()[1].encode(), entities.encode()))
    for file, pack in ((path, bytes), (tmp_path / "entities.xml.gz", gzip.compress)):
        file.write_bytes(pack(path.read_bytes()))
        with pytest.raises(InputError, match="declares XML entities"):
            read_wordnet(file)
    bomb = tmp_path / "bomb.xml.gz"
    bomb.write_bytes(gzip.compress(document(ENGLISH) + b" " * (40 << 20)))
    with pytest.raises(InputError, match="unpacks to more than"):
        read_wordnet(bomb)


def test_hypernyms_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    above = '<Synset id="y1" ili="" partOfSpeech="s"><SynsetRelation relType="hypernym" target="y2"/>'
    lexicon = ENGLISH.replace(
        '<Synset id="y1" ili="" partOfSpeech="s"><Definition>moving\n     at speed</Definition>', above
    )
    assert lexicon != ENGLISH
    path = tmp_path / "h.xml"
    path.write_bytes(document(lexicon))
    frame = read_wordnet(path, hypernyms=0.25)
    assert set(frame.filter(relation="hypernym").select("head", "tail", "weight").rows()) == {
        ("quick", "slow", 0.25), ("fast", "slow", 0.25),
    }  # fmt: skip
    assert read_wordnet(path).filter(relation="hypernym").is_empty()


def test_every_installed_lexicon_of_a_language(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wn.config, "data_directory", tmp_path / "wn")
    wn.add(tiny, progress_handler=None)
    assert set(read_installed("*", language="de")["head"]) == {"Haus", "Gebäude"}
    assert set(read_installed("*").select(COLUMNS).rows()) == ROWS
    with pytest.raises(InputError, match="is installed"):
        read_installed("*", language="fr")
