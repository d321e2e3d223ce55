"""One root for every error that a user may meet, and the exit codes that scripts rely on."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Final

EXIT_FAILED: Final = 1
EXIT_INPUT: Final = 2
EXIT_INTERRUPTED: Final = 130


class SenseKDError(Exception):
    """The run failed (exit code 1)."""

    exit_code: int = EXIT_FAILED


class InputError(SenseKDError):
    """The input or the configuration is wrong (exit code 2).

    Args:
        found: what was found, with the name of the file, key or model it was found in.
        expected: what would have been right.
        hint: what to do next; a command where there is one.
    """

    exit_code: int = EXIT_INPUT

    def __init__(self, found: str, expected: str | None = None, hint: str | None = None) -> None:
        self.found, self.expected, self.hint = found, expected, hint
        lines = [found]
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if hint is not None:
            lines.append(f"  do:       {hint}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str | None, str | None]]:
        # An error crosses process borders whole; the default would hand the joined message to `found`.
        return type(self), (self.found, self.expected, self.hint)


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        InputError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise InputError(
            f"the package {error.name!r} is not installed",
            f"the extra {extra!r} of sensekd, which brings it",
            f"pip install 'sensekd[{extra}]'",
        ) from error
