"""`sensekd report`: draw the page of a run again, or of several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sensekd.cli.console import AsJson, Summary, command


@command
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, each with results.json in it.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write the page (default: RUN/report.html; for several runs ./report.html)."),
    ] = None,
    models: Annotated[
        bool,
        typer.Option(
            "--models/--no-models",
            help="Load teacher and students, to show where they put the contexts of a word, unless the run kept it.",
        ),
    ] = True,
    as_json: AsJson = False,
) -> Summary:
    """Draw one self-contained page from the results of a run, or of several runs side by side."""
    from sensekd.pipeline.explore import draw_report

    page = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    notes = draw_report(folders, page, models=models)
    return Summary("\n".join([f"report: {page}", *notes]), {"report": str(page), "notes": notes})
