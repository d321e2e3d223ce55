"""Equal wall time: what a step of each arm costs, and how many steps the time of the slowest arm allows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from sensekd.artefacts import write_json
from sensekd.errors import SenseKDError
from sensekd.pipeline.jobs import Job
from sensekd.pipeline.results import read_record
from sensekd.pipeline.stages import Progress
from sensekd.pipeline.workspace import Workspace

VARIANT: Final = "time"
# What a step's cost depends on; seeds and evaluation are no part of it, so that further seeds leave the costs standing.
_SHAPING: Final = ("student", "loss", "training")
_UPSTREAM: Final = ("steps", "teacher", "tokens-train", "senses", "relations")
# A cost is known to a per cent at best, and noise below that should not train a student anew.
_DIGITS: Final = 2


def seconds_per_step(record: Mapping[str, Any]) -> float | None:
    """Wall time of a training step; None where the training was resumed after its last step."""
    steps = record["student"]["steps"] - record["resumed_from"]
    return record["seconds"]["train"] / steps if steps > 0 else None


def relative_cost(records: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> float:
    """Cost of a step against the reference's: the median over pairs of runs of the same seed, to two digits.

    Raises:
        SenseKDError: no pair has a known time.
    """
    pairs = [
        (seconds_per_step(ours), seconds_per_step(theirs)) for ours, theirs in zip(records, reference, strict=True)
    ]
    ratios = [ours / theirs for ours, theirs in pairs if ours and theirs]
    if not ratios:
        raise SenseKDError(
            f"what a step of {records[0]['arm']} costs is not known: its trainings were resumed at their end\n"
            "  do:       name the costs in compare.costs"
        )
    return round(median(ratios), _DIGITS)


def steps_at_equal_time(costs: Mapping[str, float], steps: int) -> dict[str, int]:
    """Steps of every arm in the time that the costliest one takes for `steps`: steps x highest cost / own cost."""
    highest = max(costs.values())
    return {arm: round(steps * highest / cost) for arm, cost in costs.items()}


def _key(work: Workspace, job: Job) -> list[Any]:
    key = job.key(work)
    return [{name: key["settings"][name] for name in _SHAPING}, {name: key.get(name) for name in _UPSTREAM}]


def _measure(work: Workspace, jobs: Sequence[Job], reference: Sequence[Job], path: Path, _: Progress) -> None:
    sides = [[read_record(work.output, job) for job in side] for side in (jobs, reference)]
    write_json(path, {"against": reference[0].arm, "cost": relative_cost(*sides)})


def costs(work: Workspace, jobs: Sequence[Job]) -> dict[str, float]:
    """Cost of a step of every trained arm: the recipe's, or against the baseline's as the finished `jobs` took.

    Measured costs stand in `costs/<arm>.json` and are used again as long as neither arm changes: whoever resumes gets
    the same numbers of steps.
    """
    config = work.recipe.compare
    if config.costs is not None:
        return dict(config.costs)
    by_arm = {arm: [job for job in jobs if job.arm == arm] for arm in config.trained}
    reference = by_arm[config.baseline if config.baseline in by_arm else config.trained[0]]
    found = {}
    for arm, own in by_arm.items():
        path = work.path("costs", f"{arm}.json")

        key = [_key(work, own[0]), _key(work, reference[0])]
        work.stages.run(f"cost {arm}", key, [path], partial(_measure, work, own, reference, path))
        found[arm] = float(json.loads(path.read_text(encoding="utf-8"))["cost"])
    return found


def timed_jobs(work: Workspace, jobs: Sequence[Job], steps: Mapping[str, int]) -> list[Job]:
    """The jobs at equal time; where nothing changes (slowest arm, teacher, untrained student) the very same job."""
    found = []
    for job in jobs:
        wanted = steps.get(job.arm, work.recipe.training.steps)
        if wanted != work.recipe.training.steps:
            settings = {**json.loads(job.settings), "training.steps": wanted}
            job = replace(job, variant=VARIANT, settings=json.dumps(settings, sort_keys=True))
        found.append(job)
    return found
