"""Weighted pulls and pushes, the contrastive push and the teacher's confidence: references in plain float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sensekd.losses import (
    IGNORE,
    Confidence,
    Head,
    LossTerm,
    Push,
    TopTeacher,
    confidence_of_logits,
    confidence_of_states,
    confidence_of_top,
    sense_pull,
    sense_push,
)
from sensekd.targets import SenseTargets

N, V, D, K = 7, 11, 5, 3
SIGMA2 = 1.3
FORMS: tuple[Push, ...] = ("absolute", "relative", "contrastive")


def made(seed: int = 3) -> tuple[Tensor, SenseTargets, Tensor]:
    """States, targets of pulls at 4 and pushes at 3 positions, and weights of all positions, one of them 0."""
    generator = torch.Generator().manual_seed(seed)
    targets = SenseTargets(
        pull_at=torch.tensor([0, 2, 3, 6]),
        pull_mean=torch.randn(4, D, generator=generator),
        pull_spread=torch.rand(4, generator=generator),
        push_at=torch.tensor([1, 2, 5]),
        push_rows=torch.randn(3, K, D, generator=generator),
        push_mask=torch.tensor([[True, True, True], [True, False, False], [True, True, False]]),
        own_nearest=torch.randn(3, D, generator=generator),
    )
    states = torch.randn(N, D, generator=generator)
    return states, targets, torch.tensor([0.2, 0.9, 0.5, 0.0, 1.0, 0.3, 0.7])


def d2(row: Tensor, state: Tensor) -> float:
    return sum((a - b) ** 2 for a, b in zip(row.tolist(), state.tolist(), strict=True)) / D / SIGMA2


def own_against_rows(own: float, rows: list[float], temperature: float) -> float:
    mine = math.exp(-own / temperature)
    return -math.log(mine / (mine + sum(math.exp(-row / temperature) for row in rows)))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_contrastive_push_against_the_formula(temperature: float) -> None:
    states, targets, _ = made()
    assert targets.own_nearest is not None
    total, closer = 0.0, 0
    for index, position in enumerate(targets.push_at.tolist()):
        own = d2(targets.own_nearest[index], states[position])
        kept = zip(targets.push_rows[index], targets.push_mask[index].tolist(), strict=True)
        rows = [d2(row, states[position]) for row, used in kept if used]
        total += own_against_rows(own, rows, temperature)
        closer += sum(row < own for row in rows)
    push, active = sense_push(states, targets, SIGMA2, 0.0, "contrastive", temperature=temperature)
    assert push.sum.item() == pytest.approx(total, rel=1e-5)
    assert (push.count.item(), active.count.item(), active.sum.item()) == (3, 6, closer)
    assert 0 < closer < 6


def test_contrastive_push_by_hand_and_without_rows() -> None:
    at = torch.zeros(1, dtype=torch.long)
    own, row, masked = torch.zeros(1, D), torch.ones(1, 2, D), torch.tensor([[True, False]])
    row[:, 1] = 0.0
    targets = SenseTargets(at, own, torch.zeros(1), at, row, masked, own)
    halfway = torch.full((1, D), 0.5, requires_grad=True)
    push, _ = sense_push(halfway, targets, 1.0, 0.0, "contrastive", temperature=0.3)
    assert push.sum.item() == pytest.approx(math.log(2)), "as near to the row as to the own sense"
    push.sum.backward()  # type: ignore[no-untyped-call]
    # d/ds of (|s|² - |s - 1|²) / (D T) is 2 / (D T), and the softmax gives one half of it.
    torch.testing.assert_close(halfway.grad, torch.full((1, D), 1 / (D * 0.3)))
    far, _ = sense_push(torch.full((1, D), -30.0), targets, 1.0, 0.0, "contrastive", temperature=0.3)
    assert far.sum.item() == 0.0
    nothing = at[:0]
    none = SenseTargets(at, own, torch.zeros(1), nothing, row[:0], masked[:0], own[:0])
    absent = sense_push(halfway, none, 1.0, 0.0, "contrastive")[0]
    assert (absent.sum.item(), absent.count.item(), absent.mean().item()) == (0.0, 0, 0.0)


def test_contrastive_push_needs_own_senses() -> None:
    states, targets, _ = made()
    bare = SenseTargets(*[getattr(targets, name) for name in list(SenseTargets.__dataclass_fields__)[:6]])
    with pytest.raises(ValueError, match="contrastive push needs targets selected with own=True"):
        sense_push(states, bare, 1.0, 0.0, "contrastive")


def terms(states: Tensor, targets: SenseTargets, weight: Tensor | None) -> dict[str, LossTerm]:
    found = {"pull": sense_pull(states, targets, SIGMA2, weight)}
    for form in FORMS:
        found[form] = sense_push(states, targets, SIGMA2, 1.5, form, weight_N=weight)[0]
    return found


def test_weights_weigh_positions_and_are_what_is_counted() -> None:
    states, targets, weight = made()
    states.requires_grad_(True)
    for name, term in terms(states, targets, weight).items():
        at = (targets.pull_at if name == "pull" else targets.push_at).tolist()
        alone = []
        for position in at:
            # The term of one position alone: weights of 0 leave the others out.
            only = torch.zeros(N)
            only[position] = 1.0
            alone.append(terms(states, targets, only)[name])
        assert all(one.count.item() == 1.0 for one in alone), name
        wanted = sum(one.sum.item() * float(weight[position]) for one, position in zip(alone, at, strict=True))
        assert term.sum.item() == pytest.approx(wanted, rel=1e-5), name
        assert term.count.item() == pytest.approx(sum(float(weight[position]) for position in at)), name
        (gradient,) = torch.autograd.grad(term.sum, states)
        moved = {index for index, row in enumerate(gradient) if row.abs().max() > 0}
        assert moved == {position for position in at if weight[position] > 0}, name


def test_equal_weights_leave_the_mean_as_it_is_and_small_ones_are_divided_out() -> None:
    states, targets, _ = made()
    plain = terms(states, targets, None)
    for scale in (1.0, 1e-4):
        for name, term in terms(states, targets, torch.full((N,), scale)).items():
            assert term.mean().item() == pytest.approx(plain[name].mean().item(), rel=1e-5), name
    for name, term in terms(states, targets, torch.zeros(N)).items():
        assert (term.sum.item(), term.mean().item()) == (0.0, 0.0), name


@pytest.mark.parametrize("name", ["pull", *FORMS])
def test_gradients_of_weighted_terms_by_finite_differences(name: str) -> None:
    states, targets, weight = made()
    states.requires_grad_(True)
    (gradient,) = torch.autograd.grad(terms(states, targets, weight)[name].mean(), states)
    direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ends = [terms(states + step * direction, targets, weight)[name].mean().item() for step in (1e-2, -1e-2)]
    assert (gradient * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-2, abs=1e-3)


# ---- the teacher's confidence


def naive_confidence(logits: Tensor, labels: list[int], kind: str) -> list[float]:
    found = []
    for row, label in zip(logits.double().tolist(), labels, strict=True):
        if label == IGNORE:
            found.append(0.0)
        elif kind == "agreement":
            found.append(float(row[label] == max(row)))
        else:
            found.append(math.exp(row[label]) / sum(math.exp(value) for value in row))
    return found


@pytest.mark.parametrize("kind", ["probability", "agreement"])
def test_confidence_by_every_way_to_the_distribution(kind: Confidence) -> None:
    generator, tau = torch.Generator().manual_seed(5), 2.0
    states = torch.randn(N, D, generator=generator)
    head = Head(torch.randn(V, D, generator=generator), torch.randn(V, generator=generator), 1.7, 3.0)
    logits = head.logits(states)
    labels = logits.argmax(1)
    labels[1], labels[2], labels[4] = logits[1].argmin(), IGNORE, logits[4].topk(3).indices[2]
    wanted = naive_confidence(logits, labels.tolist(), kind)
    assert sum(value > 0 for value in wanted) >= 4
    assert confidence_of_logits(logits, labels, kind).tolist() == pytest.approx(wanted, rel=1e-5)
    for elements in (1, 2 * V, 1 << 20):
        found = confidence_of_states(states, head, labels, kind, elements=elements)
        assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    whole = TopTeacher((logits / tau).log_softmax(-1))
    assert confidence_of_top(whole, tau, labels, kind).tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", ["probability", "agreement"])
def test_confidence_of_the_likeliest_tokens_alone(kind: Confidence) -> None:
    generator, tau, top = torch.Generator().manual_seed(6), 2.0, 4
    logits = 3 * torch.randn(N, V, generator=generator)
    values, ids = (logits / tau).log_softmax(-1).topk(top)
    labels = ids[:, 1].clone()
    labels[0], labels[1], labels[3] = ids[0, 0], logits[1].argmin(), IGNORE
    tail = 1 - logits.softmax(-1).gather(1, ids).sum(1)
    exact = naive_confidence(logits, labels.tolist(), kind)
    wanted = [
        0.0 if row == 1 else value / (1.0 if kind == "agreement" else 1 - float(tail[row]))
        for row, value in enumerate(exact)
    ]
    found = confidence_of_top(TopTeacher(values, ids, torch.zeros(N)), tau, labels, kind)
    assert found.tolist() == pytest.approx(wanted, rel=1e-4)
    assert found[1] == found[3] == 0
    assert found[0] > 0
