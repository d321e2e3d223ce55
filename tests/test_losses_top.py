"""CE + divergence against a teacher known by its likeliest tokens and the mass of the others, written out again."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sensekd.losses import IGNORE, Head, Objective, TopTeacher, chunked_terms, divergence, top_divergence

N, V, D, K = 7, 23, 6, 5
KINDS = ["forward", "reverse", "jsd"]


def logits(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(N, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def top_of(scores: Tensor, tau: float, k: int) -> TopTeacher:
    """The teacher's record by its definition, by sorting and summing."""
    probabilities = torch.softmax(scores.double() / tau, -1)
    values, ids = probabilities.sort(-1, descending=True)
    tail = values[:, k:].sum(-1)
    return TopTeacher(values[:, :k].log().to(scores.dtype), ids[:, :k], tail.log().to(scores.dtype))


def by_hand(teacher: Tensor, student: Tensor, objective: Objective, k: int) -> list[float]:
    """A divergence of every position over k + 1 outcomes, in plain Python."""
    found = []
    for z_t, z_s in zip(teacher.tolist(), student.tolist(), strict=True):
        p, q = ([math.exp(z / objective.tau) for z in each] for each in (z_t, z_s))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        order = sorted(range(V), key=lambda v, p=p: -p[v])[:k]
        a, b = ([*(x[v] for v in order), sum(x[v] for v in range(V) if v not in order)] for x in (p, q))
        kl = lambda x, y: sum(s * math.log(s / t) for s, t in zip(x, y, strict=True))  # noqa: E731
        beta = objective.beta
        mixed = [beta * s + (1 - beta) * t for s, t in zip(a, b, strict=True)]
        values = {"forward": kl(a, b), "reverse": kl(b, a), "jsd": beta * kl(a, mixed) + (1 - beta) * kl(b, mixed)}
        found.append(values[objective.kind])
    return found


def labels() -> Tensor:
    found = torch.arange(N) * 3 % V
    found[2] = IGNORE
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 2.0, 3.0])
def test_the_divergence_is_that_of_the_definition(kind: str, tau: float) -> None:
    objective = Objective(1.0, tau, kind, 0.3)  # type: ignore[arg-type]
    teacher, student, mask = logits(0), logits(1), labels() != IGNORE
    wanted = sum(value for value, kept in zip(by_hand(teacher, student, objective, K), mask, strict=True) if kept)
    term = top_divergence(top_of(teacher, tau, K), student, objective, mask)
    assert float(term.sum) == pytest.approx(wanted, rel=1e-5)
    assert int(term.count) == N - 1


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 2.0, 3.0])
def test_in_chunks_as_with_whole_logits_gradients_too(kind: str, tau: float, softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(N, D, generator=generator, dtype=torch.float64).requires_grad_(True)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64).requires_grad_(True)
    head, objective = Head(weight, softcap=softcap), Objective(0.7 * tau**2, tau, kind, 0.4)  # type: ignore[arg-type]
    teacher, y = top_of(logits(3), tau, K), labels()
    chunked = chunked_terms(states, head, teacher, y, objective, elements=3 * V)
    chunked.total.sum.backward()
    found = [states.grad, weight.grad]
    states.grad = weight.grad = None
    scores = head.logits(states)
    ce = torch.nn.functional.cross_entropy(scores, y, ignore_index=IGNORE, reduction="sum")
    u = scores / tau
    chosen = u.gather(1, teacher.ids)
    rest = u.scatter(1, teacher.ids, -torch.inf).logsumexp(-1, keepdim=True)
    log_q = torch.cat([chosen, rest], 1).log_softmax(-1)
    log_p = torch.cat([teacher.log_probs, teacher.log_tail[:, None]], 1)
    beta = 0.4
    mixed = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    kl = lambda a, b: (a.exp() * (a - b)).sum(-1)  # noqa: E731
    values = {"forward": kl(log_p, log_q), "reverse": kl(log_q, log_p)}
    values["jsd"] = beta * kl(log_p, mixed) + (1 - beta) * kl(log_q, mixed)
    plain = ce + 0.7 * tau**2 * values[kind][y != IGNORE].sum()
    plain.backward()
    assert float(chunked.total.sum) == pytest.approx(float(plain), rel=1e-10)
    for left, right in zip(found, (states.grad, weight.grad), strict=True):
        assert torch.allclose(left, right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences_of_the_scalar_that_is_logged(kind: str) -> None:
    head = Head(torch.randn(V, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    objective, y = Objective(1.5, 2.0, kind), labels()  # type: ignore[arg-type]
    teacher = top_of(logits(6), 2.0, K)
    states = torch.randn(N, D, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def value(at: Tensor) -> Tensor:
        return chunked_terms(at, head, teacher, y, objective).total.sum

    point = states.clone().requires_grad_(True)
    value(point).backward()
    step = 1e-6
    for n, d in ((0, 1), (3, 4), (6, 0)):
        move = torch.zeros_like(states)
        move[n, d] = step
        slope = float(value(states + move) - value(states - move)) / (2 * step)
        assert float(point.grad[n, d]) == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert not bool(point.grad[2].any()), "a position without a label moves nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_vocabulary_gives_the_live_divergence_to_the_bit(kind: str) -> None:
    teacher, student = logits(8, torch.float32), logits(9, torch.float32)
    objective, mask = Objective(1.0, 2.0, kind), labels() != IGNORE  # type: ignore[arg-type]
    whole = TopTeacher(torch.log_softmax(teacher / 2.0, -1))
    live, cached = divergence(teacher, student, objective, mask), top_divergence(whole, student, objective, mask)
    assert torch.equal(live.sum, cached.sum)
    lumped = top_divergence(top_of(teacher, 2.0, V - 1), student, objective, mask)
    assert float(lumped.sum) == pytest.approx(float(live.sum), rel=1e-5), "a tail of one token is that token"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_at_equality_and_less_than_over_the_vocabulary_elsewhere(kind: str) -> None:
    teacher, student = logits(10, torch.float32), logits(11, torch.float32)
    objective, mask = Objective(1.0, 2.0, kind), torch.ones(N, dtype=torch.bool)  # type: ignore[arg-type]
    known = top_of(teacher, 2.0, K)
    assert abs(float(top_divergence(known, teacher, objective, mask).sum)) < 1e-5
    assert (
        0
        < float(top_divergence(known, student, objective, mask).sum)
        < float(divergence(teacher, student, objective, mask).sum)
    )


def test_empty_tails_and_students_that_are_sure_stay_finite() -> None:
    sure = torch.zeros(2, V)
    sure[:, 0] = 400.0
    teacher = TopTeacher(torch.tensor([[0.0, -50.0]] * 2), torch.tensor([[0, 1]] * 2), torch.tensor([-math.inf] * 2))
    for kind in KINDS:
        objective = Objective(1.0, 1.0, kind)  # type: ignore[arg-type]
        student = sure.clone().requires_grad_(True)
        top_divergence(teacher, student, objective, torch.ones(2, dtype=torch.bool)).sum.backward()
        assert bool(torch.isfinite(student.grad).all())
        states = torch.eye(2).requires_grad_(True)
        head = Head(sure.T[:, :2].contiguous())
        terms = chunked_terms(states, head, teacher, torch.tensor([0, 0]), objective)
        terms.total.sum.backward()
        assert bool(torch.isfinite(terms.total.sum))
        assert bool(torch.isfinite(states.grad).all())
