"""Preflight: what would stop a run, found without loading weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sensekd.artefacts import MANIFEST
from sensekd.config import CorpusConfig, Recipe
from sensekd.errors import InputError, require


def _missing_files(recipe: Recipe) -> list[str]:
    def corpus(name: str, config: CorpusConfig | None) -> list[tuple[str, str]]:
        return [] if config is None or config.format == "hub" else [(f"{name}.path", config.path)]

    files = [
        *corpus("corpus", recipe.corpus),
        *corpus("senses.corpus", recipe.senses.corpus),
        *corpus("evaluation.corpus", recipe.evaluation.corpus),
        *((f"evaluation.questions.{name}", path) for name, path in recipe.evaluation.questions.items()),
    ]
    if recipe.evaluation.gold_senses:
        files.append(("evaluation.gold_senses", recipe.evaluation.gold_senses))
    missing = [f"{where}: no file at {path}" for where, path in files if not Path(path).is_file()]
    # A source of relations may be a folder: of WNDB files, of a WordNet package, of dumps.
    sources = [(f"lexicon.sources[{i}].path", s.path) for i, s in enumerate(recipe.lexicon.sources) if s.path]
    sources += [("lexicon.frequencies", recipe.lexicon.frequencies)] if recipe.lexicon.frequencies else []
    missing += [f"{where}: no file at {path}" for where, path in sources if not Path(path).exists()]
    named = recipe.senses.dictionary
    if named is not None and not (Path(named) / MANIFEST).is_file():
        missing.append(f"senses.dictionary: no dictionary at {named}")
    return missing


def _content_problems(recipe: Recipe) -> list[str]:
    """Question sets and gold senses are small: they are read whole, so that a bad line shows before anything starts."""
    from sensekd.evaluation.suites import read_questions
    from sensekd.senses.quality import read_gold

    checks: list[Callable[[], object]] = [
        partial(read_questions, Path(path)) for path in recipe.evaluation.questions.values()
    ]
    if recipe.evaluation.gold_senses:
        checks.append(partial(read_gold, Path(recipe.evaluation.gold_senses)))
    return [problem for check in checks if (problem := _problem_of(check))]


def _extra_problems(recipe: Recipe) -> list[str]:
    """Extras that the end of a run needs; better missed now than after the training."""
    needed = ["scipy.stats", *(["lm_eval"] if recipe.evaluation.questions else [])]
    needed += ["sklearn"] if recipe.evaluation.gold_senses else []
    return [problem for name in needed if (problem := _problem_of(partial(require, name, "eval")))]


def _problem_of(check: Callable[[], object]) -> str | None:
    try:
        check()
    except InputError as error:
        return error.found
    return None


def _teacher_problems(recipe: Recipe) -> list[str]:
    from sensekd.training.students import chosen_layers
    from sensekd.training.teacher import load_config, load_tokenizer

    teacher = recipe.teacher
    try:
        config = load_config(teacher)
    except InputError as error:
        return [f"teacher: {error.found}"]
    found = []
    text = config.get_text_config()
    try:
        chosen_layers(text.num_hidden_layers, recipe.student)
        tokens = len(load_tokenizer(teacher))
        if tokens > text.vocab_size:
            found.append(f"teacher: the tokenizer has {tokens} tokens, the model {text.vocab_size} rows")
    except InputError as error:
        found.append(f"teacher or student: {error.found}")
    longest = getattr(text, "max_position_embeddings", None)
    lengths = {
        "training.sequence_length": recipe.training.sequence_length,
        "evaluation.sequence_length": recipe.evaluation.sequence_length,
        "senses.window": recipe.senses.window,
    }
    if longest is not None:
        found += [f"{key}: {n} exceeds the teacher's {longest} positions" for key, n in lengths.items() if n > longest]
    return found


def problems(recipe: Recipe) -> list[str]:
    """Everything that would stop a run of this recipe, one line each; reads no weights."""
    missing = _missing_files(recipe)
    return [
        *missing,
        *([] if missing else _content_problems(recipe)),
        *_teacher_problems(recipe),
        *_extra_problems(recipe),
    ]


def refuse_problems(recipe: Recipe, name: str) -> None:
    """Stop before anything is started.

    Raises:
        InputError: with every problem, one a line.
    """
    if found := problems(recipe):
        listed = "\n".join(f"  - {line}" for line in found)
        count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
        raise InputError(f"{name}: {count}\n{listed}", "a recipe that can run", "correct them and start again")
