"""CE + KL in chunks against whole logits, output embedding frozen, forward and backward: time and peak memory.

Time is the median of paired ratios of CPU seconds, at 2,048 positions (32k tokens) or 512 (128k; the ratio does not
depend on their number). Memory is what a fresh process peaks at above its inputs, at 2,048 positions.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Line, paired_ratio

if TYPE_CHECKING:
    import torch
    from torch import Tensor

COMMAND = "make bench ONLY=ce_kl"
WIDTH, POSITIONS, ROUNDS, TAU, WEIGHT = 576, 2048, 3, 2.0, 0.7 * 4
# Vocabulary: positions of the timing, and the largest share of memory that meets the target.
SHAPES = {32_000: (2048, 1 / 10), 128_256: (512, 1 / 20)}
TIMES = {"float32": 0.8, "bfloat16": 0.5}


class Case:
    """Inputs of one shape, and the two ways."""

    def __init__(self, vocabulary: int, positions: int, dtype: str) -> None:
        import torch

        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(0)
        kind: torch.dtype = getattr(torch, dtype)
        self.weight = (torch.randn(vocabulary, WIDTH, generator=generator) * (2 / WIDTH**0.5)).to(kind)
        self.teacher = torch.randn(positions, WIDTH, generator=generator).to(kind)
        noise = torch.randn(positions, WIDTH, generator=generator).to(kind)
        self.student = (self.teacher + 0.3 * noise).requires_grad_(True)
        self.labels = torch.randint(vocabulary, (positions,), generator=generator)

    def whole(self) -> Tensor:
        """Both models' logits, `cross_entropy` and `kl_divergence`."""
        import torch

        from sensekd.losses import cross_entropy, kl_divergence

        self.student.grad = None
        with torch.no_grad():
            theirs = self.teacher @ self.weight.T
        ours = self.student @ self.weight.T
        everywhere = torch.ones_like(self.labels, dtype=torch.bool)
        soft = kl_divergence(theirs, ours, TAU, everywhere).sum
        total = cross_entropy(ours, self.labels).sum + WEIGHT * soft
        total.backward()
        return total.detach()

    def chunked(self) -> Tensor:
        """`chunked_terms`."""
        from sensekd.losses import Head, Objective, chunked_terms

        self.student.grad = None
        head = Head(self.weight)
        teacher = (self.teacher, head)
        total = chunked_terms(self.student, head, teacher, self.labels, Objective(WEIGHT, TAU)).total.sum
        total.backward()
        return total.detach()

    def refuse_difference(self, dtype: str) -> None:
        """Both ways must give the same loss and the same gradient."""
        found = []
        for way in (self.whole, self.chunked):
            total = way()
            assert self.student.grad is not None
            found.append((float(total), self.student.grad.float()))
        (one, left), (other, right) = found
        assert abs(one - other) <= (1e-5 if dtype == "float32" else 1e-3) * abs(one), (one, other)
        error = float((left - right).norm() / left.norm())
        assert error <= (1e-5 if dtype == "float32" else 1e-2), error


def _status(key: str) -> float:
    """Megabytes of an entry of this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def _peak_here(vocabulary: int, dtype: str, way: str) -> float:
    case = Case(vocabulary, POSITIONS, dtype)
    work: Callable[[], Tensor] = getattr(case, way)
    # The kernel's high-water mark starts anew at what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _peak(vocabulary: int, dtype: str, way: str) -> float:
    """Megabytes above the inputs, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ce_kl", str(vocabulary), dtype, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure() -> list[Line]:
    """Time and memory at two vocabularies in two dtypes."""
    lines = []
    for vocabulary, (positions, share) in SHAPES.items():
        for dtype, target in TIMES.items():
            case = Case(vocabulary, positions, dtype)
            case.refuse_difference(dtype)
            ratio = paired_ratio(case.chunked, case.whole, ROUNDS)
            name = f"{vocabulary // 1000}k_{dtype}"
            baseline = f"whole logits, {positions} positions, width {WIDTH}, head frozen, {dtype}, one thread"
            lines.append(Line(f"ce_kl_time_{name}", ratio, "ratio", baseline, target, "most", ROUNDS, COMMAND))
            del case
            peaks = {way: _peak(vocabulary, dtype, way) for way in ("chunked", "whole")}
            baseline = f"whole logits, {POSITIONS} positions, {dtype}: {peaks['whole']:.0f} MB above the inputs"
            value = peaks["chunked"] / peaks["whole"]
            lines.append(Line(f"ce_kl_peak_{name}", value, "ratio", baseline, share, "most", 1, COMMAND))
    return lines


if __name__ == "__main__":
    print(_peak_here(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
