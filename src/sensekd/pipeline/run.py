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
from sensekd.pipeline.lock import exclusive
from sensekd.pipeline.overlap import note_overlap
from sensekd.pipeline.prepare import prepare
from sensekd.pipeline.results import Timed, collect, histories, read_results
from sensekd.pipeline.runner import run_jobs
from sensekd.pipeline.stages import Reporter, Silent, Stages
from sensekd.pipeline.together import gather, run_together
from sensekd.pipeline.tuning import open_test_split, tune
from sensekd.pipeline.workspace import Workspace
from sensekd.training import processes


def open_workspace(
    recipe: Recipe, reporter: Reporter, stages: Stages | None = None, *, together: bool = False
) -> Workspace:
    """The run's folder with the effective recipe in it; `stages` carries on what was run there before.

    Args:
        recipe: the effective recipe.
        reporter: where to say how it goes; of several processes the one that leads says it.
        stages: of a run that has begun already.
        together: several processes of a launcher may do this work.

    Raises:
        InputError: the folder cannot be made or written, or a launcher has started several processes for one.
    """
    if not together:
        processes.refuse_several()
    if not processes.leads():
        return Workspace(recipe, Stages(Path(recipe.output), Silent()))
    work = Workspace(recipe, stages or Stages(Path(recipe.output), reporter))
    try:
        work.save_recipe()
    except OSError as error:
        raise InputError(
            f"the output folder {recipe.output} cannot be written: {error.strerror}", "a folder of one's own",
            "change `output` in the recipe",
        ) from error  # fmt: skip
    return work


@exclusive
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
    config = recipe.compare
    measured = config.tune is not None or config.budget == "time"
    if measured and processes.count() > 1:
        raise InputError(
            f"a launcher has started {processes.count()} processes of a comparison that tunes or measures time",
            "one process: settings and step counts follow from what it measures",
            "start it without the launcher, or without compare.tune and at compare.budget: tokens",
        )
    work = open_workspace(recipe, reporter, stages, together=True)
    if not measured:
        return _together(work, _jobs(config, {}), command)
    coverage = begin(work)
    chosen, tuning = ({}, None) if config.tune is None else tune(work)
    jobs = _jobs(config, {arm: json.dumps(values, sort_keys=True) for arm, values in chosen.items()})
    if tuning is not None:
        tuning["test_openings"] = open_test_split(work, jobs)
    run_jobs(work, jobs, config.workers)
    return _end(work, jobs, coverage, command, timed=_equal_time(work, jobs), tuning=tuning)


def _jobs(config: CompareConfig, settings: dict[str, str]) -> list[Job]:
    """The teacher, and every arm with every seed; `settings` holds what tuning chose for an arm, as JSON."""
    arms = [*config.arms, *config.custom]
    jobs = [Job(arm, seed, settings=settings.get(arm, "{}")) for seed in config.seeds for arm in arms]
    return [Job(TEACHER, 0), *jobs]


def _equal_time(work: Workspace, jobs: list[Job]) -> Timed | None:
    """Train every arm for the time of the slowest one, where the recipe asks for it."""
    if work.recipe.compare.budget != "time":
        return None
    found = costs(work, jobs)
    steps = steps_at_equal_time(found, work.recipe.training.steps)
    again = timed_jobs(work, jobs, steps)
    run_jobs(work, [job for job in again if job not in jobs], work.recipe.compare.workers)
    return Timed(again, found, steps)


@exclusive
def run(recipe: Recipe, reporter: Reporter, command: str) -> dict[str, Any]:
    """One student by the recipe's own loss (arm `dskd`), beside the teacher and the student before training."""
    settings = CompareConfig(
        arms=("pruned", "dskd"), seeds=(recipe.seed,), workers=recipe.compare.workers, baseline="pruned"
    )
    recipe = recipe.model_copy(update={"compare": settings})
    jobs = [Job(TEACHER, 0), Job("pruned", recipe.seed), Job("dskd", recipe.seed)]
    return _together(open_workspace(recipe, reporter, together=True), jobs, command)


def _together(work: Workspace, jobs: list[Job], command: str) -> dict[str, Any]:
    """Prepare, run the jobs and collect, in one process or in all that a launcher has started."""
    refuse_problems(work.recipe, f"the recipe {work.recipe.name!r}")
    crew = gather(work)
    coverage: dict[str, Any] = {}
    results: dict[str, Any] = {}
    crew.lead(lambda: coverage.update(begin(work)))
    if crew.size == 1:
        run_jobs(work, jobs, work.recipe.compare.workers)
    else:
        run_together(work, crew, jobs)
    crew.lead(lambda: results.update(_end(work, jobs, coverage, command)))
    return results or read_results(work.output)[0]


def begin(work: Workspace) -> dict[str, Any]:
    """Refuse what cannot end well, clear away what was cut short, run the stages before training; the coverage."""
    refuse_problems(work.recipe, f"the recipe {work.recipe.name!r}")
    for folder in (work.output, work.path("students"), work.path("records")):
        sweep(folder)
    coverage = prepare(work)
    note_overlap(work)
    return coverage


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
    from sensekd.pipeline.explore import try_explorer
    from sensekd.report.page import write_page

    page = work.path("report.html")
    try:
        require("bokeh", "report")
        require("jinja2", "report")
    except InputError as error:
        page.unlink(missing_ok=True)
        work.stages.reporter.note(f"no page was drawn: {error}")
        return
    explorer, why = try_explorer(work)
    if why:
        work.stages.reporter.note(f"the page has no sense explorer: {why}")
    write_page(results, curves, page, explorer)
