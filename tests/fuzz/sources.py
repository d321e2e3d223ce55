"""Every reader of this package with a small good input of its kind, and ways to spoil it."""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from sensekd.artefacts import Manifest, read_manifest, write_manifest
from sensekd.config import CorpusConfig, load_recipe, parse_override
from sensekd.corpus import documents
from sensekd.evaluation.lexical import _split as sentences_of
from sensekd.evaluation.lexical import read_pairs as similar_pairs
from sensekd.evaluation.originals import read_originals
from sensekd.evaluation.suites import read_questions
from sensekd.lexicon.caps import read_frequencies
from sensekd.lexicon.morpholex import read_morpholex
from sensekd.lexicon.pairs import read_pairs
from sensekd.lexicon.wiktionary import read_wiktionary
from sensekd.lexicon.wndb import read_wndb
from sensekd.lexicon.wordnet import read_wordnet
from sensekd.pipeline.results import read_results
from sensekd.senses.coarse import read_coarse
from sensekd.senses.quality import read_gold
from sensekd.training.records import read_records


@dataclass(frozen=True)
class Source:
    """A reader.

    Attributes:
        good: an input that it reads.
        name: of the file that it is written to.
        read: reads the folder's file.
        thousands: of spoilt inputs in the long form; fewer where one takes long.
    """

    good: bytes
    name: str
    read: Callable[[Path], object]
    thousands: int = 40

    @property
    def short(self) -> int:
        """Spoilt inputs in the short form."""
        return max(10, self.thousands * 5 // 2)

    @property
    def guided(self) -> bool:
        """Whether it is ours alone: libraries that take milliseconds to begin are not guided."""
        return self.thousands > 1


def _lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _corpus(path: Path, **fields: Any) -> object:
    return list(documents(CorpusConfig.model_validate({"path": str(path), **fields})))


def _records(path: Path, **fields: Any) -> object:
    return list(read_records(CorpusConfig.model_validate({"path": str(path), **fields})))


def _labelled(path: Path) -> object:
    return read_pairs(path, "antonym", delimiter=" ", label="1")


def _override(path: Path) -> object:
    return parse_override(path.read_bytes().decode("utf-8", "replace"))


def _sheet(path: Path) -> object:
    """The bytes as the sheet of a workbook whose archive is sound."""
    book = path.with_suffix(".xlsx")
    with zipfile.ZipFile(book, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        archive.writestr("xl/worksheets/sheet1.xml", path.read_bytes())
    return read_morpholex(book)


def _workbook() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        archive.writestr("xl/worksheets/sheet1.xml", SHEET)
    return buffer.getvalue()


def _beside(path: Path, **others: str) -> Path:
    """The file's folder, with further files in it; dashes and dots of their names are written as __ and _0_."""
    for name, text in others.items():
        (path.parent / name.replace("_0_", ".").replace("__", "-")).write_text(text)
    return path.parent


def _coarse(path: Path) -> object:
    """CoarseWSD-20 in the folder of one word, as it serves a dictionary."""
    return read_coarse(_word(path).parent)


def _evaluated(path: Path) -> object:
    """The same, as it serves the evaluation of a model."""
    return sentences_of(_word(path), "train", None)


def _word(path: Path) -> Path:
    word = path.parent / "word"
    word.mkdir(exist_ok=True)
    _beside(word / "x", train_0_gold_0_txt="0 1", test_0_data_0_txt="0\tbank a", test_0_gold_0_txt="0")
    (word / "train.data.txt").write_bytes(path.read_bytes())
    return word


def _labels(path: Path) -> object:
    """The same, with the labels spoilt."""
    path.with_name("train.data.txt").write_text("1\tthe bank\n0\tbank\n")
    return sentences_of(path.parent, "train", None)


def _results(path: Path) -> object:
    (path.parent / "records").mkdir(exist_ok=True)
    (path.parent / "records" / "kd-0.json").write_text('{"history": []}')
    return read_results(path.parent)


def _manifest() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), Manifest("thing", 1, {"a": "b"}, {"k": 3}, {"n": 1.5}))
        tree = json.loads((Path(folder) / "manifest.json").read_text())
    del tree["seal"]  # A sealed one is refused whatever is changed.
    return json.dumps(tree).encode()


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"text": ["one two", "three"], "n": [1, 2]}).write_parquet(buffer)
    return buffer.getvalue()


RECIPE = {
    "name": "r", "output": "runs/r", "seed": 3, "teacher": {"model": "t", "dtype": "float32"},
    "corpus": {"mixture": [{"path": "a", "fraction": 0.5}, {"path": "b", "format": "text", "separator": "\n\n"}]},
    "lexicon": {"sources": [{"kind": "pairs", "path": "p", "relation": "synonym"}], "polarity": True},
    "senses": {"k": "adaptive", "dtype": "float16"}, "student": {"layers": 2, "selection": [0, 3]},
    "loss": {"lambda": 0.5, "positions": {"fraction": 0.4, "minimum": 2}, "chunked": True},
    "training": {"steps": 4, "trainer": {"bf16": False}},
    "evaluation": {"corpus": {"path": "h"}, "questions": {"q": "f"}},
    "compare": {"arms": ["kd", "dskd"], "custom": {"mine": {"loss.kappa": 2}}, "seeds": [0, 1]},
}  # fmt: skip
LMF = b"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
<Lexicon id="t" label="T" language="en" email="a@example.org" license="none" version="1">
<LexicalEntry id="e1"><Lemma writtenForm="warm" partOfSpeech="a"/><Sense id="s1" synset="y1">
<SenseRelation relType="antonym" target="s2"/></Sense></LexicalEntry>
<LexicalEntry id="e2"><Lemma writtenForm="cool" partOfSpeech="a"/><Sense id="s2" synset="y2"/></LexicalEntry>
<Synset id="y1" ili="" partOfSpeech="a"/><Synset id="y2" ili="" partOfSpeech="a"/></Lexicon></LexicalResource>
"""
WNDB = b"""00000010 00 a 02 warm 0 hot(p) 0 001 ! 00000200 a 0101 | having heat
00000200 00 a 01 cool 0 001 ! 00000010 a 0101 | lacking heat
"""
ENTRY = {
    "word": "warm", "lang_code": "en", "pos": "adj", "synonyms": [{"word": "hot", "tags": ["rare"]}],
    "senses": [{"glosses": ["having heat"], "antonyms": [{"word": "cool"}]}],
    "etymology_templates": [{"name": "af", "args": {"1": "en", "2": "un-", "3": "warm"}}],
}  # fmt: skip
ARC = {
    "question": {"stem": "q", "choices": [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]},
    "answerKey": "2",
}
SQUAD = {
    "data": [{"paragraphs": [{"context": "c d", "qas": [
        {"question": "q", "id": "1", "is_impossible": False, "answers": [{"text": "d", "answer_start": 2}]}]}]}]
}  # fmt: skip
GOLD = {"text": "a bank", "occurrences": [{"word": "bank", "sense": "river", "start": 2, "end": 6}]}
TALK = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "prompt": "p"}

SHEET = (
    '<worksheet><sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>Word</t></is></c><c r="B1" t="inlineStr"><is>'
    '<t>MorphoLexSegm</t></is></c></row><row r="2"><c r="A2" t="str"><v>unwarm</v></c><c t="str"><v>&lt;un&lt;{(warm)}'
    "</v></c></row></sheetData></worksheet>"
)
SIMILAR = b"word1\tword2\tPOS\tSimLex999\nold\tnew\tA\t1.58\nsmart\tclever\tA\t9.2\n"
RESULTS = {"arms": [{"arm": "kd", "seed": 0, "metrics": {"ce": 1.0}}], "provenance": {"command": "c"}, "chance": {}}
QUESTION = {"question": "q", "choices": ["a", "b"], "answer": 1}
ORIGINAL = {**ARC, "id": "1"}

SOURCES: dict[str, Source] = {
    "recipe": Source(yaml.safe_dump(RECIPE).encode(), "recipe.yaml", load_recipe),
    "override": Source(b"loss.lambda=0.5", "override", _override, 50),
    "pairs": Source(b"warm\thot\nbig\tlarge\n", "pairs.tsv", partial(read_pairs, relation="synonym")),
    "labelled pairs": Source(b"warm cool 1\n", "p.txt", _labelled),
    "frequencies": Source(b"warm\t12\nbig\t3.5\n", "counts.tsv", read_frequencies, 60),
    "wndb": Source(WNDB, "data.adj", lambda path: read_wndb(path.parent, hypernyms=0.5)),
    "lmf": Source(LMF, "wordnet.xml", read_wordnet, 20),
    "wiktionary": Source(_lines(ENTRY, ENTRY), "dump.jsonl", partial(read_wiktionary, polarity=True)),
    "packed wiktionary": Source(gzip.compress(_lines(ENTRY), mtime=0), "dump.jsonl.gz", read_wiktionary, 20),
    "morpholex": Source(b"Word\tMorphoLexSegm\nunwarm\t<un<{(warm)}\n", "m.tsv", read_morpholex),
    "workbook": Source(_workbook(), "m.xlsx", read_morpholex, 20),
    "sheet": Source(SHEET.encode(), "m.xml", _sheet, 20),
    "gold": Source(_lines(GOLD), "gold.jsonl", read_gold, 60),
    "coarse": Source(b"1\tthe bank of\n0\tbank it\n", "c.txt", _coarse, 20),
    "evaluated coarse": Source(b"1\tthe bank of\n0\tbank it\n", "c.txt", _evaluated, 20),
    "coarse labels": Source(b"0\n1\n", "train.gold.txt", _labels),
    "similarity": Source(SIMILAR, "SimLex-999.txt", similar_pairs),
    "questions": Source(_lines(QUESTION), "quiz.jsonl", read_questions, 60),
    "arc": Source(_lines(ARC), "arc.jsonl", partial(_records, records="arc")),
    "piqa": Source(_lines({"goal": "g", "sol1": "a", "sol2": "b"}), "piqa.jsonl", partial(_records, records="piqa")),
    "mmlu": Source(b'q,a,b,"c,d",d,B\n', "mmlu.csv", partial(_records, records="mmlu")),
    "squad": Source(json.dumps(SQUAD).encode(), "squad.json", partial(_records, records="squad")),
    "original arc": Source(_lines(ORIGINAL), "ARC-Easy-Test.jsonl", lambda path: read_originals(path.parent)),
    "original piqa": Source(
        _lines({"goal": "g", "sol1": "a", "sol2": "b"}), "valid.jsonl",
        lambda path: read_originals(_beside(path, valid__labels_0_lst="1\n")), 20,
    ),
    "original mmlu": Source(
        b'q,a,b,"c,d",d,B\n', "birds_test.csv",
        lambda path: read_originals(_beside(path, birds_dev_0_csv="q,a,b,c,d,A\n")), 20,
    ),
    "original squad": Source(
        json.dumps(SQUAD).replace('"paragraphs"', '"title": "t", "paragraphs"').encode(), "dev-v2.0.json",
        lambda path: read_originals(path.parent),
    ),
    "text": Source("one two\nthrée\n".encode(), "t.txt", partial(_corpus, format="text")),
    "separated": Source(b"one\n\ntwo", "s.txt", partial(_corpus, format="text", separator="\n\n")),
    "manifest": Source(_manifest(), "manifest.json", lambda path: read_manifest(path.parent, "thing", 1, verify=True)),
    "results": Source(json.dumps(RESULTS).encode(), "results.json", _results, 20),
    "jsonl": Source(_lines({"text": "one two"}, {"text": "three"}), "t.jsonl", _corpus, 1),
    "parquet": Source(_parquet(), "t.parquet", partial(_corpus, format="parquet"), 1),
    "messages": Source(_lines(TALK, TALK), "talk.jsonl", partial(_records, records="messages"), 1),
}  # fmt: skip

# Texts that readers have stumbled over: numbers out of range, controls, markers, nesting, names that climb.
ODD = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b"\t", b" ", b'"', b"'", b"{", b"}", b"[", b"]", b"<",
    b"&", b":", b"- ", b"#", b"&a", b"*a", b"!!python/object:os.system", b"!!binary x", b"null", b"true", b"-1", b"NaN",
    b"1e999",
    b"9" * 40, b"2001-99-99", b"0x", b"1:99", b"../../x", b"\xe2\x80\xae", b"\\ud800", b"\xed\xa0\x80", b"[" * 3000,
    b"{\"a\":" * 3000, b"<<: 1", b"? ", b"| ", b"%", b"<!ENTITY a 'b'>", b"=", b".inf", b"on",
]  # fmt: skip


def spoilt(good: bytes, generator: random.Random) -> bytes:
    """One to three edits: bytes overwritten, taken away, doubled, swapped with others, or something odd put in."""
    text = good
    for _ in range(generator.randint(1, 3)):
        at = generator.randint(0, len(text))
        end = min(len(text), at + generator.randint(0, 12))
        match generator.randrange(6):
            case 0:
                text = text[:at] + generator.choice(ODD) + text[at:]
            case 1:
                text = text[:at] + generator.choice(ODD) + text[end:]
            case 2:
                text = text[:at] + text[end:]
            case 3:
                text = text[:at] + text[at:end] * 2 + text[end:]
            case 4:
                text = text[:at] + bytes([generator.randrange(256)]) + text[at + 1 :]
            case _:
                text = text[:at]
    return text


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def put(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The tree with another value at one place."""
    if not place:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[place[0]] = put(tree[place[0]], place[1:], value)
    return copy
