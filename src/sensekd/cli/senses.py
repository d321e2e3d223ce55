"""`sensekd senses build|show`: the sense dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, command, with_reporter

app = typer.Typer(help="The sense dictionary: build it from a teacher and a corpus, read it.", no_args_is_help=True)


@app.command("build")
@command
def build(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> Summary:
    """Sample the teacher's states over the recipe's corpus and cluster them into senses."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import build_senses_of

    loaded = load_recipe(recipe, overrides or ())
    facts: dict[str, Any] = with_reporter(lambda reporter: build_senses_of(loaded, reporter))
    text = "\n".join([f"senses: {facts['senses']}", *(f"  {name}: {value}" for name, value in facts["facts"].items())])
    return Summary(text, facts)


@app.command("show")
@command
def show(
    word: Annotated[str, typer.Argument(help="The word to look up.")],
    folder: Annotated[Path, typer.Option("--run", help="The folder of a run.")] = Path("runs/demo"),
    as_json: AsJson = False,
) -> Summary:
    """Print the senses of a word: support, contexts, neighbours, distances to synonyms and antonyms."""
    from sensekd.pipeline.single import read_senses

    text, data = read_senses(folder, word)
    return Summary(text, {"word": word, "senses": data})


@app.command("evaluate")
@command
def evaluate(
    target: Annotated[Path, typer.Argument(metavar="RECIPE_OR_RUN", help="A recipe, or the folder of a run.")],
    coarse: Annotated[
        Path | None, typer.Option("--coarse", metavar="DIR", help="The folder CoarseWSD-20: one folder a word.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Summary:
    """Judge the senses: AMI and purity on the recipe's gold senses, accuracy by nearest centroid on CoarseWSD-20."""
    from sensekd.pipeline.judging import describe_quality, evaluate_senses

    found = with_reporter(lambda reporter: evaluate_senses(target, coarse, overrides or (), reporter))
    return Summary(describe_quality(found), found)
