"""A stage leaves artefacts and a stamp that says what they were made from; an unchanged stage is not run again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from sensekd.artefacts import MANIFEST, file_digest, fingerprint, intact, sound, write_json
from sensekd.pipeline.memory import peak_memory
from sensekd.provenance import file_fingerprint, versions

Progress = Callable[[int, int], None]


class Reporter(Protocol):
    """Where a run says how it goes."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def progress(self, name: str) -> Progress:
        """A bar (or a line now and then) for `name`; call it with done and total."""


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Drop the line."""

    def progress(self, name: str) -> Progress:
        """Drop the progress."""
        return lambda done, total: None


def content_id(path: Path) -> str | None:
    """Identity of what stands at `path`: an artefact, a Hugging Face folder or a file; None if nothing does."""
    if (path / MANIFEST).is_file():
        return file_digest(path / MANIFEST) if intact(path) else None
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return file_fingerprint(*files) if files else None
    return file_digest(path) if path.is_file() else None


def _identity(key: object) -> str:
    # Another version of a library that computes gives other bytes, and the versions stand in the results.
    return fingerprint([key, versions()])


class Stages:
    """Runs stages under one output folder and remembers what each was made from.

    Args:
        output: the run's folder; stamps stand in its `stages/`.
        reporter: where to say what is run and what is reused.
    """

    def __init__(self, output: Path, reporter: Reporter) -> None:
        self.output = output
        self.reporter = reporter
        self.seconds: dict[str, float] = {}
        self._sound: set[tuple[Path, str]] = set()
        self.memory: dict[str, dict[str, int]] = {}

    def _stamp(self, name: str) -> Path:
        return self.output / "stages" / f"{name.replace('/', '-')}.json"

    def fresh(self, name: str, key: object, outputs: Sequence[Path], *, verify: bool = True) -> bool:
        """Whether the outputs stand as this stage left them when it was last run with this key.

        Args:
            name: of the stage.
            key: everything the outputs are made from.
            outputs: what the stage leaves.
            verify: compare the checksums of artefacts too, once a process; else sizes alone.
        """
        stamp = self._read(name)
        found = {str(path.relative_to(self.output)): content_id(path) for path in outputs}
        if stamp is None or stamp["key"] != _identity(key) or stamp["outputs"] != found:
            return False
        return not verify or all(self._verified(path) for path in outputs)

    def _verified(self, path: Path) -> bool:
        if not (path / MANIFEST).is_file():
            return True  # The identity of a file, or of a folder without a manifest, is that of its bytes.
        mark = path, file_digest(path / MANIFEST)
        if mark not in self._sound and sound(path):
            self._sound.add(mark)
        return mark in self._sound

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            stamp = json.loads(self._stamp(name).read_text(encoding="utf-8"))
            return {name: stamp[name] for name in ("key", "outputs", "seconds")} | {"memory": stamp.get("memory")}
        except (OSError, ValueError, KeyError, TypeError):
            # No stamp, or one that was damaged: the stage is run again, which is always right.
            return None

    def done(
        self, name: str, key: object, outputs: Sequence[Path], seconds: float, memory: dict[str, int] | None = None
    ) -> None:
        """Write the stamp of a stage that has ended; `memory` is its peak in bytes, on `host` and `gpu`."""
        found = {str(path.relative_to(self.output)): content_id(path) for path in outputs}
        stamp = {"key": _identity(key), "outputs": found, "seconds": seconds}
        write_json(self._stamp(name), {**stamp, "memory": memory} if memory else stamp)
        self.seconds[name] = seconds
        if memory:
            self.memory[name] = memory

    def reuse(self, name: str, key: object, outputs: Sequence[Path], *, verify: bool = True) -> bool:
        """Take over a stage that is fresh; say so and recall how long it took."""
        if not self.fresh(name, key, outputs, verify=verify):
            return False
        stamp = self._read(name)
        assert stamp is not None
        self.seconds[name] = stamp["seconds"]
        if stamp["memory"]:
            self.memory[name] = stamp["memory"]
        self.reporter.note(f"{name}: reused, nothing it is made from has changed")
        return True

    def run(
        self,
        name: str,
        key: object,
        outputs: Sequence[Path],
        build: Callable[[Progress], object],
        *,
        verify: bool = True,
    ) -> bool:
        """Run `build` unless the stage is fresh.

        Args:
            name: shown to the user, and the stamp's file name.
            key: everything the outputs are made from; any JSON-like value.
            outputs: what `build` leaves.
            build: does the work; gets a progress function.
            verify: whether outputs are reused only if their checksums hold; without it the caller sees to that.

        Returns:
            Whether it was run.
        """
        if self.reuse(name, key, outputs, verify=verify):
            return False
        self.reporter.note(f"{name}: started")
        start = time.perf_counter()
        with peak_memory() as memory:
            build(self.reporter.progress(name))
        self.done(name, key, outputs, time.perf_counter() - start, memory)
        self.reporter.note(f"{name}: done in {self.seconds[name]:.1f} s")
        return True
