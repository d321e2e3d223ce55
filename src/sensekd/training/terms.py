"""The sense terms of a batch: their targets, the weights of their positions, and λ at a step.

Shapes: B sequences, T tokens, N = B (T - 1) label positions, D hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from sensekd.losses import (
    IGNORE,
    confidence_of_logits,
    confidence_of_states,
    confidence_of_top,
    sense_pull,
    sense_push,
)
from sensekd.published import PublishedTable, select_published
from sensekd.targets import select
from sensekd.training.supervision import Counts

if TYPE_CHECKING:
    from sensekd.config import LossConfig
    from sensekd.losses import Confidence, Head, LossTerm, TopTeacher
    from sensekd.targets import SenseTable, SenseTargets
    from sensekd.training.cache.feed import TeacherFeed
    from sensekd.training.supervision import Batch

# [B, T - 1] float32: what a position counts in the sense terms, where not all count the same.
WEIGHT: Final = "sense_weight"


def lambda_at(loss: LossConfig, step: int, steps: int) -> float:
    """λ at an optimiser step, from 0, of so many: it follows from them alone, so a resumed training has the same."""
    return loss.lam if loss.anneal is None else loss.lam * loss.anneal.factor(step, steps)


def confidence(
    loss: LossConfig, labels: Tensor, logits: Tensor | None, states: tuple[Tensor, Head] | None, top: TopTeacher | None
) -> Tensor:
    """[N] weights of the positions, from whatever is known of the teacher's distribution.

    Args:
        loss: kind of weight, τ, chunk of scores.
        labels: [N].
        logits: [N, V], or None.
        states: [N, D] with their head, or None.
        top: of a cache, or None.
    """
    assert loss.confidence != "off"
    kind: Confidence = loss.confidence
    if top is not None:
        return confidence_of_top(top, loss.tau, labels, kind)
    if logits is not None:
        return confidence_of_logits(logits, labels, kind)
    assert states is not None, "the teacher's distribution is not known"
    return confidence_of_states(*states, labels, kind, elements=loss.chunk_elements)


def weigh(batch: Batch, table: SenseTable, loss: LossConfig, weight: Tensor) -> Counts:
    """Add `sense_weight` to a batch, and count what it supervises: sums of weights for pull and push, float64.

    Args:
        batch: with `sense_labels` and `whole_word`.
        table: candidate rows by label.
        loss: form of the push.
        weight: [N] of its label positions.
    """
    labels, whole = batch["sense_labels"], batch["whole_word"]
    weight = weight.view_as(labels)
    batch[WEIGHT] = weight
    pulled = table.pulled(labels, whole)
    pushed = table.pushed(labels, whole, relative=loss.compares_own)
    wide = weight.double()
    count = (batch["labels"][:, 1:] != IGNORE).sum().double()
    return Counts(count, *(torch.where(where, wide, 0.0).sum() for where in (pulled, pushed)))


def find_targets(
    batch: Batch, table: SenseTable, loss: LossConfig, teacher_ND: Tensor | None, feed: TeacherFeed | None
) -> SenseTargets:
    """The sense targets of a batch, selected by the teacher's states or known from its cache.

    Args:
        batch: with `sense_labels` and `whole_word`.
        table: candidate rows by label.
        loss: κ and how rows are used.
        teacher_ND: h^T, or None where a cache knows the rows.
        feed: of the cache, or None.
    """
    if feed is not None:
        return feed.targets(batch, table, reach=loss.pull == "teacher")
    if teacher_ND is None:
        raise AssertionError("row ids are not known, and neither are the teacher's states")
    labels, whole = batch["sense_labels"].reshape(-1), batch["whole_word"].reshape(-1)
    if isinstance(table, PublishedTable):
        draws = batch["sense_draw"].reshape(-1)
        return select_published(table, labels, whole, teacher_ND, draws, (loss.kappa, loss.neighbours))
    temperature = loss.assignment_temperature if loss.assignment == "soft" else None
    return select(
        table, labels, whole, teacher_ND, loss.kappa,
        own=loss.compares_own, temperature=temperature, reach=loss.pull == "teacher",
    )  # fmt: skip


def sense_terms(
    batch: Batch, states_ND: Tensor, targets: SenseTargets, sigma2: float, loss: LossConfig
) -> tuple[LossTerm, LossTerm, LossTerm]:
    """Pull, push, and the negative rows inside the margin.

    Args:
        batch: with `sense_weight` where positions are weighed.
        states_ND: h^S in the teacher's width.
        targets: of the batch.
        sigma2: σ².
        loss: form of the push.
    """
    weight = batch[WEIGHT].reshape(-1) if WEIGHT in batch else None
    pull = sense_pull(states_ND, targets, sigma2, weight)
    push, active = sense_push(
        states_ND, targets, sigma2, loss.effective_margin, loss.push,
        temperature=loss.push_temperature, weight_N=weight,
    )  # fmt: skip
    return pull, push, active
