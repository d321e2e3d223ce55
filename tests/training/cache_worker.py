"""One process of a distillation from a cache."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cache_world import IDENTITY, LENGTH, cache_blocks
from training_world import edges, recipe, table, tiny, tokenizer

from sensekd.training.cache.identity import request_cache
from sensekd.training.cache.store import TeacherCache
from sensekd.training.distill import distill, supervision_of


def main(folder: Path, batch_size: int, mode: str) -> None:
    """Distil, writing the cache; with `KILL_AFTER` in the environment the process dies in a write after so many."""
    config = recipe(
        training__batch_size=batch_size,
        training__sequence_length=LENGTH,
        loss__margin=3.0,
        cache={"mode": mode, "top": 9, "batch_size": 4},
    )
    if killed := os.environ.get("KILL_AFTER"):
        left, write = iter(range(int(killed))), TeacherCache.write

        def dies(self: TeacherCache, *arguments: object) -> None:
            """The process is gone in the middle of a write, without any farewell."""
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, *arguments)  # type: ignore[arg-type]

        TeacherCache.write = dies  # type: ignore[method-assign]
    blocks = cache_blocks()
    senses = (table(), edges())
    request = request_cache(
        folder.parent / folder.name / "cache", (IDENTITY, "cpu"), config, blocks, supervision_of(senses)
    )
    distill(
        tiny(tied=True), tokenizer(), config, 8, blocks,
        senses=senses, folders=(folder / "student", folder / "work"), cache=request,
    )  # fmt: skip
