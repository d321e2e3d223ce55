"""The bootstrap over items and Holm's correction, against exact distributions and values worked out by hand."""

from __future__ import annotations

import random
from math import comb

import numpy as np
import pytest

from sensekd.errors import InputError
from sensekd.evaluation.compare import ArmResult, summarise
from sensekd.evaluation.resampling import correct, holm, item_differences, p_of_t, resample

pytest.importorskip("scipy", reason="needs the extra `eval`")


def binomial_quantile(n: int, p: float, level: float) -> int:
    total = 0.0
    for k in range(n + 1):
        total += comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= level:
            return k
    return n


def test_the_interval_is_that_of_the_exact_bootstrap_distribution() -> None:
    # One run, 12 of 40 items gained: a resampled mean is Binomial(40, 0.3) / 40.
    differences = np.zeros((1, 40), dtype=int)
    differences[0, :12] = 1
    found = resample(differences, 40_000, 0)
    assert found.items.mean == pytest.approx(0.3)
    assert found.items.low == pytest.approx(binomial_quantile(40, 0.3, 0.025) / 40, abs=1e-9)
    assert found.items.high == pytest.approx(binomial_quantile(40, 0.3, 0.975) / 40, abs=1e-9)
    # P(no gain in a draw) = 0.7^40 < 1e-6: none is seen.
    assert found.p == pytest.approx(2 / 40_001)


def test_it_equals_drawing_item_by_item() -> None:
    # The naive bootstrap, written apart from the code: draw indices, average. Both are Monte Carlo, so to a tolerance.
    rng = random.Random(4)
    ours = [[rng.random() < 0.6 for _ in range(60)] for _ in range(3)]
    theirs = [[rng.random() < 0.5 for _ in range(60)] for _ in range(3)]
    differences = np.array(ours, dtype=int) - np.array(theirs, dtype=int)
    items, crossed = [], []
    for _ in range(4000):
        drawn = [rng.randrange(60) for _ in range(60)]
        means = [sum(int(row[i]) for i in drawn) / 60 for row in differences]
        items.append(sum(means) / 3)
        crossed.append(sum(means[rng.randrange(3)] for _ in range(3)) / 3)
    found = resample(differences, 4000, 1)
    for values, interval in ((sorted(items), found.items), (sorted(crossed), found.crossed)):
        assert interval.low == pytest.approx(values[100], abs=0.015)
        assert interval.high == pytest.approx(values[3900], abs=0.015)
    assert found.crossed.high - found.crossed.low > found.items.high - found.items.low


def test_seeded_and_independent_of_the_order_of_items() -> None:
    differences = np.random.default_rng(0).integers(-1, 2, (2, 50))
    assert resample(differences, 500, 3) == resample(differences, 500, 3)
    assert resample(differences, 500, 3) != resample(differences, 500, 4)
    assert resample(differences[:, ::-1], 500, 3) == resample(differences, 500, 3)


def test_equal_models_do_not_differ() -> None:
    found = resample(np.zeros((2, 9), dtype=int), 100, 0)
    assert (found.items.low, found.items.high, found.p) == (0.0, 0.0, 1.0)
    with pytest.raises(InputError, match="2 runs of 0 items"):
        resample(np.zeros((2, 0), dtype=int), 10, 0)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 and never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def runs(arm: str, values: list[float], metric: str = "ce") -> list[ArmResult]:
    return [ArmResult(arm, seed, {metric: value}, 1) for seed, value in enumerate(values)]


def test_p_is_below_five_percent_exactly_where_the_interval_excludes_zero() -> None:
    from scipy.stats import ttest_rel

    kd, ours = [1.0, 1.2, 0.9, 1.1], [0.95, 1.21, 0.8, 1.0]
    (row,) = summarise([*runs("kd", kd), *runs("dskd", ours)], "kd")["differences"]
    assert isinstance(row, dict)
    assert p_of_t(row) == pytest.approx(ttest_rel(ours, kd).pvalue, rel=1e-9)
    assert p_of_t({"mean": 0.1, "low": 0.1, "high": 0.1, "n": 1}) is None
    assert p_of_t({"mean": 0.1, "low": 0.1, "high": 0.1, "n": 3}) is None
    assert p_of_t({"mean": 0.0, "low": 0.0, "high": 0.0, "n": 3}) == 1.0


def test_only_trained_arms_are_in_the_family() -> None:
    arms = [*runs("teacher", [0.1]), *runs("kd", [1.0, 1.0, 1.0]), *runs("dskd", [0.9, 0.89, 0.91])]
    arms += runs("mine", [1.1, 0.8, 1.2])
    rows = summarise(arms, "kd")["differences"]
    assert isinstance(rows, list)
    found = correct(rows)
    by_arm = {row["arm"]: row for row in rows}
    assert found == {"method": "holm", "level": 0.95, "family": 2, "without_zero": 1, "after_holm": 1}
    assert "p" not in by_arm["teacher"]
    assert by_arm["dskd"]["p_holm"] == pytest.approx(2 * by_arm["dskd"]["p"])
    assert by_arm["mine"]["p_holm"] == pytest.approx(by_arm["mine"]["p"])


def test_seeds_that_agree_to_the_last_digit_are_no_certainty() -> None:
    """Two of twenty questions gained with either seed: the t-interval has no width, and no p follows from it."""
    arms = [*runs("kd", [0.5, 0.75], "quiz"), *runs("dskd", [0.625, 0.875], "quiz"), *runs("ce", [0.5, 0.75], "quiz")]
    rows = summarise(arms, "kd")["differences"]
    assert isinstance(rows, list)
    found = correct(rows)
    assert (found["family"], found["without_zero"], found["after_holm"]) == (1, 0, 0)
    assert [("p" in row, row["arm"]) for row in rows] == [(False, "dskd"), (True, "ce")]


def test_items_are_paired_within_a_seed() -> None:
    # Both arms are right on half of the items; on seed 1 the halves change sides for both, so nothing differs.
    first, second = (1, 1, 0, 0), (0, 0, 1, 1)
    arms = [ArmResult(arm, seed, {}, 1, {"quiz": (first, second)[seed]}) for arm in ("kd", "dskd") for seed in (0, 1)]
    (row,) = item_differences(arms, "kd", 200)
    assert (row["mean"], row["low"], row["high"], row["items"], row["runs"]) == (0.0, 0.0, 0.0, 4, 2)
    assert row["includes_zero"] is True
    teacher = ArmResult("teacher", 0, {}, 0, {"quiz": (1, 1, 1, 1)})
    (_, row) = item_differences([*arms, teacher], "kd", 200)
    assert (row["arm"], row["mean"], row["runs"]) == ("teacher", 0.5, 2)


def test_other_items_are_refused() -> None:
    arms = [ArmResult("kd", 0, {}, 1, {"quiz": (1, 0)}), ArmResult("dskd", 0, {}, 1, {"quiz": (1, 0, 1)})]
    with pytest.raises(InputError, match="dskd-0 answered 3 items, kd-0 2"):
        item_differences(arms, "kd", 10)
