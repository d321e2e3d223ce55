"""Coverage-guided fuzzing of our own readers and of the recipe loader; needs the package atheris.

Usage: `python guided.py FOLDER [options of libFuzzer]`. The folder gets the good inputs to begin with and keeps what
reached new code. The first byte of an input chooses the reader.
"""

from __future__ import annotations

import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sensekd", "yaml"]):
    from sources import SOURCES, spoilt

    from sensekd.errors import InputError

READERS = [source for source in SOURCES.values() if source.guided]


def one(data: bytes) -> None:
    """Give the rest of the bytes to the reader that the first one names."""
    if not data:
        return
    number = data[0] % len(READERS)
    path = HOME / str(number) / READERS[number].name
    path.write_bytes(data[1:])
    with suppress(InputError):
        READERS[number].read(path)


def mutated(data: bytes, size: int, seed: int) -> bytes:
    """Half of the inputs are spoilt as those without guidance are: random bytes seldom are a document."""
    generator = random.Random(seed)
    if data and generator.random() < 0.5:
        return (data[:1] + spoilt(data[1:], generator))[:size]
    return bytes(atheris.Mutate(data, size))


with tempfile.TemporaryDirectory(dir=Path(sys.argv[1]).parent) as folder:
    HOME = Path(folder)
    for order, reader in enumerate(READERS):
        (HOME / str(order)).mkdir()
        Path(sys.argv[1], f"good-{order}").write_bytes(bytes([order]) + reader.good)
    atheris.Setup([*sys.argv, "-max_len=20000", "-len_control=0"], one, custom_mutator=mutated)
    atheris.Fuzz()
