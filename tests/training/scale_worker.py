"""One of the processes whose modules are sharded."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file
from scale_world import CASES, train


def main(folder: Path) -> None:
    """Train every case, and let the first process write what came of it."""
    rank = int(os.environ["RANK"])
    for number, case in enumerate(CASES):
        found = train(*case, rank, int(os.environ["WORLD_SIZE"]))
        if rank == 0:
            save_file({name: value.contiguous() for name, value in found.items()}, folder / f"{number}.safetensors")
