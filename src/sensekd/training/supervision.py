"""What of a batch the senses supervise, and how much of it: known from the tokens alone, before any forward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sensekd.losses import IGNORE
from sensekd.published import PublishedTable
from sensekd.targets import SenseTable, whole_words

if TYPE_CHECKING:
    from sensekd.config import LossConfig, PositionsConfig

Batch = dict[str, Tensor]


class Counts(NamedTuple):
    """What each term of the whole accumulated global batch is divided by once: scalar tensors.

    Positions; where positions are weighed, `pull` and `push` are sums of weights.
    """

    labels: Tensor
    pull: Tensor
    push: Tensor


@dataclass(frozen=True)
class SenseSupervision:
    """The sense table and what tells whole words, on the device of the batches.

    Attributes:
        table: candidate rows by label.
        starts_word: [V] bool, the token begins inside a word.
        ends_word: [V] bool, the token ends inside a word.
    """

    table: SenseTable
    starts_word: Tensor
    ends_word: Tensor

    def to(self, device: torch.device | str) -> SenseSupervision:
        """The same on another device."""
        return SenseSupervision(self.table.to(device), self.starts_word.to(device), self.ends_word.to(device))


def subsample(labels: Tensor, positions: PositionsConfig, draw: Tensor) -> Tensor:
    """The published sub-sampling: of the m labels of a sequence keep max(⌈fraction · m⌉, min(minimum, m)), at random.

    Args:
        labels: [B, T - 1] int64; -100 is not a label.
        positions: fraction and minimum.
        draw: [B, T - 1] random numbers; the smallest are kept.

    Returns:
        [B, T - 1] labels, -100 where they were left out.
    """
    valid = labels != IGNORE
    count = valid.sum(1)
    share = torch.ceil(count * positions.fraction - 1e-9).long()
    wanted = torch.maximum(share, count.clamp(max=positions.minimum))
    rank = draw.masked_fill(~valid, math.inf).argsort(dim=1, stable=True).argsort(dim=1)
    return torch.where(valid & (rank < wanted[:, None]), labels, IGNORE)


def pick(labels: Tensor, related: Tensor, positions: PositionsConfig, draw: Tensor) -> tuple[Tensor, Tensor]:
    """The published picking: some of the positions with relations, then as many of the others.

    Args:
        labels: [B, T - 1] int64; -100 is not a label.
        related: [B, T - 1] bool, the label has relations.
        positions: fraction and minimum, of the positions with relations.
        draw: [B, T - 1] random numbers; the smallest are picked.

    Returns:
        [B, T - 1] labels, -100 where not picked; and bool, picked for their relations.
    """
    first = subsample(torch.where(related, labels, IGNORE), positions, draw) != IGNORE
    others = (labels != IGNORE) & ~first
    rank = draw.masked_fill(~others, math.inf).argsort(dim=1, stable=True).argsort(dim=1)
    again = others & (rank < first.sum(1, keepdim=True))
    return torch.where(first | again, labels, IGNORE), first


def random_draws(batches: Sequence[Batch], seed: int, step: int, process: int, processes: int) -> list[Tensor]:
    """Random numbers for the positions of every batch of one optimiser step.

    They follow from the seed, the step and the row of the global batch alone, so that neither accumulation nor the
    number of processes nor a restart changes them.

    Returns:
        One [B, T - 1] float64 tensor a batch, on the CPU.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF_FFFF)
    rows = max(len(batch["labels"]) for batch in batches)
    width = max(batch["labels"].shape[1] for batch in batches) - 1
    draws = torch.rand((len(batches) * processes * rows, width), generator=generator, dtype=torch.float64)
    found = []
    for index, batch in enumerate(batches):
        size, length = batch["labels"].shape
        start = (index * processes + process) * rows
        found.append(draws[start : start + size, : length - 1].to(batch["labels"].device))
    return found


def annotate(
    batch: Batch, senses: SenseSupervision, loss: LossConfig, draw: Tensor | None, *, prefetch: bool = True
) -> Counts:
    """Add `sense_labels` and `whole_word`, both [B, T - 1], to a batch, and count what it supervises.

    Args:
        batch: `input_ids` and `labels` [B, T] on the device of `senses`; `position_ids` where documents are apart.
        senses: table and word edges.
        loss: form of the push, sub-sampling.
        draw: [B, T - 1] random numbers for the sub-sampling, None where all positions are supervised.
        prefetch: begin to bring the candidate rows of the batch, where they stay on the host.
    """
    labels = batch["labels"][:, 1:]
    if isinstance(senses.table, PublishedTable) and draw is not None and loss.positions != "all":
        whole = whole_words(batch["input_ids"], senses.starts_word, senses.ends_word)
        chosen, related = pick(labels, senses.table.related(labels, whole), loss.positions, draw)
        batch["sense_labels"], batch["whole_word"], batch["sense_draw"] = chosen, related, draw
        picked = (chosen != IGNORE).sum()
        return Counts((labels != IGNORE).sum(), picked, picked)
    chosen = labels if draw is None or loss.positions == "all" else subsample(labels, loss.positions, draw)
    whole = whole_words(batch["input_ids"], senses.starts_word, senses.ends_word, batch.get("position_ids"))
    # Contiguous, so that the rows asked for here are known again by their labels when the loss looks for them.
    chosen = chosen.contiguous()
    batch["sense_labels"], batch["whole_word"] = chosen, whole
    table, relative = senses.table, loss.compares_own
    if loss.lam > 0 and prefetch:
        table.prefetch(chosen, whole, own=relative)
    pushed = table.pushed(chosen, whole, relative=relative)
    return Counts((labels != IGNORE).sum(), table.pulled(chosen, whole).sum(), pushed.sum())
