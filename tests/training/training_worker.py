"""One process of a distributed distillation, started by torchrun. Arguments: folder, batch size, loss.chunked."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from training_world import blocks, edges, recipe, table, tiny, tokenizer

from sensekd.training.distill import distill

folder, batch_size = Path(sys.argv[1]), int(sys.argv[2])
# In chunks the positions are weighed too: then what divides a term is known from the teacher's forward alone.
weighed = {"loss__confidence": "probability", "loss__push": "contrastive", "loss__anneal": {"end": 0.9}}
config = recipe(
    training__batch_size=batch_size,
    loss__positions={"fraction": 0.5, "minimum": 3},
    loss__mu=0.1,
    loss__margin=3.0,
    loss__chunked=sys.argv[3],
    training__save_every=3,
    **(weighed if sys.argv[3] == "on" else {}),
)
result = distill(
    tiny(tied=True), tokenizer(), config, 6, blocks(),
    senses=(table(), edges()), folders=(folder / "student", folder / "work"),
)  # fmt: skip
if os.environ["RANK"] == "0":
    (folder / "history.json").write_text(json.dumps({"tokens": result.tokens, "history": result.history}))
