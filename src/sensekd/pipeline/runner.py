"""Runs jobs on worker processes and hands on their progress and their errors."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import IO, Any, Final

from sensekd.errors import InputError, SenseKDError
from sensekd.pipeline.bench import Bench
from sensekd.pipeline.jobs import Job
from sensekd.pipeline.lock import held
from sensekd.pipeline.stages import Progress
from sensekd.pipeline.workspace import Workspace

# Seconds that a worker gets to put down what it holds.
_PATIENCE: Final = 20.0

Outcome = tuple[Job, float] | Exception


def _environment(threads: int) -> dict[str, str]:
    passive = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **passive, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _raise(error: dict[str, Any], job: Job) -> None:
    if "found" in error:
        raise InputError(error["found"], error["expected"], error["hint"])
    raise SenseKDError(f"the job {job.name} failed: {error['failed']}")


class Worker:
    """One worker process; a context that ends the process when it is left."""

    def __init__(self, work: Workspace) -> None:
        # A session of its own: Ctrl-C reaches this process alone, which then ends its workers in order.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sensekd.pipeline.worker", str(work.output), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(work.recipe.training.threads),
            text=True,
            encoding="utf-8",
            start_new_session=True,
            pass_fds=held(),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(BrokenPipeError):  # What was still to be said to a worker that has died.
            self._pipe("stdin").close()
        self._pipe("stdout").close()

    def _pipe(self, name: str) -> IO[str]:
        pipe: IO[str] = getattr(self._process, name)
        return pipe

    def run(self, job: Job, progress: Progress) -> None:
        """Run one job to its end.

        Raises:
            InputError, SenseKDError: as the job raised it.
            SenseKDError: the process died.
        """
        with suppress(BrokenPipeError):  # It died on starting; what it said is still in the other pipe.
            print(json.dumps(asdict(job)), file=self._pipe("stdin"), flush=True)
        for line in self._pipe("stdout"):
            message = json.loads(line)
            if "done" in message:
                return
            if "error" in message:
                _raise(message["error"], job)
            progress(*message["progress"])
        code = self._process.wait()
        raise SenseKDError(
            f"the worker of {job.name} died (exit code {code}); what it had finished is kept, start again"
        )


def _next(ended: queue.SimpleQueue[Outcome]) -> Outcome:
    """Wait for an outcome. The wait ends now and then, because Ctrl-C may reach another thread than this one."""
    while True:
        with suppress(queue.Empty):
            return ended.get(timeout=0.2)


def _unread(ended: queue.SimpleQueue[Outcome]) -> Outcome | None:
    """An outcome that is there already, or None: after a failure nothing is waited for, and nothing is lost."""
    with suppress(queue.Empty):
        return ended.get_nowait()
    return None


def run_jobs(work: Workspace, jobs: Sequence[Job], workers: int) -> None:
    """Run the jobs that are not fresh, `workers` at a time, and stamp each as it ends.

    Raises:
        InputError, SenseKDError: of the first job that failed; the others are stopped, finished ones stay.
    """
    keys = {job: job.key(work) for job in jobs}
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    stale = [job for job in jobs if not work.stages.reuse(job.name, keys[job], job.outputs(work.output))]
    if not stale:
        return
    Bench(work).write_caches(stale)
    for job in stale:
        waiting.put(job)
    count = len(stale)
    ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def serve(worker: Worker) -> None:
        try:
            while True:
                job = waiting.get_nowait()
                start = time.perf_counter()
                worker.run(job, work.stages.reporter.progress(job.name))
                ended.put((job, time.perf_counter() - start))
        except queue.Empty:
            pass
        except Exception as error:
            ended.put(error)

    with ExitStack() as stack:
        for _ in range(min(workers, count)):
            worker = stack.enter_context(Worker(work))
            threading.Thread(target=serve, args=(worker,), daemon=True).start()
        failure: Exception | None = None
        for number in range(1, count + 1):
            outcome = _next(ended) if failure is None else _unread(ended)
            if outcome is None:
                break
            if isinstance(outcome, Exception):
                failure = failure or outcome
                continue
            job, seconds = outcome
            work.stages.done(job.name, keys[job], job.outputs(work.output), seconds)
            work.stages.reporter.note(f"{job.name}: done in {seconds:.1f} s ({number} of {count})")
        if failure is not None:
            raise failure
