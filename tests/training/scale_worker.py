"""One of the processes whose modules are sharded; started by torchrun. Argument: folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from safetensors.torch import save_file
from scale_world import CASES, train

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
for number, case in enumerate(CASES):
    found = train(*case, rank, int(os.environ["WORLD_SIZE"]))
    if rank == 0:
        save_file({name: value.contiguous() for name, value in found.items()}, folder / f"{number}.safetensors")
