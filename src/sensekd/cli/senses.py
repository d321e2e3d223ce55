"""`sensekd senses build|show`: the sense dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, command, with_reporter

app = typer.Typer(help="The sense dictionary: build it from a teacher and a corpus, read it.", no_args_is_help=True)


@app.command("build")
@command
def build(
    recipe: RecipePath,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Sample only part I of N of the documents; `senses merge` joins them."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Summary:
    """Sample the teacher's states over the recipe's corpus and cluster them into senses.

    Under torchrun every process samples a part of the documents, and the first one merges and clusters.
    """
    from sensekd.config import load_recipe
    from sensekd.pipeline.shards import build_shard_of, build_together, processes
    from sensekd.pipeline.single import build_senses_of

    loaded = load_recipe(recipe, overrides or ())
    if shard is not None:
        return _told(with_reporter(lambda reporter: build_shard_of(loaded, shard, reporter)))
    run = build_together if processes() > 1 else build_senses_of
    facts: dict[str, Any] = with_reporter(lambda reporter: run(loaded, reporter))
    if not facts:
        raise typer.Exit
    return _told(facts)


def _told(facts: dict[str, Any]) -> Summary:
    (what, where), *_ = facts.items()
    return Summary(
        "\n".join([f"{what}: {where}", *(f"  {name}: {value}" for name, value in facts["facts"].items())]), facts
    )


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
