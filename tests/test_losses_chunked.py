"""CE and divergences in chunks: against float64 definitions written apart, whole logits, and finite differences."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sensekd.losses import (
    IGNORE,
    Divergence,
    Head,
    LossTerm,
    Objective,
    chunked,
    chunked_terms,
    cross_entropy,
    divergence,
)
from sensekd.losses.chunked import positions_at_a_time
from sensekd.losses.divergence import log_mixture
from sensekd.losses.rows import score_rows

N, V, D, E = 13, 40, 6, 9
KINDS: tuple[Divergence, ...] = ("forward", "reverse", "jsd")
WAYS = [(1.0, None), (0.25, None), (1.0, 3.0), (2.0, 5.0)]


def numbers(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def labels() -> Tensor:
    found = torch.randint(V, (N,), generator=torch.Generator().manual_seed(9))
    found[[0, 5, N - 1]] = IGNORE
    return found


def softmax(row: list[float], tau: float) -> list[float]:
    top = max(row)
    parts = [math.exp((value - top) / tau) for value in row]
    return [part / math.fsum(parts) for part in parts]


def logits_of(states: Tensor, head: Head) -> list[list[float]]:
    """Logits by the definition, one score after the other."""
    found = []
    for h in states.double().tolist():
        row = []
        for v, w in enumerate(head.weight.double().tolist()):
            score = math.fsum(a * b for a, b in zip(h, w, strict=True)) + (
                0 if head.bias is None else float(head.bias[v])
            )
            score *= head.scale
            row.append(score if head.softcap is None else head.softcap * math.tanh(score / head.softcap))
        found.append(row)
    return found


def naive(
    teacher: list[list[float]], student: list[list[float]], y: Tensor, objective: Objective
) -> tuple[float, float]:
    """Cross-entropy and divergence summed over labels, from the definitions."""
    ce, total = 0.0, 0.0
    kl = lambda a, b: math.fsum(x * math.log(x / z) for x, z in zip(a, b, strict=True))  # noqa: E731
    for z_t, z_s, label in zip(teacher, student, y.tolist(), strict=True):
        if label == IGNORE:
            continue
        ce -= math.log(softmax(z_s, 1.0)[label])
        p, q = softmax(z_t, objective.tau), softmax(z_s, objective.tau)
        if objective.kind == "forward":
            total += kl(p, q)
        elif objective.kind == "reverse":
            total += kl(q, p)
        else:
            m = [objective.beta * a + (1 - objective.beta) * b for a, b in zip(p, q, strict=True)]
            total += objective.beta * kl(p, m) + (1 - objective.beta) * kl(q, m)
    return ce, total


def heads(way: tuple[float, float | None], dtype: torch.dtype = torch.float64, bias: bool = False) -> tuple[Head, Head]:
    ours = Head(numbers(V, D, seed=1, dtype=dtype), numbers(V, seed=2, dtype=dtype) if bias else None, *way)
    return ours, Head(numbers(V, E, seed=3, dtype=dtype), None, *way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tau", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("kind", KINDS)
def test_values_against_the_definitions(kind: Divergence, tau: float, way: tuple[float, float | None]) -> None:
    objective = Objective(0.7 * tau**2, tau, kind, 0.3)
    for dtype, rel in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        ours, theirs = heads(way, dtype, bias=True)
        h_s, h_t = numbers(N, D, seed=4, dtype=dtype), numbers(N, E, seed=5, dtype=dtype)
        ce, wanted = naive(logits_of(h_t, theirs), logits_of(h_s, ours), labels(), objective)
        found = chunked_terms(h_s, ours, (h_t, theirs), labels(), objective, elements=5 * V)
        assert found.divergence is not None
        assert found.ce.sum.item() == pytest.approx(ce, rel=rel)
        assert found.divergence.sum.item() == pytest.approx(wanted, rel=rel)
        assert found.total.sum.item() == pytest.approx(ce + objective.weight * wanted, rel=rel)
        assert {int(term.count) for term in (found.total, found.ce, found.divergence)} == {N - 3}
        whole = divergence(theirs.logits(h_t), ours.logits(h_s), objective, labels() != IGNORE)
        assert whole.sum.item() == pytest.approx(wanted, rel=2e-5)
        assert int(whole.count) == N - 3
        assert cross_entropy(ours.logits(h_s), labels()).sum.item() == pytest.approx(ce, rel=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_divergences_are_exactly_zero_at_equality(
    kind: Divergence, way: tuple[float, float | None], dtype: torch.dtype
) -> None:
    head, states = Head(numbers(V, D, seed=1, dtype=dtype) * 3, None, *way), numbers(N, D, seed=4, dtype=dtype)
    for tau in (2.0, 1.0, 0.7):
        objective = Objective(1.0, tau, kind, 0.3)
        found = chunked_terms(states, head, (states.clone(), head), labels(), objective, elements=3 * V)
        assert found.divergence is not None
        assert found.divergence.sum.item() == 0.0
        logits = head.logits(states)
        assert divergence(logits, logits.clone(), objective, labels() != IGNORE).sum.item() == 0.0


def gradients(total: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(total, leaves))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tau", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("kind", [*KINDS, None])
def test_gradients_by_finite_differences_of_the_scalar_itself(
    kind: Divergence | None, tau: float, way: tuple[float, float | None]
) -> None:
    ours, theirs = heads(way, bias=True)
    assert ours.bias is not None
    leaves = [numbers(N, D, seed=4), ours.weight, ours.bias]
    teacher = None if kind is None else (numbers(N, E, seed=5), theirs)
    objective = Objective(0.7 * tau**2, tau, kind or "forward", 0.3)

    def value(states: Tensor, weight: Tensor, bias: Tensor) -> LossTerm:
        head = Head(weight, bias, *way)
        return chunked_terms(states, head, teacher, labels(), objective, elements=4 * V).total

    for leaf in leaves:
        leaf.requires_grad_(True)
    # The global count divides: what is differentiated is the mean.
    found = gradients(value(*leaves).mean(), *leaves)
    for index, leaf in enumerate(leaves):
        direction, step = numbers(*leaf.shape, seed=11), 1e-5
        ends = []
        for sign in (1, -1):
            moved = [x.detach() + sign * step * direction if i == index else x.detach() for i, x in enumerate(leaves)]
            ends.append(value(*moved).mean().item())
        assert (found[index] * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_whole_logits(kind: Divergence) -> None:
    ours, theirs = heads((0.5, 4.0), torch.float32, bias=True)
    assert ours.bias is not None
    h_s, h_t = numbers(N, D, seed=4, dtype=torch.float32), numbers(N, E, seed=5, dtype=torch.float32)
    leaves = [h_s.requires_grad_(True), ours.weight.requires_grad_(True), ours.bias.requires_grad_(True)]
    objective = Objective(2.8, 2.0, kind, 0.5)
    logits = ours.logits(h_s)
    soft = divergence(theirs.logits(h_t), logits, objective, labels() != IGNORE)
    wanted = gradients(0.01 * (cross_entropy(logits, labels()).sum + 2.8 * soft.sum), *leaves)
    for elements in (1, 3 * V, 7 * V, 1 << 24):
        found = chunked_terms(h_s, ours, (h_t, theirs), labels(), objective, elements=elements)
        for mine, other in zip(gradients(0.01 * found.total.sum, *leaves), wanted, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


def test_positions_of_a_chunk() -> None:
    assert positions_at_a_time(1 << 24, 128_256) == 130
    assert positions_at_a_time(1 << 24, 50_000) == 256
    assert positions_at_a_time(1 << 24, 32_000) == 262
    assert positions_at_a_time(1 << 24, 2_048) == 4096
    assert positions_at_a_time(10, 40) == 1


def test_chunk_sizes_change_nothing() -> None:
    ours, theirs = heads((1.0, None))
    h_s, h_t = numbers(N, D, seed=4).requires_grad_(True), numbers(N, E, seed=5)
    results = []
    for elements in (1, V, 2 * V, 9 * V, N * V, 1 << 24):
        found = chunked_terms(h_s, ours, (h_t, theirs), labels(), Objective(2.8, 2.0), elements=elements)
        results.append((found.total.sum.detach(), *gradients(found.total.sum, h_s)))
    for total, gradient in results[1:]:
        torch.testing.assert_close(total, results[0][0], rtol=1e-13, atol=0.0)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-12, atol=1e-13)


def test_masked_positions_neither_count_nor_move() -> None:
    ours, theirs = heads((1.0, None))
    h_s, h_t, y = numbers(N, D, seed=4).requires_grad_(True), numbers(N, E, seed=5), labels()
    before = chunked_terms(h_s, ours, (h_t, theirs), y, Objective(2.8, 2.0))
    (gradient,) = gradients(before.total.sum, h_s)
    assert gradient[y == IGNORE].abs().max() == 0
    assert gradient[y != IGNORE].abs().amax(1).min() > 0
    poisoned = h_s.detach().clone()
    poisoned[y == IGNORE] = float("nan")
    assert chunked_terms(poisoned, ours, (h_t, theirs), y, Objective(2.8, 2.0)).total.sum == before.total.sum


def test_nothing_supervised_is_zero_with_a_zero_gradient() -> None:
    ours, theirs = heads((1.0, None))
    states, nothing = numbers(N, D, seed=4).requires_grad_(True), torch.full((N,), IGNORE)
    found = chunked_terms(states, ours, (numbers(N, E, seed=5), theirs), nothing, Objective(2.8, 2.0))
    assert (found.total.mean().item(), int(found.total.count)) == (0.0, 0)
    assert gradients(found.total.mean(), states)[0].abs().max() == 0


def test_without_a_teacher_it_is_cross_entropy() -> None:
    ours, _ = heads((1.0, None))
    found = chunked_terms(numbers(N, D, seed=4), ours, None, labels(), Objective(2.8, 2.0))
    assert found.divergence is None
    assert found.total.sum == found.ce.sum


def test_the_first_tokens_of_a_padded_table() -> None:
    ours, theirs = heads((1.0, None))
    padded = Head(torch.cat([ours.weight, numbers(8, D, seed=6)]))
    h_s, teacher = numbers(N, D, seed=4), (numbers(N, E, seed=5), theirs)
    one, other = (
        chunked_terms(h_s, head, teacher, labels(), Objective(2.8, 2.0)).total.sum for head in (ours, padded.first(V))
    )
    assert one == other


def test_a_second_backward_pass_is_refused() -> None:
    ours, _ = heads((1.0, None))
    states = numbers(N, D, seed=4).requires_grad_(True)
    total = chunked_terms(states, ours, None, labels(), Objective()).total.sum
    torch.autograd.grad(total, states, retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        torch.autograd.grad(total, states)


def test_half_precision_products_and_wide_sums() -> None:
    ours, theirs = heads((1.0, None), torch.bfloat16)
    h_s, h_t = numbers(N, D, seed=4, dtype=torch.bfloat16), numbers(N, E, seed=5, dtype=torch.bfloat16)
    objective = Objective(2.8, 2.0)
    found = chunked_terms(h_s.requires_grad_(True), ours, (h_t, theirs), labels(), objective)
    ce, kl = naive(logits_of(h_t, theirs), logits_of(h_s.detach(), ours), labels(), objective)
    assert found.divergence is not None
    # What is lost are the roundings of the scores (2^-9 each).
    assert found.ce.sum.item() == pytest.approx(ce, rel=5e-3)
    assert found.divergence.sum.item() == pytest.approx(kl, rel=2e-2)
    assert found.total.sum.dtype == torch.float32
    (gradient,) = gradients(found.total.sum, h_s)
    wide = h_s.detach().double().requires_grad_(True)
    ours_wide, theirs_wide = Head(ours.weight.double()), Head(theirs.weight.double())
    exact = chunked_terms(wide, ours_wide, (h_t.double(), theirs_wide), labels(), objective)
    (wanted,) = gradients(exact.total.sum, wide)
    assert gradient.dtype == torch.bfloat16
    assert float((gradient.double() - wanted).norm() / wanted.norm()) < 1e-2


def test_autocast_lowers_the_products_alone() -> None:
    ours, theirs = heads((1.0, None), torch.float32)
    h_s, h_t = numbers(N, D, seed=4, dtype=torch.float32), numbers(N, E, seed=5, dtype=torch.float32)
    objective, low = Objective(2.8, 2.0), torch.bfloat16
    leaves = [h_s.requires_grad_(True), ours.weight.requires_grad_(True)]
    with torch.autocast("cpu", low):
        found = chunked_terms(h_s, ours, (h_t, theirs), labels(), objective).total.sum
    lowered = chunked_terms(
        h_s.detach().to(low), ours.detached(low), (h_t, theirs), labels(), objective
    ).total.sum  # fmt: skip
    assert found.item() == lowered.item()
    assert [gradient.dtype for gradient in gradients(found, *leaves)] == [torch.float32] * 2


class Largest(TorchDispatchMode):
    """Most elements of any tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_whole_logits_never_exist(kind: Divergence) -> None:
    positions, vocabulary = 300, 500
    weight = numbers(vocabulary, 4, seed=1, dtype=torch.float32)
    h_s, h_t = (numbers(positions, 4, seed=seed, dtype=torch.float32) for seed in (2, 3))
    y = torch.arange(positions)
    with Largest() as seen:
        found = chunked_terms(
            h_s.requires_grad_(True), Head(weight.requires_grad_(True)), (h_t, Head(weight)), y,
            Objective(2.8, 2.0, kind), elements=20 * vocabulary,
        )  # fmt: skip
        found.total.mean().backward()  # type: ignore[no-untyped-call]
    assert 20 * vocabulary <= seen.elements < 21 * vocabulary
    assert weight.grad is not None


def test_mixture_is_stable_and_exact_at_zero() -> None:
    delta = torch.tensor([0.0, 1e-9, -1e-9, 5.0, -5.0, 300.0, -300.0], dtype=torch.float64, requires_grad=True)
    found = log_mixture(delta, 0.3)
    assert found[0].item() == 0.0
    for value, wanted in zip(found.tolist()[:5], delta.tolist()[:5], strict=True):
        assert value == pytest.approx(math.log(0.3 * math.exp(wanted) + 0.7), abs=1e-15)
    assert found[5].item() == pytest.approx(300 + math.log(0.3))
    assert found[6].item() == pytest.approx(math.log(0.7))
    (slope,) = torch.autograd.grad(found.sum(), delta)
    assert slope[0].item() == pytest.approx(0.3)
    assert slope.isfinite().all()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_rows_equal_the_plain_ones(kind: Divergence) -> None:
    compiled = torch.compile(score_rows)
    for size in (6, 5):
        teacher, student = (numbers(size, V, seed=seed, dtype=torch.float32) for seed in (1, 2))
        arguments = (labels()[1 : 1 + size].clamp(min=0), Objective(2.8, 2.0, kind), (None, 3.0))
        for mine, other in zip(
            compiled(teacher, student, *arguments), score_rows(teacher, student, *arguments), strict=True
        ):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_without_a_compiler_the_plain_rows_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("no compiler")

    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(torch, "compile", lambda _: broken)
    kernel = chunked._kernel.__wrapped__("cuda")
    arguments = (None, numbers(3, V, seed=1), labels()[1:4], Objective(), (None, None))
    with pytest.warns(UserWarning, match="no compiler"):
        found = kernel(*arguments)
    assert all(torch.equal(mine, other) for mine, other in zip(found, score_rows(*arguments), strict=True))
    assert torch.equal(kernel(*arguments).ce, found.ce)
    error = torch.OutOfMemoryError("full")
    with pytest.raises(torch.OutOfMemoryError):
        chunked._kernel.__wrapped__("cuda")(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    ours, theirs = heads((1.0, None), dtype)
    h_s, h_t = numbers(N, D, seed=4, dtype=dtype), numbers(N, E, seed=5, dtype=dtype)
    results = []
    for device in ("cpu", "cuda"):
        states = h_s.to(device).requires_grad_(True)
        teacher = (h_t.to(device), Head(theirs.weight.to(device)))
        found = chunked_terms(states, Head(ours.weight.to(device)), teacher, labels().to(device), Objective(2.8, 2.0))
        results.append((found.total.sum.detach().cpu(), gradients(found.total.sum, states)[0].cpu()))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, **tolerance)
