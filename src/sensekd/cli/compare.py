"""`sensekd compare`: arms and seeds at the same budget."""

from __future__ import annotations

from typing import Annotated

import typer

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, shared_command, spoken, with_reporter
from sensekd.cli.run import summarise_results

Sensitivity = Annotated[
    bool, typer.Option("--sensitivity", help="Vary λ, κ, K and the margin one at a time instead of comparing arms.")
]


@shared_command
def compare(
    recipe: RecipePath, sensitivity: Sensitivity = False, overrides: Overrides = None, as_json: AsJson = False
) -> Summary:
    """Train and evaluate every arm of a recipe with every seed, at the same budget, with paired intervals.

    The recipe's `compare` section says what else is done: equal wall time, tuning, resampled items, corrections.
    """
    from sensekd.config import load_recipe
    from sensekd.pipeline.run import compare as compare_recipe

    loaded = load_recipe(recipe, overrides or ())
    if sensitivity:
        from sensekd.pipeline.sensitivity import RESULTS
        from sensekd.pipeline.sensitivity import sensitivity as vary
        from sensekd.report.views import plain_sensitivity

        found = with_reporter(lambda reporter: vary(loaded, reporter, spoken()))
        path = f"{loaded.output}/{RESULTS}"
        data = {
            name: found[name] for name in ("factors", "summary", "differences", "from_default", "skipped", "failed")
        }
        return Summary(f"{plain_sensitivity(found)}\nresults: {path}", {"results": path, **data})
    results = with_reporter(lambda reporter: compare_recipe(loaded, reporter, spoken()))
    return summarise_results(results, loaded.output)
