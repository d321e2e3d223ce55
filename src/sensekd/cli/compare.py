"""`sensekd compare`: arms and seeds at the same budget."""

from __future__ import annotations

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, command, spoken, with_reporter
from sensekd.cli.run import summarise_results


@command
def compare(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> Summary:
    """Train and evaluate every arm of a recipe with every seed, at the same budget, with paired intervals."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.run import compare as compare_recipe

    loaded = load_recipe(recipe, overrides or ())
    results = with_reporter(lambda reporter: compare_recipe(loaded, reporter, spoken()))
    return summarise_results(results, loaded.output)
