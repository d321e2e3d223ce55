"""`sensekd lexicon build|show`: relations between words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, command, with_reporter

Tokenizers = Annotated[
    list[str] | None,
    typer.Option("--tokenizer", help="Print the coverage with this tokenizer (a model's folder or name); repeatable."),
]
Corpus = Annotated[
    Path | None,
    typer.Option("--corpus", help="With --tokenizer: a text (one document a line) or JSONL file to count labels of."),
]

app = typer.Typer(help="Synonyms and antonyms: build a lexicon, look into it.", no_args_is_help=True)


@app.command("build")
@command
def build(
    recipe: RecipePath,
    overrides: Overrides = None,
    strict: Annotated[bool, typer.Option("--strict", help="End at the first damaged line of a dump.")] = False,
    as_json: AsJson = False,
) -> Summary:
    """Read and merge the lexicon of a recipe."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import build_lexicon_of

    loaded = load_recipe(recipe, [*(overrides or ()), *(["lexicon.strict=true"] if strict else [])])
    facts: dict[str, Any] = with_reporter(lambda reporter: build_lexicon_of(loaded, reporter))
    lines = [f"lexicon: {facts['lexicon']}", *(f"  {name}: {value}" for name, value in facts["facts"].items())]
    return Summary("\n".join(lines), facts)


@app.command("show")
@command
def show(
    word: Annotated[str | None, typer.Argument(help="The word to look up.")] = None,
    folder: Annotated[Path, typer.Option("--lexicon", help="A lexicon built by `sensekd lexicon build`.")] = Path(
        "runs/demo/lexicon"
    ),
    tokenizers: Tokenizers = None,
    corpus: Corpus = None,
    language: Annotated[str | None, typer.Option("--lang", help="Only relations in this language.")] = None,
    as_json: AsJson = False,
) -> Summary:
    """Print the relations of a word with their sources, or what of the lexicon reaches the tokens of a model."""
    from sensekd.errors import InputError
    from sensekd.lexicon import Lexicon
    from sensekd.lexicon.showing import relations_of, render

    if tokenizers:
        return _show_linking(folder, tokenizers, corpus)
    if word is None:
        raise InputError("neither a word nor --tokenizer", "one of them", "sensekd lexicon show happy")
    rows = relations_of(Lexicon.load(folder), word, language)
    if not rows:
        wanted = f" in {language!r}" if language else ""
        raise InputError(f"{word!r} has no relation{wanted} in {folder}", "a word of the lexicon", "check its spelling")
    return Summary("\n".join(render(rows)), {"word": word, "relations": rows})


def _show_linking(folder: Path, tokenizers: list[str], corpus: Path | None) -> Summary:
    from sensekd.pipeline.linked import linking_reports, render_reports

    reports = linking_reports(folder, tokenizers, corpus)
    return Summary(render_reports(reports), {"lexicon": str(folder), "linking": [each.as_dict() for each in reports]})
