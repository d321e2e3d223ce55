"""Cross-entropy and divergence of a few rows of scores, with their gradient, in one pass over memory.

Shapes: r rows, V vocabulary. u = z / τ are the logits at the temperature; p, q the softmax of the teacher's and the
student's; δ = log p - log q. The gradients, with respect to u:

    CE        τ (softmax(τ u) - onehot)
    forward   q - p
    reverse   -q (δ + KL(q || p))
    jsd       -(1 - β) q (log(m / q) + KL(q || m)),  m = β p + (1 - β) q
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sensekd.losses.divergence import Objective, log_mixture


class Rows(NamedTuple):
    """What `score_rows` finds: the gradient [r, V] with respect to its student scores, CE [r] and divergence [r]."""

    gradient: Tensor
    ce: Tensor
    divergence: Tensor


Caps = tuple[float | None, float | None]


def widened(values: Tensor) -> Tensor:
    """At least float32: a softmax over a large vocabulary needs it."""
    return values if values.dtype == torch.float64 else values.float()


def score_rows(
    teacher: Tensor | tuple[Tensor, Tensor] | None,
    student: Tensor,
    labels: Tensor,
    objective: Objective,
    caps: Caps = (None, None),
) -> Rows:
    """Cross-entropy, divergence, and the gradient of CE + weight · divergence with respect to the student's scores.

    At τ = 2 the softmax at 1 is the square of the one at τ, renormalised, which saves one exponential a logit.

    Args:
        teacher: [r, V] scores, or None for cross-entropy alone; or k ids [r, k] with log-probabilities [r, k + 1] of
            these and of all other tokens together (`sensekd.losses.top`).
        student: [r, V] scores: u where nothing is capped, the argument of tanh where u = cap / τ · tanh(score). The
            constant factor cap / τ of a capped gradient is left to the caller, with the scale of the scores.
        labels: [r] int64, all of them labels.
        objective: weight, temperature, kind of divergence.
        caps: soft caps of teacher and student, or None.

    Returns:
        Gradient, cross-entropy and divergence; float32 (float64 of float64).
    """
    tau = objective.tau
    u, squashed = _capped(student, caps[1], tau)
    q = u.softmax(-1)
    log_z = u.amax(-1) - q.amax(-1).log()
    forward = isinstance(teacher, Tensor) and objective.kind == "forward"
    if tau == 2.0:
        squares = torch.linalg.vecdot(q, q)
        ce = 2 * log_z + squares.log()
        gradient = q * (2 / squares)[:, None]
        # The forward KL's weight · q shares the second factor q of the square.
        gradient = (gradient.add_(objective.weight) if forward else gradient).mul_(q)
    else:
        at_one = q if tau == 1.0 else (u * tau).softmax(-1)
        ce = log_z if tau == 1.0 else u.amax(-1) * tau - at_one.amax(-1).log()
        gradient = at_one * tau
        if forward:
            gradient.add_(q, alpha=objective.weight)
    ce = ce - tau * u.gather(1, labels[:, None])[:, 0]
    divergence = torch.zeros_like(ce)
    if isinstance(teacher, tuple):
        divergence = _descend_lumped(gradient, teacher, (u, q, log_z), objective)
    elif teacher is not None:
        v, _ = _capped(teacher, caps[0], tau)
        divergence = _descend(gradient, (v, u), q, log_z, objective)
    gradient.scatter_add_(1, labels[:, None], gradient.new_full((len(labels), 1), -tau))
    if squashed is not None:
        gradient.mul_(1 - squashed.square())
    return Rows(gradient, ce, divergence)


def _capped(scores: Tensor, cap: float | None, tau: float) -> tuple[Tensor, Tensor | None]:
    """u, and the tanh in it where there is one."""
    wide = widened(scores)
    if cap is None:
        return wide, None
    squashed = wide.tanh()
    return squashed * (cap / tau), squashed


def _descend(gradient: Tensor, logits: tuple[Tensor, Tensor], q: Tensor, log_z: Tensor, objective: Objective) -> Tensor:
    """The divergence [r]; its part of the gradient is added in place (of forward KL the part of p: q's is there)."""
    v, u = logits
    p = v.softmax(-1)
    # δ = (v - u) - shift; of equal rows both are exactly 0.
    shift = v.amax(-1) - p.amax(-1).log() - log_z
    delta = v - u
    if objective.kind == "forward":
        gradient.sub_(p, alpha=objective.weight)
        forward: Tensor = torch.linalg.vecdot(p, delta) - shift
        return forward
    delta -= shift[:, None]
    if objective.kind == "reverse":
        found: Tensor = -torch.linalg.vecdot(q, delta)
        gradient.sub_(delta.add_(found[:, None]).mul_(q), alpha=objective.weight)
        return found
    beta, mixture = objective.beta, log_mixture(delta, objective.beta)
    reverse = -torch.linalg.vecdot(q, mixture)
    found = beta * torch.linalg.vecdot(p, delta - mixture) + (1 - beta) * reverse
    gradient.sub_(mixture.add_(reverse[:, None]).mul_(q), alpha=objective.weight * (1 - beta))
    return found


def _descend_lumped(
    gradient: Tensor, teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor, Tensor], objective: Objective
) -> Tensor:
    """The divergence [r] over k tokens and the tail; its gradient is added in place.

    A token of the tail takes its share q_i / q_tail of the gradient that the tail's logit has.
    """
    ids, log_p = teacher
    u, q, log_z = student
    rest = q.scatter(1, ids, 0.0)
    # What underflows has no share to give: rest is 0 wherever the tail is.
    tail = rest.sum(-1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)
    log_q = torch.cat([u.gather(1, ids) - log_z[:, None], tail.log()], dim=1)
    lumped = log_q.exp()
    found = lumped * objective.weight if objective.kind == "forward" else torch.zeros_like(lumped)
    nothing = torch.zeros_like(log_z)
    divergence = _descend(found, (log_p.to(q.dtype), log_q), lumped, nothing, objective)
    gradient.addcmul_(rest, found[:, -1:] / tail)
    gradient.scatter_add_(1, ids, found[:, :-1])
    return divergence
