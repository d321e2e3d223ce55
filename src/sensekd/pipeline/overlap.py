"""Texts that stand in two splits: what was trained on, or chosen by, cannot be tested on."""

from __future__ import annotations

from typing import Final

import numpy as np

from sensekd.corpus import TokenDocuments
from sensekd.pipeline.workspace import Workspace

# Share of a split's texts that may stand in another one too: short texts recur by themselves.
TOLERATED: Final = 0.01


def shared(work: Workspace, split: str, other: str) -> int:
    """How many texts of a split stand, token for token, in another one too."""
    ours, theirs = (TokenDocuments.open(work.path(f"tokens-{name}")).hashes for name in (split, other))
    return int(np.isin(np.asarray(ours), np.asarray(theirs)).sum())


def note_overlap(work: Workspace) -> None:
    """Say it where held-out texts are among those that students are trained on, or that the senses are made from."""
    texts = len(TokenDocuments.open(work.path("tokens-heldout")))
    sources = {"train": "training text"} | ({"senses": "senses' text"} if work.recipe.senses.corpus else {})
    for other, name in sources.items():
        if (count := shared(work, "heldout", other)) > TOLERATED * texts:
            work.stages.reporter.note(
                f"warning: {count} of {texts} held-out texts stand in the {name} too: figures on them say how much was "
                "learnt by heart (use another file, or skip_documents and max_documents)"
            )
