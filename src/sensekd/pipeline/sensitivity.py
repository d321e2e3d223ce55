"""One factor at a time from the recipe's values: λ, κ, K and the margin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sensekd.artefacts import write_json
from sensekd.config import Recipe, SensitivityConfig, arm_recipe
from sensekd.errors import InputError
from sensekd.evaluation.compare import ArmResult, summarise
from sensekd.pipeline.jobs import DEVELOPMENT, HELDOUT, Job
from sensekd.pipeline.lock import exclusive
from sensekd.pipeline.prepare import cluster_into
from sensekd.pipeline.results import provenance, read_record
from sensekd.pipeline.run import begin, open_workspace
from sensekd.pipeline.runner import run_jobs
from sensekd.pipeline.stages import Reporter
from sensekd.pipeline.tuning import prepare_development
from sensekd.pipeline.workspace import Workspace

RESULTS: Final = "sensitivity.json"
_KEYS: Final = {"lambda": "loss.lambda", "kappa": "loss.kappa", "margin": "loss.margin"}


@dataclass(frozen=True)
class Point:
    """One value of one factor.

    Attributes:
        factor: `lambda`, `kappa`, `k` or `margin`.
        value: its value; `adaptive` is one of `k`.
        arm: under which name its runs stand in the results.
        variant: of its jobs; empty for the value that the recipe has.
    """

    factor: str
    value: float | str
    arm: str
    variant: str = ""


def points(recipe: Recipe, config: SensitivityConfig) -> tuple[list[Point], dict[str, str]]:
    """The values of every factor with the recipe's among them, in order; and which factors are left out, and why.

    Raises:
        InputError: the arm has no sense loss.
    """
    loss = arm_recipe(recipe, config.arm, 0)[0].loss
    if loss.lam == 0:
        raise InputError(
            f"compare.sensitivity.arm: {config.arm!r} has no sense loss", "an arm with λ > 0", "name another arm"
        )
    start: dict[str, float | str] = {
        "lambda": loss.lam, "kappa": loss.kappa, "k": recipe.senses.k, "margin": loss.effective_margin,
    }  # fmt: skip
    wanted = {"lambda": config.lam, "kappa": config.kappa, "k": config.k, "margin": config.margin}
    skipped = {}
    if recipe.senses.dictionary is not None:
        skipped["k"] = "the recipe names a dictionary; to cluster again takes a sample"
    if not (recipe.lexicon.sources and loss.antonyms and loss.beta_negative > 0):
        skipped["margin"] = "nothing is pushed: no lexicon, or no antonyms in this arm"
    elif loss.push == "contrastive":
        skipped["margin"] = "the contrastive push has none"
    found = []
    for factor, values in wanted.items():
        if factor in skipped:
            continue
        own = start[factor]
        numbers = sorted({float(value) for value in (*values, own) if not isinstance(value, str)})
        listed = [own] * isinstance(own, str) + [int(x) if factor in {"kappa", "k"} else x for x in numbers]
        for value in listed:
            variant = "" if value == own else f"{factor}={value:g}"
            found.append(Point(factor, value, f"{config.arm}@{variant}" if variant else config.arm, variant))
    return found, skipped


def _job(point: Point, config: SensitivityConfig, seed: int, split: str) -> Job:
    senses = f"senses-k{point.value}" if point.factor == "k" else ""
    settings = {_KEYS[point.factor]: point.value} if point.factor in _KEYS else {}
    return Job(config.arm, seed, point.variant, json.dumps(settings), split, senses, trial=True)


def _plain_job(arm: str, seed: int, split: str) -> Job:
    """An arm as the recipe has it: on the test split the very job of `compare`."""
    return Job(arm, seed) if split == HELDOUT else Job(arm, seed, DEVELOPMENT, split=split, trial=True)


def _raw(point: Point, sigma2: float) -> float | None:
    """The value in raw units: d² is σ² times as large there, so λ / σ² pulls as hard, and the margin is σ² times."""
    if sigma2 == 1.0 or isinstance(point.value, str):
        return None
    return {"lambda": point.value / sigma2, "margin": point.value * sigma2}.get(point.factor)


def summaries(records: Sequence[tuple[str, dict[str, Any]]], arm: str, baseline: str) -> dict[str, Any]:
    """Runs, means and differences of all values; one of which a seed failed is listed under `failed` and has no mean.

    Raises:
        InputError: the recipe's own values, or the baseline, failed with every seed.
    """
    whole = [
        ArmResult(name, record["seed"], record["metrics"], record["tokens"], record["items"])
        for name, record in records
        if "failed" not in record
    ]
    failed = {f"{name}-{record['seed']}": record["failed"] for name, record in records if "failed" in record}
    known = {run.arm for run in whole}
    for name in (arm, baseline):
        if name not in known:
            raise InputError(
                f"every training of {name} failed", "a default that can be trained", "lower training.learning_rate"
            )
    # The mean of the seeds that happened to survive would flatter a value under which others do not train.
    lost = {name for name, record in records if "failed" in record} - {arm, baseline}
    kept = [run for run in whole if run.arm not in lost]
    from_default: Any = summarise(kept, arm)["differences"]
    return {
        "arms": [run.as_dict() for run in whole],
        **summarise(kept, baseline),
        "from_default": [row for row in from_default if row["arm"] != baseline],
        "failed": failed,
    }


def _dictionaries(work: Workspace, found: Sequence[Point]) -> None:
    """A dictionary for every K, from the sample that stands."""
    for point in found:
        if point.factor == "k" and point.variant:
            config = work.recipe.senses.model_copy(update={"k": point.value})
            cluster_into(work, config, f"senses-k{point.value}")


@exclusive
def sensitivity(recipe: Recipe, reporter: Reporter, command: str) -> dict[str, Any]:
    """Train the arm of `compare.sensitivity` with every value, all else as the recipe has it.

    Judged by `compare.development` where the recipe has it (what a default is chosen by is no test), else by the
    held-out text. The baseline of the comparison is trained beside it.

    Returns:
        The results as written to `sensitivity.json`: `arms`, `summary`, `differences` (against the baseline) as in
        `results.json`; `from_default`, the same against the recipe's own values; `factors`, which arm stands for which
        value, with the value in raw units; `skipped`, `failed`, `sigma2`, `split`.

    Raises:
        InputError: the arm has no sense loss, or an input of a stage is wrong.
    """
    from sensekd.senses.dictionary import SenseDictionary

    config = recipe.compare.sensitivity or SensitivityConfig()
    found, skipped = points(recipe, config)
    work = open_workspace(recipe, reporter)
    begin(work)
    split = HELDOUT if recipe.compare.development is None else DEVELOPMENT
    if split == DEVELOPMENT:
        prepare_development(work)
    _dictionaries(work, found)
    seeds, baseline = config.seeds or recipe.compare.seeds, recipe.compare.baseline
    jobs: list[tuple[str, Job]] = []
    for seed in seeds:
        jobs += [(arm, _plain_job(arm, seed, split)) for arm in dict.fromkeys((baseline, config.arm))]
        jobs += [(point.arm, _job(point, config, seed, split)) for point in found if point.variant]
    run_jobs(work, [job for _, job in jobs], recipe.compare.workers)
    records = [(name, read_record(work.output, job)) for name, job in jobs]
    sigma2 = SenseDictionary.load(work.senses).sigma2
    results = {
        **summaries(records, config.arm, baseline),
        "factors": [
            {
                "factor": point.factor, "value": point.value, "arm": point.arm,
                "default": not point.variant, "raw": _raw(point, sigma2),
            }
            for point in found
        ],
        "default_arm": config.arm,
        "baseline": baseline,
        "skipped": skipped,
        "sigma2": sigma2,
        "split": split,
        "chance": records[0][1]["chance"],
        "provenance": provenance(work, command),
        "times": {
            "stages": work.stages.seconds,
            "arms": {f"{name}-{record['seed']}": record["seconds"]["train"] for name, record in records},
        },
    }  # fmt: skip
    write_json(work.path(RESULTS), results)
    return results
