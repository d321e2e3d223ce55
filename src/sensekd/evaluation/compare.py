"""Arms at equal budget: means over seeds and paired differences, with 95 % intervals of Student's t."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

from sensekd.errors import InputError, require

LEVEL: Final = 0.95

Run = TypeVar("Run")
Better = Literal["higher", "lower"]
DIRECTION: Final[Mapping[str, Better]] = MappingProxyType(
    {
        "facts": "higher",
        "senses": "higher",
        "relations": "higher",
        "agreement": "higher",
        "antonym_discrimination": "higher",
        "antonyms_trained": "higher",
        "antonyms_withheld": "higher",
        "coarsewsd20": "higher",
        "coarsewsd20_words": "higher",
        "simlex999": "higher",
        "simlex999_centred": "higher",
        "ce": "lower",
        "kl": "lower",
    }
)
# Denominators that stand beside the metrics: a difference of them says nothing about a model.
COUNTS: Final = frozenset({"tokens", "antonym_positions", "antonyms_trained_positions", "antonyms_withheld_positions"})
# One run stands for every seed: nothing in these depends on it.
SEEDLESS: Final = frozenset({"teacher", "pruned"})
SUBJECT: Final = "dskd"
RIVALS: Final = ("kd", "kd+hidden", "dskd-own")


def direction(metric: str) -> Better:
    """Whether more or less of a metric is better; sets that a recipe adds are accuracies, so more."""
    return DIRECTION.get(metric, "higher")


@dataclass(frozen=True)
class ArmResult:
    """One run.

    Attributes:
        arm: its name.
        seed: its seed.
        metrics: name -> value.
        tokens: training tokens it has seen.
        items: set -> 1 or 0 for every question, where known; the set's accuracy is their mean.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    tokens: int
    items: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """The metrics that are compared: without counts, accuracies of `items` included."""
        scored = {name: fmean(correct) for name, correct in self.items.items()}
        return {name: float(x) for name, x in {**self.metrics, **scored}.items() if name not in COUNTS}

    def as_dict(self) -> dict[str, Any]:
        """The entry of `results.json`."""
        return {"arm": self.arm, "seed": self.seed, "metrics": dict(self.metrics), "tokens": self.tokens}


@dataclass(frozen=True)
class Interval:
    """A mean over n values with its 95 % interval; n = 1 has none, and low = high = mean."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of Student's t with n - 1 degrees of freedom: mean ± t · s / √n."""
    mean, n = fmean(values), len(values)
    if n == 1:
        return Interval(mean, mean, mean, n)
    quantile = float(require("scipy.stats", "eval").t.ppf((1 + LEVEL) / 2, n - 1))
    half = quantile * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def _by_arm(arms: Iterable[ArmResult]) -> dict[str, dict[int, dict[str, float]]]:
    table: dict[str, dict[int, dict[str, float]]] = {}
    for run in arms:
        seeds = table.setdefault(run.arm, {})
        if run.seed in seeds:
            raise InputError(f"two results of arm {run.arm!r} with seed {run.seed}", "one run for an arm and a seed")
        values = run.values()
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise InputError(
                f"arm {run.arm!r}, seed {run.seed}: {', '.join(bad)} not finite",
                "finite metrics",
                "look at the arm's loss curves; a smaller learning rate may be needed",
            )
        seeds[run.seed] = values
    return table


def paired(
    arm: str, against: str, table: Mapping[str, Mapping[int, Run]], seedless: Collection[str]
) -> list[tuple[Run, Run]]:
    """Runs of the same seed side by side; a single run of a seedless arm stands beside every seed of the other."""
    ours, theirs = table[arm], table[against]
    if arm in seedless and len(ours) == 1:
        (only,) = ours.values()
        return [(only, theirs[seed]) for seed in sorted(theirs)]
    if against in seedless and len(theirs) == 1:
        (only,) = theirs.values()
        return [(ours[seed], only) for seed in sorted(ours)]
    return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def compared_pairs(arms: Collection[str], baseline: str) -> list[tuple[str, str]]:
    """Which arms are compared with which: every arm with the baseline, and `dskd` with its rivals too."""
    wanted = [(arm, baseline) for arm in arms if arm != baseline]
    if SUBJECT in arms and baseline != SUBJECT:
        wanted += [(SUBJECT, rival) for rival in RIVALS if rival in arms and rival != baseline]
    return wanted


def _difference(
    arm: str, against: str, table: Mapping[str, Mapping[int, Mapping[str, float]]], seedless: Collection[str]
) -> list[dict[str, Any]]:
    pairs = paired(arm, against, table, seedless)
    if not pairs:
        return []
    exact = {arm, against} <= set(seedless)
    shared = [name for name in pairs[0][0] if all(name in ours and name in theirs for ours, theirs in pairs)]
    rows = []
    for metric in shared:
        result = interval([ours[metric] - theirs[metric] for ours, theirs in pairs])
        # One pair has no spread to judge by, so it rules nothing out; two seedless arms differ by what they differ.
        known = result.n > 1 or exact
        zero = result.low <= 0 <= result.high if known else True
        rows.append({"arm": arm, "against": against, "metric": metric, **result.as_dict(), "includes_zero": zero})
    return rows


def summarise(
    arms: Sequence[ArmResult], baseline: str, *, seedless: Collection[str] = SEEDLESS
) -> dict[str, dict[str, Any] | list[dict[str, Any]]]:
    """Means of every arm, and paired differences against the baseline and of `dskd` against its rivals.

    Args:
        arms: all runs, in any order; arms appear in the order of their first run.
        baseline: the arm that every other one is compared with.
        seedless: arms whose single run is paired with every seed of the other arm.

    Returns:
        {"summary": {arm: {metric: {"mean", "low", "high", "n"}}},
         "differences": [{"arm", "against", "metric", "mean", "low", "high", "n", "includes_zero"}]}.
        Intervals are 95 % over seeds, not corrected for their number; a difference is arm - against, paired by seed.
        Where n is 1 there is no interval: low = high = mean, and `includes_zero` is true unless both arms are seedless.

    Raises:
        InputError: the baseline is missing, an arm has two runs of one seed, or a metric is not finite.
    """
    table = _by_arm(arms)
    if baseline not in table:
        raise InputError(f"no run of the baseline {baseline!r}", f"one of {sorted(table)}", "set compare.baseline")
    summary = {
        arm: {
            metric: interval([run[metric] for run in runs.values() if metric in run]).as_dict()
            for metric in dict.fromkeys(name for run in runs.values() for name in run)
        }
        for arm, runs in table.items()
    }
    wanted = compared_pairs(table, baseline)
    differences = [row for arm, against in wanted for row in _difference(arm, against, table, seedless)]
    return {"summary": summary, "differences": differences}
