"""Differences on the same questions, with intervals by resampling them, and Holm's correction for many comparisons."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sensekd.errors import InputError, require
from sensekd.evaluation.compare import LEVEL, SEEDLESS, ArmResult, Interval, compared_pairs, paired

# Draws that are held at once: B x patterns of int64.
_ELEMENTS: Final = 1 << 22


@dataclass(frozen=True)
class Resampled:
    """The mean difference of two models over the items, and what resampling makes of it.

    Attributes:
        items: interval over resampled items; the runs stay as they are.
        crossed: interval over resampled items and resampled runs, both at once.
        p: two-sided, of no difference, over resampled items (the runs as they are); at least 2 / (B + 1).
    """

    items: Interval
    crossed: Interval
    p: float


def resample(differences_SI: NDArray[Any], resamples: int, seed: int) -> Resampled:
    """Percentile bootstrap of a paired difference.

    Items that came out alike in every run are drawn together: the counts of their patterns are multinomial, which is
    the bootstrap itself and not an approximation, at a cost that does not grow with the items.

    Args:
        differences_SI: [runs S, items I], ours - theirs: -1, 0 or 1 where items are right or wrong.
        resamples: B draws.
        seed: of the draws; the same seed gives the same intervals.

    Raises:
        InputError: no run, no item, or no draw.
    """
    runs, count = differences_SI.shape
    if min(runs, count, resamples) < 1:
        raise InputError(
            f"{runs} runs of {count} items, {resamples} draws", "at least one of each", "check the question set"
        )
    patterns_SP, alike = np.unique(differences_SI, axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    items, crossed = np.empty(resamples), np.empty(resamples)
    size = max(1, _ELEMENTS // len(alike))
    for start in range(0, resamples, size):
        part = slice(start, min(start + size, resamples))
        draws = part.stop - part.start
        means_BS = generator.multinomial(count, alike / count, draws) @ patterns_SP.T / count
        items[part] = means_BS.mean(1)
        crossed[part] = (generator.multinomial(runs, np.full(runs, 1 / runs), draws) * means_BS).sum(1) / runs
    mean = float(differences_SI.mean())
    # Draws that equal zero up to rounding count for both sides.
    below, above = int((items <= 1e-12).sum()), int((items >= -1e-12).sum())
    p = min(1.0, 2 * (min(below, above) + 1) / (resamples + 1))
    return Resampled(_percentiles(mean, items, count), _percentiles(mean, crossed, count), p)


def _percentiles(mean: float, draws: NDArray[np.float64], count: int) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), count)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979, step-down Bonferroni), in the given order.

    p̃_(i) = max over j <= i of min(1, (m - j + 1) p_(j)); rejecting where p̃ <= 0.05 keeps the chance of even one false
    rejection below 5 %, however the comparisons depend on one another.
    """
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = worst
    return adjusted


def p_of_t(row: Mapping[str, Any]) -> float | None:
    """The two-sided p of a difference's t-interval, the one that excludes zero exactly where p < 0.05.

    None where there is no interval (one pair), and where all pairs differ by the very same amount: accuracies of few
    questions do so by chance, and without a spread there is nothing to judge them by. 1 where none of them differs.
    """
    if row["n"] < 2:
        return None
    half = (row["high"] - row["low"]) / 2
    if half == 0:
        return None if row["mean"] else 1.0
    t = require("scipy.stats", "eval").t
    freedom = row["n"] - 1
    return float(2 * t.sf(abs(row["mean"]) / half * t.ppf((1 + LEVEL) / 2, freedom), freedom))


def correct(rows: Sequence[dict[str, Any]], seedless: Collection[str] = SEEDLESS) -> dict[str, Any]:
    """Add `p` and `p_holm` to the differences of trained arms, and say how many there are.

    The family is every difference between two trained arms that has a p: all arms, all measures. Teacher and untrained
    student set the scale; nobody asks whether they differ.

    Returns:
        {"method", "level", "family", "without_zero", "after_holm"}: the level, how many comparisons, how many intervals
        exclude zero one by one, and how many still do after the correction.
    """
    family = []
    for row in rows:
        if row["arm"] in seedless or row["against"] in seedless:
            continue
        p = row["p"] if "p" in row else p_of_t(row)
        if p is not None:
            family.append((row, p))
    for (row, p), adjusted in zip(family, holm([p for _, p in family]), strict=True):
        row |= {"p": p, "p_holm": adjusted}
    alpha = 1 - LEVEL
    return {
        "method": "holm",
        "level": LEVEL,
        "family": len(family),
        "without_zero": sum(not row["includes_zero"] for row, _ in family),
        "after_holm": sum(row["p_holm"] <= alpha for row, _ in family),
    }


def _differences(ours: ArmResult, theirs: ArmResult, name: str) -> NDArray[np.int64]:
    left, right = ours.items[name], theirs.items[name]
    if len(left) != len(right):
        raise InputError(
            f"{name}: {ours.arm}-{ours.seed} answered {len(left)} items, {theirs.arm}-{theirs.seed} {len(right)}",
            "the same items for both",
            "evaluate them again on the same set",
        )
    return np.asarray(left, dtype=np.int64) - np.asarray(right, dtype=np.int64)


def item_differences(
    arms: Sequence[ArmResult],
    baseline: str,
    resamples: int,
    seed: int = 0,
    *,
    seedless: Collection[str] = SEEDLESS,
) -> list[dict[str, Any]]:
    """Paired differences on the question sets, item by item, for the same pairs of arms as `summarise`.

    The t-interval over seeds says what another order of the data would change; this one says what other questions would
    change, and `crossed` takes both into account.

    Returns:
        [{"arm", "against", "metric", "mean", "low", "high", "crossed_low", "crossed_high", "items", "runs",
        "resamples", "p", "includes_zero"}]; a difference is arm - against.

    Raises:
        InputError: two runs answered different numbers of items.
    """
    table: dict[str, dict[int, ArmResult]] = {}
    for run in arms:
        table.setdefault(run.arm, {})[run.seed] = run
    rows = []
    for arm, against in compared_pairs(table, baseline):
        pairs = paired(arm, against, table, seedless)
        if not pairs:
            continue
        shared = [name for name in pairs[0][0].items if all(name in a.items and name in b.items for a, b in pairs)]
        for name in shared:
            found = resample(np.stack([_differences(a, b, name) for a, b in pairs]), resamples, seed)
            rows.append({
                "arm": arm, "against": against, "metric": name,
                "mean": found.items.mean, "low": found.items.low, "high": found.items.high,
                "crossed_low": found.crossed.low, "crossed_high": found.crossed.high,
                "items": found.items.n, "runs": len(pairs), "resamples": resamples, "p": found.p,
                "includes_zero": found.items.low <= 0 <= found.items.high,
            })  # fmt: skip
    return rows
