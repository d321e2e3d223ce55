"""Selection and sense loss, forward and backward, against the published loop over positions, on the same picks.

The published loop, written anew: in every sequence pick up to max(25, 40 %) of the positions whose label has relations;
stack the rows of drawn synonyms and the label's own, take the κ nearest to the teacher's state, and their mean squared
difference to the student's; the same with antonyms and a hinge; then as many positions again with the own rows alone;
the mean of all.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from benchmarks.measure import Line, paired_ratio

if TYPE_CHECKING:
    from torch import Tensor

    from sensekd.targets import Kept, Ragged, SenseTargets

COMMAND = "make bench ONLY=selection"
VOCABULARY, WIDTH, OWN, KAPPA, MARGIN = 4096, 576, 10, 5, 1.0
SEQUENCES, LENGTH, LEAST, SHARE, DRAWN, ROUNDS = 8, 128, 25, 0.4, 25, 9
# Candidate rows at a position with relations: two real cases, and the cap (25 synonyms and the own, 10 rows each).
CANDIDATES = (27, 64, 260)


class Case:
    """A table in which half of the tokens have synonyms and a tenth antonyms, states, and the picked positions."""

    def __init__(self, candidates: int) -> None:
        import torch

        from sensekd.targets import Ragged, SenseTable

        torch.set_num_threads(1)
        generator, self.random = torch.Generator().manual_seed(0), random.Random(0)
        self.rows = torch.randn(VOCABULARY * OWN, WIDTH, generator=generator)
        self.own = [list(range(token * OWN, token * OWN + OWN)) for token in range(VOCABULARY)]
        self.synonyms, self.antonyms = (
            [
                self._others(token, candidates - OWN) if self.random.random() < share else []
                for token in range(VOCABULARY)
            ]
            for share in (0.5, 0.1)
        )
        linked = [sorted({*own, *more}) for own, more in zip(self.own, self.synonyms, strict=True)]
        negative = [sorted(set(rows) - set(positive)) for rows, positive in zip(self.antonyms, linked, strict=True)]
        own_lists = self._ragged(self.own)
        self.antonyms = negative
        self.ids = [
            [torch.tensor(sorted(rows), dtype=torch.long) for rows in lists]
            for lists in (self.own, self.synonyms, self.antonyms)
        ]
        positive = self._ragged([*self.own, *linked])
        norms = self.rows.square().sum(-1)
        self.table = SenseTable(self.rows, norms, 1.0, own_lists, positive, self._ragged(negative))
        assert isinstance(own_lists, Ragged)
        self.labels = torch.randint(VOCABULARY, (SEQUENCES, LENGTH - 1), generator=generator)
        count = self.labels.numel()
        self.teacher = torch.randn(count, WIDTH, generator=generator)
        noise = torch.randn(count, WIDTH, generator=generator)
        self.student = (self.teacher + 0.5 * noise).requires_grad_(True)
        self.related, self.bare = self._picks()

    def _others(self, token: int, count: int) -> list[int]:
        """Whole words' rows: ten a word, the last one cut to the count."""
        words = self.random.sample([v for v in range(0, VOCABULARY, 7) if v != token], -(-count // OWN))
        return [row for word in words for row in self.own[word]][:count]

    @staticmethod
    def _ragged(lists: list[list[int]]) -> Ragged:
        import torch

        from sensekd.targets import Ragged

        lengths = torch.tensor([0] + [len(rows) for rows in lists])
        return Ragged(lengths.cumsum(0), torch.tensor([row for rows in lists for row in rows]))

    def _picks(self) -> tuple[list[int], list[int]]:
        """Positions with relations, and as many again with the own rows alone."""
        related, bare = [], []
        for sequence, row in enumerate(self.labels.tolist()):
            start = sequence * (LENGTH - 1)
            having = [start + t for t, label in enumerate(row) if self.synonyms[label] or self.antonyms[label]]
            chosen = self.random.sample(having, min(len(having), max(LEAST, int(SHARE * len(having)))))
            rest = sorted({*range(start, start + LENGTH - 1)} - set(chosen))
            related += chosen
            bare += self.random.sample(rest, min(len(rest), len(chosen)))
        return related, bare

    # ---- the published loop

    def _nearest(self, ids: Tensor, position: int) -> Tensor:
        candidates = self.rows[ids]
        distances = (candidates - self.teacher[position]).norm(dim=1)
        return candidates[distances.topk(min(KAPPA, len(ids)), largest=False).indices]

    def published(self) -> Tensor:
        """The loop over picked positions; row ids lie ready as tensors, and are drawn from where there are too many."""
        import torch

        self.student.grad = None
        labels, found = self.labels.reshape(-1).tolist(), []
        for position in self.related:
            label, state = labels[position], self.student[position]
            own, synonyms, antonyms = (ids[label] for ids in self.ids)
            if len(synonyms) > DRAWN * OWN:
                synonyms = synonyms[torch.randperm(len(synonyms))[: DRAWN * OWN]]
            value = (self._nearest(torch.cat([own, synonyms]), position) - state).square().mean()
            if len(antonyms):
                away = self._nearest(antonyms, position)
                value = value + (MARGIN - (away - state).square().mean(-1)).clamp(min=0).mean()
            found.append(value)
        for position in self.bare:
            kept = self._nearest(self.ids[0][labels[position]], position)
            found.append((kept - self.student[position]).square().mean())
        total = torch.stack(found).mean()
        total.backward()
        return total.detach()

    # ---- ours

    def picked(self) -> tuple[Tensor, Tensor]:
        """Labels at the picked positions alone, and where relations apply."""
        import torch

        labels, whole = (
            torch.full_like(self.labels.reshape(-1), -100),
            torch.zeros(self.labels.numel(), dtype=torch.bool),
        )
        chosen = torch.tensor(self.related + self.bare)
        labels[chosen] = self.labels.reshape(-1)[chosen]
        whole[torch.tensor(self.related)] = True
        return labels, whole

    def vectorised(self, labels: Tensor, whole: Tensor) -> Tensor:
        """`select`, `sense_pull` and `sense_push`."""
        from sensekd.targets import select

        return self._loss(select(self.table, labels, whole, self.teacher, KAPPA))

    def from_rows(self, kept: Kept) -> Tensor:
        """The same from row ids that are known."""
        from sensekd.targets import targets_of

        return self._loss(targets_of(self.table, kept))

    def _loss(self, targets: SenseTargets) -> Tensor:
        from sensekd.losses import sense_pull, sense_push

        self.student.grad = None
        push, _ = sense_push(self.student, targets, 1.0, MARGIN)
        total = (sense_pull(self.student, targets, 1.0).sum + push.sum) / len(targets.pull_at)
        total.backward()
        return total.detach()

    def refuse_difference(self, ours: Tensor) -> None:
        """The loss and its gradient must be those of the published loop on the same picks."""
        assert self.student.grad is not None
        gradient = self.student.grad.clone()
        published = self.published()
        assert abs(float(ours - published)) <= 1e-5 * float(published), (ours, published)
        assert float((gradient - self.student.grad).abs().max()) <= 1e-5 * float(gradient.abs().max())


def measure() -> list[Line]:
    """How many times as fast as the published loop."""
    import torch

    from sensekd.targets import select

    lines = []
    for candidates in CANDIDATES:
        case = Case(candidates)
        labels, whole = case.picked()
        case.refuse_difference(case.vectorised(labels, whole))
        kept = select(case.table, labels, whole, case.teacher, KAPPA).kept
        assert kept is not None
        case.refuse_difference(case.from_rows(kept))
        every, everywhere = case.labels.reshape(-1), torch.ones(case.labels.numel(), dtype=torch.bool)
        baseline = f"the published loop, {candidates} candidate rows, width {WIDTH}, {SEQUENCES} x {LENGTH}"
        ways = {
            "equal_picks": (lambda c=case, p=(labels, whole): c.vectorised(*p), 5.0),
            "all_positions": (lambda c=case, p=(every, everywhere): c.vectorised(*p), 2.3),
            "cached_ids": (lambda c=case, k=kept: c.from_rows(k), 7.0),
        }
        for name, (way, target) in ways.items():
            times = 1 / paired_ratio(way, case.published, ROUNDS)
            line = Line(f"selection_{name}_{candidates}", times, "times", baseline, target, "least", ROUNDS, COMMAND)
            lines.append(line)
    return lines
