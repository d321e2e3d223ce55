"""Means, paired differences and their t-intervals, against values worked out by hand."""

from __future__ import annotations

import json

import pytest

from sensekd.errors import InputError
from sensekd.evaluation.compare import ArmResult, direction, interval, summarise

pytest.importorskip("scipy", reason="needs the extra `eval`")

# Quantiles of Student's t at 97.5 %, from the printed tables.
T2, T3 = 4.302652729911275, 3.182446305284263


def runs(arm: str, metric: str, values: list[float]) -> list[ArmResult]:
    return [ArmResult(arm, seed, {metric: value}, 100) for seed, value in enumerate(values)]


def only(rows: object, arm: str, against: str) -> dict[str, float]:
    assert isinstance(rows, list)
    (row,) = [row for row in rows if (row["arm"], row["against"]) == (arm, against)]
    return dict(row)


def test_interval_of_three_values_is_mean_plus_minus_t_s_over_root_n() -> None:
    # 1, 2, 3: mean 2, s = 1, half = t(2) / sqrt(3).
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.n == 3
    assert found.high - found.mean == pytest.approx(T2 / 3**0.5, rel=1e-9)
    assert found.mean - found.low == pytest.approx(T2 / 3**0.5, rel=1e-9)


def test_interval_of_one_value_has_no_width() -> None:
    found = interval([0.25])
    assert (found.mean, found.low, found.high, found.n) == (0.25, 0.25, 0.25, 1)


def test_differences_are_paired_by_seed() -> None:
    # The arms vary by 10 between seeds; within a seed the differences are 1, 2, 3, 2: mean 2, s = sqrt(2/3).
    kd = [10.0, 20.0, 30.0, 40.0]
    ours = [11.0, 22.0, 33.0, 42.0]
    shuffled = [runs("dskd", "ce", ours)[at] for at in (2, 0, 3, 1)]
    row = only(summarise([*runs("kd", "ce", kd), *shuffled], "kd")["differences"], "dskd", "kd")
    half = T3 * (2 / 3) ** 0.5 / 2
    assert row["mean"] == pytest.approx(2.0)
    assert row["low"] == pytest.approx(2 - half, rel=1e-9)
    assert row["high"] == pytest.approx(2 + half, rel=1e-9)
    assert row["includes_zero"] is False
    assert row["n"] == 4


def test_zero_inside_the_interval_is_said() -> None:
    arms = [*runs("kd", "kl", [1.0, 1.0, 1.0]), *runs("dskd", "kl", [0.9, 1.2, 0.95])]
    row = only(summarise(arms, "kd")["differences"], "dskd", "kd")
    assert row["low"] < 0 < row["high"]
    assert row["includes_zero"] is True


def test_only_seeds_that_both_arms_have_are_paired() -> None:
    arms = [ArmResult("kd", seed, {"ce": 1.0}, 1) for seed in (0, 1, 2)]
    arms += [ArmResult("dskd", seed, {"ce": 1.5}, 1) for seed in (1, 2, 7)]
    row = only(summarise(arms, "kd")["differences"], "dskd", "kd")
    assert (row["n"], row["mean"]) == (2, 0.5)


def test_seedless_arm_stands_beside_every_seed_and_another_single_run_does_not() -> None:
    arms = [
        *runs("kd", "ce", [2.0, 3.0, 4.0]),
        *runs("pruned", "ce", [5.0]),
        *runs("teacher", "ce", [1.0]),
        *runs("ce", "ce", [2.5]),
    ]
    result = summarise(arms, "kd")
    pruned = only(result["differences"], "pruned", "kd")
    assert (pruned["n"], pruned["mean"]) == (3, 2.0)
    single = only(result["differences"], "ce", "kd")
    assert (single["n"], single["mean"], single["low"], single["high"]) == (1, 0.5, 0.5, 0.5)
    assert single["includes_zero"] is True
    exact = only(summarise(arms, "pruned")["differences"], "teacher", "pruned")
    assert (exact["mean"], exact["includes_zero"]) == (-4.0, False)


def test_dskd_is_compared_with_its_rivals_once_each() -> None:
    arms = [run for arm in ("kd", "kd+hidden", "dskd-own", "dskd", "mine") for run in runs(arm, "ce", [1.0, 2.0])]
    pairs = [(row["arm"], row["against"]) for row in summarise(arms, "kd")["differences"]]
    assert pairs == [
        ("kd+hidden", "kd"),
        ("dskd-own", "kd"),
        ("dskd", "kd"),
        ("mine", "kd"),
        ("dskd", "kd+hidden"),
        ("dskd", "dskd-own"),
    ]
    turned = [(row["arm"], row["against"]) for row in summarise(arms, "dskd")["differences"]]
    assert turned == [("kd", "dskd"), ("kd+hidden", "dskd"), ("dskd-own", "dskd"), ("mine", "dskd")]


def test_items_give_the_accuracy_and_counts_are_not_compared() -> None:
    metrics = {"ce": 1.0, "tokens": 7.0, "antonym_positions": 3.0}
    arms = [ArmResult(arm, 0, metrics, 5, {"facts": (1, 0, 1, 1)}) for arm in ("kd", "dskd")]
    result = summarise(arms, "kd")
    assert result["summary"]["kd"] == {
        "ce": {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 1},
        "facts": {"mean": 0.75, "low": 0.75, "high": 0.75, "n": 1},
    }
    assert {row["metric"] for row in result["differences"]} == {"ce", "facts"}
    assert "NaN" not in json.dumps(result)


def test_refusals_name_what_was_found() -> None:
    arms = runs("kd", "ce", [1.0, 2.0])
    with pytest.raises(InputError, match=r"no run of the baseline 'dskd'"):
        summarise(arms, "dskd")
    with pytest.raises(InputError, match="two results of arm 'kd' with seed 0"):
        summarise([*arms, arms[0]], "kd")
    with pytest.raises(InputError, match="arm 'kd', seed 9: ce not finite"):
        summarise([*arms, ArmResult("kd", 9, {"ce": float("nan")}, 1)], "kd")


def test_less_is_better_for_losses_alone() -> None:
    assert [direction(name) for name in ("ce", "kl", "facts", "arc_easy")] == ["lower", "lower", "higher", "higher"]
