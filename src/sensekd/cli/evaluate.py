"""`sensekd evaluate`: suites on any Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sensekd.cli.console import AsJson, Overrides, Summary, command, with_reporter


@command
def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A Hugging Face folder: student, baseline or teacher.")
    ],
    recipe: Annotated[Path, typer.Option(help="Recipe that names teacher, held-out text, lexicon and question sets.")],
    suite: Annotated[Literal["intrinsic"], typer.Option(help="Which suite.")] = "intrinsic",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Summary:
    """Evaluate a model: held-out CE, KL to the teacher, agreement, antonym discrimination, question sets."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import evaluate_folder

    loaded = load_recipe(recipe, overrides or ())
    found: dict[str, Any] = with_reporter(lambda reporter: evaluate_folder(loaded, model, reporter))
    lines = [f"{name:<24} {value:.4f}" for name, value in found["metrics"].items()]
    return Summary("\n".join(lines), {"model": str(model), "suite": suite, **found})
