"""A capture in a process of its own, which may be killed: `capture_worker.py FOLDER WORK`."""

from __future__ import annotations

import sys
from pathlib import Path

from senses_fakes import FakeTeacher, corpus, identity, random_documents, settings

from sensekd.senses import pool, rows
from sensekd.senses.capture import CapturePlan, capture_into

DOCUMENTS = random_documents(11, count=400)
CONFIG = settings(assignment="next", samples_per_token=60)


def small_steps() -> None:
    """Compactions and growth many times within a small corpus."""
    pool._BLOCK, rows._FIRST, pool._MAPPED = 16, 4, 512


def main(folder: Path, work: Path) -> None:
    """Capture with a record after every batch, and say on standard output how far it is."""
    small_steps()
    capture_into(
        folder,
        FakeTeacher(),
        corpus(DOCUMENTS),
        CONFIG,
        identity(),
        lambda done, total: print(done, total, flush=True),
        CapturePlan(work=work, every=0.0),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
