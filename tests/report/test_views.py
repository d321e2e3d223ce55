"""What stands beside the main table says what the results say."""

from __future__ import annotations

from typing import Any

import pytest
import sample_results as sample

from sensekd.evaluation.resampling import correct
from sensekd.report.table import plain_table
from sensekd.report.verdict import verdict
from sensekd.report.views import corrected, equal_time, items, sensitivity, tuning, views

pytest.importorskip("scipy", reason="needs the extra `eval`")


def value(mean: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "n": 3}


def row(arm: str, metric: str, mean: float, half: float, against: str = "kd", **more: Any) -> dict[str, Any]:
    low, high = mean - half, mean + half
    zero = low <= 0 <= high
    return {
        "arm": arm, "against": against, "metric": metric, "mean": mean, "low": low, "high": high, "n": 3,
        "includes_zero": zero, **more,
    }  # fmt: skip


def test_a_plain_comparison_has_none() -> None:
    assert views(sample.results()) == ()


def test_equal_time_shows_both_budgets_and_who_wins_at_equal_time() -> None:
    found = {
        "arms": [
            {"arm": arm, "seed": 0, "metrics": {}, "tokens": tokens} for arm, tokens in (("kd", 900), ("dskd", 600))
        ],
        "summary": {"kd": {"ce": value(2.0)}, "dskd": {"ce": value(2.2)}},
        "differences": [row("dskd", "ce", 0.2, 0.1)],
        "steps": {"kd": 1500, "dskd": 1000},
        "slowest": "dskd",
    }
    times = {
        "arms": {"kd-0": 10.0, "kd-1": 12.0, "dskd-0": 15.0, "dskd-1": 18.0},
        "equal_time": {"costs": {"kd": 1.0, "dskd": 1.5}, "arms": {"kd-0": 16.0, "kd-1": 17.0, "dskd-0": 15.0}},
    }
    view = equal_time({"equal_time": found, "times": times, "summary": {}, "differences": []})
    assert view is not None
    assert view.rows == (
        ("kd", "1.00", "1,500", "900", "11.0", "16.5", "2.000"),
        ("dskd", "1.50", "1,000", "600", "16.5", "15.0", "2.200 ▼"),
    )
    assert view.note.endswith("dskd beats kd on nothing, and loses to it on cross-entropy.")


def test_items_say_what_was_resampled() -> None:
    known = {"crossed_low": -0.03, "crossed_high": 0.09, "items": 40, "runs": 3, "resamples": 500, "p": 0.004}
    view = items({"items": [row("dskd", "facts", 0.03, 0.02, p_holm=0.016, **known)]})
    assert view is not None
    (cells,) = view.rows
    minus = "\N{MINUS SIGN}"
    assert cells == (
        "dskd", "kd", "Facts", "+3.0 ▲", "+1.0 to +5.0", f"{minus}3.0 to +9.0", "0.004", "0.016", "40", "3",
    )  # fmt: skip
    assert "500 resamples" in view.note


def test_what_the_correction_leaves_is_listed_and_said() -> None:
    results = sample.results()
    results["multiplicity"] = {"differences": correct(results["differences"])}
    view, facts = corrected(results), results["multiplicity"]["differences"]
    assert view is not None
    assert len(view.rows) == facts["after_holm"]
    assert 0 < facts["after_holm"] < facts["without_zero"] < facts["family"]
    caveats = " ".join(verdict(results).caveats)
    assert f"Holm's correction over all {facts['family']} differences" in caveats
    assert view.title in plain_table(results, 160)


def test_tuning_names_what_was_chosen_and_how_often_the_test_was_opened() -> None:
    trials = [
        {"settings": {}, "values": [2.5], "mean": 2.5, "failed": None},
        {"settings": {"training.learning_rate": 0.003}, "values": [2.25], "mean": 2.25, "failed": None},
        {"settings": {"training.learning_rate": 1.0}, "values": [], "mean": None, "failed": "not finite"},
    ]
    arms = {"kd": {"chosen": 1, "settings": trials[1]["settings"], "trials": trials}}
    found = {"metric": "ce", "trials": 3, "seeds": [0], "development": {}, "arms": arms, "test_openings": 1}
    view = tuning({"tuning": found})
    assert view is not None
    assert view.rows == (("kd", "3", "1", "training.learning_rate 0.003", "2.500", "2.250"),)
    assert "opened once, for these models" in view.note
    again = tuning({"tuning": {**found, "test_openings": 3}})
    assert again is not None
    assert "opened 3 times" in again.note


def test_sensitivity_marks_what_differs_from_the_recipe() -> None:
    points = [("lambda", 1.0, "dskd", True, 0.05), ("lambda", 3.0, "dskd@lambda=3", False, 0.15)]
    points += [("k", 40, "dskd@k=40", False, None)]  # type: ignore[list-item]
    names = ("factor", "value", "arm", "default", "raw")
    view = sensitivity({
        "summary": {"kd": {"ce": value(3.0)}, "dskd": {"ce": value(2.9)}, "dskd@lambda=3": {"ce": value(2.8)}},
        "differences": [],
        "from_default": [row("dskd@lambda=3", "ce", -0.1, 0.05, "dskd")],
        "factors": [dict(zip(names, point, strict=True)) for point in points],
        "default_arm": "dskd", "baseline": "kd", "sigma2": 20.0, "split": "heldout",
        "skipped": {"margin": "no lexicon"},
    })  # fmt: skip
    assert view.rows == (
        ("", "kd", "", "3.000"),
        ("lambda", "1 (recipe)", "0.05", "2.900"),
        ("lambda", "3", "0.15", "2.800 ▲"),
        ("k", "40", "", "failed"),
    )
    assert "Left out: margin (no lexicon)." in view.note
