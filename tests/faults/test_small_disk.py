"""A disk that is really full: a tiny file system in memory, and a system that lets no file grow beyond a limit."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Nursery, content, rests, write_world
from killing import done_in, reused_in
from test_disk import one_error
from tiny_run import write_recipe

from tally import Tally

# Mounts a file system in namespaces of its own, so that nobody else sees it and it ends with the process; every line
# that comes in is a new size.
KEEPER = """
mount -t tmpfs -o "size=$1" none "$2" && echo ready
while read -r size; do mount -o "remount,size=$size" "$2" && echo ready; done
"""


@dataclass(frozen=True)
class SmallDisk:
    """A file system of a few hundred kilobytes, seen by commands that run in the namespaces of `process`."""

    keeper: subprocess.Popen[str]
    folder: Path

    def grow(self, size: str) -> None:
        """Give it another size, such as `1m`."""
        assert self.keeper.stdin is not None
        assert self.keeper.stdout is not None
        print(size, file=self.keeper.stdin, flush=True)
        assert self.keeper.stdout.readline() == "ready\n"

    @property
    def seen(self) -> Path:
        """The same folder as it can be read from here."""
        return Path(f"/proc/{self.keeper.pid}/root{self.folder}")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here: a small disk needs a mount of its own")
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", KEEPER, "sh", size, str(folder)]
    keeper = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        if keeper.stdout.readline() != "ready\n":
            said = keeper.communicate()[1].strip()
            pytest.skip(f"the system lets nobody mount a small disk: {said}")
        yield SmallDisk(keeper, folder)
    finally:
        keeper.communicate()


def occupied(folder: Path) -> int:
    """Kilobytes that the files of a folder take in pages."""
    return sum(4 * -(-path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file())


def test_a_disk_that_is_really_full(home: Nursery, tmp_path: Path, told: Tally) -> None:
    (tmp_path / "disk").mkdir()
    run = tmp_path / "disk" / "run"
    tree = write_world(tmp_path)
    tree["output"] = str(run)
    command = ("distill", str(write_recipe(tmp_path, tree)), "--arm", "pruned")
    assert home.run(*command).code == 0
    run.rename(tmp_path / "whole")
    needed, written, failed = occupied(tmp_path / "whole"), set[str](), 0
    with small_disk(tmp_path / "disk", f"{needed // 5}k") as disk:
        for share in (0.2, 0.5, 0.8):
            disk.grow(f"{int(needed * share)}k")
            ended = home.run(*command, space=disk.keeper.pid)
            told.add("faults", "disks that fill or fail")
            if ended.code:
                failed += 1
                one_error(ended, 1, "make room")
            assert written <= reused_in(ended.said)
            written |= done_in(ended.said)
        assert failed >= 2
        disk.grow("64m")
        ended = home.run(*command, space=disk.keeper.pid)
        assert ended.code == 0, ended.said
        assert written <= reused_in(ended.said)
        assert content(disk.seen / "run") == content(tmp_path / "whole")
        assert rests(disk.seen / "run") == []
    assert not run.exists(), "it was written to the small disk"
    told(f"{failed} of 3 runs met the end of a disk of {needed} kB")


def test_a_system_that_lets_no_file_grow(home: Nursery, tmp_path: Path, told: Tally) -> None:
    recipe = str(write_recipe(tmp_path, write_world(tmp_path)))
    command = ("distill", recipe, "--arm", "pruned")
    assert home.run(*command).code == 0
    (tmp_path / "run").rename(tmp_path / "whole")
    written: set[str] = set()
    # The recipe has 4 kB, the sample 200.
    for limit in (6_000, 100_000):
        ended = home.run(*command, limit=limit)
        told.add("faults", "disks that fill or fail")
        one_error(ended, 1, "start the same command again")
        # numpy says how much of an array it could not write, and not why.
        assert "File too large" in ended.said or "requested and" in ended.said
        assert written <= reused_in(ended.said)
        written |= done_in(ended.said)
    assert written
    assert home.run(*command).code == 0
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    assert rests(tmp_path / "run") == []
