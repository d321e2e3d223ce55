"""A process that runs jobs: one JSON object a line comes in on standard input, answers go out on standard output.

Started as `python -m sensekd.pipeline.worker OUTPUT PID` by `pipeline.runner`, with the threads of the recipe in its
environment, so that results do not depend on how many workers there are.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Final, TextIO

from sensekd.config import Recipe
from sensekd.errors import EXIT_INTERRUPTED, InputError, SenseKDError, system_failure
from sensekd.pipeline.stages import Silent, Stages
from sensekd.pipeline.workspace import RECIPE, Workspace

# Seconds between two looks at whether the run still lives.
_GLANCE: Final = 0.2


def own_stdout() -> TextIO:
    """Keep the protocol's stream for ourselves; whatever a library prints goes to standard error."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return channel


def describe(error: BaseException) -> dict[str, Any]:
    """An error as the runner will raise it again."""
    if isinstance(error, InputError):
        return {"found": error.found, "expected": error.expected, "hint": error.hint}
    if isinstance(error, SenseKDError):
        return {"failed": str(error)}
    if (failure := system_failure(error)) is not None:
        return {"failed": str(failure)}
    return {"failed": "".join(traceback.format_exception(error))}


def _leave(*_: object) -> None:
    raise SystemExit(EXIT_INTERRUPTED)


def _end_with(parent: int) -> None:
    """End when the process that started this one has ended: what it locked must not be written to any longer."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_GLANCE)
        os._exit(EXIT_INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


def serve(output: Path, parent: int) -> None:
    """Run jobs until standard input ends, or the process `parent` does."""
    _end_with(parent)
    # Being told to end unwinds the stack, so that what is half-written is cleared away.
    signal.signal(signal.SIGTERM, _leave)
    channel = own_stdout()

    def send(**message: Any) -> None:
        print(json.dumps(message), file=channel)

    try:
        from sensekd.pipeline.jobs import Bench, Job

        recipe = Recipe.model_validate(json.loads((output / RECIPE).read_text(encoding="utf-8")))
        bench = Bench(Workspace(recipe, Stages(output, Silent())))
        for line in sys.stdin:
            job = Job(**json.loads(line))
            bench.run(job, lambda done, total: send(progress=[done, total]))
            send(done=job.name)
    except KeyboardInterrupt:  # Told to end while it trained: there is a checkpoint now.
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Exception as error:  # The runner reports it; a traceback in the middle of its progress would not be read.
        send(error=describe(error))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
