"""The whole of a recipe: prepare, train and evaluate the arms, collect, draw the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sensekd.artefacts import sweep
from sensekd.config import Recipe
from sensekd.errors import InputError, require
from sensekd.pipeline.check import refuse_problems
from sensekd.pipeline.jobs import TEACHER, Job
from sensekd.pipeline.prepare import prepare
from sensekd.pipeline.results import collect, histories
from sensekd.pipeline.runner import run_jobs
from sensekd.pipeline.stages import Reporter, Stages
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
    arms = [*recipe.compare.arms, *recipe.compare.custom]
    jobs = [Job(TEACHER, 0), *(Job(arm, seed) for seed in recipe.compare.seeds for arm in arms)]
    return _run(open_workspace(recipe, reporter, stages), jobs, command)


def run(recipe: Recipe, reporter: Reporter, command: str) -> dict[str, Any]:
    """One student by the recipe's own loss (arm `dskd`), beside the teacher and the student before training."""
    settings = recipe.compare.model_copy(
        update={"arms": ("pruned", "dskd"), "custom": {}, "seeds": (recipe.seed,), "baseline": "pruned"}
    )
    recipe = recipe.model_copy(update={"compare": settings})
    jobs = [Job(TEACHER, 0), Job("pruned", recipe.seed), Job("dskd", recipe.seed)]
    return _run(open_workspace(recipe, reporter), jobs, command)


def _run(work: Workspace, jobs: list[Job], command: str) -> dict[str, Any]:
    refuse_problems(work.recipe, f"the recipe {work.recipe.name!r}")
    for folder in (work.output, work.path("students"), work.path("records")):
        sweep(folder)
    coverage = prepare(work)
    run_jobs(work, jobs, work.recipe.compare.workers)
    results = collect(work, jobs, coverage, command)
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
