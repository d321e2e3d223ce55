"""Preflight: what would stop a run, found without loading weights."""

from __future__ import annotations

from pathlib import Path

from sensekd.config import CorpusConfig, Recipe
from sensekd.errors import InputError


def _missing_files(recipe: Recipe) -> list[str]:
    def corpus(name: str, config: CorpusConfig | None) -> list[tuple[str, str]]:
        return [] if config is None or config.format == "hub" else [(f"{name}.path", config.path)]

    files = [
        *corpus("corpus", recipe.corpus),
        *corpus("senses.corpus", recipe.senses.corpus),
        *corpus("evaluation.corpus", recipe.evaluation.corpus),
        *((f"lexicon.sources[{i}].path", s.path) for i, s in enumerate(recipe.lexicon.sources) if s.path),
        *((f"evaluation.questions.{name}", path) for name, path in recipe.evaluation.questions.items()),
    ]
    if recipe.evaluation.gold_senses:
        files.append(("evaluation.gold_senses", recipe.evaluation.gold_senses))
    return [f"{where}: no file at {path}" for where, path in files if not Path(path).is_file()]


def _teacher_problems(recipe: Recipe) -> list[str]:
    from transformers import AutoConfig

    from sensekd.training.students import chosen_layers
    from sensekd.training.teacher import load_tokenizer

    teacher = recipe.teacher
    try:
        config = AutoConfig.from_pretrained(
            teacher.model, revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
        )
    except (OSError, ValueError) as error:
        return [f"teacher.model: nothing loads from {teacher.model!r}: {str(error).splitlines()[0]}"]
    found = []
    text = config.get_text_config()
    try:
        chosen_layers(text.num_hidden_layers, recipe.student)
        tokens = len(load_tokenizer(teacher))
        if tokens > text.vocab_size:
            found.append(f"teacher: the tokenizer has {tokens} tokens, the model {text.vocab_size} rows")
    except InputError as error:
        found.append(f"teacher/student: {error}")
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
    return [*_missing_files(recipe), *_teacher_problems(recipe)]
