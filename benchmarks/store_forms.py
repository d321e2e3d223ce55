"""What a narrower store costs: reconstruction error, changed nearest-sense decisions, bytes a row.

`make bench` judges the demo's dictionary, and leaves the lines out where there is none. The table of the documentation:

    .venv/bin/python -m benchmarks.store_forms RUN...
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Line

if TYPE_CHECKING:
    from torch import Tensor

    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.sample import StateSample

COMMAND = "make bench ONLY=store_forms"
RUN = Path("runs/demo")
FORMS = ("bfloat16", "float16", "int8")


@dataclass(frozen=True)
class Cost:
    """One form against float32.

    Attributes:
        error: mean squared error per dimension, in units of σ².
        worst: the same of the worst row.
        changed: share of the sampled states whose nearest own sense is another one.
        bytes: of a row, scale included.
    """

    error: float
    worst: float
    changed: float
    bytes: int


def _decisions(sample: StateSample, dictionary: SenseDictionary) -> Tensor:
    """The row of the nearest own sense of every sampled state, by plain differences."""
    import torch

    found = []
    for place, token in enumerate(sample.tokens.tolist()):
        states = sample.states[int(sample.indptr[place]) : int(sample.indptr[place + 1])].float()
        exact = torch.cdist(states, dictionary.rows(token), compute_mode="donot_use_mm_for_euclid_dist")
        found.append(dictionary.span(token)[0] + exact.argmin(1))
    return torch.cat(found)


def costs(run: Path) -> dict[str, Cost]:
    """The cost of every form for the dictionary of a run whose sample stands; the dictionary must be float32."""
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.sample import StateSample

    exact, sample = SenseDictionary.load(run / "senses"), StateSample.load(run / "sample")
    decisions = _decisions(sample, exact)
    found = {}
    for form in FORMS:
        narrow = exact.stored_as(form)
        error = (narrow.stored.between(0, len(exact)) - exact.centroids).square().mean(1) / exact.sigma2
        changed = (_decisions(sample, narrow) != decisions).float().mean()
        size = narrow.centroids[0].numel() * narrow.centroids.element_size() + (narrow.scale is not None) * 4
        found[form] = Cost(float(error.mean()), float(error.max()), float(changed), size)
    return found


def measure() -> list[Line]:
    """The share of changed decisions, in per cent."""
    if not (RUN / "sample" / "manifest.json").is_file():
        print(f"store_forms: no run at {RUN}, `make demo` leaves one")
        return []
    baseline = f"float32 centroids of {RUN}, nearest own sense of every sampled state"
    return [
        Line(f"store_{form}_changed", 100 * cost.changed, "%", baseline, 0.1, "most", 1, COMMAND)
        for form, cost in costs(RUN).items()
    ]


def main() -> None:
    """Print the table for the runs that the command line names."""
    print("| run | store | bytes a row | mean error, σ² | worst row, σ² | decisions that change |")
    print("|---|---|---|---|---|---|")
    for name in sys.argv[1:]:
        for form, cost in costs(Path(name)).items():
            figures = f"{cost.error:.1e} | {cost.worst:.1e} | {cost.changed:.3%}"
            print(f"| {Path(name).name} | {form} | {cost.bytes} | {figures} |")


if __name__ == "__main__":
    main()
