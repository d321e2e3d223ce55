"""Coverage-guided fuzzing of the fast readers; needs the package atheris. The first byte chooses the reader."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sensekd"]):
    from sources import SOURCES

    from sensekd.errors import InputError

FAST = [source for source in SOURCES.values() if source.fast]
FOLDER = Path(tempfile.mkdtemp())


def one(data: bytes) -> None:
    """Give the rest of the bytes to the reader that the first one names."""
    if not data:
        return
    source = FAST[data[0] % len(FAST)]
    path = FOLDER / source.name
    path.write_bytes(data[1:])
    try:
        source.read(path)
    except InputError:
        pass
    finally:
        path.unlink()


atheris.Setup(sys.argv, one)
atheris.Fuzz()
