"""One forward of the teacher over blocks, and what of it a record keeps.

Shapes: B blocks, T tokens, n label positions, D width of the teacher, V vocabulary, k tokens, κ kept rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensekd.errors import SenseKDError
from sensekd.losses import IGNORE, Head, TopTeacher
from sensekd.targets import Ragged, SenseTable, nearest, select, squared_distances, whole_words
from sensekd.training.cache.layout import Layout, Records
from sensekd.training.cache.residual import SAMPLE, ResidualCode, fit_residual_code
from sensekd.training.data import collate
from sensekd.training.heads import withhold_inputs
from sensekd.training.trunk import capture_inputs, layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sensekd.training.data import TokenBlocks
    from sensekd.training.supervision import Batch, SenseSupervision

# Matrix kernels treat the last, incomplete tile of rows differently; a multiple of this many rows has no such tile, so
# a block has the same bytes whatever stands beside it.
_TILE: Final = 64
_READS: Final = ("input_ids", "position_ids")


def forward_rows(batch: int, length: int) -> int:
    """Blocks of one forward: at least `batch`, and so many that their tokens fill whole tiles."""
    while batch * length % _TILE:
        batch += 1
    return batch


def slots_of(lists: Ragged, which: Tensor, ids: Tensor, mask: Tensor, none: int) -> Tensor:
    """[P, κ] where kept rows stand in the lists they were kept from; `none` where the mask is False.

    Args:
        lists: candidates; ascending within a list.
        which: [P] the list of each position.
        ids: [P, κ] kept rows, all of them in their lists.
        mask: [P, κ] bool.
        none: what stands for no row.
    """
    crow, candidates = lists.expand(which)
    if not len(candidates):
        return torch.full_like(ids, none)
    # A list has each of its rows once, and they ascend: so do the keys over all positions.
    total = int(torch.maximum(candidates.max(), ids.max())) + 1
    position = torch.arange(len(which), device=ids.device)
    keys = position.repeat_interleave(crow.diff(), output_size=len(candidates)) * total + candidates
    found = torch.searchsorted(keys, position[:, None] * total + ids) - crow[:-1, None]
    return torch.where(mask, found, none)


@dataclass(frozen=True)
class _Seen:
    """One forward: the batch on the teacher's device, states [N, D], label positions [n], logits, state below."""

    batch: Batch
    states: Tensor
    at: Tensor
    logits: Tensor | None
    below: Tensor | None


@dataclass(frozen=True)
class Observer:
    """Runs the teacher over blocks and gives their records.

    Attributes:
        teacher: frozen, in evaluation mode.
        layout: of the records.
        tau: τ.
        rows: blocks of one forward, by `forward_rows`.
        head: the teacher's output embedding; None takes the logits of the model.
        trunk: n, layers of the trunk; 0 for none.
        senses: table and word edges on the teacher's device; None without senses.
        elements: logits that exist at a time, where the head is known.
        code: of residuals, where the layout has such.
    """

    teacher: PreTrainedModel
    layout: Layout
    tau: float
    rows: int
    head: Head | None
    trunk: int
    senses: SenseSupervision | None
    elements: int
    code: ResidualCode | None = None

    @torch.no_grad()
    def observe(self, batch: Batch, blocks: TokenBlocks, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Records uint8 [n, record] of all label positions of a batch and its states after the trunk, on the CPU.

        Args:
            batch: `input_ids` and `labels` [B, T], and `position_ids` where documents are apart.
            blocks: names the documents of a batch that cannot be recorded.
            numbers: of the blocks of the batch.

        Raises:
            SenseKDError: a state of the teacher is not finite.
        """
        found, trunks = [], []
        for low in range(0, len(numbers), self.rows):
            part = {name: value[low : low + self.rows] for name, value in batch.items() if name in (*_READS, "labels")}
            records, trunk = self._forward(part, blocks, numbers[low : low + self.rows])
            found.append(self.layout.encode(records).cpu())
            trunks.append(trunk)
        states = [trunk.cpu() for trunk in trunks if trunk is not None]
        return torch.cat(found), torch.cat(states) if states else None

    def _forward(self, batch: Batch, blocks: TokenBlocks, numbers: Sequence[int]) -> tuple[Records, Tensor | None]:
        seen = self._run(batch, blocks, numbers, self.layout.top > 0 and self.head is None)
        states, at = seen.states, seen.at
        slots, reach = self._slots(seen.batch, states, at)
        records = Records(self._top(states, seen.logits, at), slots, reach=reach)
        if self.layout.residual:
            sense, codes = self._coded(seen)
            records = replace(records, sense=sense, codes=codes)
        elif self.layout.width:
            records = replace(records, states=states[at])
        return records, None if seen.below is None else seen.below.to(getattr(torch, self.layout.dtype))

    def _run(self, batch: Batch, blocks: TokenBlocks, numbers: Sequence[int], whole: bool) -> _Seen:
        """One forward; `whole`: the model's own logits too."""
        device, size = self.teacher.device, len(batch["input_ids"])
        batch = {name: value.to(device) for name, value in batch.items()}
        reads = {name: F.pad(batch[name], (0, 0, 0, self.rows - size)) for name in _READS if name in batch}
        if "position_ids" in reads and size < self.rows:
            reads["position_ids"][size:] = torch.arange(reads["position_ids"].shape[1], device=device)
        logits = None
        with contextlib.ExitStack() as hooks:
            below = hooks.enter_context(capture_inputs(layers_of(self.teacher)[self.trunk])) if self.trunk else None
            enter = capture_inputs if whole else withhold_inputs
            last = hooks.enter_context(enter(self.teacher.get_output_embeddings()))
            if whole:
                keep = torch.arange(reads["input_ids"].shape[1] - 1, device=device)
                logits = self.teacher(**reads, use_cache=False, logits_to_keep=keep).logits[:size].flatten(0, 1)
            else:
                self.teacher(**reads, use_cache=False)
        length = reads["input_ids"].shape[1] - 1
        states = last[0][:size, :length].flatten(0, 1)
        at = (batch["labels"][:, 1:].reshape(-1) != IGNORE).nonzero()[:, 0]
        self._refuse_non_finite(states[at], blocks, numbers)
        return _Seen(batch, states, at, logits, below[0][:size] if below else None)

    def _refuse_non_finite(self, states: Tensor, blocks: TokenBlocks, numbers: Sequence[int]) -> None:
        if not bool(torch.isfinite(states).all()):
            documents = ", ".join(f"{found.number} ({found.hash})" for found in blocks.documents_of(numbers))
            raise SenseKDError(
                f"a state of the teacher is not finite in one of the documents {documents}\n"
                "  do:       run the teacher in float32 or bfloat16, or leave the document out"
            )

    # ---- the distribution

    def _top(self, states: Tensor, logits: Tensor | None, at: Tensor) -> TopTeacher | None:
        if not self.layout.top:
            return None
        step = max(1, self.elements // self.layout.vocabulary // _TILE) * _TILE
        parts = []
        for piece in torch.split(at, step):
            if logits is not None:
                scores = logits[piece][:, : self.layout.vocabulary].float()
            else:
                assert self.head is not None
                # One fixed shape here too: the last piece is filled up.
                weight = self.head.weight
                filled = F.pad(states[piece].to(weight.device, weight.dtype), (0, 0, 0, step - len(piece)))
                scores = self.head.logits(filled)[: len(piece)].float().to(states.device)
            parts.append(self._top_of(scores / self.tau))
        logs = torch.cat([part.log_probs for part in parts])
        if self.layout.whole:
            return TopTeacher(logs)
        ids, tails = [part.ids for part in parts], [part.log_tail for part in parts]
        return TopTeacher(logs, _cat(ids), _cat(tails))

    def _top_of(self, u: Tensor) -> TopTeacher:
        """The k likeliest tokens of every row, and the tail without cancellation."""
        if self.layout.whole:
            return TopTeacher(F.log_softmax(u, dim=-1))
        total = u.logsumexp(-1, keepdim=True)
        values, ids = u.topk(self.layout.top, dim=-1)
        rest = u.scatter(1, ids, -torch.inf).logsumexp(-1, keepdim=True)
        return TopTeacher(values - total, ids, (rest - total)[:, 0])

    # ---- the kept rows

    def _slots(self, batch: Batch, states: Tensor, at: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Slots [n, slots] and, where the layout has them, distances [n] to the mean of the kept rows of P_t."""
        if not self.layout.slots or self.senses is None:
            return None, None
        kappa, none = self.layout.kappa, self.layout.none
        labels, whole, table = self._candidates(batch, self.senses)
        targets = select(table, labels, whole, states, kappa, own=self.layout.relative, reach=self.layout.reach > 0)
        kept, reach = targets.kept, None
        assert kept is not None
        found = torch.full((len(labels), self.layout.slots), none, dtype=torch.long, device=labels.device)
        pulled = table.positive_list(labels[kept.pull_at], whole[kept.pull_at])
        width = kept.pull_ids.shape[1]
        found[kept.pull_at, :width] = slots_of(table.positive, pulled, kept.pull_ids, kept.pull_mask, none)
        pushed, width = labels[kept.push_at], kept.push_ids.shape[1]
        slots = slots_of(table.negative, pushed, kept.push_ids, kept.push_mask, none)
        found[kept.push_at, kappa : kappa + width] = slots
        if kept.own_ids is not None:
            own, mask = kept.own_ids[:, None], torch.ones_like(kept.own_ids, dtype=torch.bool)[:, None]
            found[kept.push_at, 2 * kappa :] = slots_of(table.own, pushed, own, mask, none)
        if targets.pull_reach is not None:
            reach = targets.pull_reach.new_zeros(len(labels)).index_copy(0, kept.pull_at, targets.pull_reach)[at]
        return found[at], reach

    def _candidates(self, batch: Batch, senses: SenseSupervision) -> tuple[Tensor, Tensor, SenseTable]:
        """Labels and whole words, [N] each, and a table with their rows on the device."""
        labels = batch["labels"][:, 1:].reshape(-1).contiguous()
        whole = whole_words(batch["input_ids"], senses.starts_word, senses.ends_word, batch.get("position_ids"))
        whole = whole.reshape(-1).contiguous()
        # Rows on the host are gathered once; selection then finds them there.
        return labels, whole, senses.table.gathered(labels, whole, own=self.layout.relative)

    # ---- states as codes

    def _nearest_own(self, seen: _Seen) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each label position its state [n, D], the index of its nearest own sense [n], that sense [n, D], whether
        there is one [n]."""
        assert self.senses is not None
        labels, _, table = self._candidates(seen.batch, self.senses)
        labels, states = labels[seen.at], seen.states[seen.at].float()
        crow, rows = table.own.expand(labels)
        ids, mask = nearest(squared_distances(states, table, crow, rows), crow, rows, 1)
        senses = table.rows[ids[:, 0]] if len(table.rows) else torch.zeros_like(states)
        return states, slots_of(table.own, labels, ids, mask, self.layout.senseless)[:, 0], senses, mask[:, 0]

    def _coded(self, seen: _Seen) -> tuple[Tensor, Tensor]:
        """[n] index of the nearest own sense and [n, M] code of what it leaves over."""
        assert self.code is not None
        states, sense, rows, known = self._nearest_own(seen)
        return sense, self.code.encode(states - torch.where(known[:, None], rows, self.code.mean))

    @torch.no_grad()
    def fit_code(self, blocks: TokenBlocks, labels: int) -> ResidualCode:
        """Codebooks from the label positions of whole blocks, spread evenly over the text: `SAMPLE` of them or all.

        Args:
            blocks: the training data.
            labels: label positions of all blocks.
        """
        wanted = min(len(blocks), -(-SAMPLE * len(blocks) // max(1, labels)))
        chosen = [number * len(blocks) // wanted for number in range(wanted)]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for low in range(0, wanted, self.rows):
            numbers = chosen[low : low + self.rows]
            batch = collate([blocks[number] for number in numbers])
            states, _, rows, known = self._nearest_own(self._run(batch, blocks, numbers, False))
            found.append((states, rows, known))
        states, rows, known = (torch.cat(each) for each in zip(*found, strict=True))
        return fit_residual_code(states, rows, known, self.layout.residual)


def _cat(parts: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([part for part in parts if part is not None])
