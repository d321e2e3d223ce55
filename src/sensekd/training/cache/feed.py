"""What a training gets in the place of the teacher's forward: records of the cache, or a forward that fills it.

Shapes: N = B (T - 1) label positions of a batch, n of them labels, D width of the teacher, κ kept rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from sensekd.losses import IGNORE, TopTeacher
from sensekd.targets import Kept, SenseTargets, targets_of
from sensekd.training.cache.layout import Layout, Records
from sensekd.training.cache.observe import Observer
from sensekd.training.cache.residual import ResidualCode
from sensekd.training.cache.store import TeacherCache
from sensekd.training.data import Item, collate

if TYPE_CHECKING:
    from sensekd.targets import Ragged, SenseTable
    from sensekd.training.cache.refine import Refiner
    from sensekd.training.data import TokenBlocks
    from sensekd.training.supervision import Batch

RECORDS: Final = "cache_records"
TRUNK: Final = "cache_trunk"
_KEPT: Final = "cache_kept_"


@dataclass(frozen=True)
class Recalled:
    """What a batch's records say, by label position: of positions without a label the rows mean nothing.

    Attributes:
        top: softmax of the teacher at τ, [N, …], or None.
        states: [B, T - 1, D], or None.
        trunk: [B, T, D] state after the trunk, or None.
    """

    top: TopTeacher | None
    states: Tensor | None
    trunk: Tensor | None


@dataclass(frozen=True)
class TeacherFeed:
    """Reads batches from a cache; where blocks are missing, runs the teacher and writes them.

    What is trained on is what was written, also by the training that writes it: whether a cache was written before or
    during the first epoch, or was there already, makes no difference.

    Attributes:
        cache: complete, or with an observer.
        blocks: the training data.
        observer: the teacher; None where the cache is complete.
        refiner: corrects decoded states by the stored scores, or None.
        codes: the cache's codebooks by device, as they were asked for.
    """

    cache: TeacherCache
    blocks: TokenBlocks
    observer: Observer | None = None
    refiner: Refiner | None = None
    codes: dict[torch.device, ResidualCode] = field(default_factory=dict, repr=False, compare=False)

    @property
    def layout(self) -> Layout:
        """Of the records."""
        return self.cache.layout

    def collate(self, items: Sequence[Item]) -> Item:
        """A batch with its records, where all of its blocks stand in the cache. Runs in the workers of the loader."""
        batch = collate(items)
        numbers = batch["block"].tolist()
        if self.observer is None or self.cache.has(numbers):
            self._put(batch, *self.cache.read(numbers))
        return batch

    def _put(self, batch: Batch, records: Tensor, trunk: Tensor | None) -> None:
        device = batch["input_ids"].device
        batch[RECORDS] = records.to(device)
        if trunk is not None:
            batch[TRUNK] = trunk.to(device)

    def prepare(self, batch: Batch, table: SenseTable) -> None:
        """Find the row ids that a batch's records name, and begin to bring the rows; before any forward.

        Args:
            batch: with `sense_labels` and `whole_word`.
            table: lists of candidates, on the device of the batch.
        """
        if RECORDS not in batch or not self.layout.slots:
            return
        labels, whole = batch["sense_labels"], batch["whole_word"]
        kept = self.kept(batch, self.layout.decode_slots(batch[RECORDS]), table)
        batch.update({
            _KEPT + each.name: value for each in fields(Kept) if (value := getattr(kept, each.name)) is not None
        })  # fmt: skip
        table.prefetch_kept(labels, whole, kept)

    def recall(self, batch: Batch, table: SenseTable | None) -> Recalled:
        """Everything of a batch but its targets; blocks that are missing are written first.

        Raises:
            SenseKDError: a state of the teacher is not finite.
        """
        if RECORDS not in batch:
            assert self.observer is not None
            numbers = batch["block"].tolist()
            records, trunk = self.observer.observe(batch, self.blocks, numbers)
            self.cache.write(numbers, records, trunk)
            self._put(batch, records, trunk)
            if table is not None:
                self.prepare(batch, table)
        records_n, count = self.layout.decode(batch[RECORDS]), batch["labels"][:, 1:].numel()
        at = self._labels(batch)
        states = records_n.states
        if records_n.codes is not None:
            assert table is not None
            states = self._decoded(records_n, batch["labels"][:, 1:].reshape(-1), at, table)
            if self.refiner is not None and records_n.top is not None:
                numbers = batch["block"].tolist()
                # Of the cache's own list: the batch's labels would be one more copy from the device.
                counts = [int(self.cache.starts[number + 1] - self.cache.starts[number]) for number in numbers]
                states = self.refiner.refine_blocks(states, records_n.top, numbers, counts)
        states = None if states is None else _dense(states, at, count)
        if states is not None:
            states = states.reshape(len(batch["labels"]), -1, states.shape[-1])
        return Recalled(self._top(records_n.top, at, count), states, batch.get(TRUNK))

    def targets(self, batch: Batch, table: SenseTable, *, reach: bool = False) -> SenseTargets:
        """The targets that selection would give, from row ids.

        Args:
            batch: with its records, after `prepare`.
            table: lists of candidates and rows.
            reach: with the stored distances, for a pull that ends at the teacher.
        """
        names = {each.name: batch.get(_KEPT + each.name) for each in fields(Kept)}
        kept = Kept(**names)  # type: ignore[arg-type]
        targets = targets_of(*table.holding(batch["sense_labels"], batch["whole_word"], kept))
        if not reach:
            return targets
        found = _dense(self.layout.decode_reach(batch[RECORDS]), self._labels(batch), batch["sense_labels"].numel())
        return replace(targets, pull_reach=found[kept.pull_at])

    # ---- from records to positions

    def _decoded(self, records: Records, labels: Tensor, at: Tensor | None, table: SenseTable) -> Tensor:
        """[n, D] nearest own sense (without one, the mean state) and decoded residual."""
        assert records.sense is not None
        assert records.codes is not None
        if labels.device not in self.codes:
            self.codes[labels.device] = self.cache.code.to(labels.device)
        code, labels = self.codes[labels.device], labels if at is None else labels[at]
        known = records.sense != self.layout.senseless
        places = torch.where(known, table.own.indptr[labels] + records.sense, 0)
        senses = table.take(table.own.ids[places]) if len(table.own.ids) else code.mean
        return torch.where(known[:, None], senses, code.mean) + code.decode(records.codes)

    def _labels(self, batch: Batch) -> Tensor | None:
        """[n] which positions have records; None where all have, which the sizes say without waiting."""
        labels = batch["labels"][:, 1:].reshape(-1)
        return None if len(batch[RECORDS]) == len(labels) else (labels != IGNORE).nonzero()[:, 0]

    @staticmethod
    def _top(top: TopTeacher | None, at: Tensor | None, count: int) -> TopTeacher | None:
        if top is None or at is None:
            return top
        ids = None if top.ids is None else _dense(top.ids, at, count)
        tail = None if top.log_tail is None else _dense(top.log_tail, at, count)
        return TopTeacher(_dense(top.log_probs, at, count), ids, tail)

    def kept(self, batch: Batch, slots: Tensor, table: SenseTable) -> Kept:
        """Row ids of all supervised positions of a batch.

        Args:
            batch: with `sense_labels` and `whole_word`.
            slots: [n, slots] of its records.
            table: lists of candidates.
        """
        kappa, none, relative = self.layout.kappa, self.layout.none, self.layout.relative
        labels, whole = batch["sense_labels"].reshape(-1), batch["whole_word"].reshape(-1)
        slots = _dense(slots, self._labels(batch), len(labels))
        pull_at = table.pulled(labels, whole).nonzero()[:, 0]
        push_at = table.pushed(labels, whole, relative=relative).nonzero()[:, 0]
        lists = table.positive_list(labels[pull_at], whole[pull_at])
        pulled = _rows(table.positive, lists, slots[pull_at, :kappa], none)
        pushed = _rows(table.negative, labels[push_at], slots[push_at, kappa : 2 * kappa], none)
        own = _rows(table.own, labels[push_at], slots[push_at, 2 * kappa :], none)[0][:, 0] if relative else None
        return Kept(pull_at, *pulled, push_at, *pushed, own)


def _rows(lists: Ragged, which: Tensor, slots: Tensor, none: int) -> tuple[Tensor, Tensor]:
    """Row ids [P, κ] and their mask; masked entries hold row 0."""
    mask = slots != none
    at = lists.indptr[which][:, None] + torch.where(mask, slots, 0)
    return torch.where(mask, lists.ids[at] if len(lists.ids) else at, 0), mask


def _dense(values: Tensor, at: Tensor | None, count: int) -> Tensor:
    """[n, …] at the positions `at` of [count, …]; zeros elsewhere."""
    return values if at is None else values.new_zeros(count, *values.shape[1:]).index_copy(0, at, values)
