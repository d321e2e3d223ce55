"""What lm-eval says while it works: its bars become our progress or nothing, its warnings stay inside."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

Progress = Callable[[int, int], None]

_WITH_BARS: Final = ("lm_eval.api.task", "lm_eval.api.model", "lm_eval.models.huggingface")
_REQUESTS: Final = "Running"


class _Bar:
    """Stands where a bar of tqdm is expected, and tells how far the model is with its requests.

    Args:
        show: gets done and total.
        iterable, total, desc: as tqdm has them.
    """

    def __init__(
        self, show: Progress, iterable: Iterable[Any] = (), total: int = 0, desc: str = "", **_: object
    ) -> None:
        self._items, self._total, self._done = iterable, total, 0
        self._show = show if desc.startswith(_REQUESTS) else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def update(self, count: int = 1) -> None:
        """Count on."""
        self._done += count
        if self._show is not None:
            self._show(self._done, self._total)

    def close(self) -> None:
        """Nothing to do."""


def _ignore(done: int, total: int) -> None:
    pass


@contextmanager
def bars(show: Progress = _ignore) -> Iterator[None]:
    """Put `show` in the place of lm-eval's bars; it has no switch for those of its tasks."""
    modules = [importlib.import_module(name) for name in _WITH_BARS]
    kept = [(module, module.tqdm) for module in modules if hasattr(module, "tqdm")]
    try:
        for module, _ in kept:
            module.tqdm = functools.partial(_Bar, show)  # type: ignore[attr-defined]
        yield
    finally:
        for module, bar in kept:
            module.tqdm = bar  # type: ignore[attr-defined]


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Let a logger say nothing below an error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
