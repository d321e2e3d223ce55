"""Jobs of several processes that a launcher has started: all of them train, rank 0 does the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import write_json
from sensekd.pipeline.bench import Bench
from sensekd.pipeline.jobs import TEACHER, Job
from sensekd.pipeline.memory import peak_memory
from sensekd.pipeline.workspace import Workspace, pick_device
from sensekd.training.processes import Crew

if TYPE_CHECKING:
    from sensekd.training.distill import DistillResult

_TIMEOUT: Final = "ddp_timeout"


def gather(work: Workspace) -> Crew:
    """Meet the processes that the launcher has started for this recipe."""
    return Crew.gather(pick_device(work.recipe.device), work.recipe.training.trainer.get(_TIMEOUT))


@dataclass(frozen=True)
class Stage:
    """A training as a stage.

    Attributes:
        name: shown to the user, and the stamp's name.
        job: what is trained.
        outputs: what it leaves.
        conclude: is called with the result in the process that leads; what it returns is written to the last output.
    """

    name: str
    job: Job
    outputs: tuple[Path, ...]
    conclude: Callable[[DistillResult | None], Mapping[str, Any]]


def _trains(work: Workspace, job: Job) -> bool:
    return job.arm != TEACHER and job.recipe(work.recipe)[1] > 0


def _fresh(work: Workspace, job: Job) -> bool:
    return work.stages.fresh(job.name, job.key(work), job.outputs(work.output))


def run_stage(bench: Bench, crew: Crew, stage: Stage) -> bool:
    """Train, in every process, unless the stage is fresh; rank 0 decides that, and stamps it with its own peak memory.

    Returns:
        Whether it was run.
    """
    work, job = bench.work, stage.job
    stages, outputs = work.stages, list(stage.outputs)
    if not crew.lead(lambda: not stages.reuse(stage.name, job.key(work), outputs)):
        return False
    stages.reporter.note(f"{stage.name}: started")
    start = time.perf_counter()
    progress = stages.reporter.progress(stage.name)
    record: dict[str, Any] = {}
    with peak_memory() as memory:
        if _trains(work, job):
            crew.lead(lambda: bench.write_caches([job]))
            result = bench.train(job, progress)
            crew.lead(lambda: record.update(stage.conclude(result)))
        else:
            crew.lead(lambda: record.update(stage.conclude(bench.train(job, progress))))
    # Memory goes to the stamp: what `distill` leaves of a student without training is the same in equal runs.
    crew.lead(lambda: write_json(outputs[-1], record))
    crew.lead(lambda: stages.done(stage.name, job.key(work), outputs, time.perf_counter() - start, memory))
    stages.reporter.note(f"{stage.name}: done in {time.perf_counter() - start:.1f} s")
    return True


def run_together(work: Workspace, crew: Crew, jobs: Sequence[Job]) -> None:
    """Run the jobs that are not fresh, one after the other, each on all processes.

    Raises:
        InputError, SenseKDError: of the first job that failed; finished ones stay.
    """
    bench = Bench(work)
    # All caches before the first training, so that arms without senses find one that they can share.
    crew.lead(lambda: bench.write_caches([each for each in jobs if not _fresh(work, each)]))
    for job in jobs:
        outputs = tuple(job.outputs(work.output))

        def conclude(result: DistillResult | None, job: Job = job) -> Mapping[str, Any]:
            return bench.evaluate(job, result)

        run_stage(bench, crew, Stage(job.name, job, outputs, conclude))
