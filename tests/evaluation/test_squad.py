"""The rules of SQuAD v2 against values worked out by hand."""

from __future__ import annotations

import pytest

from sensekd.evaluation.squad import Answered, exact, f1, judge, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Normans", "normans"),
        ("an A.B.C. theory of the heat", "abc theory of heat"),
        ("a", ""),
        ("don't -- stop!", "dont stop"),
        ("Ana", "ana"),  # An article is a word of its own.
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("prediction", "golds", "match", "overlap"),
    [
        ("the 10th century", ["10th century"], 1.0, 1.0),
        ("in the 10th century", ["10th century", "century"], 0.0, 2 * 2 / 5),
        ("century century", ["century"], 0.0, 2 / 3),
        ("Rollo", ["Denmark"], 0.0, 0.0),
        ("", ["Denmark"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("the", [], 1.0, 1.0),  # Nothing is left of it.
        ("unanswerable", [], 0.0, 0.0),
        ("France", ["the", "France"], 1.0, 1.0),
        ("", ["the", "France"], 0.0, 0.0),  # A gold answer of which nothing is left does not count.
    ],
)
def test_one_answer(prediction: str, golds: list[str], match: float, overlap: float) -> None:
    assert exact(prediction, golds) == match
    assert f1(prediction, golds) == pytest.approx(overlap)


def test_the_whole() -> None:
    items = [
        Answered("red stone", ("stone",), 0.1),  # exact 0, f1 2/3
        Answered("river", ("river",), 0.6),  # 1, 1
        Answered("bird", (), 0.5),  # answered, though there is none
        Answered("", (), 0.2),  # 1, 1
        Answered("glass", ("lamp", "bird"), 0.9),  # 0, 0
    ]
    found = judge(items)
    assert found["exact"] == pytest.approx(2 / 5)
    assert found["f1"] == pytest.approx((2 / 3 + 1 + 0 + 1 + 0) / 5)
    assert found["HasAns_exact"] == pytest.approx(1 / 3)
    assert found["HasAns_f1"] == pytest.approx((2 / 3 + 1) / 3)
    assert found["NoAns_exact"] == found["NoAns_f1"] == 0.5
    # exact: none 2; to 0.1 2; to 0.2 2 (the empty one loses nothing); to 0.5 1; to 0.6 2. f1: 2 + 2/3 up to 0.2.
    assert found["best_exact"] == pytest.approx(2 / 5)
    assert found["best_f1"] == pytest.approx((2 + 2 / 3) / 5)


def test_the_threshold_follows_the_probability_of_no_answer() -> None:
    sure = [Answered("bird", ("bird",), 0.1), Answered("stone", (), 0.9)]
    assert judge(sure)["best_exact"] == 1.0
    assert judge([Answered("bird", ("bird",), 0.9), Answered("stone", (), 0.1)])["best_exact"] == 0.5
    assert judge(sure)["exact"] == 0.5


def test_only_questions_of_one_kind() -> None:
    assert not {"NoAns_exact", "NoAns_f1"} & set(judge([Answered("a b", ("b",))]))
    assert not {"HasAns_exact", "HasAns_f1"} & set(judge([Answered("a b", ())]))
