"""What the explorer reads of a sample, and what models make of the same contexts again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sensekd.report.projection import nearest
from sensekd.senses.capture import evaluating

_FILE: Final = "sample.safetensors"
_BATCH: Final = 64


class SampledStates:
    """The states of single tokens from a sample's file, each read when it is asked for (a sample may be 100 GB).

    Args:
        folder: a sample that `StateSample` wrote, checked by the caller.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        # The library's functions carry no types.
        self._file: Any = safe_open(folder / _FILE, framework="pt")

    @cached_property
    def _place(self) -> dict[int, tuple[int, int]]:
        tokens, ends = self._file.get_tensor("tokens").tolist(), self._file.get_tensor("indptr").tolist()
        return {token: (ends[at], ends[at + 1]) for at, token in enumerate(tokens)}

    def of(self, token: int) -> tuple[Tensor, Tensor] | None:
        """States [n, D] float32 and contexts [n, L] int32 of a token, by priority; None where it has none."""
        if token not in self._place:
            return None
        start, stop = self._place[token]
        states = self._file.get_slice("states")[start:stop]
        return states.float(), self._file.get_slice("context")[start:stop]


def context_states(model: Any, contexts: Tensor) -> Tensor:
    """The last hidden state (after the final norm) at the end of each context, read without what came before it.

    Args:
        model: a causal language model of transformers.
        contexts: [n, L] token ids, -1 before the first one.

    Returns:
        [n, D] float32 on the CPU.
    """
    device = model.get_input_embeddings().weight.device
    known = contexts >= 0
    # To the left end: the model is causal, so what stands behind a context changes nothing.
    order = known.int().argsort(dim=1, descending=True, stable=True)
    ids = contexts.long().clamp(min=0).gather(1, order)
    last = known.sum(1) - 1
    found = []
    with evaluating(model):
        for part, ends in zip(torch.split(ids, _BATCH), torch.split(last, _BATCH), strict=True):
            hidden = model.base_model(part.to(device), use_cache=False).last_hidden_state
            found.append(hidden[torch.arange(len(part), device=device), ends.to(device)].float().cpu())
    return torch.cat(found)


@dataclass(frozen=True)
class Placed:
    """How states of one model lie to the senses of one token; n contexts.

    Attributes:
        sense: [n] int64, the nearest sense to each.
        agrees: [n] bool, whether it is the sense that is nearest to the teacher's state.
        to_sense: [n] float64, d² to the sense that is nearest to the teacher's state.
        to_teacher: [n] float64, d² to the teacher's state.
    """

    sense: Tensor
    agrees: Tensor
    to_sense: Tensor
    to_teacher: Tensor


def place(states: Tensor, teacher: Tensor, rows: Tensor, sigma2: float) -> Placed:
    """Lay the states of a model and of the teacher, both [n, D] and of the same contexts, to senses [k, D]."""
    own, _ = nearest(states, rows, sigma2)
    meant, _ = nearest(teacher, rows, sigma2)
    unit = rows.shape[1] * sigma2
    to_sense = (states.double() - rows.double()[meant]).square().sum(1) / unit
    to_teacher = (states.double() - teacher.double()).square().sum(1) / unit
    return Placed(own, own == meant, to_sense, to_teacher)


def figures(placed: Mapping[int, Placed]) -> dict[str, float | int]:
    """Means over all contexts of all tokens: share that agrees, and the two distances in σ²."""
    parts = list(placed.values())
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("agrees", "to_sense", "to_teacher")}
    means = {name: round(float(values.double().mean()), 4) for name, values in joined.items()}
    return {**means, "contexts": len(joined["agrees"])}
