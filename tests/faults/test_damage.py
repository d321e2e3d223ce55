"""Artefacts cut short or with a flipped bit: rebuilt by the run, one clear error elsewhere, never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import Nursery, content, rests, write_results, write_world
from tiny_run import write_recipe

from sensekd.artefacts import MANIFEST
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.lexicon import Lexicon
from sensekd.linking import TokenRelations
from sensekd.pipeline.results import read_results
from sensekd.pipeline.single import open_run
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.sample import StateSample
from tally import Tally

READERS: dict[str, Callable[[Path], object]] = {
    "tokens-train": TokenDocuments.open,
    "lexicon": Lexicon.load,
    "relations": TokenRelations.load,
    "sample": StateSample.load,
    "senses": SenseDictionary.load,
}


@pytest.fixture(scope="module")
def finished(home: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose every preparing stage is done, and its recipe."""
    folder = tmp_path_factory.mktemp("damage")
    recipe = str(write_recipe(folder, write_world(folder)))
    ended = home.run("distill", recipe, "--arm", "pruned")
    assert ended.code == 0, ended.said
    return folder / "run", recipe


@contextmanager
def damaged(path: Path, generator: random.Random) -> Iterator[str]:
    """The file cut short, emptied or with one bit flipped, put right again afterwards."""
    whole = path.read_bytes()
    kind = generator.choice(["cut", "cut", "flip", "flip", "flip", "empty"])
    at = generator.randrange(len(whole))
    if kind == "flip":
        broken = whole[:at] + bytes([whole[at] ^ 1 << generator.randrange(8)]) + whole[at + 1 :]
    else:
        broken = whole[: at if kind == "cut" else 0]
    path.write_bytes(broken)
    try:
        yield f"{path.name}: {kind} at {at} of {len(whole)}"
    finally:
        path.write_bytes(whole)


def read_damaged(run: Path, cases: int, seed: int, told: Tally) -> None:
    generator = random.Random(seed)
    refused = 0
    for name, reader in READERS.items():
        files = sorted(path for path in (run / name).iterdir() if path.is_file())
        for _ in range(cases):
            with damaged(generator.choice(files), generator) as what:
                told.add("faults", "damaged files read")
                try:
                    reader(run / name)
                except InputError:
                    refused += 1
                except Exception as error:
                    raise AssertionError(f"{name}/{what}") from error
        reader(run / name)
    assert refused > cases * len(READERS) / 2
    told(f"{cases * len(READERS)} damaged files read, {refused} refused, the rest read without their checksums")


def test_readers_refuse_what_is_damaged(finished: tuple[Path, str], told: Tally) -> None:
    read_damaged(finished[0], 60, 1, told)


@pytest.mark.long
def test_readers_refuse_what_is_damaged_at_length(finished: tuple[Path, str], told: Tally) -> None:
    read_damaged(finished[0], 4_000, 2, told)


@pytest.mark.parametrize("name", list(READERS))
def test_no_flipped_bit_of_a_manifest_goes_unseen(finished: tuple[Path, str], name: str) -> None:
    path = finished[0] / name / MANIFEST
    whole = path.read_bytes()
    generator = random.Random(name)
    try:
        for at in generator.sample(range(len(whole)), 40):
            broken = whole[:at] + bytes([whole[at] ^ 1 << generator.randrange(7)]) + whole[at + 1 :]
            path.write_bytes(broken)
            try:
                same = json.loads(broken) == json.loads(whole) or b'"seal"' not in broken
            except ValueError:
                same = False
            if not same:
                with pytest.raises(InputError):
                    READERS[name](path.parent)
    finally:
        path.write_bytes(whole)


def rebuild_damaged(home: Nursery, finished: tuple[Path, str], cases: int, seed: int, told: Tally) -> None:
    """Damage several files at once, run again, and find the bytes of the run that was left alone."""
    run, recipe = finished
    whole = content(run)
    generator = random.Random(seed)
    count = 0
    # A damaged dictionary ends a run: it may have been built elsewhere. A sample is read only to be clustered.
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.parent.name not in {"senses", "sample"})
    for _ in range(cases):
        for path in generator.sample(files, 4):
            original = path.read_bytes()
            with damaged(path, generator) as what:
                broken = path.read_bytes()
            path.write_bytes(broken)
            count += broken != original
        ended = home.run("distill", recipe, "--arm", "pruned")
        assert ended.code == 0, (what, ended.said)
        assert content(run) == whole, what
        assert rests(run) == []
    with damaged(run / "sample" / "sample.safetensors", generator) as what:
        shutil.rmtree(run / "senses")
        ended = home.run("distill", recipe, "--arm", "pruned")
        assert "sample: done" in ended.said, what
        assert content(run) == whole
    told.add("faults", "damaged files made again", count + 1)
    told(f"{count + 1} damaged files of a run in {cases} runs made again")


def test_a_run_makes_again_what_is_damaged(home: Nursery, finished: tuple[Path, str], told: Tally) -> None:
    rebuild_damaged(home, finished, 3, 5, told)


@pytest.mark.long
def test_a_run_makes_again_what_is_damaged_at_length(home: Nursery, finished: tuple[Path, str], told: Tally) -> None:
    rebuild_damaged(home, finished, 20, 6, told)


def test_commands_that_read_say_what_is_wrong(home: Nursery, finished: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    write_results(tmp_path / "page")
    commands: list[tuple[Path, tuple[str, ...]]] = [
        (run / "lexicon/relations.parquet", ("lexicon", "show", "w3", "--lexicon", str(run / "lexicon"))),
        (run / "senses/senses.safetensors", ("senses", "show", str(run), "w3", "--verify")),
        (run / "sample/sample.safetensors", ("senses", "merge", str(run), "--output", str(tmp_path / "out"))),
        (run / "recipe.json", ("senses", "show", str(run), "w3")),
        (tmp_path / "page/results.json", ("report", str(tmp_path / "page"))),
        (tmp_path / "page/records/kd-0.json", ("report", str(tmp_path / "page"))),
    ]
    for path, command in commands:
        whole = path.read_bytes()
        for broken in (whole[: len(whole) // 2], b"", b"[]", b"\x00" * len(whole)):
            path.write_bytes(broken)
            ended = home.run(*command)
            assert ended.code == 2, (command, ended.said)
            assert "error:" in ended.said
            assert "Traceback" not in ended.said
        path.write_bytes(whole)


def odd_results() -> Iterator[Any]:
    """Results of the right outline with one thing wrong."""
    yield from (None, [], 1, "x", {}, {"arms": None}, {"arms": [1]}, {"arms": [{"arm": "../..", "seed": 0}]})


def test_results_of_another_form_are_refused(tmp_path: Path) -> None:
    for tree in odd_results():
        (tmp_path / "results.json").write_text(json.dumps(tree))
        with pytest.raises(InputError):
            read_results(tmp_path)
    (tmp_path / "recipe.json").write_text("[" * 100_000)
    with pytest.raises(InputError):
        open_run(tmp_path)
