"""kill -9 at random moments of stages, an evaluation, a suite and a page: the bytes of a run left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import Nursery, content, rests, timeless, write_results, write_world
from killing import STAGES, Killer, copy_of, reused_in
from paper_world import World, model, tokenizer
from tiny_run import write_recipe

from tally import Tally


def kill_preparation(home: Nursery, folder: Path, kills: int, seed: int, told: Tally) -> None:
    recipe = str(write_recipe(folder, write_world(folder)))
    run, whole = folder / "run", folder / "whole"
    command = ("distill", recipe, "--arm", "pruned")
    first = home.run(*command, begin=f"{STAGES[0]}: started")
    assert first.code == 0, first.said
    run.rename(whole)
    killer = Killer(home, seed, told)
    parts = [(f"{stage}: started", f"{stage}: done") for stage in STAGES]
    killer.kill_within(parts, kills, first, command, lambda: shutil.rmtree(run))
    last = home.run(*command)
    assert last.code == 0, last.said
    assert killer.written <= reused_in(last.said)
    assert content(run) == content(whole)
    assert rests(run) == []
    told(killer.outcome(f"{len(STAGES)} stages"))


def test_two_kills_of_every_preparing_stage(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_preparation(home, tmp_path, 2, 1, told)


@pytest.mark.long
def test_fifty_kills_of_the_preparing_stages(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_preparation(home, tmp_path, 6, 2, told)


def kill_evaluation(home: Nursery, folder: Path, kills: int, seed: int, told: Tally) -> None:
    recipe = str(write_recipe(folder, write_world(folder)))
    model = folder / "teacher"
    command = ("evaluate", str(model), "--recipe", recipe, "--json")
    before, first = content(model), home.run(*command, begin="evaluating")
    assert first.code == 0, first.said
    metrics = json.loads(first.said.splitlines()[-1])["metrics"]
    assert metrics["kl"] == 0
    killer = Killer(home, seed, told)
    killer.kill_within([("evaluating", "")], kills, first, command, lambda: None)
    last = home.run(*command)
    assert json.loads(last.said.splitlines()[-1])["metrics"] == metrics
    assert content(model) == before
    assert rests(folder / "run") == []
    told(killer.outcome("an evaluation"))


def test_two_kills_of_an_evaluation(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_evaluation(home, tmp_path, 2, 3, told)


@pytest.mark.long
def test_ten_kills_of_an_evaluation(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_evaluation(home, tmp_path, 10, 4, told)


def kill_suite(home: Nursery, folder: Path, kills: int, seed: int, told: Tally) -> None:
    World(folder / "data")
    pieces = tokenizer()
    pieces.save_pretrained(folder / "model")
    model(len(pieces), 256).save_pretrained(folder / "model")
    output, whole = folder / "results.json", folder / "whole.json"
    options = ("--suite", "paper-chat", "--data", str(folder / "data"), "--device", "cpu", "--output", str(output))
    command = ("evaluate", str(folder / "model"), *options)
    first = home.run(*command, begin="evaluating")
    assert first.code == 0, first.said
    output.rename(whole)
    killer = Killer(home, seed, told)
    killer.kill_within([("evaluating", "")], kills, first, command, lambda: output.unlink())
    last = home.run(*command)
    assert last.code == 0, last.said
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["data", "model", "results.json", "whole.json"]
    told(killer.outcome("a suite"))


def test_two_kills_of_a_suite(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_suite(home, tmp_path, 2, 7, told)


@pytest.mark.long
def test_ten_kills_of_a_suite(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_suite(home, tmp_path, 10, 8, told)


def kill_report(home: Nursery, folder: Path, kills: int, seed: int, told: Tally) -> None:
    run = folder / "run"
    write_results(run)
    command, page = ("report", str(run)), run / "report.html"
    first = home.run(*command)
    assert first.code == 0, first.said
    whole = content(run)
    killer = Killer(home, seed, told)
    for number in range(kills):
        if number % 2:
            page.unlink(missing_ok=True)
        killer.kill("", first.span("", ""), *command)
        assert not page.exists() or page.read_text().rstrip().endswith("</html>"), "half a page is never in its place"
    assert home.run(*command).code == 0
    assert content(run) == whole
    assert rests(run) == []
    told(killer.outcome("a report"))


def test_two_kills_of_a_report(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_report(home, tmp_path, 2, 5, told)


@pytest.mark.long
def test_ten_kills_of_a_report(home: Nursery, tmp_path: Path, told: Tally) -> None:
    kill_report(home, tmp_path, 10, 6, told)


@pytest.mark.long
def test_kills_of_a_whole_run_while_its_worker_evaluates(home: Nursery, tmp_path: Path, told: Tally) -> None:
    recipe = str(write_recipe(tmp_path, write_world(tmp_path)))
    run, whole, prepared = tmp_path / "run", tmp_path / "whole", tmp_path / "prepared"
    assert home.run("distill", recipe, "--arm", "pruned").code == 0
    shutil.rmtree(run / "students")
    run.rename(prepared)
    command = ("run", recipe, "--set", "training.steps=2")
    copy_of(prepared, run)
    first = home.run(*command, begin="gold senses: reused")
    assert first.code == 0, first.said
    run.rename(whole)
    copy_of(prepared, run)
    killer = Killer(home, 7, told)
    parts = [("gold senses:", "teacher-0:"), ("teacher-0:", "pruned-0:"), ("pruned-0:", "dskd-0:"), ("dskd-0:", "")]
    killer.kill_within(parts, 4, first, command, lambda: copy_of(prepared, run))
    last = home.run(*command)
    assert last.code == 0, last.said
    assert killer.written <= reused_in(last.said)
    assert timeless(run) == timeless(whole)
    assert rests(run) == []
    told(killer.outcome("jobs, results and page"))
