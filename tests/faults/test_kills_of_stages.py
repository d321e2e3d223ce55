"""kill -9 while a cache is written, a student trained, prompts answered, dictionaries merged and updated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import Nursery, content, rests, timeless, write_world
from killing import Killer, copy_of, reused_in
from test_data_pipeline import mixture
from tiny_run import WORDS, write_corpus, write_recipe

from tally import Tally


def kill_training(home: Nursery, folder: Path, kills: int, seed: int, told: Tally) -> None:
    tree = write_world(folder)
    tree["training"] |= {"steps": 8, "save_every": 1}
    tree["cache"] = {"mode": "before", "top": 8}
    recipe = str(write_recipe(folder, tree))
    run, whole, prepared = folder / "run", folder / "whole", folder / "prepared"
    assert home.run("distill", recipe, "--arm", "pruned").code == 0
    copy_of(run, prepared)
    command = ("distill", recipe, "--arm", "dskd", "--json")
    first = home.run(*command, begin="distill dskd-0: started")
    assert first.code == 0, first.said
    run.rename(whole)
    copy_of(prepared, run)
    cache = next(text for text, *_ in first.marks if text.startswith("cache ")).partition(":")[0]
    killer = Killer(home, seed, told)
    parts = [(f"{cache}: started", f"{cache}: done"), (f"{cache}: ", "distill dskd-0: done")]
    killer.kill_within(parts, kills, first, command, lambda: copy_of(prepared, run))
    last = home.run(*command)
    assert last.code == 0, last.said
    assert killer.written <= reused_in(last.said)
    assert timeless(run) == timeless(whole)
    assert rests(run) == []
    step = json.loads(last.said.splitlines()[-1])["resumed_from"]
    told(killer.outcome("a cache and a training") + f"; the last one went on from step {step}")


def test_two_kills_of_a_cache_and_of_a_training(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_training(home, tmp_path, 2, 8, told)


@pytest.mark.long
def test_sixteen_kills_of_caches_and_trainings(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_training(home, tmp_path, 8, 9, told)


def kill_responses(home: Nursery, folder: Path, kills: int, seed: int, told: Tally) -> None:
    recipe = str(write_recipe(folder, mixture(folder)))
    run, whole, command = folder / "run", folder / "whole", ("respond", recipe)
    stage = "responses train 1"
    first = home.run(*command, begin=f"{stage}: started")
    assert first.code == 0, first.said
    run.rename(whole)
    killer = Killer(home, seed, told)
    killer.kill_within([(f"{stage}: started", "")], kills, first, command, lambda: shutil.rmtree(run))
    last = home.run(*command)
    assert last.code == 0, last.said
    assert timeless(run) == timeless(whole)
    assert rests(run) == []
    told(killer.outcome("the teacher's answers"))


def test_two_kills_of_the_teachers_answers(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_responses(home, tmp_path, 2, 10, told)


@pytest.mark.long
def test_eight_kills_of_the_teachers_answers(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_responses(home, tmp_path, 8, 11, told)


def write_runs(home: Nursery, folder: Path) -> tuple[Path, Path, Path]:
    """Two runs with a dictionary each, and the corpus of the second."""
    tree = write_world(folder)
    recipe, corpus = str(write_recipe(folder, tree)), folder / "more.jsonl"
    write_corpus(corpus, 40, 7, WORDS)
    others = ("--set", f"corpus.path={corpus}", "--set", f"output={folder / 'other'}")
    for sets in ((), others):
        ended = home.run("senses", "build", recipe, *sets)
        assert ended.code == 0, ended.said
    return folder / "run", folder / "other", corpus


def kill_merge_and_update(home: Nursery, folder: Path, kills: int, seed: int, told: Tally) -> None:
    run, other, corpus = write_runs(home, folder)
    output, base, whole = folder / "merged", folder / "base", folder / "whole"
    killer = Killer(home, seed, told)

    merge = ("senses", "merge", str(run), str(other), "--output", str(output))
    first = home.run(*merge)
    assert first.code == 0, first.said
    output.rename(whole)
    killer.kill_within([("", "")], kills, first, merge, lambda: shutil.rmtree(output))
    assert home.run(*merge).code == 0
    assert content(output) == content(whole)
    assert rests(output) == []

    copy_of(run, base)
    shutil.rmtree(whole)
    update = ("senses", "update", str(run), "--corpus", str(corpus))
    first = home.run(*update)
    assert first.code == 0, first.said
    run.rename(whole)
    copy_of(base, run)
    for _ in range(kills):
        # What it reported stands under `work`, which it clears away at its end: killed there it begins once more.
        killer.written.clear()
        killer.kill_within([("", "")], 1, first, update, lambda: copy_of(base, run))
    last = home.run(*update)
    assert last.code == 0, last.said
    assert content(run) == content(whole)
    assert rests(run) == []
    told(killer.outcome("a merge and an update in place"))


def test_two_kills_of_a_merge_and_of_an_update(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_merge_and_update(home, tmp_path, 2, 12, told)


@pytest.mark.long
def test_sixteen_kills_of_merges_and_updates(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_merge_and_update(home, tmp_path, 8, 13, told)
