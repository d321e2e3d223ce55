"""What is logged: means over a window of steps, kept on the device until they are read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Window:
    """Sums over the optimiser steps since the last reading. Adding never waits for the device.

    Every term is kept as it was differentiated: its local sum over the global count of its positions.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    tokens: int = 0
    started: float | None = None

    def begin_step(self, tokens: int) -> None:
        """One more optimiser step, over so many tokens."""
        if self.started is None:
            self.started = time.perf_counter()
        self.steps += 1
        self.tokens += tokens

    def add(self, name: str, value: Tensor) -> None:
        """Add a scalar to the sum under `name`."""
        value = value.detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def read(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means since the last reading, and start anew.

        A term is averaged over the steps in which it supervised something (`present:` beside it), and is left out when
        there were none. `active:` beside `rows:` gives the share of negative rows inside the margin.

        Args:
            reduce: sums a vector over all processes.
        """
        names = sorted(self.sums)
        if not names or self.started is None:
            return {}
        values = dict(zip(names, reduce(torch.stack([self.sums[name] for name in names])).tolist(), strict=True))
        found: dict[str, float] = {}
        for name, value in values.items():
            kind, _, term = name.rpartition(":")
            if kind == "term" and (present := values.get(f"present:{term}", self.steps)):
                found[term] = value / present
            elif kind == "count":
                found[term] = value / self.steps
        if values.get("rows:push"):
            found["push_active"] = values["active:push"] / values["rows:push"]
        if found.get("n_labels") and "n_pull" in found:
            found["own"] = found["n_pull"] / found["n_labels"]
        found["tokens_per_second"] = self.tokens / max(time.perf_counter() - self.started, 1e-9)
        self.sums, self.steps, self.tokens, self.started = {}, 0, 0, time.perf_counter()
        return found
