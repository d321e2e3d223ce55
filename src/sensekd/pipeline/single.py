"""Single stages of a recipe, for the commands that run just one; stages before it run where they are missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensekd.artefacts import MANIFEST
from sensekd.config import ARMS, Recipe, TeacherConfig, load_recipe
from sensekd.errors import InputError
from sensekd.pipeline.bench import Bench, evaluate_model, refuse_non_finite
from sensekd.pipeline.jobs import Job
from sensekd.pipeline.lock import exclusive
from sensekd.pipeline.prepare import (
    prepare,
    prepare_lexicon,
    prepare_relations,
    prepare_responses,
    prepare_senses,
    prepare_tokens,
)
from sensekd.pipeline.run import open_workspace
from sensekd.pipeline.stages import Reporter, Silent, Stages
from sensekd.pipeline.together import Stage, gather, run_stage
from sensekd.pipeline.workspace import RECIPE, Workspace
from sensekd.provenance import tokenizer_fingerprint

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from sensekd.corpus import TokenDocuments
    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.reading import Compose, SenseReading
    from sensekd.training.distill import DistillResult


@exclusive
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


@exclusive
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


@exclusive
def respond_to(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """The teacher's continuations of every part of the training corpus that asks for them.

    Raises:
        InputError: no part does.
    """
    if not any(part.respond for part in recipe.corpus.parts):
        raise InputError(
            "no part of `corpus` asks for the teacher's continuations", "`respond: {tokens: …}` in a part",
            "add it, or train on the answers that the corpus holds",
        )  # fmt: skip
    work = open_workspace(recipe, reporter)
    found = prepare_responses(work, "train", recipe.corpus)
    rows = [
        {"corpus": recipe.corpus.parts[number].path, "folder": str(work.path(f"responses-train-{number}")),
         "prompts": each.manifest.facts["prompts"], "tokens": each.manifest.facts["tokens"]}
        for number, each in found.items()
    ]  # fmt: skip
    return {"responses": rows}


@exclusive
def distill_arm(recipe: Recipe, arm: str, reporter: Reporter) -> dict[str, Any]:
    """Train one arm with the recipe's seed into `students/<arm>-<seed>`, without evaluating it.

    Raises:
        InputError: no such arm.
    """
    if arm not in {*ARMS, *recipe.compare.custom}:
        raise InputError(f"no arm {arm!r}", f"one of {[*ARMS, *recipe.compare.custom]}", "choose one with --arm")
    work = open_workspace(recipe, reporter, together=True)
    crew = gather(work)
    crew.lead(lambda: prepare(work))
    job = Job(arm, recipe.seed)
    folder = job.outputs(work.output)[0]
    facts_path = work.path("distilled", f"{job.name}.json")

    def facts_of(result: DistillResult | None) -> dict[str, Any]:
        assert result is not None
        return {**asdict(result), "student": str(folder)}

    stage = Stage(f"distill {job.name}", job, (folder, facts_path), facts_of)
    run_stage(Bench(work), crew, stage)
    facts: dict[str, Any] = json.loads(facts_path.read_text(encoding="utf-8"))
    return facts


@exclusive
def evaluate_folder(recipe: Recipe, model: Path, reporter: Reporter) -> dict[str, Any]:
    """The recipe's suites on any Hugging Face folder with the teacher's tokenizer.

    Raises:
        InputError: no model there.
        SenseKDError: a metric is no finite number.
    """
    from sensekd.training.placement import student_device
    from sensekd.training.teacher import load_student

    if not (model / "config.json").is_file():
        raise InputError(f"no model at {model}", "a Hugging Face folder", "give the folder of a student or the teacher")
    work = open_workspace(recipe, reporter)
    prepare_tokens(work, "heldout", recipe.evaluation.corpus)
    prepare_relations(work)
    reporter.note(f"evaluating {model}")
    found = evaluate_model(Bench(work), load_student(model, student_device(work.recipe, work.teacher.model)))
    refuse_non_finite(found["metrics"], str(model))
    return found


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


def dictionary_of(folder: Path, verify: bool) -> tuple[SenseDictionary, PreTrainedTokenizerBase, TokenRelations | None]:
    """What `senses show` reads: of a run, or of a dictionary's own folder, whose manifest names the teacher."""
    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.training.teacher import load_tokenizer

    if (folder / RECIPE).is_file() or not (folder / MANIFEST).is_file():
        work = open_run(folder)
        relations = TokenRelations.load(work.path("relations")) if work.recipe.lexicon.sources else None
        return SenseDictionary.load(work.senses, verify=verify), work.tokenizer, relations
    dictionary = SenseDictionary.load(folder, verify=verify)
    tokenizer = load_tokenizer(TeacherConfig(model=dictionary.identity.model))
    found, expected = tokenizer_fingerprint(tokenizer), dictionary.identity.tokenizer
    if found != expected:
        hint = "give the folder of a run instead"
        raise InputError(f"the tokenizer of {dictionary.identity.model} is {found}", f"{expected} as built", hint)
    return dictionary, tokenizer, None


def composer(dictionary: SenseDictionary) -> Compose:
    """Senses of a span of tokens, from the dictionary's rows of its pieces."""
    import torch

    from sensekd.targets import Ragged, compose_spans

    own = Ragged(dictionary.indptr, torch.arange(len(dictionary)))

    def compose(pieces: Sequence[int]) -> Tensor:
        ends = torch.tensor([0, len(pieces)])
        return compose_spans(ends, torch.tensor(pieces), own, dictionary.stored)[0]

    return compose


def read_senses(
    folder: Path, word: str, *, verify: bool = False, emphasise: Callable[[str], str] | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """The senses of a word in a run's dictionary, as text and as data.

    Args:
        folder: a run, or a dictionary.
        word: one word.
        verify: compare the dictionary's checksums first.
        emphasise: how the text marks the word in its contexts.
    """
    from sensekd.senses.reading import describe, render

    dictionary, tokenizer, relations = dictionary_of(folder, verify)
    readings: list[SenseReading] = describe(dictionary, tokenizer, word, relations, composer(dictionary))
    units = "σ²" if dictionary.settings.get("units", "sigma") == "sigma" else "1 (raw)"
    head = f"Squared distances per dimension in units of {units}; {len(dictionary)} senses in all.\n\n"
    text = render(readings) if emphasise is None else render(readings, emphasise)
    return head + text, [asdict(reading) for reading in readings]
