"""`sensekd senses evaluate`: a dictionary against gold senses and CoarseWSD-20."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sensekd.config import Recipe, load_recipe
from sensekd.errors import InputError
from sensekd.pipeline.prepare import gold_quality
from sensekd.pipeline.single import build_senses_of, open_run
from sensekd.pipeline.stages import Reporter, Stages
from sensekd.pipeline.workspace import RECIPE, Workspace


def _recipe(target: Path, overrides: Sequence[str]) -> Recipe:
    if not target.is_dir():
        return load_recipe(target, overrides)
    if not (target / RECIPE).is_file():
        raise InputError(f"no run at {target}", f"a recipe, or a folder with {RECIPE}", "sensekd senses build RECIPE")
    if overrides:
        raise InputError(f"--set with the run {target}", "a recipe", f"give {target / RECIPE} to change keys")
    return open_run(target).recipe


def evaluate_senses(target: Path, coarse: Path | None, overrides: Sequence[str], reporter: Reporter) -> dict[str, Any]:
    """Judge the dictionary of a recipe (built where it is missing) or of a finished run.

    Args:
        target: a recipe, or a run's folder.
        coarse: the folder CoarseWSD-20, or None.
        overrides: of the recipe.
        reporter: where to say how it goes.

    Returns:
        `gold`: agreement with the recipe's gold senses, None where it names none; `coarse`: CoarseWSD-20, None without
        the folder; `senses`: the dictionary's folder.

    Raises:
        InputError: there is nothing to judge by, no dictionary, or one of another teacher.
    """
    from sensekd.senses.coarse import coarse_states, read_coarse, score_coarse
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.placing import window_of

    words = read_coarse(coarse) if coarse is not None else None
    recipe = _recipe(target, overrides)
    if words is None and recipe.evaluation.gold_senses is None:
        raise InputError(
            f"{target} names no gold senses, and --coarse is not given", "one of them",
            "set evaluation.gold_senses, or give --coarse DIR",
        )  # fmt: skip
    if not target.is_dir():
        build_senses_of(recipe, reporter)
    work = Workspace(recipe, Stages(target if target.is_dir() else Path(recipe.output), reporter))
    found: dict[str, Any] = {"senses": str(work.senses), "gold": gold_quality(work), "coarse": None}
    if words is not None:
        teacher = work.teacher
        dictionary = SenseDictionary.load(work.senses, teacher.identity)
        reporter.note(f"CoarseWSD: {sum(len(word.train) + len(word.test) for word in words)} sentences")
        states = coarse_states(teacher.model, teacher.tokenizer, words, window_of(dictionary))
        found["coarse"] = score_coarse(dictionary, states)
    return found


def describe_quality(found: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"senses: {found['senses']}"]
    if gold := found["gold"]:
        lines += [
            f"gold senses: {gold['occurrences']} occurrences of {gold['words']} words, {gold['skipped']} skipped",
            f"  AMI {gold['ami']:.3f} (shuffled {gold['ami_shuffled']:.3f}); where the left context tells the sense "
            f"{gold['ami_left']:.3f} (shuffled {gold['ami_left_shuffled']:.3f})",
            f"  purity {gold['purity']:.3f} (most frequent sense {gold['purity_most_frequent']:.3f})",
        ]
    if coarse := found["coarse"]:
        lines.append("CoarseWSD (left context alone; accuracy, most frequent sense, AMI; senses of the first piece)")
        for word in coarse["by_word"]:
            lines.append(
                f"  {word['word']:<10} {word['accuracy']:.3f}  {word['most_frequent']:.3f}  {word['ami']:.3f}  "
                f"{word['rows']} senses, {word['pieces']} pieces, {word['fallbacks']} of {word['test']} by the baseline"
            )
        for name in ("all", "one_piece", "more_pieces", "few_sentences"):
            if (mean := coarse[name])["words"]:
                lines.append(
                    f"  {name}: macro accuracy {mean['accuracy']:.3f}, most frequent sense "
                    f"{mean['most_frequent']:.3f}, AMI {mean['ami']:.3f} over {mean['words']} words "
                    f"({mean['words_above']} above, {mean['words_below']} below)"
                )
    return "\n".join(lines)
