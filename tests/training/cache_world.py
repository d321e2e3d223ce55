"""A tiny teacher on disk, its blocks and its senses, and trainings over them with and without a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from training_world import VOCABULARY, WIDTH, documents, edges, recipe, table, tiny, tokenizer

from sensekd.config import Recipe
from sensekd.provenance import TeacherIdentity
from sensekd.training.cache.identity import CacheRequest, request_cache
from sensekd.training.data import TokenBlocks
from sensekd.training.distill import DistillResult, distill, supervision_of
from sensekd.training.packing import PackedBlocks

LENGTH = 16
IDENTITY = TeacherIdentity("teacher", "weights", "tokenizer", WIDTH, VOCABULARY)
EXACT = {"top": "all", "log_probs": "float32"}


def cache_blocks(packed: bool = False, count: int = 24) -> TokenBlocks:
    """Blocks of one document, or rows that hold documents of 3 to 13 tokens apart."""
    found = documents(count * LENGTH + 5)
    if not packed:
        return TokenBlocks(found, LENGTH, numbered=True)
    ends = np.cumsum(3 + np.arange(48) % 11)
    object.__setattr__(found, "tokens", found.tokens[: ends[-1]])
    object.__setattr__(found, "indptr", np.concatenate([[0], ends]))
    object.__setattr__(found, "hashes", np.arange(48, dtype=np.uint64))
    return PackedBlocks(found, LENGTH, numbered=True)


class Room:
    """A folder with a teacher's checkpoint in it; `train` runs one training.

    Args:
        folder: of the test.
        more: of the teacher.
    """

    def __init__(self, folder: Path, **more: Any) -> None:
        self.folder = folder
        self.teacher = tiny(**{"tied": True, **more})
        self.teacher.save_pretrained(folder / "teacher")
        self.senses = (table(), edges())
        self.number = 0

    def recipe(self, **overrides: Any) -> Recipe:
        """The recipe of a training; `cache` among the overrides turns the cache on."""
        tree = {"training__sequence_length": LENGTH, "teacher": {"model": str(self.folder / "teacher")}}
        return recipe(**{**tree, **overrides})

    def request(self, settings: Recipe, blocks: TokenBlocks, root: str = "caches") -> CacheRequest:
        """The cache of a recipe."""
        senses = supervision_of(self.senses) if settings.loss.lam or settings.loss.mu else None
        return request_cache(self.folder / root, (IDENTITY, "cpu"), settings, blocks, senses)

    def train(
        self, *, steps: int = 12, bare: bool = False, packed: bool = False, root: str = "caches", **overrides: Any
    ) -> tuple[dict[str, torch.Tensor], DistillResult]:
        """Weights of the student's folder and what the training says; `bare` has no teacher at hand."""
        settings, blocks = self.recipe(**overrides), cache_blocks(packed)
        cache = self.request(settings, blocks, root) if settings.cached else None
        self.number += 1
        folders = (self.folder / f"student-{self.number}", self.folder / f"work-{self.number}")
        senses = self.senses if settings.loss.lam or settings.loss.mu else None
        result = distill(
            None if bare else self.teacher, tokenizer(), settings, steps, blocks,
            senses=senses, folders=folders, cache=cache,
        )  # fmt: skip
        return load_file(folders[0] / "model.safetensors"), result

    def files(self, root: str = "caches") -> dict[str, bytes]:
        """The bytes of the one cache under a root."""
        (cache,) = (self.folder / root).iterdir()
        return {path.name: path.read_bytes() for path in sorted(cache.iterdir())}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Over all weights."""
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def records(result: DistillResult) -> list[dict[str, float]]:
    """What was logged, without times."""
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in result.history]
