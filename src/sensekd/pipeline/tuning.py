"""Tuning that is fair: as many trials for every arm, judged on a development split; the test split is opened after."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from sensekd.artefacts import fingerprint, write_json
from sensekd.config import RangeConfig, Recipe, TuneConfig, arm_recipe, arm_settings
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError, SenseKDError
from sensekd.evaluation.compare import direction
from sensekd.pipeline.jobs import DEVELOPMENT, HELDOUT, Job
from sensekd.pipeline.overlap import TOLERATED, shared
from sensekd.pipeline.prepare import prepare_tokens
from sensekd.pipeline.results import read_record
from sensekd.pipeline.runner import run_jobs
from sensekd.pipeline.workspace import Workspace, source_key

LEDGER: Final = "test-split.json"
_SPLITS: Final = {"heldout": "the test split (evaluation)", "train": "the training text (corpus)"}
_WEIGHTS: Final = {"loss.alpha": "alpha", "loss.lambda": "lam", "loss.mu": "mu"}
# Keys that mean something only where the term that they shape has a weight; every other loss key shapes the sense term.
_TERM: Final = {**_WEIGHTS, "loss.tau": "alpha", "loss.divergence": "alpha", "loss.jsd_beta": "alpha"}
_PUSH: Final = frozenset({"loss.margin", "loss.push", "loss.push_temperature", "loss.beta_negative"})
_BLOCKS: Final = 1000

Settings = dict[str, Any]
Space = Mapping[str, RangeConfig | tuple[Any, ...]]


@dataclass(frozen=True)
class Trial:
    """One setting of one arm, and what came of it.

    Attributes:
        settings: keys and values that are not the arm's own.
        values: the metric of every seed; empty where a training failed.
        failed: why, where it did.
    """

    settings: Settings
    values: tuple[float, ...]
    failed: str | None = None

    @property
    def mean(self) -> float | None:
        """The metric's mean over the seeds; None where a training failed."""
        return fmean(self.values) if self.values else None

    def as_dict(self) -> dict[str, Any]:
        """The entry of `results.json`."""
        return {"settings": self.settings, "values": list(self.values), "mean": self.mean, "failed": self.failed}


def relevant(recipe: Recipe, arm: str, keys: Sequence[str]) -> list[str]:
    """The keys that change something in an arm and are no part of what makes it this arm.

    A weight may be tuned where the arm has that term at all, whatever value the arm starts from; other keys that the
    arm names stay as it has them.
    """
    loss, own = arm_recipe(recipe, arm, 0)[0].loss, arm_settings(recipe, arm)
    found = []
    for key in keys:
        if key.startswith("loss."):
            weighted = getattr(loss, _TERM.get(key, "lam")) > 0
            pushed = key not in _PUSH or (loss.antonyms and bool(recipe.lexicon.sources))
            if not weighted or not pushed or (key in own and key not in _WEIGHTS):
                continue
        found.append(key)
    return found


def _value(values: RangeConfig | tuple[Any, ...], share: float) -> Any:
    if not isinstance(values, RangeConfig):
        return values[int(share * len(values))]
    if values.log:
        return float(f"{values.low * (values.high / values.low) ** share:.4g}")
    return float(f"{values.low + share * (values.high - values.low):.4g}")


def _stream(space: Space, keys: Sequence[str], size: int, seed: int) -> Iterator[Settings]:
    """Blocks of `size` settings; within a block every key's values are evenly spread (a Latin hypercube).

    A key's values depend on the seed and its name alone: arms that share keys try the same values of them.
    """
    for block in range(_BLOCKS):
        columns = []
        for key in keys:
            generator = np.random.default_rng([seed, zlib.crc32(key.encode()), block])
            shares = (generator.permutation(size) + generator.random(size)) / size
            columns.append([_value(space[key], float(share)) for share in shares])
        yield from (dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True))


def settings_to_try(recipe: Recipe, arm: str, tune: TuneConfig) -> list[Settings]:
    """`tune.trials` different settings of an arm; the first is the arm as it stands.

    Raises:
        InputError: the space has no key for the arm, or too few settings.
    """
    keys = relevant(recipe, arm, list(tune.space))
    sections = arm_recipe(recipe, arm, 0)[0]
    tree, start = sections.model_dump(mode="json", by_alias=True), {}
    for key in keys:
        section, _, name = key.partition(".")
        # A key that the arm does not use is not written, and has no other name than the attribute's.
        start[key] = tree[section][name] if name in tree[section] else getattr(getattr(sections, section), name)
    sizes = [None if isinstance(values := tune.space[key], RangeConfig) else len(set(values)) for key in keys]
    found: list[Settings] = []
    for each in _stream(tune.space, keys, tune.trials - 1, tune.seed) if keys else ():
        if len(found) == tune.trials - 1:
            break
        if each != start and each not in found:
            found.append(each)
    if len(found) < tune.trials - 1:
        have = f"{len(found) + 1} different settings" if keys else "no key"
        wide = ", ".join(f"{key}: {size or 'a range'}" for key, size in zip(keys, sizes, strict=True))
        raise InputError(
            f"arm {arm!r} has {have} in compare.tune.space ({wide or 'none that it knows'})",
            f"{tune.trials} for every arm: as many trials for each is what makes the comparison fair",
            "give a range {low, high} for training.learning_rate, which every arm has, or fewer trials",
        )
    return [{}, *found]


def trial_jobs(recipe: Recipe, tune: TuneConfig) -> dict[str, list[list[Job]]]:
    """The jobs of every arm: one list a trial, one job a seed."""
    found: dict[str, list[list[Job]]] = {}
    for arm in recipe.compare.trained:
        found[arm] = []
        for number, settings in enumerate(settings_to_try(recipe, arm, tune)):
            whole = settings if tune.steps is None else {**settings, "training.steps": tune.steps}
            text = json.dumps(whole, sort_keys=True)
            jobs = [Job(arm, seed, f"trial{number}", text, DEVELOPMENT, trial=True) for seed in tune.seeds]
            try:
                jobs[0].recipe(recipe)
            except ValidationError as error:
                raise InputError(
                    f"compare.tune: {arm} with {text}: {error.errors()[0]['msg']}",
                    "a space in which every combination is a recipe",
                    "leave out the values that exclude each other",
                ) from error
            found[arm].append(jobs)
    return found


def judged(output: Path, jobs: Sequence[Job], settings: Settings, metric: str) -> Trial:
    """A trial whose jobs are done.

    Raises:
        InputError: the development split has no such metric.
    """
    records = [read_record(output, job) for job in jobs]
    failed = [record["failed"] for record in records if "failed" in record]
    if failed:
        return Trial(settings, (), failed[0])
    missing = [record for record in records if metric not in record["metrics"]]
    if missing:
        raise InputError(
            f"compare.tune.metric: no {metric!r} on the development split",
            f"one of {sorted(missing[0]['metrics'])}",
            "name one of these, or a question set of compare.development",
        )
    return Trial(settings, tuple(float(record["metrics"][metric]) for record in records))


def best(trials: Sequence[Trial], metric: str) -> int | None:
    """The number of the best trial, the first of equals; None where all failed."""
    sign = 1 if direction(metric) == "higher" else -1
    known = [(sign * trial.mean, -number) for number, trial in enumerate(trials) if trial.mean is not None]
    return -max(known)[1] if known else None


def prepare_development(work: Workspace) -> dict[str, Any]:
    """Tokenise the development text, and make sure that it is neither what is tested on nor what is trained on.

    Returns:
        {"documents", "in_test", "in_training"}: how many texts, and how many of them stand in the test split and in
        the training text too.

    Raises:
        InputError: more than one in a hundred texts is of either (a setting that learns by heart would win), or a
            question set is of the test split.
    """
    development = work.recipe.compare.development
    assert development is not None
    chosen = prepare_tokens(work, DEVELOPMENT, development.corpus)
    found = {split: shared(work, DEVELOPMENT, split) for split in _SPLITS}
    same = {source_key(path) for path in development.questions.values()}
    same &= {source_key(path) for path in work.recipe.evaluation.questions.values()}
    wrong = [
        f"{count} of {len(chosen)} texts stand in {_SPLITS[split]} too"
        for split, count in found.items()
        if count > TOLERATED * len(chosen)
    ]
    wrong += ["a question set stands in the test split (evaluation) too"] * bool(same)
    if wrong:
        raise InputError(
            f"compare.development: {'; '.join(wrong)}",
            "text and questions that nothing is trained on or reported on",
            "use another file, or skip_documents and max_documents",
        )
    return {"documents": len(chosen), "in_test": found["heldout"], "in_training": found["train"]}


def tune(work: Workspace) -> tuple[dict[str, Settings], dict[str, Any]]:
    """Run all trials of all arms, and choose.

    Returns:
        The chosen settings of every trained arm, and what `results.json` says of the tuning.

    Raises:
        SenseKDError: every trial of an arm failed.
    """
    config = work.recipe.compare.tune
    assert config is not None
    development = prepare_development(work)
    jobs = trial_jobs(work.recipe, config)
    run_jobs(work, [job for arm in jobs.values() for trial in arm for job in trial], work.recipe.compare.workers)
    chosen: dict[str, Settings] = {}
    arms: dict[str, Any] = {}
    for arm, trials in jobs.items():
        found = [judged(work.output, trial, settings_of(trial[0]), config.metric) for trial in trials]
        number = best(found, config.metric)
        if number is None:
            raise SenseKDError(f"every trial of {arm} failed: {found[0].failed}\n  do:       change compare.tune.space")
        chosen[arm] = found[number].settings
        arms[arm] = {"chosen": number, "settings": chosen[arm], "trials": [trial.as_dict() for trial in found]}
    facts = {
        "metric": config.metric,
        "trials": config.trials,
        "seeds": list(config.seeds),
        "development": development,
        "arms": arms,
    }
    return chosen, facts


def settings_of(job: Job) -> Settings:
    """What was tried, without the trial's number of steps."""
    found: Settings = json.loads(job.settings)
    found.pop("training.steps", None)
    return found


def _looked_before(work: Workspace, heldout: str, questions: Mapping[str, Any]) -> Iterator[str]:
    """Results in the run's folder that show untuned models on this test split: who read them may have chosen by it."""
    for name in ("results.json", "sensitivity.json"):
        path = work.path(name)
        if not path.is_file():
            continue
        results = json.loads(path.read_text(encoding="utf-8"))
        inputs = results["provenance"]["inputs"]
        tested = (inputs["heldout"], inputs["questions"]) == (heldout, questions)
        if tested and "tuning" not in results and results.get("split", HELDOUT) == HELDOUT:
            yield name


def open_test_split(work: Workspace, jobs: Sequence[Job]) -> int:
    """Write down that these models are about to be tested, and say how often other ones were before them, and they.

    `test-split.json` keeps one entry for each set of models that was tested on this split: 1 means that nothing which
    is reported was chosen by a look at it. Going on with the same models is no new look; an untuned comparison or a
    sensitivity on the test split that stands in the same folder was one.
    """
    path = work.path(LEDGER)
    questions = {name: source_key(file) for name, file in work.recipe.evaluation.questions.items()}
    heldout = TokenDocuments.open(work.path("tokens-heldout")).manifest.id
    test = fingerprint([heldout, questions])
    models = [*_looked_before(work, heldout, questions), fingerprint([job.key(work) for job in jobs])]
    entries: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if new := [entry for each in models if (entry := {"test": test, "models": each}) not in entries]:
        write_json(path, [*entries, *new])
        entries += new
    return sum(each["test"] == test for each in entries)
