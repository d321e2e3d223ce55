"""`sensekd senses build|merge|update|show|page|evaluate`: the sense dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sensekd.cli.console import (
    AsJson,
    Overrides,
    RecipePath,
    Summary,
    bold,
    command,
    shared_command,
    terminal,
    with_reporter,
)

app = typer.Typer(help="The sense dictionary: build it from a teacher and a corpus, read it.", no_args_is_help=True)


@app.command("build")
@shared_command
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


Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


@app.command("merge")
@command
def merge(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="A B ...", help="Samples, shards, dictionaries with their sample, or runs."),
    ],
    output: Annotated[Path, typer.Option("--output", help="Where the folders `sample` and `senses` go.")],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Cluster as this recipe says; default: as the sources were.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> Summary:
    """Join samples and cluster them: the bytes are those of one build over all documents together."""
    from sensekd.pipeline.growing import merge_senses

    return _told(with_reporter(lambda reporter: merge_senses(folders, output, reporter, recipe=recipe, device=device)))


@app.command("update")
@command
def update(
    dictionary: Annotated[Path, typer.Argument(help="A dictionary with its sample beside it, or a run.")],
    corpus: Annotated[str, typer.Option("--corpus", help="The new documents: a file, or a dataset of the hub.")],
    format: Annotated[str, typer.Option("--format", help="text, jsonl, parquet or hub.")] = "jsonl",
    field: Annotated[str, typer.Option("--field", help="The key that holds the text.")] = "text",
    separator: Annotated[str | None, typer.Option("--separator", help="Between the documents of a text file.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Where `sample` and `senses` go; default: in place of the old ones.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> Summary:
    """Add the documents of a further corpus to a dictionary, and say what became of its senses.

    The bytes are those of one build over all documents. To go on with a run whose dictionary was updated in place,
    name it as senses.dictionary in the recipe; otherwise the run would build it again from its own corpus.
    """
    from sensekd.config import corpus_from
    from sensekd.pipeline.growing import change_lines, update_senses

    config = corpus_from({"path": corpus, "format": format, "field": field, "separator": separator})
    facts = with_reporter(lambda reporter: update_senses(dictionary, config, reporter, output=output, device=device))
    counts = [f"  {name}: {value}" for name, value in facts["new"].items()]
    return Summary("\n".join([_told(facts).text, "what is new:", *counts, *change_lines(facts["changes"])]), facts)


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


@app.command("page")
@command
def page(
    folder: Annotated[Path, typer.Argument(metavar="DICT_OR_RUN", help="The folder of a dictionary, or of a run.")],
    output: Annotated[Path, typer.Option("--output", help="The HTML file.")],
    words: Annotated[
        list[str] | None, typer.Option("--word", metavar="WORD", help="A word that must be on the page.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--words", min=1, help="How many words at most (default: 300).")] = None,
    models: Annotated[
        bool,
        typer.Option("--models/--no-models", help="With a run: also show where teacher and students put contexts."),
    ] = True,
    as_json: AsJson = False,
) -> Summary:
    """Write the sense explorer as one self-contained page: senses, contexts and a map of the states of a word."""
    from sensekd.pipeline.explore import write_senses_page

    facts = write_senses_page(folder, output, words=words or (), limit=limit, models=models)
    size = facts["bytes"] / 1e6
    return Summary(f"page: {output} ({facts['words']} of {facts['available']} words, {size:.1f} MB)", facts)


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
