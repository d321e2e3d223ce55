from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensekd.errors import InputError
from sensekd.lexicon import streams
from sensekd.lexicon.streams import GuardedStream, read_blocks

PACKERS = {"plain": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


def lines(path: Path, limit: int = streams.MAX_LINE) -> list[bytes | None]:
    found: list[bytes | None] = []
    for block in read_blocks(path, limit=limit):
        assert block.first == len(found) + 1
        found += block.lines
    return found


@pytest.mark.parametrize("packer", PACKERS)
def test_packed_or_not_the_lines_are_the_same_whatever_the_name(tmp_path: Path, packer: str) -> None:
    text = b"\xef\xbb\xbf" + b"\n".join(b"line %d" % i * (i % 7) for i in range(100_000)) + b"\n\nlast"
    path = tmp_path / "file.txt"
    path.write_bytes(PACKERS[packer](text))
    assert lines(path) == text.removeprefix(b"\xef\xbb\xbf").split(b"\n")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=12), max_size=12), st.integers(1, 8))
def test_a_line_over_the_limit_is_none_and_nothing_else_changes(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], limit: int
) -> None:
    content = [line.replace(b"\n", b"") for line in content]
    content = [b"x", *content]  # Nothing that looks like an archive or a byte order mark at the start.
    path = tmp_path_factory.mktemp("lines") / "f"
    path.write_bytes(b"\n".join(content) + b"\n")
    assert lines(path, limit) == [line if len(line) <= limit else None for line in content]


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz"])
def test_a_bomb_is_refused_in_flat_memory(tmp_path: Path, packer: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(PACKERS[packer](b"\n" * (40 << 20)))
    tracemalloc.start()
    with GuardedStream(path) as stream, pytest.raises(InputError, match="unpacks to more than 400 times"):
        deque(iter(stream.read, b""), maxlen=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20  # the xz format itself asks for 8 MiB


def test_one_huge_line_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as handle:
        for _ in range(64):
            handle.write(b"x" * (1 << 20))
        handle.write(b"\nshort\n")
    tracemalloc.start()
    assert lines(path, limit=4 << 20) == [None, b"short"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        lines(tmp_path / "absent")
    for name, content in {
        "cut.gz": gzip.compress(b"abc\n" * 1000)[:-20],
        "cut.xz": lzma.compress(b"abc\n")[:-9],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="cannot be unpacked"):
            lines(tmp_path / name)
    (tmp_path / "a.zst").write_bytes(b"\x28\xb5\x2f\xfd1234")
    with pytest.raises(InputError, match="packed with zstd"):
        lines(tmp_path / "a.zst")
