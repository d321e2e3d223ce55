"""`sensekd run`: every stage of a recipe."""

from __future__ import annotations

from typing import Any

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, shared_command, spoken, with_reporter


def summarise_results(results: dict[str, Any], output: str) -> Summary:
    """The closing words of every command that ends with results."""
    from sensekd.report.table import plain_table

    files = {"results": f"{output}/results.json", "report": f"{output}/report.html"}
    text = f"{plain_table(results)}\nresults: {files['results']}\nreport:  {files['report']}"
    return Summary(text, {**files, "summary": results["summary"], "differences": results["differences"]})


@shared_command
def run(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> Summary:
    """Run every stage of a recipe: lexicon, senses, distillation, evaluation, report. Finished stages are reused."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.run import run as run_recipe

    loaded = load_recipe(recipe, overrides or ())
    results = with_reporter(lambda reporter: run_recipe(loaded, reporter, spoken()))
    return summarise_results(results, loaded.output)
