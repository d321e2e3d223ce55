"""`sensekd respond`: the teacher's continuations, stored."""

from __future__ import annotations

from typing import Any

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, command, with_reporter


@command
def respond(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> Summary:
    """Let the teacher answer the prompts of the training corpus, and store what it says as targets."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import respond_to

    loaded = load_recipe(recipe, overrides or ())
    facts: dict[str, Any] = with_reporter(lambda reporter: respond_to(loaded, reporter))
    lines = [
        f"{row['corpus']}: {row['prompts']:,} prompts, {row['tokens']:,} tokens of the teacher in {row['folder']}"
        for row in facts["responses"]
    ]
    return Summary("\n".join(lines), facts)
