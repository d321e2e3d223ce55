"""Preflight: what would stop a run, found without loading weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from sensekd.artefacts import MANIFEST
from sensekd.config import CorpusConfig, Recipe
from sensekd.corpus import documents
from sensekd.errors import InputError, require

# Rows of a corpus that are read before anything starts; question sets have fewer, and are read whole.
_FIRST: Final = 200_000


def _elsewhere(part: CorpusConfig) -> bool:
    """Whether a corpus is no file: a dataset of the hub, or a folder of subjects."""
    if part.records == "mmlu" and Path(part.path).is_dir():
        return True
    return part.format == "hub" and part.records in ("text", "messages", "completion")


def _parts(recipe: Recipe) -> list[tuple[str, CorpusConfig]]:
    """Every part of every corpus, and the key that it stands under."""
    development = recipe.compare.development
    corpora = {
        "corpus": recipe.corpus,
        "senses.corpus": recipe.senses.corpus,
        "evaluation.corpus": recipe.evaluation.corpus,
        "compare.development.corpus": development.corpus if development else None,
    }
    return [
        (f"{name}.mixture[{number}]" if corpus.mixture else name, part)
        for name, corpus in corpora.items()
        if corpus is not None
        for number, part in enumerate(corpus.parts)
    ]


def _missing_files(recipe: Recipe) -> list[str]:
    files: list[tuple[str, str]] = []
    for where, part in _parts(recipe):
        files += [] if _elsewhere(part) else [(f"{where}.path", part.path)]
        files += [(f"{where}.template", part.template)] if part.template else []
    files += [(f"evaluation.questions.{name}", path) for name, path in recipe.evaluation.questions.items()]
    if development := recipe.compare.development:
        files += [(f"compare.development.questions.{name}", path) for name, path in development.questions.items()]
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
    from sensekd.pipeline.jobs import lexical_key
    from sensekd.senses.quality import read_gold

    development = recipe.compare.development
    sets = [*recipe.evaluation.questions.values(), *(development.questions.values() if development else ())]
    checks: list[Callable[[], object]] = [partial(read_questions, Path(path)) for path in sets]
    if recipe.evaluation.lexical is not None:
        checks.append(partial(lexical_key, recipe.evaluation.lexical))
    checks += [partial(_first_record, where, part) for where, part in _parts(recipe) if part.records == "text"]
    checks += [partial(_first_records, part) for part in recipe.corpus.parts if part.records != "text"]
    if recipe.evaluation.gold_senses:
        checks.append(partial(read_gold, Path(recipe.evaluation.gold_senses)))
    return [problem for check in checks if (problem := _problem_of(check))]


def _first_record(where: str, part: CorpusConfig) -> None:
    """Read the first document of a local text, so that an empty one shows."""
    if _elsewhere(part) or part.skip_documents > _FIRST:
        return
    if next(documents(part), None) is None:
        skipped = f" after the {part.skip_documents} that are skipped" if part.skip_documents else ""
        raise InputError(f"{where}: no document in {part.path}{skipped}", "at least one document that is not empty")


def _first_records(part: CorpusConfig) -> None:
    """Read the first records of a local corpus (all of a question set), so that a bad one shows."""
    from sensekd.training.records import read_records

    if not _elsewhere(part) or part.records == "mmlu":
        for _ in islice(read_records(part), _FIRST):
            pass


def _extra_problems(recipe: Recipe) -> list[str]:
    """Extras that the end of a run needs; better missed now than after the training."""
    needed = ["scipy.stats", *(["lm_eval"] if recipe.evaluation.questions else [])]
    needed += ["sklearn"] if recipe.evaluation.gold_senses else []
    extras = [(name, "eval") for name in needed]
    extras += [("peft", "lora")] if recipe.student.lora else []
    extras += [("bitsandbytes", "quantization")] if recipe.teacher.quantization else []
    return [problem for name, extra in extras if (problem := _problem_of(partial(require, name, extra)))]


def _tuning_problems(recipe: Recipe) -> list[str]:
    """Whether every arm has as many trials as the recipe asks for, all of which are recipes."""
    from sensekd.pipeline.tuning import trial_jobs

    tune = recipe.compare.tune
    problem = _problem_of(partial(trial_jobs, recipe, tune)) if tune is not None else None
    return [problem] if problem else []


def _problem_of(check: Callable[[], object]) -> str | None:
    try:
        check()
    except InputError as error:
        return error.found
    return None


def _teacher_problems(recipe: Recipe) -> list[str]:
    from sensekd.pipeline.check.shapes import shapes_of
    from sensekd.training.arguments import training_arguments
    from sensekd.training.placement import pick_device, teacher_device
    from sensekd.training.teacher import load_config, load_tokenizer

    teacher = recipe.teacher
    try:
        config = load_config(teacher)
    except InputError as error:
        return [f"teacher: {error.found}"]
    text = config.get_text_config()
    tokens: int | None = None

    def vocabulary() -> None:
        nonlocal tokens
        tokens = len(load_tokenizer(teacher))
        if tokens > text.vocab_size:
            raise InputError(f"teacher: the tokenizer has {tokens} tokens, the model {text.vocab_size} rows")

    def student() -> None:
        # Made on the meta device: a layer, a pattern or an adapter that fits nowhere shows as it would in the run.
        shapes_of(recipe, None if tokens is None or tokens > text.vocab_size else tokens)

    def arguments() -> None:
        device = pick_device(recipe.device)
        training_arguments(recipe, recipe.training.steps, Path(recipe.output) / "work", device)

    looks: list[Callable[[], object]] = [vocabulary, lambda: teacher_device(teacher, pick_device(recipe.device))]
    found = [problem for look in (*looks, student, arguments) if (problem := _problem_of(look))]
    longest = getattr(text, "max_position_embeddings", None)
    lengths = {
        "training.sequence_length": recipe.training.sequence_length,
        "evaluation.sequence_length": recipe.evaluation.sequence_length,
    }
    if recipe.senses.dictionary is None:
        lengths["senses.window"] = recipe.senses.window
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
        *_tuning_problems(recipe),
    ]


def listed(found: Sequence[str], name: str) -> InputError:
    """Every problem, one a line."""
    lines = "\n".join(f"  - {line}" for line in found)
    count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
    return InputError(f"{name}: {count}\n{lines}", "a recipe that can run", "correct them and start again")


def refuse_problems(recipe: Recipe, name: str) -> None:
    """Stop before anything is started.

    Raises:
        InputError: with every problem, one a line.
    """
    if found := problems(recipe):
        raise listed(found, name)
