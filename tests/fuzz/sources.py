"""Every reader of this package with a small good input of its kind, and ways to spoil it."""

from __future__ import annotations

import io
import json
import random
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
from sensekd.evaluation.suites import read_questions
from sensekd.lexicon.caps import read_frequencies
from sensekd.lexicon.morpholex import read_morpholex
from sensekd.lexicon.pairs import read_pairs
from sensekd.lexicon.wiktionary import read_wiktionary
from sensekd.lexicon.wndb import read_wndb
from sensekd.lexicon.wordnet import read_wordnet
from sensekd.senses.quality import read_gold
from sensekd.training.records import read_records


@dataclass(frozen=True)
class Source:
    """A reader.

    Attributes:
        good: an input that it reads.
        name: of the file that it is written to.
        read: reads the folder's file.
        fast: whether a thousand inputs take less than a second or so.
    """

    good: bytes
    name: str
    read: Callable[[Path], object]
    fast: bool = True


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

SOURCES: dict[str, Source] = {
    "recipe": Source(yaml.safe_dump(RECIPE).encode(), "recipe.yaml", load_recipe, fast=False),
    "override": Source(b"loss.lambda=0.5", "override", _override),
    "pairs": Source(b"warm\thot\nbig\tlarge\n", "pairs.tsv", partial(read_pairs, relation="synonym")),
    "labelled pairs": Source(b"warm cool 1\n", "p.txt", _labelled),
    "frequencies": Source(b"warm\t12\nbig\t3.5\n", "counts.tsv", read_frequencies),
    "wndb": Source(WNDB, "data.adj", lambda path: read_wndb(path.parent, hypernyms=0.5)),
    "lmf": Source(LMF, "wordnet.xml", read_wordnet),
    "wiktionary": Source(_lines(ENTRY, ENTRY), "dump.jsonl", partial(read_wiktionary, polarity=True)),
    "morpholex": Source(b"Word\tMorphoLexSegm\nunwarm\t<un<{(warm)}\n", "m.tsv", read_morpholex),
    "gold": Source(_lines(GOLD), "gold.jsonl", read_gold),
    "questions": Source(_lines({"question": "q", "choices": ["a", "b"], "answer": 1}), "quiz.jsonl", read_questions),
    "arc": Source(_lines(ARC), "arc.jsonl", partial(_records, records="arc")),
    "piqa": Source(_lines({"goal": "g", "sol1": "a", "sol2": "b"}), "piqa.jsonl", partial(_records, records="piqa")),
    "mmlu": Source(b'q,a,b,"c,d",d,B\n', "mmlu.csv", partial(_records, records="mmlu")),
    "squad": Source(json.dumps(SQUAD).encode(), "squad.json", partial(_records, records="squad")),
    "text": Source("one two\nthrée\n".encode(), "t.txt", partial(_corpus, format="text")),
    "separated": Source(b"one\n\ntwo", "s.txt", partial(_corpus, format="text", separator="\n\n")),
    "manifest": Source(_manifest(), "manifest.json", lambda path: read_manifest(path.parent, "thing", 1, verify=True)),
    "jsonl": Source(_lines({"text": "one two"}, {"text": "three"}), "t.jsonl", _corpus, fast=False),
    "parquet": Source(_parquet(), "t.parquet", partial(_corpus, format="parquet"), fast=False),
    "messages": Source(_lines(TALK, TALK), "talk.jsonl", partial(_records, records="messages"), fast=False),
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
