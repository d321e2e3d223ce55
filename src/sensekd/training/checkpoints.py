"""Checkpoints on disk: which are whole, whose they are, and which to go on from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sensekd.artefacts import Manifest, check_made_from, read_manifest, write_manifest
from sensekd.errors import InputError

FORMAT: Final = 1
_KIND: Final = "checkpoint"


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was saved after."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in `folder`, complete or not, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=step_of)


def seal(checkpoint: Path, made_from: Mapping[str, Any]) -> None:
    """Mark a checkpoint as saved to the end: without a manifest it was cut short and is never resumed from."""
    write_manifest(checkpoint, Manifest(_KIND, FORMAT, dict(made_from), {}, {"step": step_of(checkpoint)}))


def newest_checkpoint(folder: Path, made_from: Mapping[str, Any]) -> Path | None:
    """The newest checkpoint in `folder` that was saved to the end, or None.

    Raises:
        InputError: it was made from something else than `made_from`.
    """
    for path in reversed(checkpoints(folder)):
        try:
            manifest = read_manifest(path, _KIND, FORMAT)
        except InputError:
            continue
        check_made_from(manifest, made_from, command=f"remove {folder} and start again")
        return path
    return None


def clear(folder: Path, above: int = -1) -> None:
    """Remove the checkpoints after step `above`, and the folder where nothing is left in it."""
    for path in checkpoints(folder):
        if step_of(path) > above:
            shutil.rmtree(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
