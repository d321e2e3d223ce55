"""The whole of a recipe: prepare, train and evaluate the arms, collect, draw the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sensekd.artefacts import sweep
from sensekd.config import CompareConfig, Recipe
from sensekd.errors import InputError, require
from sensekd.pipeline.budget import costs, steps_at_equal_time, timed_jobs
from sensekd.pipeline.check import refuse_problems
from sensekd.pipeline.jobs import TEACHER, Job
from sensekd.pipeline.prepare import prepare
from sensekd.pipeline.results import Timed, collect, histories
from sensekd.pipeline.runner import run_jobs
from sensekd.pipeline.stages import Reporter, Stages
from sensekd.pipeline.tuning import open_test_split, tune
from sensekd.pipeline.workspace import Workspace


def open_workspace(recipe: Recipe, reporter: Reporter, stages: Stages | None = None) -> Workspace:
    """The run's folder with the effective recipe in it; `stages` carries on what was run there before.

    Raises:
        InputError: the folder cannot be made or written.
    """
    work = Workspace(recipe, stages or Stages(Path(recipe.output), reporter))
    try:
        work.save_recipe()
    except OSError as error:
        raise InputError(
            f"the output folder {recipe.output} cannot be written: {error.strerror}", "a folder of one's own",
            "change `output` in the recipe",
        ) from error  # fmt: skip
    return work


def compare(recipe: Recipe, reporter: Reporter, command: str, stages: Stages | None = None) -> dict[str, Any]:
    """Every arm of the recipe with every seed, and the teacher, at the same budget.

    Args:
        recipe: what to compare.
        reporter: where to say how it goes.
        command: what a user types to get the same results.
        stages: of a run that has begun already (the demo's world and teacher); default: a new one.

    Returns:
        The results as written to `results.json`; the page stands beside it as `report.html`.
    """
    work = open_workspace(recipe, reporter, stages)
    coverage = begin(work)
    config = recipe.compare
    chosen, tuning = ({}, None) if config.tune is None else tune(work)
    settings = {arm: json.dumps(values, sort_keys=True) for arm, values in chosen.items()}
    arms = [*config.arms, *config.custom]
    jobs = [Job(arm, seed, settings=settings.get(arm, "{}")) for seed in config.seeds for arm in arms]
    jobs = [Job(TEACHER, 0), *jobs]
    if tuning is not None:
        tuning["test_openings"] = open_test_split(work, jobs)
    run_jobs(work, jobs, config.workers)
    return _end(work, jobs, coverage, command, timed=_equal_time(work, jobs), tuning=tuning)


def _equal_time(work: Workspace, jobs: list[Job]) -> Timed | None:
    """Train every arm for the time of the slowest one, where the recipe asks for it."""
    if work.recipe.compare.budget != "time":
        return None
    found = costs(work, jobs)
    steps = steps_at_equal_time(found, work.recipe.training.steps)
    again = timed_jobs(work, jobs, steps)
    run_jobs(work, [job for job in again if job not in jobs], work.recipe.compare.workers)
    return Timed(again, found, steps)


def run(recipe: Recipe, reporter: Reporter, command: str) -> dict[str, Any]:
    """One student by the recipe's own loss (arm `dskd`), beside the teacher and the student before training."""
    settings = CompareConfig(
        arms=("pruned", "dskd"), seeds=(recipe.seed,), workers=recipe.compare.workers, baseline="pruned"
    )
    recipe = recipe.model_copy(update={"compare": settings})
    jobs = [Job(TEACHER, 0), Job("pruned", recipe.seed), Job("dskd", recipe.seed)]
    work = open_workspace(recipe, reporter)
    coverage = begin(work)
    run_jobs(work, jobs, recipe.compare.workers)
    return _end(work, jobs, coverage, command)


def begin(work: Workspace) -> dict[str, Any]:
    """Refuse what cannot end well, clear away what was cut short, run the stages before training; the coverage."""
    refuse_problems(work.recipe, f"the recipe {work.recipe.name!r}")
    for folder in (work.output, work.path("students"), work.path("records")):
        sweep(folder)
    return prepare(work)


def _end(
    work: Workspace,
    jobs: list[Job],
    coverage: dict[str, Any],
    command: str,
    *,
    timed: Timed | None = None,
    tuning: dict[str, Any] | None = None,
) -> dict[str, Any]:
    results = collect(work, jobs, coverage, command, timed=timed, tuning=tuning)
    draw(results, histories(work.output, jobs), work)
    return results


def draw(results: dict[str, Any], curves: dict[str, list[dict[str, Any]]], work: Workspace) -> None:
    """Draw the page, or say which extra it needs: results are never lost for want of a picture."""
    from sensekd.report.page import write_page

    page = work.path("report.html")
    try:
        require("bokeh", "report")
        require("jinja2", "report")
    except InputError as error:
        page.unlink(missing_ok=True)
        work.stages.reporter.note(f"no page was drawn: {error}")
        return
    write_page(results, curves, page)
