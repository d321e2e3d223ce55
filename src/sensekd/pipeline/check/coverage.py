"""What of the lexicon the teacher's tokens reach: from a run that stands, or linked in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sensekd.config import Recipe
from sensekd.errors import InputError
from sensekd.pipeline.check.plan import Step


def standing_coverage(recipe: Recipe, plan: list[Step]) -> dict[str, Any] | None:
    """`coverage.json` of the run where it will be reused."""
    if not any(step.stage == "coverage" and step.action == "reuse" for step in plan):
        return None
    found: dict[str, Any] = json.loads((Path(recipe.output) / "coverage.json").read_text(encoding="utf-8"))
    return found


def linked_coverage(recipe: Recipe) -> dict[str, Any]:
    """Build the lexicon and link it, in memory; nothing is written.

    Raises:
        InputError: no lexicon, a source that cannot be read, no tokenizer, or a floor that is not reached.
    """
    from sensekd.lexicon import build_lexicon, withheld_pairs
    from sensekd.linking import link
    from sensekd.pipeline.check.shapes import teacher_config
    from sensekd.training.teacher import load_tokenizer

    if not recipe.lexicon.sources:
        raise InputError("the recipe has no lexicon.sources", "at least one source", "add pairs or a wordnet")
    lexicon = build_lexicon(recipe.lexicon)
    config, _ = teacher_config(recipe.teacher)
    settings, share = recipe.linking, recipe.lexicon.withhold_antonyms
    linked = link(
        lexicon,
        load_tokenizer(recipe.teacher),
        vocabulary=int(config.get_text_config().vocab_size),
        max_pieces=settings.max_pieces,
        floor=settings.floor,
        withheld=withheld_pairs(lexicon, share, recipe.lexicon.withhold_seed) if share else None,
    )
    return {"lexicon": dict(lexicon.facts), "linking": linked.coverage.as_dict(), "positions": None}
