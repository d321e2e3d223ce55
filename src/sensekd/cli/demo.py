"""`sensekd demo`: the whole pipeline on the built-in miniature world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sensekd.cli.console import AsJson, Overrides, Summary, command, spoken, with_reporter
from sensekd.cli.run import summarise_results


@command
def demo(
    output: Annotated[Path, typer.Option(help="Folder for everything the demo leaves.")] = Path("runs/demo"),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Summary:
    """Train a small teacher on a miniature world and distil it six ways; offline, on a CPU, in minutes."""
    from sensekd.pipeline.demo import run_demo

    results = with_reporter(lambda reporter: run_demo(output, overrides or (), reporter, spoken()))
    return summarise_results(results, str(output))
