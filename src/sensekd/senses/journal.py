"""What a capture has done so far, on disk: killed at any moment, it goes on from the last record to the same bytes."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sensekd.artefacts import sweep, write_json

# One kept occurrence: the sort key of its priority, index of its document, position, token, slot of its state.
ROW: Final = np.dtype([("key", "<i8"), ("document", "<i4"), ("position", "<i4"), ("token", "<i4"), ("slot", "<i4")])
_RECORD: Final = "progress.json"


@dataclass(frozen=True)
class Progress:
    """One record.

    Attributes:
        key: what is being made; a record of anything else is void.
        windows: windows that are done.
        columns: name of the file that holds the rows.
        rows: how many rows of it count.
        parts: None while windows are read; then how many parts of the pool stand in the finished file.
    """

    key: str
    windows: int
    columns: str
    rows: int
    parts: int | None = None


class Journal:
    """Rows in an append-only file beside the states, and a small record that is replaced atomically.

    Whatever a record names is on the disk before it is written, and stays untouched until the next one is: rows are
    appended behind those that count, a compaction writes a new file, and slots become free only afterwards.

    Args:
        folder: for all files of the capture; made if missing.
        key: identity of what is being made.
        every: seconds between two records, at least; infinity where nobody will go on from them, and then nothing
            waits for the disk.
    """

    def __init__(self, folder: Path, key: str, every: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        self.folder, self._every, self._last = folder, every, time.monotonic()
        self.durable = every != float("inf")
        self.progress = self._found(key) or Progress(key, 0, "", 0)

    def _found(self, key: str) -> Progress | None:
        try:
            progress = Progress(**json.loads((self.folder / _RECORD).read_text(encoding="utf-8")))
            size = (self.folder / progress.columns).stat().st_size
        except (OSError, ValueError, TypeError):
            return None
        return progress if progress.key == key and size >= progress.rows * ROW.itemsize else None

    @property
    def due(self) -> bool:
        """Whether it is time for a record."""
        return time.monotonic() - self._last >= self._every

    def rows(self) -> NDArray[Any]:
        """[rows] of `ROW` that the record names; what was appended after it is cut off."""
        if not self.progress.columns:
            return np.empty(0, dtype=ROW)
        path = self.folder / self.progress.columns
        os.truncate(path, self.progress.rows * ROW.itemsize)
        return np.fromfile(path, dtype=ROW)

    def append(self, rows: NDArray[Any], windows: int) -> None:
        """Record further rows; their states must be on the disk."""
        if not self.progress.columns:
            self.rewrite(rows, windows)
            return
        self._write(self.folder / self.progress.columns, rows, "ab")
        self._record(self.progress.columns, self.progress.rows + len(rows), windows, None)

    def rewrite(self, rows: NDArray[Any], windows: int) -> None:
        """Record these rows instead of all earlier ones."""
        old = self.progress.columns
        number = int(old.removeprefix("rows-") or 0) + 1
        self._write(self.folder / f"rows-{number}", rows, "wb")
        self._record(f"rows-{number}", len(rows), windows, None)
        if old:
            (self.folder / old).unlink(missing_ok=True)

    def parts_done(self, parts: int) -> None:
        """Record that so many parts stand in the finished file."""
        self._record(self.progress.columns, self.progress.rows, self.progress.windows, parts)

    def _write(self, path: Path, rows: NDArray[Any], mode: str) -> None:
        with path.open(mode) as handle:
            rows.tofile(handle)
            handle.flush()
            if self.durable:
                os.fsync(handle.fileno())

    def _record(self, columns: str, rows: int, windows: int, parts: int | None) -> None:
        self.progress = Progress(self.progress.key, windows, columns, rows, parts)
        write_json(self.folder / _RECORD, asdict(self.progress))
        self._last = time.monotonic()
