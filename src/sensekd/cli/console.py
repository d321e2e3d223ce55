"""What every command shares: progress on stderr, a summary at the end, `--json`, exit codes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, ParamSpec

import typer

from sensekd.errors import EXIT_FAILED, EXIT_INTERRUPTED, SenseKDError, system_failure
from sensekd.training.processes import first_to_say, leads, refuse_several

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from sensekd.pipeline.stages import Progress

P = ParamSpec("P")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (YAML); see recipes/ for examples.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, for example loss.lambda=0.5.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")]

_EVERY: Final = 5.0


@dataclass(frozen=True)
class Summary:
    """What a command says at its end: text for a person, data for a script, and the error that it ends with, if any."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    error: SenseKDError | None = None


def command(function: Callable[P, Summary]) -> Callable[P, None]:
    """Print a command's summary, or its error, and leave with the right exit code; several processes are refused.

    The function must have a parameter `as_json`.
    """
    return _command(function, shared=False)


def shared_command(function: Callable[P, Summary]) -> Callable[P, None]:
    """`command`, of a function that shares its work among the processes that a launcher has started."""
    return _command(function, shared=True)


def _command(function: Callable[P, Summary], *, shared: bool) -> Callable[P, None]:
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if not shared:
                refuse_several()
            # Whatever a library prints must not mix with the one JSON object.
            with contextlib.redirect_stdout(sys.stderr):
                summary = function(*args, **kwargs)
        except SenseKDError as error:
            # Of several processes, started by a launcher, one reports what went wrong.
            if first_to_say(error):
                print(f"error: {error}", file=sys.stderr, flush=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            if first_to_say(error):
                print("interrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except Exception as error:
            if (failure := system_failure(error)) is None:
                raise  # A defect of ours: its traceback is what we need.
            if first_to_say(error):
                print(f"error: {failure}", file=sys.stderr, flush=True)
            raise typer.Exit(EXIT_FAILED) from error
        if leads():
            print(json.dumps(summary.data, ensure_ascii=False, default=str) if kwargs.get("as_json") else summary.text)
        if summary.error is not None:
            if leads():
                print(f"error: {summary.error}", file=sys.stderr)
            raise typer.Exit(summary.error.exit_code)

    # typer reads the annotations of what it is given; the wrapper has the function's but returns nothing.
    wrapped.__annotations__ = {**function.__annotations__, "return": None}
    return wrapped


class Lines:
    """Progress as lines, for logs: one when a stage starts or ends, and one every few seconds."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def note(self, text: str) -> None:
        """Print a line with the time since the start."""
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", file=sys.stderr, flush=True)

    def progress(self, name: str) -> Progress:
        """Print `name: done/total` now and then."""
        last = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _EVERY:
                last = time.monotonic()
                self.note(f"{name}: {done}/{total}")

        return show


class RichBars:
    """Progress as bars, for a terminal."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)

    def progress(self, name: str) -> Progress:
        """A bar that disappears when it is full."""
        task = self._bars.add_task(name, total=None, visible=False)

        def show(done: int, total: int) -> None:
            self._bars.update(task, completed=done, total=total, visible=done < total)

        return show


def with_reporter(run: Callable[[Lines | RichBars], dict[str, Any]]) -> dict[str, Any]:
    """Run with bars where standard error is a terminal, with lines where it is not."""
    if not sys.stderr.isatty():
        return run(Lines())
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        return run(RichBars(bars))


def terminal() -> bool:
    """Whether the summary goes to a terminal that may be given colours (standard output is redirected meanwhile)."""
    return sys.__stdout__ is not None and sys.__stdout__.isatty() and "NO_COLOR" not in os.environ


def bold(text: str) -> str:
    """The text in bold, for a terminal."""
    return typer.style(text, bold=True)


def spoken(arguments: list[str] | None = None) -> str:
    """The command line as the user would type it again."""
    import shlex

    return shlex.join(["sensekd", *(sys.argv[1:] if arguments is None else arguments)])
