"""One root for every error that a user may meet, and the exit codes that scripts rely on."""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Final

EXIT_FAILED: Final = 1
EXIT_INPUT: Final = 2
EXIT_INTERRUPTED: Final = 130
# How Python, Rust and C++ say that a disk is full; numpy says how many elements it could not write.
_FULL: Final = ("No space left", "os error 28", "Disk quota exceeded", "requested and ")
# How Rust says that the system refused anything else, such as a file that is too large for it.
_RUST: Final = re.compile(r"\(os error \d+\)")


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


def system_failure(error: BaseException) -> SenseKDError | None:
    """What the system refused (a full disk, a folder that cannot be written, …) as an error that a user can read.

    Args:
        error: as a library raised it; libraries in other languages wrap the system's errors in types of their own, so
            their words are looked at too.

    Returns:
        None for what is no failure of the system.
    """
    seen: BaseException | None = error
    raised = True
    while seen is not None:
        full = any(words in str(seen) for words in _FULL)
        # What was being handled when a defect of ours showed does not make it the system's.
        if full or (raised and (isinstance(seen, OSError) or _RUST.search(str(seen)))):
            said = (str(seen).splitlines() or [type(seen).__name__])[0]
            do = "make room" if full else "mend that"
            return SenseKDError(f"{said}\n  do:       {do} and start the same command again; what was finished is kept")
        raised = raised and seen.__cause__ is not None
        seen = seen.__cause__ or seen.__context__
    return None


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
