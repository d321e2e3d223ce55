"""Damaged, hostile and shuffled input: counted or refused, never a traceback, never half an output."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow_wiktextract import relations_of
from typer.testing import CliRunner

from sensekd.artefacts import MANIFEST
from sensekd.cli.main import app
from sensekd.config import LexiconConfig, LexiconSource
from sensekd.errors import InputError
from sensekd.lexicon import build_lexicon, merge
from sensekd.lexicon.wiktionary import read_wiktionary

GOOD: dict[str, Any] = {
    "word": "happy", "lang_code": "en", "pos": "adj",
    "senses": [{"glosses": ["glad"], "tags": ["formal"], "synonyms": [{"word": "cheerful", "tags": ["rare"]}]},
               {"glosses": ["lucky"], "sense_index": "2", "antonyms": [{"word": "unlucky"}]}],
    "translations": [{"word": "froh", "lang_code": "de"}, {"word": "heureux"}],
    "synonyms": [{"word": "merry", "sense_index": "2"}, {"word": "glad", "_dis1": "30 70"},
                 {"sense": "glad", "word": "x"}],
    "etymology_templates": [{"name": "af", "args": {"1": "en", "2": "un-", "3": "happy"}}],
    "forms": [{"form": "happier", "tags": ["comparative"]}],
}  # fmt: skip
KEYS = [*GOOD, "redirect", "hypernyms", "antonyms", "_dis1", "sense", "tags", "glosses", "args", "name"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.sampled_from(["happy", "en", "1", "1–3", "9" * 50, "form-of", "a#b", "\u2028"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


PLACES = places(GOOD)[1:]


def changed(place: tuple[Any, ...], new: Any) -> bytes:
    """The good entry with something else at one place."""
    entry = copy.deepcopy(GOOD)
    spot: Any = entry
    for step in place[:-1]:
        spot = spot[step]
    spot[place[-1]] = new
    return json.dumps(entry).encode()


LINE = json.dumps(GOOD).encode()
CHANGED = st.builds(changed, st.sampled_from(PLACES), VALUES)
CUT = st.integers(0, len(LINE)).map(lambda at: LINE[:at])
BYTES = st.builds(lambda at, what: LINE[:at] + what + LINE[at + 1 :], st.integers(0, len(LINE)), st.binary(max_size=4))
DEEP = st.builds(
    lambda n, key: b'{"word": "w", "lang_code": "en", "%s": %s1%s}' % (key, b"[" * n, b"]" * n),
    st.sampled_from([10, 1000, 5000, 100_000]), st.sampled_from([b"synonyms", b"senses", b"x"]),
)  # fmt: skip
HUGE = st.integers(3000, 9000).map(lambda n: b'{"word": "w", "synonyms": [{"word": "' + b"x" * n + b'"}]}')
LINES = st.lists(CHANGED | CUT | BYTES | DEEP | HUGE | st.binary(max_size=30), max_size=4)


def survives(folder: Path, lines: list[bytes]) -> None:
    """Every line is accounted for; the good lines around the bad ones give what they would give alone."""
    path = folder / "f"
    path.write_bytes(b"\n".join([LINE, *lines, LINE]) + b"\n")
    for polarity in (False, True):
        found = read_wiktionary(path, polarity=polarity, hypernyms=0.5, max_line=2500)
        facts, items = found.facts["lines"], found.facts["linkages"]
        total = facts["kept"] + facts["without_relations"] + facts["blank"] + sum(facts["dropped"].values())
        assert facts["read"] == total == path.read_bytes().count(b"\n")
        assert items["read"] == items["kept"] + sum(items["dropped"].values())
        assert facts["kept"] >= 2
        assert len(facts["problems"]) == sum(facts["dropped"].get(name, 0) for name in ("malformed", "too_long"))
        merge([found.relations], negations=found.negations)
    bad = {"malformed", "too_long"} & set(read_wiktionary(path, max_line=2500).facts["lines"]["dropped"])
    # What is not looked at without `strict` may be damaged as well, so more may be refused, but never less.
    with pytest.raises(InputError, match=rf"{path}:\d+: ") if bad else contextlib.suppress(InputError):
        strict = read_wiktionary(path, strict=True, max_line=2500)
        assert not {"malformed", "too_long"} & set(strict.facts["lines"]["dropped"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_no_line_is_lost_and_none_breaks_the_reader(tmp_path: Path, lines: list[bytes]) -> None:
    survives(tmp_path, lines)


@pytest.mark.long
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_no_line_is_lost_and_none_breaks_the_reader_at_length(tmp_path: Path, lines: list[bytes]) -> None:
    survives(tmp_path, lines)


CENTRAL = {"word", "synonyms", "antonyms", "senses", "tags", "glosses"}
TYPED = st.builds(
    changed,
    st.sampled_from([place for place in PLACES if place[-1] in CENTRAL]),
    st.none() | st.integers(0, 3) | st.sampled_from(["happy", "", " glad ", "a#b", "<b>"])
    | st.lists(st.text("abé ", max_size=4), max_size=2),
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TYPED)
def test_entries_of_odd_types_read_as_a_slow_reader_reads_them(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "f").write_bytes(line + b"\n")
    found = read_wiktionary(tmp_path / "f")
    outcome, rows, lost = relations_of(line, "en")
    columns = ["head", "tail", "relation", "weight", "pos", "gloss", "tags"]
    assert [(*row[:-1], tuple(row[-1])) for row in found.relations.select(columns).rows()] == rows
    assert sum(found.facts["linkages"]["dropped"].values()) == len(lost)
    assert found.facts["lines"]["kept"] == (outcome == "kept")


def recipe(folder: Path, source: Path) -> Path:
    tree = {
        "name": "r", "output": str(folder / "run"), "teacher": {"model": "absent"}, "student": {"layers": 1},
        "corpus": {"path": "absent"}, "training": {"steps": 1}, "evaluation": {"corpus": {"path": "absent"}},
        "lexicon": {"sources": [{"kind": "wiktionary", "path": str(source)}]},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return path


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*") if file.is_file()}


def test_the_command_counts_bad_lines_or_ends_strictly_without_half_an_output(tmp_path: Path) -> None:
    source = tmp_path / "dump.jsonl"
    source.write_bytes(LINE + b"\n" + LINE[:-9] + b"\n")
    arguments = ["lexicon", "build", str(recipe(tmp_path, source))]
    result = CliRunner().invoke(app, [*arguments, "--strict"])
    assert result.exit_code == 2
    assert "dump.jsonl:2: no JSON object" in result.output
    assert not {"relations.parquet", MANIFEST} & files(tmp_path)
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)["facts"]["sources"][0]
    assert facts["lines"]["dropped"] == {"malformed": 1}
    assert facts["lines"]["problems"] == ["dump.jsonl:2: malformed"]


@pytest.mark.parametrize(
    "content", [gzip.compress((b" " * 2000 + b"\n") * 20_000), gzip.compress(LINE * 9)[:-30], b"", b"\x00" * 99]
)
def test_bombs_and_damaged_dumps_leave_no_output(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "dump.jsonl.gz"
    source.write_bytes(content)
    result = CliRunner().invoke(app, ["lexicon", "build", str(recipe(tmp_path, source))])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not {"relations.parquet", MANIFEST} & files(tmp_path)


def test_show_groups_relations_and_keeps_to_a_language(tmp_path: Path) -> None:
    source = tmp_path / "dump.jsonl"
    source.write_bytes(LINE + b"\n")
    assert CliRunner().invoke(app, ["lexicon", "build", str(recipe(tmp_path, source))]).exit_code == 0
    arguments = ["lexicon", "show", "Happy", "--lexicon", str(tmp_path / "run/lexicon")]
    result = CliRunner().invoke(app, arguments)
    assert result.stdout.splitlines() == [
        "synonyms (en)",
        "  a  glad",
        "     cheerful                     1.00  dump.jsonl  [formal, rare]",
        "     x                            1.00  dump.jsonl  [formal]",
        "  a  lucky",
        "     merry                        1.00  dump.jsonl",
        "     glad                         0.70  dump.jsonl",
        "antonyms (en)",
        "  a  lucky",
        "     unlucky                      1.00  dump.jsonl",
    ]
    data = json.loads(CliRunner().invoke(app, [*arguments, "--lang", "en-GB", "--json"]).stdout)
    assert [row["tail"] for row in data["relations"]] == ["cheerful", "x", "merry", "glad", "unlucky"]
    other = CliRunner().invoke(app, [*arguments, "--lang", "de"])
    assert other.exit_code == 2
    assert "no relation in 'de'" in other.output


def entries(seed: int) -> list[bytes]:
    generator = random.Random(seed)
    words = [f"w{i}" for i in range(12)] + ["happy", "unhappy"]
    lines = []
    for _ in range(60):
        items = [
            {"word": generator.choice(words), "tags": generator.sample(["rare", "formal", "archaic"], 1)} for _ in "ab"
        ]
        entry = {"word": generator.choice(words), "lang_code": generator.choice(["en", "en-GB", "de"]), "pos": "adj"}
        kind = generator.choice(["synonyms", "antonyms"])
        place = {"senses": [{"glosses": ["g"], kind: items}]} if generator.random() < 0.5 else {kind: items}
        template = {"name": "prefix", "args": {"1": "en", "2": "un", "3": "happy"}}
        lines.append(json.dumps({**entry, **place, "etymology_templates": [template]}).encode())
    return [*lines, b"broken", b'{"cut', b""]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3), st.randoms(use_true_random=False))
def test_shuffled_input_gives_the_same_bytes(tmp_path: Path, seed: int, generator: random.Random) -> None:
    """Lines within files, files within a folder, and sources within a recipe in any order."""
    lines, pairs = entries(seed), [f"w{i}\tw{i + 1}" for i in range(9)]
    saved = []
    for turn in range(2):
        folder = tmp_path / str(turn)
        (folder / "dump").mkdir(parents=True, exist_ok=True)
        for old in (folder / "dump").iterdir():
            old.unlink()
        count = 1 + 2 * turn
        for shard in range(count):
            (folder / f"dump/{shard}.jsonl").write_bytes(b"\n".join(lines[shard::count]))
        (folder / "pairs.tsv").write_text("\n".join(pairs))
        sources = [LexiconSource(kind="wiktionary", path=str(folder / "dump")),
                   LexiconSource(kind="pairs", relation="synonym", path=str(folder / "pairs.tsv"))]  # fmt: skip
        generator.shuffle(sources)
        lexicon = build_lexicon(LexiconConfig(sources=tuple(sources), polarity=True, max_synonyms=4))
        lexicon.save(folder / "out")
        saved.append((folder / "out/relations.parquet").read_bytes())
        generator.shuffle(lines)
        generator.shuffle(pairs)
    assert saved[0] == saved[1]
