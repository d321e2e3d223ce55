"""The sense dictionary: for every token its senses, the centroids of the teacher's states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sensekd.artefacts import Manifest, atomic_directory, check_made_from, read_manifest, write_manifest
from sensekd.errors import InputError
from sensekd.provenance import TeacherIdentity
from sensekd.senses.sample import REBUILD, teacher_of

FORMAT: Final = 1
_FILE: Final = "senses.safetensors"
_TENSORS: Final = ("indptr", "centroids", "support", "spread", "context")


@dataclass(frozen=True)
class SenseDictionary:
    """S[v] for every token v (DSKD, arXiv 2602.22351); all tensors on the CPU, R rows in all.

    Attributes:
        indptr: [V + 1] int64; the senses of token v are rows `indptr[v]:indptr[v + 1]`, by support descending.
        centroids: [R, D] float32.
        support: [R] int32, how many sampled states each sense stands for.
        spread: [R] float32, mean squared distance of these to the centroid, per dimension.
        context: [R, C, L] int32, the left contexts of the C nearest samples, nearest first; -1 = nothing.
        sigma2: σ², the unit of squared distance per dimension (1.0 where units are raw).
        identity: the teacher.
        corpus: fingerprint of the set of documents.
        settings: what shaped it.
        facts: counts, device and threads of the build; never compared.
    """

    indptr: Tensor
    centroids: Tensor
    support: Tensor
    spread: Tensor
    context: Tensor
    sigma2: float
    identity: TeacherIdentity
    corpus: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def vocabulary(self) -> int:
        """V."""
        return len(self.indptr) - 1

    @cached_property
    def has_senses(self) -> Tensor:
        """[V] bool."""
        return self.indptr[1:] > self.indptr[:-1]

    @cached_property
    def owner(self) -> Tensor:
        """[R] int64, the token that each row belongs to."""
        return torch.repeat_interleave(torch.arange(self.vocabulary), self.indptr.diff())

    def span(self, token: int) -> tuple[int, int]:
        """First and one past the last row of a token; equal where it has no senses.

        Raises:
            InputError: no such token.
        """
        if not 0 <= token < self.vocabulary:
            raise InputError(f"token id {token}", f"0 to {self.vocabulary - 1}", "use the teacher's own tokenizer")
        return int(self.indptr[token]), int(self.indptr[token + 1])

    def rows(self, token: int) -> Tensor:
        """S[v]: the centroids of a token, [k_v, D]; k_v may be 0.

        Raises:
            InputError: no such token.
        """
        start, stop = self.span(token)
        return self.centroids[start:stop]

    def save(self, folder: Path) -> Manifest:
        """Write the dictionary with its manifest, atomically."""
        from safetensors.torch import save_file

        made_from = {**self.identity.compared(), "corpus": self.corpus}
        facts = {**self.facts, "teacher": self.identity.model, "sigma2": self.sigma2}
        with atomic_directory(folder) as temporary:
            save_file({name: getattr(self, name).contiguous() for name in _TENSORS}, temporary / _FILE)
            return write_manifest(temporary, Manifest("senses", FORMAT, made_from, dict(self.settings), facts))

    @classmethod
    def load(cls, folder: Path, expect: TeacherIdentity | None = None) -> SenseDictionary:
        """Memory-map a dictionary.

        Args:
            folder: where it stands.
            expect: the teacher that it is going to be used with.

        Raises:
            InputError: no dictionary there, cut short, or made from another teacher than `expect`.
        """
        from safetensors.torch import load_file

        manifest = read_manifest(folder, "senses", FORMAT)
        if expect is not None:
            check_made_from(manifest, expect.compared(), command=REBUILD)
        own = ("teacher", "sigma2")
        return cls(
            **load_file(folder / _FILE),
            sigma2=float(manifest.facts["sigma2"]),
            identity=teacher_of(manifest),
            corpus=str(manifest.made_from["corpus"]),
            settings=manifest.config,
            facts={key: value for key, value in manifest.facts.items() if key not in own},
        )
