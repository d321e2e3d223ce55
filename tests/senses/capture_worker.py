"""A capture in a process of its own, which may be killed."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

from senses_fakes import FakeTeacher, corpus, identity, random_documents, settings

from sensekd.senses import pool, rows
from sensekd.senses.capture import CapturePlan, capture_into

DOCUMENTS = random_documents(11, count=400)
CONFIG = settings(assignment="next", samples_per_token=60)


def small_steps() -> None:
    """Compactions and growth many times within a small corpus."""
    pool._BLOCK, rows._FIRST, pool._MAPPED = 16, 4, 512


def main(folder: Path, work: Path, line: Connection | None = None) -> None:
    """Capture with a record after every batch, and say over the line how many windows are done."""

    def say(done: int, total: int) -> None:
        if line is not None:
            line.send(done)

    small_steps()
    capture_into(
        folder,
        FakeTeacher(),
        corpus(DOCUMENTS),
        CONFIG,
        identity(),
        say,
        CapturePlan(work=work, every=0.0),
    )
