"""A process that runs jobs: one JSON object a line comes in on standard input, answers go out on standard output.

Started as `python -m sensekd.pipeline.worker OUTPUT PID` by `pipeline.runner`, with the threads of the recipe in its
environment, so that results do not depend on how many workers there are.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from sensekd.errors import EXIT_INTERRUPTED, InputError, SenseKDError, system_failure
from sensekd.pipeline.tether import end_with


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


def serve(output: Path, parent: int) -> None:
    """Run jobs until standard input ends, or the process `parent` does."""
    # What takes long to import comes later: a run that is killed meanwhile must not leave this process behind.
    end_with(parent)
    # Being told to end unwinds the stack, so that what is half-written is cleared away.
    signal.signal(signal.SIGTERM, _leave)
    channel = own_stdout()

    def send(**message: Any) -> None:
        print(json.dumps(message), file=channel)

    try:
        from sensekd.config import Recipe
        from sensekd.pipeline.bench import Bench
        from sensekd.pipeline.jobs import Job
        from sensekd.pipeline.stages import Silent, Stages
        from sensekd.pipeline.workspace import RECIPE, Workspace

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
    finally:
        # Being told to end while libraries are already ending would show as a traceback of theirs.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
