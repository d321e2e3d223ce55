"""Kills at random moments of commands, and what must hold after each."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from commands import Ended, Nursery

from tally import Tally

STAGES = (
    "tokens train", "tokens heldout", "lexicon", "linking", "positions", "sample", "senses", "coverage", "gold senses",
)  # fmt: skip


def done_in(said: str) -> set[str]:
    """Stages that a command reported as written."""
    return set(re.findall(r"\] ([\w @+-]+?): done in", said))


def reused_in(said: str) -> set[str]:
    """Stages that a command found done."""
    return set(re.findall(r"\] ([\w @+-]+?): reused", said))


class Killer:
    """Runs a command again and again, killing it, and keeps count."""

    def __init__(self, home: Nursery, seed: int, told: Tally) -> None:
        self.home, self.generator, self.told = home, random.Random(seed), told
        self.ordered = self.met = 0
        self.written: set[str] = set()

    def kill(self, begin: str, span: tuple[int, float], *command: str) -> bool:
        """One kill within so many operations or seconds after `begin`; whether it met the command alive."""
        by_time = self.generator.random() < 0.5
        moment = self.generator.random()
        order = {"delay": moment * span[1]} if by_time else {"event": 1 + int(moment * span[0])}
        ended = self.home.run(*command, begin=begin, **order)
        met = ended.code == -9
        self.ordered += 1
        self.met += met
        self.told.add("faults", "kills")
        self.told.add("faults", "kills that met a command alive", int(met))
        assert met or ended.code == 0, ended.said
        if ended.begun:
            assert self.written <= reused_in(ended.said) | done_in(ended.said), "what was reported written is reused"
            assert not self.written & done_in(ended.said)
        self.written |= done_in(ended.said)
        return met

    def kill_within(
        self,
        parts: Sequence[tuple[str, str]],
        kills: int,
        first: Ended,
        command: tuple[str, ...],
        back: Callable[[], object],
    ) -> None:
        """So many kills in every part of a command, each from one of its lines until another.

        Args:
            parts: beginnings of the two lines; an empty second one is the command's end.
            kills: in each.
            first: the command as it went when it was left alone.
            command: what is run.
            back: brings back what the command began with, where it came to its end: the next kill would find nothing.
        """
        for begin, end in parts:
            for _ in range(kills):
                if not self.kill(begin, first.span(begin, end), *command):
                    back()
                    self.written.clear()

    def outcome(self, of: str) -> str:
        """The count as a sentence; most kills must have met the command: how many depends on how busy all is."""
        assert self.met >= self.ordered / 3
        return f"{self.ordered} kills of {of}, {self.met} met the command alive"


def copy_of(folder: Path, target: Path) -> None:
    """The target as an exact copy of the folder, whatever it was."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
