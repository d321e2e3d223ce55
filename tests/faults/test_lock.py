"""Two runs into one folder: the second names the first; locks of the dead are taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from commands import Nursery, rests
from tiny_run import write_inputs, write_recipe

from sensekd.errors import InputError
from sensekd.pipeline import lock
from sensekd.pipeline.lock import LOCK, Holder, held, part_lock, run_lock

HOLD = """
import sys, time
from pathlib import Path
from sensekd.pipeline.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holding(folder: Path, script: str = HOLD) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def ended(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_the_second_run_names_the_first_and_writes_nothing(home: Nursery, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, write_inputs(tmp_path)))
    process = holding(tmp_path / "run")
    try:
        for command in (("run", recipe), ("senses", "build", recipe, "--shard", "1/2"), ("lexicon", "build", recipe)):
            second = home.run(*command)
            assert second.code == 2, second.said
            assert "another run works in" in second.said
            assert f"process {process.pid} on {platform.node()}, since 20" in second.said
            assert "Traceback" not in second.said
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    finally:
        ended(process)
    assert (tmp_path / "run" / LOCK).is_file(), "who is killed leaves the file behind"
    assert home.run("lexicon", "build", recipe).code == 0, "but not the lock"
    assert rests(tmp_path / "run") == []


def test_parts_are_held_side_by_side_but_not_twice_nor_beside_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_GRACE", 0.1)

    def refused(other: AbstractContextManager[None]) -> str:
        with pytest.raises(InputError, match="another run works in") as caught, other:
            pass
        return str(caught.value)

    with part_lock(tmp_path, "sample-1-of-2"), part_lock(tmp_path, "sample-2-of-2"):
        assert str(os.getpid()) in refused(part_lock(tmp_path, "sample-1-of-2"))
        assert str(os.getpid()) in refused(run_lock(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with run_lock(tmp_path):
        refused(part_lock(tmp_path, "sample-1-of-2"))
        with run_lock(tmp_path):
            assert len(held()) == 1
        assert (tmp_path / LOCK).is_file(), "the inner block leaves the lock to the outer one"
    assert list(tmp_path.iterdir()) == []
    assert held() == ()


def test_what_a_killed_run_left_is_cleared_away_and_a_moved_folder_comes_back(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / ".senses.json.abcd1234").write_text("{")
    (tmp_path / ".lexicon.abcd1234").mkdir()
    (tmp_path / ".senses.abcd1234.previous").mkdir()
    (tmp_path / ".senses.abcd1234.previous" / "f").write_text("old")
    with run_lock(tmp_path):
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
            LOCK, "senses", "senses/f", "stages",
        ]  # fmt: skip


def test_a_process_that_inherits_the_lock_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_GRACE", 0.1)
    with run_lock(tmp_path):
        child = subprocess.Popen(["sleep", "30"], pass_fds=held())
        # As after kill -9: this process lets go without a word.
        for descriptor in held():
            os.close(os.dup(descriptor))
    try:
        with pytest.raises(InputError, match="another run"), part_lock(tmp_path, "x"), run_lock(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


ORPHAN = """
import subprocess, sys, time
from pathlib import Path
from sensekd.pipeline.lock import held, run_lock
with run_lock(Path(sys.argv[1])):
    subprocess.Popen(["sleep", "2"], pass_fds=held(), stdout=subprocess.DEVNULL)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("patience", [0.3, 30.0])
def test_workers_of_a_killed_run_are_waited_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(lock, "_GRACE", 0.1)
    monkeypatch.setattr(lock, "_ORPHANS", patience)
    process = holding(tmp_path, ORPHAN)
    ended(process)
    if patience > 2:
        with run_lock(tmp_path):
            found = Holder.read(tmp_path / LOCK)
            assert found is not None
            assert found.pid == os.getpid()
    else:
        with pytest.raises(InputError, match=f"process {process.pid} on"), run_lock(tmp_path):
            pass


def no_flock(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ({}, False),
        ({"born": "1"}, True),
        ({"pid": 2**22 + 1}, True),
        ({"host": "elsewhere"}, True),
    ],
    ids=["alive", "number given again", "dead", "another host that is silent"],
)
def test_without_the_system_s_locks_the_file_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], free: bool
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_flock)
    monkeypatch.setattr(lock, "_WATCH", 0.3)
    monkeypatch.setattr(lock, "_BEAT", 0.5)
    (tmp_path / LOCK).write_text(json.dumps(asdict(replace(Holder.here(), **change))))
    if free:
        with run_lock(tmp_path):
            assert Holder.read(tmp_path / LOCK) is not None
        assert list(tmp_path.iterdir()) == []
    else:
        with pytest.raises(InputError, match=f"process {os.getpid()} on {platform.node()}"), run_lock(tmp_path):
            pass


def hold_elsewhere(folder: str, ready: Any, end: Any) -> None:
    """A holder that says it is on another host, and that no lock of the system protects."""
    platform.node = lambda: "elsewhere"  # type: ignore[assignment]
    fcntl.flock = no_flock  # type: ignore[assignment]
    lock._BEAT = 0.1  # type: ignore[misc]
    with run_lock(Path(folder)):
        ready.set()
        end.wait(30)


def test_a_run_on_another_host_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_WATCH", 4.0)
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=hold_elsewhere, args=(str(tmp_path), ready, end))
    process.start()
    assert ready.wait(30)
    with pytest.raises(InputError, match=f"process {process.pid} on elsewhere"), run_lock(tmp_path):
        pass
    end.set()
    process.join()
    with run_lock(tmp_path):
        pass


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"host": 1}', '{"host": "h", "pid": -1, "started": "", "born": ""}']
)
def test_a_damaged_lock_file_is_nobody_s(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    with run_lock(tmp_path):
        assert Holder.read(tmp_path / LOCK) is not None


def test_a_worker_ends_with_its_run(tmp_path: Path) -> None:
    """The run is killed while its worker is in a library that lets no other thread run, as at its imports."""
    script = (
        "import subprocess, sys, time, os\n"
        "worker = subprocess.Popen([sys.executable, '-c',\n"
        "    'import sys, time; from sensekd.pipeline.tether import end_with; end_with(int(sys.argv[1]));'\n"
        "    'print(0, flush=True); sum(range(10**10))',\n"
        "    str(os.getpid())], start_new_session=True, stdout=subprocess.PIPE)\n"
        "worker.stdout.readline()\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    assert lock._born(worker) is not None
    ended(process)
    for _ in range(200):
        status = Path(f"/proc/{worker}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        os.sched_yield()
        signal.sigtimedwait([], 0.02)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker outlived its run")
