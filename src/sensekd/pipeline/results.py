"""From records to `results.json` and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sensekd.artefacts import write_json
from sensekd.config import CompareConfig
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.evaluation.compare import ArmResult, summarise
from sensekd.evaluation.resampling import correct, item_differences
from sensekd.pipeline.examples import example_senses
from sensekd.pipeline.jobs import TEACHER, Job, lexical_key
from sensekd.pipeline.prepare import gold_quality
from sensekd.pipeline.workspace import Workspace, source_key
from sensekd.provenance import versions


def read_record(output: Path, job: Job) -> dict[str, Any]:
    """The record that a job left."""
    path = output / "records" / f"{job.name}.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def provenance(work: Workspace, command: str) -> dict[str, Any]:
    """The recipe, the teacher, the inputs and the libraries of a run."""
    # Where the run stands is no part of what it found.
    recipe = work.recipe.model_dump(mode="json", by_alias=True, exclude={"output"})
    identities: dict[str, Any] = {
        "corpus": TokenDocuments.open(work.path("tokens-train")).manifest.id,
        "heldout": TokenDocuments.open(work.path("tokens-heldout")).manifest.id,
        "questions": {name: source_key(path) for name, path in work.recipe.evaluation.questions.items()},
    }
    if work.recipe.evaluation.lexical is not None:
        identities["lexical"] = lexical_key(work.recipe.evaluation.lexical)
    teacher = asdict(work.teacher.identity)
    return {"recipe": recipe, "command": command, "teacher": teacher, "inputs": identities, "versions": versions()}


@dataclass(frozen=True)
class Timed:
    """The comparison at equal wall time: its jobs, the cost of a step of each arm, and the steps that follow."""

    jobs: Sequence[Job]
    costs: Mapping[str, float]
    steps: Mapping[str, int]


def compared(records: Sequence[Mapping[str, Any]], config: CompareConfig) -> dict[str, Any]:
    """Runs, means and differences; with resampled items and corrected p-values where the recipe asks for them."""
    arms = [
        ArmResult(record["arm"], record["seed"], record["metrics"], record["tokens"], record["items"])
        for record in records
    ]
    found: dict[str, Any] = {"arms": [arm.as_dict() for arm in arms], **summarise(arms, config.baseline)}
    if config.bootstrap is not None:
        found["items"] = item_differences(arms, config.baseline, config.bootstrap)
    if config.correction is not None:
        found["multiplicity"] = {"differences": correct(found["differences"])}
        if "items" in found:
            found["multiplicity"]["items"] = correct(found["items"])
    return found


def _at_equal_time(work: Workspace, timed: Timed) -> tuple[dict[str, Any], dict[str, Any]]:
    """The second comparison, and what belongs under `times`."""
    records = [read_record(work.output, job) for job in timed.jobs]
    found = compared(records, work.recipe.compare)
    slowest = max(timed.costs, key=lambda arm: timed.costs[arm])
    times = {
        "costs": dict(timed.costs),
        "arms": {f"{record['arm']}-{record['seed']}": record["seconds"]["train"] for record in records},
    }
    return {**found, "steps": dict(timed.steps), "slowest": slowest}, times


def collect(
    work: Workspace,
    jobs: Sequence[Job],
    coverage: dict[str, Any],
    command: str,
    *,
    timed: Timed | None = None,
    tuning: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Put records together into the results, write `results.json`, and return it.

    Everything that may differ between two equal runs stands under `times`. Where the recipe asks for them there are
    further keys: `items` and `multiplicity`, `equal_time` (a second comparison), `tuning`.
    """
    records = [read_record(work.output, job) for job in jobs]
    results = {
        **compared(records, work.recipe.compare),
        "senses": gold_quality(work),
        "examples": example_senses(work),
        "coverage": coverage,
        "chance": records[0]["chance"],
        "provenance": provenance(work, command),
        "times": {
            "stages": work.stages.seconds,
            "arms": {record["arm"] + f"-{record['seed']}": record["seconds"]["train"] for record in records},
            "evaluation": {record["arm"] + f"-{record['seed']}": record["seconds"]["evaluate"] for record in records},
            "memory": {
                **work.stages.memory,
                **{f"{record['arm']}-{record['seed']}": peak for record in records if (peak := record.get("memory"))},
            },
        },
    }
    if timed is not None:
        results["equal_time"], results["times"]["equal_time"] = _at_equal_time(work, timed)
    if tuning is not None:
        results["tuning"] = tuning
    write_json(work.path("results.json"), results)
    return results


def histories(output: Path, jobs: Sequence[Job]) -> dict[str, list[dict[str, Any]]]:
    """The logged training curves of every student, by job name."""
    found = {job.name: read_record(output, job)["history"] for job in jobs if job.arm != TEACHER}
    return {name: history for name, history in found.items() if history}


def read_results(output: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The results of a finished run and the curves of its students.

    Raises:
        InputError: the folder holds no results, or they cannot be read.
    """
    path = output / "results.json"
    if not path.is_file():
        raise InputError(f"no results at {path}", "the folder of a finished run", "sensekd run RECIPE")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return results, histories(output, [Job(entry["arm"], entry["seed"]) for entry in results["arms"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"the results in {output} cannot be read: {type(error).__name__}: {error}"
        raise InputError(found, "results.json and records/ as a run left them", "run the recipe again") from error
