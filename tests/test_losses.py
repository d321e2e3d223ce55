"""Every term: a naive reference in float64, a hand value or an exact zero, masking, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sensekd.losses import IGNORE, cross_entropy, hidden_mse, kl_divergence, sense_pull, sense_push
from sensekd.targets import SenseTargets

N, V, D, K = 7, 11, 5, 3


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def targets(generator: torch.Generator) -> SenseTargets:
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    return SenseTargets(
        pull_at=torch.tensor([0, 2, 3, 6]),
        pull_mean=torch.randn(4, D, generator=generator),
        pull_spread=torch.rand(4, generator=generator),
        push_at=torch.tensor([1, 2, 5]),
        push_rows=torch.randn(3, K, D, generator=generator),
        push_mask=mask,
        own_nearest=torch.randn(3, D, generator=generator),
    )


def test_cross_entropy_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]]))
    term = cross_entropy(logits, torch.tensor([0, IGNORE, 2]))
    assert term.sum.item() == pytest.approx(-math.log(0.5) - math.log(0.6))
    assert term.count.item() == 2


def test_kl_is_exactly_zero_at_equality(generator: torch.Generator) -> None:
    logits = 5 * torch.randn(N, V, generator=generator)
    assert kl_divergence(logits, logits.clone(), 2.0, torch.ones(N, dtype=torch.bool)).sum.item() == 0.0


def test_kl_against_the_formula_and_masking(generator: torch.Generator) -> None:
    teacher, student = torch.randn(2, N, V, generator=generator)
    mask = torch.tensor([True, False, True, True, False, True, True])
    total = 0.0
    for row in range(N):
        if mask[row]:
            p = [math.exp(x / 2) for x in teacher[row].tolist()]
            q = [math.exp(x / 2) for x in student[row].tolist()]
            total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    term = kl_divergence(teacher, student, 2.0, mask)
    assert term.sum.item() == pytest.approx(total, rel=1e-5)
    assert term.count.item() == 5
    poisoned = student.clone()
    poisoned[~mask] = 1e4
    assert kl_divergence(teacher, poisoned, 2.0, mask).sum.item() == term.sum.item()


def test_hidden_mse_by_hand() -> None:
    teacher, student = torch.tensor([[1.0, 3.0], [9.0, 9.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    term = hidden_mse(teacher, student, 0.5, torch.tensor([True, False]))
    assert term.sum.item() == pytest.approx((1 + 4) / 2 / 0.5)
    assert term.count.item() == 1


def naive_pull(states: Tensor, rows: list[Tensor], at: list[int], sigma2: float) -> float:
    total = 0.0
    for position, kept in zip(at, rows, strict=True):
        total += sum(((row - states[position]) ** 2).mean().item() / sigma2 for row in kept.double()) / len(kept)
    return total


def test_pull_to_many_rows_equals_the_mean_distance(generator: torch.Generator) -> None:
    states = torch.randn(N, D, generator=generator)
    rows = [torch.randn(size, D, generator=generator) for size in (1, 3, 2)]
    mean = torch.stack([row.mean(0) for row in rows])
    spread = torch.stack([(row - row.mean(0)).square().mean() for row in rows])
    empty = torch.zeros(0, dtype=torch.long)
    targets = SenseTargets(torch.tensor([1, 4, 5]), mean, spread, empty, torch.zeros(0, 1, D), torch.zeros(0, 1).bool())
    term = sense_pull(states, targets, 1.7)
    assert term.sum.item() == pytest.approx(naive_pull(states.double(), rows, [1, 4, 5], 1.7), rel=1e-5)
    assert term.count.item() == 3


@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_push_against_the_formula(targets: SenseTargets, generator: torch.Generator, form: str) -> None:
    states = torch.randn(N, D, generator=generator)
    sigma2, margin, total, active = 1.3, 0.9 if form == "absolute" else -0.3, 0.0, 0
    assert targets.own_nearest is not None
    for index, position in enumerate(targets.push_at.tolist()):
        limit = margin
        if form == "relative":
            limit += ((targets.own_nearest[index] - states[position]) ** 2).double().mean().item() / sigma2
        values = []
        for row, kept in zip(targets.push_rows[index], targets.push_mask[index], strict=True):
            if kept:
                value = limit - ((row - states[position]) ** 2).double().mean().item() / sigma2
                values.append(max(0.0, value))
                active += value > 0
        total += sum(values) / len(values)
    push, rows = sense_push(states, targets, sigma2, margin, form)  # type: ignore[arg-type]
    assert push.sum.item() == pytest.approx(total, rel=1e-5)
    assert (push.count.item(), rows.count.item()) == (3, 6)
    assert rows.sum.item() == active
    assert 0 < active < 6


def test_relative_push_needs_own_senses(targets: SenseTargets) -> None:
    bare = SenseTargets(*[getattr(targets, name) for name in list(SenseTargets.__dataclass_fields__)[:6]])
    with pytest.raises(ValueError, match="own=True"):
        sense_push(torch.zeros(N, D), bare, 1.0, 0.0, "relative")


@pytest.mark.parametrize("name", ["ce", "kl", "hidden", "pull", "absolute", "relative"])
def test_gradients_by_finite_differences(targets: SenseTargets, generator: torch.Generator, name: str) -> None:
    mask = torch.tensor([True, True, False, True, True, True, True])
    labels = torch.where(mask, torch.arange(N), IGNORE)
    teacher = torch.randn(N, V, generator=generator)
    student = torch.randn(N, V, generator=generator)
    if name not in {"ce", "kl"}:
        teacher, student = teacher[:, :D], student[:, :D]

    def value(x: Tensor) -> Tensor:
        terms = {
            "ce": lambda: cross_entropy(x, labels),
            "kl": lambda: kl_divergence(teacher, x, 2.0, mask),
            "hidden": lambda: hidden_mse(teacher, x, 1.3, mask),
            "pull": lambda: sense_pull(x, targets, 1.3),
            "absolute": lambda: sense_push(x, targets, 1.3, 2.0)[0],
            "relative": lambda: sense_push(x, targets, 1.3, 0.5, "relative")[0],
        }
        return terms[name]().mean()

    student.requires_grad_(True)
    value(student).backward()  # type: ignore[no-untyped-call]
    direction = torch.randn(student.shape, generator=generator)
    step = 1e-2
    with torch.no_grad():
        difference = (value(student + step * direction) - value(student - step * direction)) / (2 * step)
    assert student.grad is not None
    assert difference.item() == pytest.approx((student.grad * direction).sum().item(), rel=2e-2, abs=1e-3)


def test_an_absent_term_is_zero_and_has_count_zero() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    targets = SenseTargets(
        empty, torch.zeros(0, D), torch.zeros(0), empty, torch.zeros(0, 0, D), torch.zeros(0, 0).bool()
    )
    states = torch.zeros(N, D, requires_grad=True)
    pull, (push, _) = sense_pull(states, targets, 1.0), sense_push(states, targets, 1.0, 0.8)
    assert pull.count.item() == push.count.item() == 0
    total = pull.mean() + push.mean()
    total.backward()  # type: ignore[no-untyped-call]
    assert total.item() == 0.0
