"""`sensekd report`: draw the page of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sensekd.cli.console import AsJson, Summary, command


@command
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, with results.json in it.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the page (default: RUN/report.html).")] = None,
    as_json: AsJson = False,
) -> Summary:
    """Draw one self-contained page from the results of a run."""
    from sensekd.artefacts import readable
    from sensekd.pipeline.results import read_results
    from sensekd.report.page import write_page

    results, curves = read_results(folder)
    page = out or folder / "report.html"
    with readable(folder / "results.json"):
        write_page(results, curves, page)
    return Summary(f"report: {page}", {"report": str(page)})
