"""What tests went through, counted as they go and added up in the summary of the whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

_TEXT, _COUNTS = "cases", "counts"


class Tally:
    """Counts the cases of one test; call it with a sentence that the summary is to hold besides."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record
        self._counts: dict[str, dict[str, int]] = {}
        record(_COUNTS, self._counts)  # Filled as the test goes, so that one that fails is counted too.

    def __call__(self, text: str) -> None:
        self._record(_TEXT, text)

    def add(self, suite: str, name: str, cases: int = 1) -> None:
        """So many further cases, for example `add("faults", "kills")`."""
        counts = self._counts.setdefault(suite, {})
        counts[name] = counts.get(name, 0) + cases


def summary(reports: Iterable[Any]) -> list[str]:
    """A line for every text that a test told, and one for every suite with the sums of its counts."""
    lines: list[str] = []
    sums: dict[str, Counter[str]] = {}
    for report in reports:
        if getattr(report, "when", None) != "call":
            continue
        for name, value in report.user_properties:
            if name == _TEXT:
                lines.append(f"{report.nodeid.partition('::')[2]}: {value}")
            elif name == _COUNTS:
                for suite, counts in value.items():
                    sums.setdefault(suite, Counter()).update(counts)
    totals = [
        f"{suite}: {', '.join(f'{count:,} {name}' for name, count in sorted(counts.items()))}"
        for suite, counts in sorted(sums.items())
    ]
    return sorted(lines) + totals
