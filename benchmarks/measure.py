"""How things are timed here: candidates alternate round by round, and the median of paired ratios counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Line:
    """One figure of `runs/bench.json`."""

    name: str
    value: float
    unit: str
    baseline: str
    target: float
    at: Literal["least", "most"]
    runs: int
    command: str

    @property
    def holds(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.at == "least" else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """The entry of `runs/bench.json`."""
        return {**asdict(self), "holds": self.holds}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Process CPU seconds of one call; a busy neighbour does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def paired_ratio(candidate: Callable[[], object], baseline: Callable[[], object], rounds: int) -> float:
    """Median over rounds of candidate / baseline, each pair measured back to back, the order alternating."""
    ratios = []
    candidate()
    baseline()
    for number in range(rounds):
        if number % 2:
            below, above = cpu_seconds(baseline), cpu_seconds(candidate)
        else:
            above, below = cpu_seconds(candidate), cpu_seconds(baseline)
        ratios.append(above / below)
    return statistics.median(ratios)
