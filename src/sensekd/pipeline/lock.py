"""One run at a time in a folder: a lock file that names who works there, and that dies with the process.

The lock is `flock` on `run.lock`: the system lets go of it when the process ends, however it ends, so nothing stale is
ever left to clear away by hand. NFS (Linux, with its lock service) carries it from host to host. Where a file system
knows no such locks, or keeps them to one host, the file's content decides: a holder on this host is looked up by number
and start time, one on another host shows that it lives by touching the file every few seconds. What no file system
gives without locks is safety for two runs that start in the same instant.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from sensekd.artefacts import sweep
from sensekd.config import Recipe
from sensekd.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")

LOCK: Final = "run.lock"
# Folders in which a run writes files; what a killed one left there half-written is cleared away by the next.
_WRITTEN: Final = ("", "students", "records", "stages", "distilled")
# Seconds: between two signs of life; for which another host's sign is awaited; for which a process that has just been
# killed may take to go; for which its workers may, who hold the lock with it and have to notice first.
_BEAT: Final = 5.0
_WATCH: Final = 16.0
_GRACE: Final = 1.5
_ORPHANS: Final = 20.0
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

_held: dict[tuple[Path, int], int] = {}


def _born(pid: int) -> str | None:
    """When a process of this host began, in the system's own terms; None if there is none, "" if it cannot be known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass
    return ""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        host: name of the machine.
        pid: number of the process there.
        started: when it took the lock, UTC.
        born: when the process began, so that a number that was given again is not taken for it.
    """

    host: str
    pid: int
    started: str
    born: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(platform.node(), os.getpid(), now, _born(os.getpid()) or "")

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Who wrote the file; None where nobody did, or not to the end."""
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            return found if isinstance(found.pid, int) and found.pid > 0 else None
        except (OSError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"

    def lives_here(self) -> bool:
        """Whether the process is alive on this host."""
        return self.host == platform.node() and _born(self.pid) == self.born


def _touched(path: Path) -> tuple[int, int] | None:
    # Opened each time: that is when NFS asks the server anew.
    try:
        with path.open("rb") as handle:
            status = os.fstat(handle.fileno())
        return status.st_ino, status.st_mtime_ns
    except OSError:
        return None


def _beats(path: Path) -> bool:
    """Whether somebody touches the file while we watch."""
    first, end = _touched(path), time.monotonic() + _WATCH
    while time.monotonic() < end:
        time.sleep(_BEAT / 10)
        if _touched(path) != first:
            return True
    return False


def _in_use(path: Path) -> InputError:
    holders = [str(found) for each in sorted(path.parent.glob("*.lock")) if (found := Holder.read(each))]
    who = "; ".join(dict.fromkeys(holders)) or "a process that has not said who it is"
    return InputError(
        f"another run works in {path.parent}: {who}", "one run at a time in a folder",
        "wait for it, end it, or choose another `output`",
    )  # fmt: skip


def _take(path: Path, kind: int) -> tuple[int, bool] | None:
    """A descriptor, and whether the system locked it; None if another has the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            locked = True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return None
                raise
            locked = False
        # Who lets go removes the file, so what was opened may be gone.
        with suppress(OSError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor, locked
        os.close(descriptor)


def _orphaned(path: Path) -> bool:
    """Whether who took the lock is dead, and workers alone have it still."""
    holder = Holder.read(path)
    return holder is not None and holder.host == platform.node() and not holder.lives_here()


def _acquire(path: Path, kind: int) -> int:
    start = time.monotonic()
    while (taken := _take(path, kind)) is None:
        if time.monotonic() - start > (_ORPHANS if _orphaned(path) else _GRACE):
            raise _in_use(path)
        time.sleep(0.05)
    descriptor, locked = taken
    holder = Holder.read(path)
    # On this host the system's lock is proof enough; another host's process may hold one that is not seen from here.
    if holder is not None and kind == fcntl.LOCK_EX:
        lives = not locked and holder.lives_here() if holder.host == platform.node() else _beats(path)
        if lives:
            os.close(descriptor)
            raise _in_use(path)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(Holder.here())).encode(), 0)
    os.fsync(descriptor)
    return descriptor


def _release(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except OSError as error:  # Others may share it; the last one removes it.
        alone = error.errno in _NO_LOCKS
    if alone:
        path.unlink(missing_ok=True)
    os.close(descriptor)


@contextmanager
def _lock(path: Path, kind: int) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, kind)
    except OSError as error:
        raise InputError(
            f"the output folder {path.parent} cannot be written: {error.strerror}", "a folder of one's own",
            "change `output` in the recipe",
        ) from error  # fmt: skip
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT):
            with suppress(OSError):
                os.utime(descriptor)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield descriptor
    finally:
        ended.set()
        thread.join()
        _release(path, descriptor)


def held() -> tuple[int, ...]:
    """Descriptors of the locks of this process. A process that inherits them holds the locks with it: as long as a
    worker lives, its folder is not free."""
    return tuple(_held.values())


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder alone, and clear away what a killed run left half-written in it.

    Inside a block that holds it already (the same thread), and in processes of a launcher that do not lead, nothing
    happens.

    Raises:
        InputError: another process works there (named with host, number and time), or the folder cannot be written.
    """
    key = folder.resolve(), threading.get_ident()
    if key in _held or os.environ.get("RANK", "0") != "0":
        yield
        return
    with _lock(folder / LOCK, fcntl.LOCK_EX) as descriptor:
        _held[key] = descriptor
        try:
            for name in _WRITTEN:
                sweep(folder / name)
            yield
        finally:
            del _held[key]


@contextmanager
def part_lock(folder: Path, part: str) -> Iterator[None]:
    """Hold one part of a run's folder, beside other processes that hold other parts of it.

    Raises:
        InputError: another process has this part or the whole folder, or the folder cannot be written.
    """
    with _lock(folder / LOCK, fcntl.LOCK_SH), _lock(folder / f"{part}.lock", fcntl.LOCK_EX):
        yield


def exclusive(function: Callable[Concatenate[Recipe, P], T]) -> Callable[Concatenate[Recipe, P], T]:
    """Hold the recipe's output folder while the function works in it."""

    @functools.wraps(function)
    def wrapped(recipe: Recipe, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with run_lock(Path(recipe.output)):
            return function(recipe, *args, **kwargs)

    return wrapped
