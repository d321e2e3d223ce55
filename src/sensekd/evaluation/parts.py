"""The benchmarks that an interrupted run of a suite has finished: the next run takes their results and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensekd.artefacts import fingerprint, write_json


def _silent(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Parts:
    """One file a benchmark, under a name that says what the result was made from; another setting never meets it.

    Attributes:
        folder: where the files stand; None keeps nothing.
        made_from: whatever else of the run decides about a result: model, suite, settings, libraries.
        note: is told which results are taken from the files.
        paths: the files that this run has written or taken.
    """

    folder: Path | None = None
    made_from: Mapping[str, Any] = field(default_factory=dict)
    note: Callable[[str], None] = _silent
    paths: list[Path] = field(default_factory=list)

    def once(self, name: str, data: Callable[[], object], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a benchmark: the kept one, or that of `run`, which is then kept.

        Args:
            name: of the benchmark, which is part of a file's name.
            data: gives what it reads and how much of it, as JSON can say it.
            run: gives a result that JSON holds without a loss.
        """
        if self.folder is None:
            return run()
        path = self.folder / f"{name}-{fingerprint([self.made_from, name, data()])}.json"
        self.paths.append(path)
        found = _read(path)
        if found is not None:
            self.note(f"{name}: finished by an interrupted run, taken over")
            return found
        found = run()
        write_json(path, {"found": found, "seal": fingerprint(found)})
        return found

    def clear(self) -> None:
        """Delete what this run kept: the whole has been written. Parts of other settings stay, with their folder."""
        for path in self.paths:
            # What a killed run had begun to write has the same name and some letters more.
            for each in (path, *path.parent.glob(f".{path.name}.*")):
                each.unlink(missing_ok=True)
        if self.folder is not None:
            with suppress(OSError):  # There is none, or it is not empty.
                self.folder.rmdir()


def _read(path: Path) -> dict[str, Any] | None:
    """The result in a file; None where there is none, or it is not as it was written."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, Any] = kept["found"]
        return found if fingerprint(found) == kept["seal"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
