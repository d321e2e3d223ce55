"""`sensekd senses build|show`: the sense dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, bold, command, terminal, with_reporter

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
    what: Annotated[
        list[str],
        typer.Argument(metavar="[RUN] WORD", help="The word to look up, after the folder of a run or of a dictionary."),
    ],
    folder: Annotated[Path, typer.Option("--run", help="The folder, where none stands before the word.")] = Path(
        "runs/demo"
    ),
    verify: Annotated[bool, typer.Option("--verify", help="Compare the dictionary's checksums first.")] = False,
    as_json: AsJson = False,
) -> Summary:
    """Print the senses of a word: support, contexts, nearest tokens, distances to synonyms and antonyms, flags.

    A sense is flagged as dead (fewer samples than the minimum, or none near it), as a duplicate of another sense, or
    as a template (its contexts are nearly the same text).
    """
    from sensekd.errors import InputError
    from sensekd.pipeline.single import read_senses

    if len(what) > 2:
        raise InputError(f"{len(what)} arguments: {' '.join(what)}", "RUN WORD, or WORD", "one word at a time")
    *named, word = what
    marked = bold if terminal() else None
    text, data = read_senses(Path(named[0]) if named else folder, word, verify=verify, emphasise=marked)
    return Summary(text, {"word": word, "senses": data})
