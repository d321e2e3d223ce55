"""Processes that start in no time: forked off one that has loaded the libraries and computed nothing.

A process of its own that loads them costs some seconds of CPU, and half as many again where coverage looks on. What a
forked one runs is measured as everything else is; what the one that forks loads is not.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

# By this variable coverage follows into every Python that is started.
FOLLOWED = "COVERAGE_PROCESS_CONFIG"
_PATIENCE = 300.0
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["transformers.trainer", "sensekd.training.distill", "sensekd.senses.capture"])


def unfollowed() -> dict[str, str]:
    """The environment for a process that runs nothing that is to be measured: what it loads is a third cheaper."""
    return {name: value for name, value in os.environ.items() if name != FOLLOWED}


@contextmanager
def _not_followed() -> Iterator[None]:
    value = os.environ.pop(FOLLOWED, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[FOLLOWED] = value


def _enter(
    said: str, environment: dict[str, str], target: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    # Streams of its own: those that it has been given belong to another process.
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.environ.update(environment)
    gc.freeze()
    target(*arguments)


def forked(
    target: Callable[..., object],
    *arguments: object,
    said: Path | None = None,
    environment: dict[str, str] | None = None,
) -> BaseProcess:
    """Start a process that calls `target`, a function of a module; whoever starts it waits for its end.

    Args:
        arguments: of the function.
        said: file that gets what it says, after what is there already.
        environment: variables to set besides those of this process when the first was forked.
    """
    with _not_followed():
        forkserver.ensure_running()
    process = _SERVER.Process(target=_enter, args=(str(said or os.devnull), environment or {}, target, arguments))
    process.start()
    return process


def ended(process: BaseProcess) -> int:
    """Wait for its end and give the exit code; negative: the signal."""
    process.join(_PATIENCE)
    assert process.exitcode is not None, "it does not come to its end"
    return process.exitcode


def sensekd(*arguments: str) -> None:
    """What `sensekd` with these arguments does, its exit code with it."""
    from sensekd.cli.main import app

    app(list(arguments))


def ranks(size: int, target: Callable[..., object], *arguments: object, said: Path) -> None:
    """Run a function in so many processes that find each other as those of a launcher do; all must end well."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    common |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        forked(target, *arguments, said=said, environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    codes = [ended(process) for process in processes]
    assert codes == [0] * size, said.read_text(errors="replace")[-4000:]
