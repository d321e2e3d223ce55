"""One process of a distributed training of a student. Arguments: folder, batch size of a process, student as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from training_world import blocks, edges, recipe, table, tiny, tokenizer

from sensekd.training.distill import distill

folder, batch_size, student = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
config = recipe(training__batch_size=batch_size, loss__mu=0.1, loss__margin=3.0, student=student)
distill(
    tiny(tied=True), tokenizer(), config, 4, blocks(),
    senses=(table(), edges()), folders=(folder / "student", folder / "work"),
)  # fmt: skip
