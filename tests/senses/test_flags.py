"""The rules that flag a sense, on numbers and sentences made for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from senses_fakes import identity

from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.flags import agreement, dead, duplicates, flags_of


@pytest.mark.parametrize(
    ("support", "minimum", "contexts", "why"),
    [
        (2, 2, 1, None),
        (1, 2, 1, "1 sample, the minimum is 2"),
        (3, 5, 0, "3 samples, the minimum is 5"),
        (9, 2, 0, "no sample lies near it"),
    ],
)
def test_dead(support: int, minimum: int, contexts: int, why: str | None) -> None:
    assert dead(support, minimum, contexts) == why


def test_duplicates_by_hand() -> None:
    """On a line of width 2: 0, 2 and 10; d² = 2, 50 and 32 per dimension."""
    rows = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0]])
    # The pooled spread of the first two is (6 · 4.5 + 2 · 3.5) / 8 = 4.25; 2 / 4.25 = 0.47.
    found = duplicates(rows, torch.tensor([4.5, 3.5, 4.0]), torch.tensor([6, 2, 9]))
    assert [pair and pair[0] for pair in found] == [1, 0, None]
    assert found[0] is not None
    assert found[0][1] == pytest.approx(2 / 4.25)
    # With spreads of 4 the share is 0.5, which is not nearer than half.
    assert duplicates(rows, torch.full((3,), 4.0), torch.tensor([6, 2, 9])) == [None] * 3


def test_equal_and_single_senses() -> None:
    same = torch.ones(2, 3)
    assert duplicates(same, torch.zeros(2), torch.tensor([1, 1])) == [(1, 0.0), (0, 0.0)]
    assert duplicates(same + torch.tensor([[0.0], [1e-3]]), torch.zeros(2), torch.tensor([1, 1])) == [None, None]
    assert duplicates(same[:1], torch.ones(1), torch.tensor([1])) == [None]
    assert duplicates(same[:0], torch.ones(0), torch.zeros(0)) == []


def test_the_nearest_twin_is_named() -> None:
    rows = torch.tensor([[0.0], [1.0], [1.5]])
    found = duplicates(rows, torch.full((3,), 10.0), torch.tensor([5, 5, 5]))
    assert [pair and pair[0] for pair in found] == [1, 2, 1]


def test_agreement_by_hand() -> None:
    one = [1, 2, 3, 4, 5, 6, 7, 8]
    assert agreement([one, one]) == 1.0
    # Six of eight tokens are matched in both: 2 · 6 / 16.
    assert agreement([one, [1, 2, 3, 90, 91, 6, 7, 8]]) == 0.75
    # An insertion shifts the rest, and costs one token alone: 2 · 8 / 17.
    assert agreement([one, [1, 2, 3, 90, 4, 5, 6, 7, 8]]) == pytest.approx(16 / 17)
    # The same tokens in another order are not the same text.
    assert agreement([one, one[::-1]]) == 0.125
    # The least alike pair counts.
    assert agreement([one, one, [1, 2, 3, 4, 90, 91, 92, 93]]) == 0.5


def test_agreement_looks_at_the_last_tokens_of_contexts_that_are_long_enough() -> None:
    end = list(range(12))
    assert agreement([[50, 51, *end], [60, 61, 62, *end]]) == 1.0
    assert agreement([end, [1, 2, 3]]) is None
    assert agreement([end]) is None
    assert agreement([]) is None


def dictionary() -> SenseDictionary:
    """Token 0 has four senses: a good one, its duplicate, one of a template, one of a single sample."""
    context = torch.full((5, 3, 24), -1, dtype=torch.int32)
    context[:, 0, -6:] = torch.arange(30, dtype=torch.int32).view(5, 6)
    context[2, 1, -6:] = context[2, 0, -6:]
    return SenseDictionary(
        indptr=torch.tensor([0, 4, 5]),
        centroids=torch.tensor([[0.0, 0.0], [0.5, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 0.0]]),
        support=torch.tensor([9, 8, 7, 1, 5], dtype=torch.int32),
        spread=torch.tensor([1.0, 1.0, 0.1, 0.0, 1.0]),
        context=context,
        sigma2=1.0,
        identity=identity(2, 2),
        corpus="c",
        settings={"minimum_support": 2},
    )


def test_flags_of_a_token(tmp_path: Path) -> None:
    dictionary().save(tmp_path / "senses")
    for ours in (dictionary(), dictionary().stored_as("int8"), SenseDictionary.load(tmp_path / "senses")):
        flags = flags_of(ours, 0)
        assert [sorted(each) for each in flags] == [["duplicate"], ["duplicate"], ["template"], ["dead"]]
        assert flags[0]["duplicate"].startswith("of sense 2, 0.12")
        assert flags[1]["duplicate"].startswith("of sense 1, 0.12")
        assert flags[2]["template"] == "the contexts are alike to 100%"
        assert flags_of(ours, 1) == [{}]


def test_the_minimum_is_that_of_the_build() -> None:
    assert "dead" in flags_of(dictionary(), 0)[3]
    assert flags_of(replace(dictionary(), settings={"minimum_support": 1}), 0)[3] == {}
    assert flags_of(replace(dictionary(), settings={}), 0)[3] == {}
