"""kill -9 at random moments of every preparing stage, of evaluation and of the page: the same bytes in the end.

A moment is either a file operation of the stage, drawn from those that an uninterrupted run does, or a delay, drawn
from the time that it takes. Training is killed in tests of its own.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sample_results
from commands import Nursery, content, rests, write_world
from tiny_run import write_recipe

STAGES = (
    "tokens train", "tokens heldout", "lexicon", "linking", "positions", "sample", "senses", "coverage", "gold senses",
)  # fmt: skip


def done_in(said: str) -> set[str]:
    """Stages that a command reported as written."""
    return set(re.findall(r"\] ([\w ]+?): done in", said))


def reused_in(said: str) -> set[str]:
    return set(re.findall(r"\] ([\w ]+?): reused", said))


class Killer:
    """Runs a command again and again, killing it, and keeps count."""

    def __init__(self, home: Nursery, seed: int) -> None:
        self.home, self.generator = home, random.Random(seed)
        self.ordered = self.met = 0
        self.written: set[str] = set()

    def kill(self, begin: str, span: tuple[int, float], *command: str) -> bool:
        """One kill within so many operations or seconds after `begin`; whether it met the command alive."""
        by_time = self.generator.random() < 0.5
        moment = self.generator.random()
        order = {"delay": moment * span[1]} if by_time else {"event": 1 + int(moment * span[0])}
        ended = self.home.run(*command, begin=begin, **order)
        self.ordered += 1
        assert ended.code in (-9, 0), ended.said
        self.met += ended.code == -9
        if ended.begun:
            assert self.written <= reused_in(ended.said) | done_in(ended.said), "what was reported written is reused"
            assert not self.written & done_in(ended.said)
        self.written |= done_in(ended.said)
        return bool(ended.code == -9)


def kill_preparation(home: Nursery, folder: Path, kills: int, seed: int) -> str:
    recipe = str(write_recipe(folder, write_world(folder)))
    run, whole = folder / "run", folder / "whole"
    command = ("distill", recipe, "--arm", "pruned")
    first = home.run(*command, begin=f"{STAGES[0]}: started")
    assert first.code == 0, first.said
    spans = {stage: first.span(f"{stage}: started", f"{stage}: done") for stage in STAGES}
    run.rename(whole)
    killer = Killer(home, seed)
    for stage in STAGES:
        for _ in range(kills):
            if not killer.kill(f"{stage}: started", spans[stage], *command):
                # It came to its end, and the next kill would find nothing under way.
                shutil.rmtree(run)
                killer.written.clear()
    last = home.run(*command)
    assert last.code == 0, last.said
    assert killer.written <= reused_in(last.said)
    assert content(run) == content(whole)
    assert rests(run) == []
    # How many find it alive depends on how busy the machine is; most of them should.
    assert killer.met >= killer.ordered / 3
    return f"{killer.ordered} kills of {len(STAGES)} stages, {killer.met} met the command alive"


def test_two_kills_of_every_preparing_stage(home: Nursery, tmp_path: Path, told: Callable[[str], None]) -> None:
    told(kill_preparation(home, tmp_path, 2, 1))


@pytest.mark.long
def test_fifty_kills_of_the_preparing_stages(home: Nursery, tmp_path: Path, told: Callable[[str], None]) -> None:
    told(kill_preparation(home, tmp_path, 6, 2))


def kill_evaluation(home: Nursery, folder: Path, kills: int, seed: int) -> str:
    recipe = str(write_recipe(folder, write_world(folder)))
    model = folder / "teacher"
    command = ("evaluate", str(model), "--recipe", recipe, "--json")
    before, first = content(model), home.run(*command, begin="evaluating")
    assert first.code == 0, first.said
    metrics = json.loads(first.said.splitlines()[-1])["metrics"]
    assert metrics["kl"] == 0
    killer = Killer(home, seed)
    for _ in range(kills):
        killer.kill("evaluating", first.span("evaluating", ""), *command)
    last = home.run(*command)
    assert json.loads(last.said.splitlines()[-1])["metrics"] == metrics
    assert content(model) == before
    assert rests(folder / "run") == []
    assert killer.met >= killer.ordered * 0.4
    return f"{killer.ordered} kills of an evaluation, {killer.met} met it alive"


def test_two_kills_of_an_evaluation(home: Nursery, tmp_path: Path, told: Callable[[str], None]) -> None:
    told(kill_evaluation(home, tmp_path, 2, 3))


@pytest.mark.long
def test_ten_kills_of_an_evaluation(home: Nursery, tmp_path: Path, told: Callable[[str], None]) -> None:
    told(kill_evaluation(home, tmp_path, 10, 4))


def write_results(folder: Path) -> None:
    """A finished run, as far as the page needs one."""
    results, histories = sample_results.results(), sample_results.histories(steps=60)
    (folder / "records").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    for entry in results["arms"]:
        name = f"{entry['arm']}-{entry['seed']}"
        (folder / "records" / f"{name}.json").write_text(json.dumps({"history": histories.get(name, [])}))


def kill_report(home: Nursery, folder: Path, kills: int, seed: int) -> str:
    run = folder / "run"
    write_results(run)
    command, page = ("report", str(run)), run / "report.html"
    first = home.run(*command)
    assert first.code == 0, first.said
    whole = content(run)
    killer = Killer(home, seed)
    for number in range(kills):
        if number % 2:
            page.unlink(missing_ok=True)
        killer.kill("", first.span("", ""), *command)
        assert not page.exists() or page.read_text().rstrip().endswith("</html>"), "half a page is never in its place"
    assert home.run(*command).code == 0
    assert content(run) == whole
    assert rests(run) == []
    return f"{killer.ordered} kills of a report, {killer.met} met it alive"


def test_two_kills_of_a_report(home: Nursery, tmp_path: Path, told: Callable[[str], None]) -> None:
    told(kill_report(home, tmp_path, 2, 5))


@pytest.mark.long
def test_ten_kills_of_a_report(home: Nursery, tmp_path: Path, told: Callable[[str], None]) -> None:
    told(kill_report(home, tmp_path, 10, 6))


@pytest.mark.long
def test_kills_of_a_whole_run_while_its_worker_evaluates(
    home: Nursery, tmp_path: Path, told: Callable[[str], None]
) -> None:
    recipe = str(write_recipe(tmp_path, write_world(tmp_path)))
    run, whole, command = tmp_path / "run", tmp_path / "whole", ("run", recipe, "--set", "training.steps=2")
    first = home.run(*command, begin="tokens train: started")
    assert first.code == 0, first.said
    run.rename(whole)
    killer = Killer(home, 7)
    parts = [("gold senses:", "teacher-0:"), ("teacher-0:", "pruned-0:"), ("dskd-0:", "")]
    for begin, end in parts:
        for _ in range(4):
            killer.kill(begin, first.span(begin, end), *command)
    assert home.run(*command).code == 0
    found, expected = content(run), content(whole)
    for tree in (found, expected):
        for name in [name for name in tree if name.startswith("records/")]:
            tree[name].pop("resumed_from", None)
            tree[name].get("student", {}).pop("seconds", None)
    assert found == expected
    assert rests(run) == []
    told(f"{killer.ordered} kills of evaluation, results and page, {killer.met} met the run alive")
