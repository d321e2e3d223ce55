"""What the stored scores say of a state: the output embedding is known, so each of them is a linear measurement of it.

A cache holds the logarithms of the teacher's softmax at τ for k tokens. Up to one constant they are W h / τ: k tokens
fix the teacher's last state h in k - 1 directions, and what was decoded (nearest own sense and residual) stands in the
others. The correction is the smallest change of the decoded state that explains the scores, with a ridge for what they
were rounded to. It costs no byte; with k above the width it gives the state itself. It does cost a system of k
equations a position, as much as a step of a small student: what fits into memory is solved once a training, not in
every epoch.

Shapes: N label positions, k stored tokens, D width of the teacher, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from sensekd.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sensekd.losses import Head, TopTeacher

RIDGE: Final = 1e-3
"""Of the mean squared length of a token's row; float16 logarithms are a few times more exact than this."""

# Elements of [n, k, D] rows that exist at a time.
_ELEMENTS: Final = 1 << 24

ROOM: Final = 1 << 28
"""Bytes of corrected states that a training keeps; blocks beyond them are corrected anew in every epoch."""


@dataclass
class KeptBlocks:
    """Corrected states by the number of their block.

    Attributes:
        room: bytes that are left.
        states: [n, D] of each block.
    """

    room: int = ROOM
    states: dict[int, Tensor] = field(default_factory=dict)

    def put(self, number: int, states: Tensor) -> None:
        """Keep a block's, where there is room."""
        if states.nbytes <= self.room:
            self.room -= states.nbytes
            self.states[number] = states


@dataclass(frozen=True)
class Refiner:
    """Corrects decoded states by stored scores.

    Attributes:
        head: the teacher's output embedding; no soft cap.
        tau: τ of the stored logarithms.
        factors: of k = V, by device: the centred rows and the Cholesky factor of their Gram matrix.
        kept: what `refine_blocks` has corrected.
    """

    head: Head
    tau: float
    factors: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    kept: KeptBlocks = field(default_factory=KeptBlocks, repr=False, compare=False)

    def refine_blocks(
        self, states_ND: Tensor, top: TopTeacher, numbers: Sequence[int], counts: Sequence[int]
    ) -> Tensor:
        """[N, D] float32 corrected states of a batch's blocks, one block at a time.

        A block's bits depend neither on its neighbours nor on whether it was kept: a training that is resumed, and
        keeps nothing yet, is the one that was never interrupted.

        Args:
            states_ND: decoded states, block after block.
            top: stored softmax of the same positions.
            numbers: of the blocks.
            counts: positions of each.
        """
        found, start = [], 0
        for number, count in zip(numbers, counts, strict=True):
            part = slice(start, start := start + count)
            refined = self.kept.states.get(number)
            if refined is None:
                refined = self.refine(states_ND[part], top.rows(part))
                self.kept.put(number, refined)
            found.append(refined)
        return torch.cat(found)

    @torch.no_grad()
    def refine(self, states_ND: Tensor, top: TopTeacher) -> Tensor:
        """[N, D] float32 corrected states.

        Args:
            states_ND: decoded states.
            top: stored softmax of the same positions.
        """
        states, weight = states_ND.float(), self.head.weight.detach()
        if not len(states):  # A block of a long prompt alone.
            return states
        scores = top.log_probs.float() * (self.tau / self.head.scale)
        if top.ids is None:
            rows, factor = self._whole(weight[: scores.shape[1]], states.device)
            wanted = self._centred(scores - self._bias(None, scores.shape[1]))
            left = (wanted - states @ rows.T) @ rows
            return states + torch.cholesky_solve(left.double().T, factor).T.float()
        found = []
        size = max(1, _ELEMENTS // (scores.shape[1] * states.shape[1]))
        for start in range(0, len(states), size):
            part = slice(start, start + size)
            ids = top.ids[part]
            rows = self._centred(weight[ids].float(), 1)
            wanted = self._centred(scores[part] - self._bias(ids, 0))
            left = wanted - (rows @ states[part, :, None]).squeeze(2)
            gram = (rows @ rows.transpose(1, 2)).double()
            lengths = gram.diagonal(dim1=1, dim2=2)
            # Above 0, whatever the rows: a single stored token leaves nothing once it is centred.
            ridge = (RIDGE * lengths.mean(1)).clamp(min=1e-12)
            gram.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
            solved = torch.cholesky_solve(left.double()[:, :, None], torch.linalg.cholesky_ex(gram).L).float()
            found.append(states[part] + (rows.transpose(1, 2) @ solved).squeeze(2))
        return torch.cat(found)

    @staticmethod
    def _centred(values: Tensor, dim: int = 1) -> Tensor:
        """Without the constant that a softmax does not see."""
        return values - values.mean(dim, keepdim=True)

    def _bias(self, ids: Tensor | None, count: int) -> Tensor | float:
        if self.head.bias is None:
            return 0.0
        bias = self.head.bias.detach().float()
        return bias[:count] if ids is None else bias[ids]

    def _whole(self, weight_VD: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self.factors:
            rows = self._centred(weight_VD.float(), 0)
            gram = (rows.T @ rows).double()
            gram.diagonal().add_(1e-9 * gram.diagonal().mean())
            self.factors[device] = (rows, torch.linalg.cholesky(gram))
        return self.factors[device]


def make_refiner(model: PreTrainedModel, tau: float) -> Refiner:
    """For a student whose output embedding is still the teacher's; it is copied where it may change.

    Raises:
        InputError: logits that are no linear function of the state.
    """
    from dataclasses import replace

    from sensekd.training.heads import describe, find_head

    head = find_head(model)
    if head.softcap is not None:
        raise InputError(
            f"cache.refine, but the logits of {type(model).__name__} are {describe(head)}",
            "logits that are linear in the last state", "leave cache.refine out",
        )  # fmt: skip
    weight = head.weight.detach()
    return Refiner(replace(head, weight=weight.clone() if head.weight.requires_grad else weight), tau)
