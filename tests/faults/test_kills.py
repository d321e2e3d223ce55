"""kill -9 at random moments of every preparing stage, of evaluation and of the page: the same bytes in the end.

A moment is either a file operation of the stage, drawn from those that an uninterrupted run does, or a delay, drawn from
the time that it takes. Training is killed in tests of its own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

from commands import Nursery, content, nursery, rests, write_world
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

    def kill(self, begin: str, span: tuple[int, float], *command: str) -> None:
        """One kill within so many operations or seconds after `begin`."""
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


def kill_preparation(folder: Path, kills: int, seed: int, told: Callable[[str], None]) -> None:
    recipe = str(write_recipe(folder, write_world(folder)))
    run, whole = folder / "run", folder / "whole"
    command = ("distill", recipe, "--arm", "pruned")
    with nursery(folder) as home:
        first = home.run(*command, begin=f"{STAGES[0]}: started")
        assert first.code == 0, first.said
        spans = {stage: first.span(f"{stage}: started", f"{stage}: done") for stage in STAGES}
        run.rename(whole)
        killer = Killer(home, seed)
        for stage in STAGES:
            for _ in range(kills):
                killer.kill(f"{stage}: started", spans[stage], *command)
        last = home.run(*command)
    assert last.code == 0, last.said
    assert killer.written <= reused_in(last.said)
    assert content(run) == content(whole)
    assert rests(run) == []
    told(f"{killer.ordered} kills of {len(STAGES)} stages, {killer.met} met the command alive")
    assert killer.met >= killer.ordered * 0.6


def test_two_kills_of_every_preparing_stage(tmp_path: Path, told: Callable[[str], None]) -> None:
    kill_preparation(tmp_path, 2, 1, told)
