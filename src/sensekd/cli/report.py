"""`sensekd report`: draw the page of a run again."""

from __future__ import annotations

import json
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
    from sensekd.errors import InputError
    from sensekd.report.page import write_page

    path = folder / "results.json"
    if not path.is_file():
        raise InputError(f"no results at {path}", "the folder of a finished run", "sensekd run RECIPE")
    results = json.loads(path.read_text(encoding="utf-8"))
    curves = {}
    for record in sorted((folder / "records").glob("*.json")):
        history = json.loads(record.read_text(encoding="utf-8"))["history"]
        if history:
            curves[record.stem] = history
    page = out or folder / "report.html"
    write_page(results, curves, page)
    return Summary(f"report: {page}", {"report": str(page)})
