"""`sensekd check`: what is wrong with a recipe, before anything is started."""

from __future__ import annotations

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, command


@command
def check(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> Summary:
    """Find the errors of a recipe without loading weights."""
    from sensekd.config import load_recipe
    from sensekd.errors import InputError
    from sensekd.pipeline.check import problems

    loaded = load_recipe(recipe, overrides or ())
    found = problems(loaded)
    if found:
        listed = "\n".join(f"  - {line}" for line in found)
        raise InputError(f"{recipe}: {len(found)} problem(s)\n{listed}", "a recipe that can run", "correct them")
    return Summary(f"{recipe}: no problem found", {"recipe": str(recipe), "problems": []})
