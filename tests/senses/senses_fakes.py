"""A teacher whose states are arithmetic, corpora as arrays, and samples made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sensekd.artefacts import Manifest
from sensekd.config import SensesConfig
from sensekd.corpus import TokenDocuments
from sensekd.provenance import TeacherIdentity
from sensekd.senses.sample import StateSample

TOKENIZER = "tokenizer-a"


def identity(width: int = 4, vocabulary: int = 12, weights: str = "weights-a") -> TeacherIdentity:
    return TeacherIdentity("fake", weights, TOKENIZER, width, vocabulary)


class FakeTeacher(nn.Module):
    """h_t = [x_t, sum of the window's ids up to t, place in the window, 1]; it predicts x_t + 1 (at most V - 1)."""

    def __init__(self, vocabulary: int = 12) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=None, max_position_embeddings=64)
        self.embeddings = nn.Embedding(vocabulary, 4)
        self.head = nn.Linear(4, vocabulary, bias=False)
        v = torch.arange(vocabulary, dtype=torch.float32)
        zero = torch.zeros_like(v)
        # -(v - (x + 1))² = 2 v x + 2 v - v² + what does not depend on v.
        self.head.weight.data = torch.stack([2 * v, zero, zero, 2 * v - v * v], 1)
        self.shapes: set[tuple[int, ...]] = set()
        self.was_training: set[bool] = set()
        self.poison: int | None = None

    def base_model(self, ids: Tensor, use_cache: bool = True) -> SimpleNamespace:
        self.shapes.add(tuple(ids.shape))
        self.was_training.add(self.training)
        place = torch.arange(ids.shape[1]).expand_as(ids)
        states = torch.stack([ids, ids.cumsum(1), place, torch.ones_like(ids)], -1).float()
        if self.poison is not None:
            states[ids == self.poison] = torch.nan
        return SimpleNamespace(last_hidden_state=states)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


def content_hash(ids: Sequence[int]) -> int:
    value = 1469598103934665603
    for token in ids:
        value = ((value ^ (token + 1)) * 1099511628211) % (1 << 64)
    return value


def corpus(documents: Sequence[Sequence[int]], tokenizer: str = TOKENIZER) -> TokenDocuments:
    """Documents in memory, hashed by content."""
    lengths = [len(ids) for ids in documents]
    return TokenDocuments(
        Path("nowhere"),
        np.concatenate([np.asarray(ids, dtype=np.uint16) for ids in documents]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.asarray([content_hash(ids) for ids in documents], dtype=np.uint64),
        Manifest("tokens", 1, {"tokenizer": tokenizer}, {}),
    )


def random_documents(seed: int, count: int = 40, vocabulary: int = 12, longest: int = 40) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, vocabulary, random.integers(1, longest)).tolist() for _ in range(count)]


def settings(**changes: Any) -> SensesConfig:
    return SensesConfig(**{"window": 8, "batch_size": 4, "samples_per_token": 5, **changes})


def sample_of(groups: dict[int, Tensor], vocabulary: int = 12) -> StateSample:
    """A sample with the given states for each token; priorities ascend, sample n stands at position n."""
    tokens = sorted(groups)
    counts = [len(groups[token]) for token in tokens]
    total = sum(counts)
    position = np.arange(total, dtype=np.int32)
    return StateSample(
        tokens=np.asarray(tokens, dtype=np.int64),
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        states=torch.cat([groups[token] for token in tokens]),
        priority=np.arange(total, dtype=np.uint64),
        document=np.full(total, 7, dtype=np.uint64),
        position=position,
        context=np.repeat(position[:, None], 24, axis=1),
        seen=np.asarray([7], dtype=np.uint64),
        identity=identity(next(iter(groups.values())).shape[1], vocabulary),
        settings={"samples_per_token": 200, "window": 8},
    )
