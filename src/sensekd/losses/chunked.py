"""CE + α τ² KL from hidden states and output embeddings: neither model's [N, V] logits ever exist as a whole.

Positions are taken in chunks. The gradient is made in the forward pass, while a chunk's scores are there, so that a
frozen output embedding costs three matrix products: the teacher's scores, the student's scores, the gradient of the
student's states. Nothing is computed again in the backward pass, which only multiplies by a scalar.

Shapes: N positions, V vocabulary, D width of the student's states, E of the teacher's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sensekd.losses.divergence import Objective
from sensekd.losses.rows import Caps, Rows, score_rows, widened
from sensekd.losses.terms import IGNORE, LossTerm
from sensekd.losses.top import TopTeacher, top_rows

# Scores of one model that exist at a time (64 MB in float32).
ELEMENTS: Final = 1 << 24
# From so many positions on products gain nothing more, so half the elements are enough.
_ENOUGH: Final = 256
# On a CPU the rows of a chunk are worked on in blocks that stay in its cache: 512 kB in float32.
_CACHED: Final = 1 << 17


@dataclass(frozen=True)
class Head:
    """An output embedding with what its model does to the scores: z = cap · tanh(s / cap), s = scale · (W h + b).

    Attributes:
        weight: [V, D].
        bias: [V] or None.
        scale: 1 / logits_scaling of Granite, logit_scale of Cohere, 1 elsewhere.
        softcap: final_logit_softcapping of Gemma 2, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def first(self, rows: int | None) -> Head:
        """The same for the first `rows` tokens of the vocabulary; itself where that is all of them."""
        if rows is None or rows == len(self.weight):
            return self
        return replace(self, weight=self.weight[:rows], bias=None if self.bias is None else self.bias[:rows])

    def logits(self, states: Tensor) -> Tensor:
        """[..., V] logits of [..., D] states, all at once; float32 (float64 of float64)."""
        scores = widened(torch.nn.functional.linear(states, self.weight, self.bias)) * self.scale
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap

    def factor(self, tau: float) -> float:
        """What W h + b is multiplied by to give the scores that `score_rows` takes."""
        return self.scale / (tau if self.softcap is None else self.softcap)

    def slope(self, tau: float) -> float:
        """The constant by which `score_rows`' gradient becomes one with respect to W h + b."""
        return self.scale / tau

    def detached(self, dtype: torch.dtype | None = None) -> Head:
        """The same without gradient, in another dtype where one is given."""
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        return replace(self, weight=self.weight.detach().to(dtype), bias=bias)

    def scores(self, states: Tensor, tau: float) -> Tensor:
        """[C, V] scores in the dtype and on the device of the weights."""
        factor, weight = self.factor(tau), self.weight
        states = states.to(weight.device, weight.dtype)
        if self.bias is None:
            # The factor rides on the product; `beta=0` leaves the first argument unread.
            return torch.addmm(weight.new_zeros(1), states, weight.T, beta=0, alpha=factor)
        return torch.addmm(self.bias, states, weight.T, beta=factor, alpha=factor)


@dataclass(frozen=True)
class ChunkedTerms:
    """CE + weight · divergence as one differentiable sum, and its parts for the record (without gradient)."""

    total: LossTerm
    ce: LossTerm
    divergence: LossTerm | None


def chunked_terms(
    student_ND: Tensor,
    student_head: Head,
    teacher: tuple[Tensor, Head] | TopTeacher | None,
    labels_N: Tensor,
    objective: Objective,
    *,
    elements: int = ELEMENTS,
) -> ChunkedTerms:
    """Cross-entropy and divergence of L = L_CE + α τ² L_KL (DSKD, arXiv 2602.22351) without logits.

    Equal to `cross_entropy` and `divergence` on `Head.logits` up to rounding. Gradients reach the states and, where
    they require one, the weight and bias of the student's head. Products run in the dtype of the student's head, or in
    autocast's where it is on; everything else in float32 at least. A second backward pass through the result is an
    error.

    Args:
        student_ND: [N, D] student states, what enters its output embedding.
        student_head: weights and transformation.
        teacher: [N, E] states with their head, which may be on another device, or its likeliest tokens with the tail;
            None for cross-entropy alone.
        labels_N: [N] int64; positions of -100 cost nothing.
        objective: weight, temperature and kind of divergence.
        elements: scores of one model that may exist at a time.

    Returns:
        Sums over labels; `divergence` is None without a teacher.
    """
    if teacher is None:
        objective = Objective()
    at = (labels_N != IGNORE).nonzero()[:, 0]
    device, weight, bias = student_ND.device.type, student_head.weight, student_head.bias
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    theirs: tuple[Tensor, Head] | TopTeacher | None = None
    if isinstance(teacher, TopTeacher):
        theirs = teacher.rows(at)
    elif teacher is not None:
        theirs = (teacher[0].detach()[at.to(teacher[0].device)], teacher[1].detached())
    job = _Job(
        student_head.detached(dtype),
        theirs,
        labels_N[at],
        objective,
        positions_at_a_time(elements, len(weight)),
        torch.is_grad_enabled(),
    )
    with torch.autocast(device, enabled=False):
        total, ce, divergence = _ChunkedTerms.apply(  # type: ignore[no-untyped-call]
            student_ND[at], weight, bias, job
        )
    count = torch.tensor(len(at), device=labels_N.device)
    return ChunkedTerms(
        LossTerm(total, count), LossTerm(ce, count), None if teacher is None else LossTerm(divergence, count)
    )


def positions_at_a_time(elements: int, vocabulary: int) -> int:
    """Positions of a chunk: as many as `elements` scores hold, or half of it where that is enough for fast products."""
    return max(1, min(elements // vocabulary, max(_ENOUGH, elements // 2 // vocabulary)))


@dataclass(frozen=True)
class _Job:
    head: Head
    teacher: tuple[Tensor, Head] | TopTeacher | None
    labels: Tensor
    objective: Objective
    chunk: int
    gradient: bool

    def score(self, part: slice, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient [C, V] with respect to the scores in the dtype of the products, CE [C] and divergence [C]."""
        scores = self.head.scores(states[part], self.objective.tau)
        theirs: Any = None
        caps: Caps = (None, self.head.softcap)
        if isinstance(self.teacher, TopTeacher):
            theirs = top_rows(self.teacher.rows(part))
        elif self.teacher is not None:
            head = self.teacher[1]
            theirs = head.scores(self.teacher[0][part], self.objective.tau).to(scores.device)
            caps = (head.softcap, self.head.softcap)
        labels, size = self.labels[part], len(scores)
        rows = size if scores.is_cuda else max(1, _CACHED // scores.shape[1])
        kernel = _kernel(scores.device.type)
        ce, found = (torch.empty(size, dtype=widened(scores[:0]).dtype, device=scores.device) for _ in range(2))
        for low in range(0, size, rows):
            block = slice(low, low + rows)
            blocked = tuple(each[block] for each in theirs) if isinstance(theirs, tuple) else theirs
            blocked = blocked[block] if isinstance(blocked, Tensor) else blocked
            gradient, ce[block], found[block] = kernel(blocked, scores[block], labels[block], self.objective, caps)
            # The scores are not needed again: their place takes the gradient, rounded where that is what products take.
            scores[block] = gradient
        return scores, ce, found


class _ChunkedTerms(torch.autograd.Function):
    """(total, CE, divergence) as sums; the gradient of the total is made here and scaled later."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> tuple[Tensor, ...]:
        wanted = [bool(needed) and job.gradient for needed in ctx.needs_input_grad[:3]]
        size, slope = len(states), job.head.slope(job.objective.tau)
        wide = widened(weight[:0]).dtype
        ce, found = (torch.zeros(size, dtype=wide, device=weight.device) for _ in range(2))
        states_grad = torch.empty_like(states) if wanted[0] else None
        weight_grad = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
        bias_grad = torch.zeros_like(bias, dtype=wide) if wanted[2] and bias is not None else None
        for low in range(0, size, job.chunk):
            part = slice(low, low + job.chunk)
            gradient, ce[part], found[part] = job.score(part, states)
            if states_grad is not None:
                states_grad[part] = (gradient @ job.head.weight).mul_(slope)
            if weight_grad is not None:
                weight_grad.add_(gradient.T @ states[part].to(gradient.dtype), alpha=slope)
            if bias_grad is not None:
                bias_grad.add_(gradient.sum(0, dtype=wide), alpha=slope)
        ctx.gradients = [states_grad, weight_grad, bias_grad]
        ctx.dtypes = [states.dtype, weight.dtype, None if bias is None else bias.dtype]
        ce_sum, divergence_sum = ce.sum(), found.sum()
        total = ce_sum + job.objective.weight * divergence_sum
        ctx.mark_non_differentiable(ce_sum, divergence_sum)
        return total, ce_sum, divergence_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("a second backward pass through chunked_terms: its gradient was used up by the first")
        scaled = [
            None if gradient is None else gradient.mul_(total).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        ctx.gradients = None
        return (*scaled, None)


@cache
def _kernel(device: str) -> Callable[..., Rows]:
    """`score_rows`, fused into few kernels where a compiler for the device is at hand."""
    if device != "cuda":
        return score_rows
    compiled: Callable[..., Rows] = torch.compile(score_rows)
    working: list[Callable[..., Rows]] = [compiled]

    def run(*arguments: Any) -> Rows:
        try:
            return working[0](*arguments)
        except RuntimeError as error:
            # Errors of the compiler are RuntimeErrors, but so is a lack of memory, which the plain form would not cure.
            if working[0] is score_rows or isinstance(error, torch.OutOfMemoryError):
                raise
            warnings.warn(f"no compiled loss on this machine, the plain one is used: {error}", stacklevel=2)
            working[0] = score_rows
            return score_rows(*arguments)

    return run
