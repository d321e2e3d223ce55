"""The command `sensekd`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sensekd import __version__
from sensekd.cli import check, compare, demo, distill, evaluate, lexicon, report, respond, run, senses

app = typer.Typer(
    name="sensekd",
    help="Make decoder language models smaller without losing what their words mean.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.add_typer(lexicon.app, name="lexicon")
app.add_typer(senses.app, name="senses")
app.command("respond")(respond.respond)
app.command("distill")(distill.distill)
app.command("run")(run.run)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("check")(check.check)


def entry() -> None:
    """Start the command line."""
    # Read when torch is loaded. Idle threads that spin make small operations many times slower beside a busy neighbour.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()


if __name__ == "__main__":  # `torchrun -m sensekd.cli.main`
    entry()
