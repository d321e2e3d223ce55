"""`sensekd demo`: the whole pipeline on the built-in miniature world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sensekd.cli.console import AsJson, Overrides, Summary, command, spoken, with_reporter
from sensekd.cli.run import summarise_results


@command
def demo(
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for everything the demo leaves.", show_default="runs/demo, runs/demo-de in German"),
    ] = None,
    language: Annotated[str, typer.Option(help="Language of the miniature world: en or de.")] = "en",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Summary:
    """Train a small teacher on a miniature world and distil it six ways; offline, on a CPU, in minutes."""
    from sensekd.pipeline.demo import run_demo

    folder = output or Path("runs/demo" if language == "en" else f"runs/demo-{language}")
    results = with_reporter(lambda reporter: run_demo(folder, overrides or (), reporter, spoken(), language))
    return summarise_results(results, str(folder))
