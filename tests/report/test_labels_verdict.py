"""The words of the verdict follow from the differences and from nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from sensekd.report.labels import baseline_of, ordered_arms, ordered_metrics, signed, subject_of
from sensekd.report.verdict import findings, outcome, sentence, verdict


def row(metric: str, mean: float, half: float, n: int = 3, arm: str = "dskd", against: str = "kd") -> dict[str, Any]:
    low, high = mean - half, mean + half
    zero = low <= 0 <= high or n < 2
    return {
        "arm": arm, "against": against, "metric": metric, "mean": mean, "low": low, "high": high, "n": n,
        "includes_zero": zero,
    }  # fmt: skip


def tree(*rows: dict[str, Any]) -> dict[str, Any]:
    names = {each["metric"] for each in rows}
    sides = {each["arm"] for each in rows} | {each["against"] for each in rows}
    value = {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 3}
    return {"summary": {arm: dict.fromkeys(names, value) for arm in sides}, "differences": list(rows)}


@pytest.mark.parametrize(
    ("metric", "mean", "half", "expected"),
    [
        ("facts", 0.02, 0.01, "better"),
        ("facts", -0.02, 0.01, "worse"),
        ("facts", 0.02, 0.03, "open"),
        ("ce", -0.02, 0.01, "better"),
        ("ce", 0.02, 0.01, "worse"),
        ("kl", -0.02, 0.02, "open"),
    ],
)
def test_less_of_a_loss_is_better(metric: str, mean: float, half: float, expected: str) -> None:
    assert outcome(row(metric, mean, half)) == expected


def test_a_win_is_named_with_its_size_and_interval() -> None:
    found = verdict(tree(row("facts", 0.021, 0.01), row("ce", 0.0, 0.01)))
    assert found.headline == "dskd beats kd on facts. The other 1 of 2 leave it open."
    text = found.findings[0].text.replace("\N{NO-BREAK SPACE}", " ")
    assert text == "dskd 50.0 %, kd 50.0 %: +2.1 points (95 % interval +1.1 to +3.1)"


def test_nothing_is_won_and_nothing_is_claimed() -> None:
    assert verdict(tree(row("facts", 0.02, 0.03), row("kl", -0.1, 0.2))).headline == (
        "No measure tells dskd from kd: zero lies inside every interval."
    )
    assert verdict(tree(row("facts", -0.04, 0.03), row("kl", -0.1, 0.2))).headline == (
        "dskd beats kd on nothing, and loses to it on facts. The other 1 of 2 leave it open."
    )
    assert verdict(tree(row("facts", 0.04, 0.03), row("kl", 0.3, 0.2), row("ce", 0.2, 0.1))).headline == (
        "dskd beats kd on facts, and loses to it on cross-entropy and KL from the teacher."
    )


def test_one_seed_decides_nothing() -> None:
    found = verdict(tree(row("facts", 0.3, 0.0, n=1)))
    assert "decide nothing" in found.headline
    assert found.findings[0].text.endswith("+30.0 points, one seed, no interval")


def test_rivals_and_budget_are_named() -> None:
    results = tree(row("facts", 0.02, 0.01), row("facts", -0.05, 0.01, against="kd+hidden"))
    runs = [{"arm": arm, "seed": 0, "metrics": {}, "tokens": tokens} for arm, tokens in (("dskd", 10), ("kd", 12))]
    found = verdict({**results, "arms": runs})
    assert found.rivals == ("dskd beats kd+hidden on nothing, and loses to it on facts.",)
    assert any("no comparison at equal budget" in line for line in found.caveats)


def test_nothing_compared() -> None:
    assert verdict({"summary": {}, "differences": []}).headline.startswith("Nothing was compared")


def test_subject_and_baseline() -> None:
    results = tree(row("ce", 0.1, 0.0, arm="mine"), row("ce", 0.1, 0.0, arm="teacher"))
    assert (subject_of(results), baseline_of(results)) == ("mine", "kd")
    named = {**results, "provenance": {"recipe": {"compare": {"baseline": "elsewhere"}}}}
    assert baseline_of(named) == "kd"
    assert subject_of(tree(row("ce", 0.1, 0.0, arm="teacher"))) is None
    assert sentence(findings(results, "mine", "kd")).startswith("mine beats kd on nothing")


def test_orders() -> None:
    assert ordered_arms(["mine", "dskd", "teacher"]) == ["teacher", "dskd", "mine"]
    summary = {"kd": {name: {} for name in ("kl", "arc", "zeta", "facts")}}
    assert ordered_metrics({"summary": summary, "chance": {"arc": 0.25}}) == ["facts", "arc", "kl", "zeta"]


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    shown = [signed(value, "facts", {}) for value in (-0.0001, 0.0001, -0.02, 0.105)]
    assert shown == ["0.0", "0.0", "\N{MINUS SIGN}2.0", "+10.5"]
