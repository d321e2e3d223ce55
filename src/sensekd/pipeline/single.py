"""Single stages of a recipe, for the commands that run just one; stages before it run where they are missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensekd.artefacts import write_json
from sensekd.config import ARMS, Recipe, load_recipe
from sensekd.errors import InputError
from sensekd.pipeline.jobs import Bench, Job, evaluate_model
from sensekd.pipeline.prepare import prepare, prepare_lexicon, prepare_relations, prepare_senses, prepare_tokens
from sensekd.pipeline.run import open_workspace
from sensekd.pipeline.stages import Reporter, Silent, Stages
from sensekd.pipeline.workspace import RECIPE, Workspace

if TYPE_CHECKING:
    from sensekd.corpus import TokenDocuments
    from sensekd.senses.reading import SenseReading


def build_lexicon_of(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """The `lexicon` stage alone.

    Raises:
        InputError: the recipe has no source.
    """
    from sensekd.lexicon import Lexicon

    if not recipe.lexicon.sources:
        raise InputError("the recipe has no lexicon.sources", "at least one source", "add pairs or a wordnet")
    work = open_workspace(recipe, reporter)
    prepare_lexicon(work)
    folder = work.path("lexicon")
    return {"lexicon": str(folder), "facts": dict(Lexicon.load(folder).facts)}


def build_senses_of(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """The stages `tokens`, `linking`, `sample` and `senses`."""
    work = open_workspace(recipe, reporter)
    documents = sense_documents(work)
    prepare_relations(work)
    prepare_senses(work, documents)
    return senses_facts(work.senses)


def sense_documents(work: Workspace) -> TokenDocuments:
    """The tokens that senses are sampled from."""
    corpus = work.recipe.senses.corpus
    return prepare_tokens(work, "train" if corpus is None else "senses", corpus or work.recipe.corpus)


def senses_facts(folder: Path) -> dict[str, Any]:
    """What a command says of a dictionary."""
    from sensekd.senses.dictionary import SenseDictionary

    dictionary = SenseDictionary.load(folder)
    with_senses = int((dictionary.indptr.diff() > 0).sum())
    facts = {"rows": len(dictionary.centroids), "tokens": with_senses, "sigma2": round(float(dictionary.sigma2), 4)}
    return {"senses": str(folder), "facts": facts}


def distill_arm(recipe: Recipe, arm: str, reporter: Reporter) -> dict[str, Any]:
    """Train one arm with the recipe's seed into `students/<arm>-<seed>`, without evaluating it.

    Raises:
        InputError: no such arm.
    """
    if arm not in {*ARMS, *recipe.compare.custom}:
        raise InputError(f"no arm {arm!r}", f"one of {[*ARMS, *recipe.compare.custom]}", "choose one with --arm")
    work = open_workspace(recipe, reporter)
    prepare(work)
    job = Job(arm, recipe.seed)
    folder = job.outputs(work.output)[0]
    facts_path = work.path("distilled", f"{job.name}.json")

    def build(progress: Any) -> None:
        from sensekd.config import arm_recipe

        arm_settings, steps = arm_recipe(recipe, arm, recipe.seed)
        result = Bench(work).distil(arm_settings, steps, job, progress)
        write_json(facts_path, {**asdict(result), "student": str(folder)})

    work.stages.run(f"distill {job.name}", job.key(work), [folder, facts_path], build)
    facts: dict[str, Any] = json.loads(facts_path.read_text(encoding="utf-8"))
    return facts


def evaluate_folder(recipe: Recipe, model: Path, reporter: Reporter) -> dict[str, Any]:
    """The recipe's suites on any Hugging Face folder with the teacher's tokenizer."""
    from sensekd.training.teacher import load_student

    if not (model / "config.json").is_file():
        raise InputError(f"no model at {model}", "a Hugging Face folder", "give the folder of a student or the teacher")
    work = open_workspace(recipe, reporter)
    prepare_tokens(work, "heldout", recipe.evaluation.corpus)
    prepare_relations(work)
    reporter.note(f"evaluating {model}")
    return evaluate_model(Bench(work), load_student(model, work.teacher.model.device))


def open_run(folder: Path) -> Workspace:
    """The workspace of a finished run.

    Raises:
        InputError: the folder holds no run.
    """
    path = folder / RECIPE
    if not path.is_file():
        raise InputError(f"no run at {folder}", f"a folder with {RECIPE}", "sensekd run RECIPE")
    recipe = load_recipe(path)
    return Workspace(recipe, Stages(folder, Silent()))


def read_senses(folder: Path, word: str) -> tuple[str, list[dict[str, Any]]]:
    """The senses of a word in a run's dictionary, as text and as data."""
    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.reading import describe, render

    work = open_run(folder)
    dictionary = SenseDictionary.load(work.senses)
    relations = TokenRelations.load(work.path("relations")) if work.recipe.lexicon.sources else None
    readings: list[SenseReading] = describe(dictionary, work.tokenizer, word, relations)
    return render(readings), [asdict(reading) for reading in readings]
