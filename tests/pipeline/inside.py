"""Jobs of a comparison in this process: starting a worker costs more than the jobs of a tiny run do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import pytest

from sensekd.config import Recipe
from sensekd.pipeline import runner
from sensekd.pipeline.bench import Bench
from sensekd.pipeline.jobs import Job
from sensekd.pipeline.stages import Progress, Silent, Stages
from sensekd.pipeline.workspace import RECIPE, Workspace


class Inside:
    """Stands for a worker process: it too knows the recipe from its file alone, and a job as JSON."""

    def __init__(self, work: Workspace) -> None:
        recipe = Recipe.model_validate(json.loads((work.output / RECIPE).read_text(encoding="utf-8")))
        self._bench = Bench(Workspace(recipe, Stages(work.output, Silent())))

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, job: Job, progress: Progress) -> None:
        self._bench.run(Job(**json.loads(json.dumps(asdict(job)))), progress)


@contextmanager
def jobs_inside() -> Iterator[None]:
    """As long as the block runs, or the function that this decorates, no worker is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Worker", Inside)
        yield
