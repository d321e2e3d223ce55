"""How much memory a stage needed: the most that its process held while it ran."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

_STATUS: Final = Path("/proc/self/status")
_RESET: Final = Path("/proc/self/clear_refs")


def _forget_host() -> None:
    # Linux then counts the peak from here on; elsewhere it stays that of the whole process.
    with suppress(OSError):
        _RESET.write_text("5")


def _host_peak() -> int | None:
    """Bytes that were resident at the most since `_forget_host`, or None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def _cuda() -> Any:
    """torch.cuda where this process has begun to use a GPU; nothing is loaded or started to find out."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Measure a block; what is yielded is filled when the block ends: bytes on `host` and, if one is used, `gpu`.

    Blocks do not nest: the outer one counts from the start of the inner one.
    """
    found: dict[str, int] = {}
    _forget_host()
    if (gpu := _cuda()) is not None:
        gpu.reset_peak_memory_stats()
    yield found
    if (host := _host_peak()) is not None:
        found["host"] = host
    if (gpu := _cuda()) is not None and (peak := int(gpu.max_memory_allocated())):
        found["gpu"] = peak
