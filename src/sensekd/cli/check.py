"""`sensekd check`: what is wrong with a recipe, before anything is started."""

from __future__ import annotations

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, command


@command
def check(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> Summary:
    """Find the errors of a recipe without loading weights."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.check import refuse_problems

    refuse_problems(load_recipe(recipe, overrides or ()), str(recipe))
    return Summary(f"{recipe}: no problem found", {"recipe": str(recipe), "problems": []})
