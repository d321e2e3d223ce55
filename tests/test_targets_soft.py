"""Kept rows weighed by the teacher's state: against a loop in float64, and at both ends of the temperature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sensekd.losses import sense_pull
from sensekd.targets import SenseTable, SenseTargets, build_table, select, targets_of
from test_targets import WIDTH, FakeDictionary, World, kept

KAPPA = 3
LABELS = torch.tensor([0, 3, -100, 1, 0, 3, 2])
WHOLE = torch.tensor([True, True, True, True, False, False, True])


def made() -> tuple[World, SenseTable, Tensor]:
    world = World([2, 5, 0, 4], [[1], [3], [1, 3]], synonyms={0: [0, 2], 3: [0]}, antonyms={1: [1]})
    table = build_table(world.dictionary(), world.relations())  # type: ignore[arg-type]
    return world, table, torch.randn(len(LABELS), WIDTH, generator=torch.Generator().manual_seed(1))


def chosen(table: SenseTable, states: Tensor, temperature: float | None, kappa: int = KAPPA) -> SenseTargets:
    return select(table, LABELS, WHOLE, states, kappa, own=True, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.02, 0.3, 5.0])
def test_pull_to_weighted_rows_against_a_loop(temperature: float) -> None:
    world, table, states = made()
    targets = chosen(table, states, temperature)
    student = torch.randn(len(LABELS), WIDTH, generator=torch.Generator().manual_seed(2))
    total, positions = 0.0, []
    for position, label in enumerate(LABELS.tolist()):
        rows, _ = world.candidates(label, bool(WHOLE[position])) if label >= 0 else ({}, {})
        if not rows:
            continue
        positions.append(position)
        state = states[position].double()
        near = torch.tensor(kept(rows, state.tolist(), KAPPA), dtype=torch.float64)
        d2 = [float((row - state).square().mean()) / table.sigma2 for row in near]
        weights = [math.exp(-value / temperature) for value in d2]
        pulls = [float((row - student[position].double()).square().mean()) / table.sigma2 for row in near]
        total += sum(w * pull for w, pull in zip(weights, pulls, strict=True)) / sum(weights)
    assert targets.pull_at.tolist() == positions
    assert len(positions) == 5
    term = sense_pull(student, targets, table.sigma2)
    assert term.sum.item() == pytest.approx(total, rel=1e-5)
    assert term.count.item() == len(positions)


def test_between_the_nearest_row_and_the_plain_mean() -> None:
    _, table, states = made()
    plain, single = chosen(table, states, None), chosen(table, states, None, kappa=1)
    cold, hot = chosen(table, states, 1e-4), chosen(table, states, 1e5)
    torch.testing.assert_close(cold.pull_mean, single.pull_mean)
    torch.testing.assert_close(hot.pull_mean, plain.pull_mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(hot.pull_spread, plain.pull_spread, atol=1e-4, rtol=1e-4)
    middle = chosen(table, states, 0.3)
    assert float((middle.pull_mean - plain.pull_mean).abs().max()) > 1e-2
    assert middle.kept is not None
    assert plain.kept is not None
    # The rows are the same ones, and so is everything of the push.
    assert torch.equal(middle.kept.pull_ids, plain.kept.pull_ids)
    for name in ("push_at", "push_rows", "push_mask", "own_nearest"):
        assert torch.equal(getattr(middle, name), getattr(plain, name))


def test_weights_are_a_distribution_over_kept_rows_and_give_the_same_targets_again() -> None:
    _, table, states = made()
    targets = chosen(table, states, 0.3)
    assert targets.kept is not None
    weight, mask = targets.kept.pull_weight, targets.kept.pull_mask
    assert weight is not None
    torch.testing.assert_close(weight.sum(1), torch.ones(len(weight)))
    assert not weight[~mask].any()
    assert (weight[mask] > 0).all()
    assert (~mask).any(), "one position has fewer rows"
    again = targets_of(table, targets.kept)
    assert torch.equal(again.pull_mean, targets.pull_mean)
    assert torch.equal(again.pull_spread, targets.pull_spread)


def test_no_candidates_at_all() -> None:
    table = build_table(FakeDictionary(torch.zeros(4, dtype=torch.long), torch.zeros(0, WIDTH)), None)  # type: ignore[arg-type]
    targets = select(table, torch.tensor([0, 1]), torch.ones(2).bool(), torch.zeros(2, WIDTH), 2, temperature=0.1)
    assert len(targets.pull_at) == 0
    assert sense_pull(torch.zeros(2, WIDTH), targets, 1.0).mean().item() == 0.0


def test_a_pull_that_ends_at_the_teacher_against_a_loop() -> None:
    world, table, states = made()
    targets = select(table, LABELS, WHOLE, states, KAPPA, own=True, reach=True)
    student = torch.randn(len(LABELS), WIDTH, generator=torch.Generator().manual_seed(2))
    student[0] = states[0]  # As near as the teacher: no pull at all.
    total, ended = 0.0, 0
    for position in targets.pull_at.tolist():
        rows, _ = world.candidates(int(LABELS[position]), bool(WHOLE[position]))
        near = torch.tensor(kept(rows, states[position].tolist(), KAPPA), dtype=torch.float64)
        centre = near.mean(0)
        left, right = ((centre - state[position].double()).square().mean() for state in (student, states))
        total += max(0.0, float(left - right)) / table.sigma2
        ended += int(left <= right + 1e-9)
    assert 0 < ended < len(targets.pull_at)
    assert sense_pull(student, targets, table.sigma2).sum.item() == pytest.approx(total, rel=1e-5)


def test_a_student_that_is_the_teacher_is_not_pulled_away() -> None:
    _, table, states = made()
    student = states.clone().requires_grad_()
    term = sense_pull(student, select(table, LABELS, WHOLE, states, KAPPA, reach=True), table.sigma2)
    term.sum.backward()
    assert term.sum.item() == 0.0
    assert student.grad is not None
    assert not student.grad.any()
    plain = sense_pull(student, select(table, LABELS, WHOLE, states, KAPPA), table.sigma2)
    assert plain.sum.item() > 0
    assert plain.count.item() == term.count.item()
