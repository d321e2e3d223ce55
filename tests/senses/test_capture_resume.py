"""A capture that was killed goes on to the same bytes, and leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import capture_worker
import numpy as np
import pytest
from senses_fakes import FakeTeacher, corpus, identity, settings

from forked import ended, forked
from sensekd.senses import pool, rows
from sensekd.senses.capture import CapturePlan, capture_into
from sensekd.senses.journal import Journal
from sensekd.senses.rows import RowFile
from tally import Tally


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, as bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def started(folder: Path, work: Path) -> tuple[BaseProcess, Connection]:
    """A capture, and the line over which it says how far it is."""
    line, end = multiprocessing.Pipe(duplex=False)
    process = forked(capture_worker.main, folder, work, end)
    end.close()
    return process, line


def heard(line: Connection) -> list[int]:
    """Everything that is still said before the end."""
    found: list[int] = []
    with suppress(EOFError):
        while True:
            found.append(line.recv())
    return found


def run_with_kills(tmp_path: Path, kills: int, seed: int, told: Tally) -> int:
    """Kill a capture so many times, let it end, compare with one that was left alone; how many kills met it alive."""
    generator = random.Random(seed)
    work, folder = tmp_path / "work", tmp_path / "sample"
    met = 0
    done_before = 0
    for _ in range(kills):
        process, line = started(folder, work)
        done = 0
        with suppress(EOFError):
            for _ in range(generator.randint(1, 4)):
                done = line.recv()
        time.sleep(generator.random() * 0.004)
        process.kill()
        alive = ended(process) == -signal.SIGKILL
        met += alive
        told.add("faults", "kills")
        told.add("faults", "kills that met a command alive", int(alive))
        if alive and done:
            assert done > done_before, "it goes on from its record, not from the start"
            done_before = done
    process, line = started(folder, work)
    said = heard(line)
    assert ended(process) == 0
    if done_before > 0 and said:
        assert said[0] > done_before
    assert not work.exists(), "a finished capture leaves no journal"
    capture_worker.main(tmp_path / "whole", tmp_path / "other")
    assert files(folder) == files(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"sample", "whole"}
    return met


def test_two_kills(tmp_path: Path, told: Tally) -> None:
    assert run_with_kills(tmp_path, 2, 0, told) == 2


@pytest.mark.long
def test_twelve_kills(tmp_path: Path, told: Tally) -> None:
    assert run_with_kills(tmp_path, 12, 1, told) >= 9


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code catches it."""


def dying(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, *, after: bool) -> None:
    """Let the call number `call` of a method be the last thing that happens, or the last that does not."""
    real = getattr(owner, name)
    count = 0

    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and not after:
            raise Killed
        result = real(*args, **options)
        if count == call:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, wrapped)


def small_capture(folder: Path, work: Path, documents: list[list[int]]) -> None:
    plan = CapturePlan(work=work, every=0.0)
    capture_into(folder, FakeTeacher(), corpus(documents), settings(samples_per_token=20), identity(), plan=plan)


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Journal, "_record"),
        (Journal, "_write"),
        (RowFile, "write"),
        (Path, "unlink"),
        (Path, "hardlink_to"),
        (Path, "rename"),
    ],
)
def test_death_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: bool
) -> None:
    for module, constant, value in ((pool, "_BLOCK", 16), (rows, "_FIRST", 4), (pool, "_MAPPED", 512)):
        monkeypatch.setattr(module, constant, value)
    documents = capture_worker.DOCUMENTS[:40]
    small_capture(tmp_path / "whole", tmp_path / "other", documents)
    whole = files(tmp_path / "whole")
    deaths = 0
    for call in (1, 2, 3, 4, 5, 7, 11, 18, 29, 47, 76):
        folder, work = tmp_path / f"{call}", tmp_path / f"work{call}"
        with monkeypatch.context() as patch:
            dying(patch, owner, name, call, after=after)
            try:
                small_capture(folder, work, documents)
            except Killed:
                deaths += 1
            else:
                break
        small_capture(folder, work, documents)
        assert files(folder) == whole, f"{name} number {call}"
        assert not work.exists()
    assert deaths


def test_a_journal_of_something_else_is_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_BLOCK", 16)
    documents = capture_worker.DOCUMENTS
    with monkeypatch.context() as patch:
        dying(patch, Journal, "_record", 4, after=True)
        with pytest.raises(Killed):
            small_capture(tmp_path / "sample", tmp_path / "work", documents)
    assert (tmp_path / "work" / "progress.json").is_file()
    small_capture(tmp_path / "sample", tmp_path / "work", documents[5:])
    small_capture(tmp_path / "whole", tmp_path / "other", documents[5:])
    assert files(tmp_path / "sample") == files(tmp_path / "whole")


def test_a_damaged_journal_starts_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "k", 0.0)
    journal.rewrite(np.zeros(3, dtype=journal.rows().dtype), 8)
    journal.append(np.zeros(2, dtype=journal.rows().dtype), 16)
    again = Journal(tmp_path, "k", 0.0)
    assert (again.progress.windows, len(again.rows())) == (16, 5)
    assert Journal(tmp_path, "another", 0.0).progress.windows == 0
    (tmp_path / "rows-1").write_bytes(b"cut")
    assert Journal(tmp_path, "k", 0.0).progress.windows == 0
    (tmp_path / "progress.json").write_text("{")
    assert Journal(tmp_path, "k", 0.0).progress.windows == 0


def test_a_full_disk_is_an_error_that_can_be_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensekd.errors import SenseKDError

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sensekd.senses.rows.os.posix_fallocate", full)
        with pytest.raises(SenseKDError, match="No space left"):
            small_capture(tmp_path / "sample", tmp_path / "work", capture_worker.DOCUMENTS)
    assert not (tmp_path / "sample").exists()
    small_capture(tmp_path / "sample", tmp_path / "work", capture_worker.DOCUMENTS)
    assert (tmp_path / "sample" / "manifest.json").is_file()
