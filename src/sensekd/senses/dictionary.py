"""The sense dictionary: for every token its senses, the centroids of the teacher's states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sensekd.artefacts import Manifest, atomic_directory, check_made_from, read_manifest, readable, write_manifest
from sensekd.errors import InputError
from sensekd.provenance import TeacherIdentity
from sensekd.senses.sample import REBUILD, teacher_of
from sensekd.senses.store import StoredRows, map_tensors

FORMAT: Final = 1
_FILE: Final = "senses.safetensors"
_TENSORS: Final = ("indptr", "centroids", "support", "spread", "context")
_SCALE: Final = "scale"


@dataclass(frozen=True)
class SenseDictionary:
    """S[v] for every token v (DSKD, arXiv 2602.22351); all tensors on the CPU, R rows in all.

    Attributes:
        indptr: [V + 1] int64; the senses of token v are rows `indptr[v]:indptr[v + 1]`, by support descending.
        centroids: [R, D] in the form of the store: float32 (the start), bfloat16, float16, or int8, which must be
            multiplied by `scale`. `rows`, `take` and `lookup` give float32 whatever the form.
        support: [R] int32, how many sampled states each sense stands for.
        spread: [R] float32, mean squared distance of these to the centroid, per dimension.
        context: [R, C, L] int32, the left contexts of the C nearest samples, nearest first; -1 = nothing.
        sigma2: σ², the unit of squared distance per dimension (1.0 where units are raw).
        identity: the teacher.
        corpus: fingerprint of the set of documents.
        settings: what shaped it.
        facts: counts, device and threads of the build; never compared.
        scale: [R] float32 with int8 centroids, else None.
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
    scale: Tensor | None = None

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

    @property
    def stored(self) -> StoredRows:
        """The centroids with their scale."""
        return StoredRows(self.centroids, self.scale)

    def rows(self, token: int) -> Tensor:
        """S[v]: the centroids of a token, [k_v, D] float32; k_v may be 0.

        Raises:
            InputError: no such token.
        """
        return self.stored.between(*self.span(token))

    def take(self, ids: Tensor, device: torch.device | str | None = None) -> Tensor:
        """Centroids by row id, [n, D] float32 on `device`; no other row is read or widened.

        Args:
            ids: [n] int64 row ids, on the CPU.
            device: None is the CPU.
        """
        return self.stored.take(ids, device)

    def lookup(self, tokens: Tensor, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """S[v] of a batch of labels at once.

        Args:
            tokens: [N] int64 token ids, on any device.
            device: where the rows are wanted; None is the device of `tokens`.

        Returns:
            [N + 1] int64 and [E, D] float32: the senses of `tokens[n]` are rows `first[n]:first[n + 1]` of the second.

        Raises:
            InputError: a token outside the vocabulary.
        """
        device, tokens = device or tokens.device, tokens.cpu()
        wrong = tokens[(tokens < 0) | (tokens >= self.vocabulary)]
        if len(wrong):
            self.span(int(wrong[0]))
        start, count = self.indptr[tokens], self.indptr[tokens + 1] - self.indptr[tokens]
        first = torch.nn.functional.pad(count.cumsum(0), (1, 0))
        ids = torch.arange(int(first[-1])) + (start - first[:-1]).repeat_interleave(count)
        # A label stands in a batch many times over: each of its rows is read and sent once.
        ids, place = torch.unique(ids, return_inverse=True)
        return first.to(device), self.take(ids, device)[place.to(device)]

    def stored_as(self, store: str) -> SenseDictionary:
        """The same dictionary with its centroids in another form.

        Args:
            store: float32, bfloat16, float16 or int8.

        Raises:
            InputError: an unknown form, or centroids that it cannot hold.
        """
        rows = self.stored.stored(store)
        return replace(self, centroids=rows.values, scale=rows.scale)

    def save(self, folder: Path) -> Manifest:
        """Write the dictionary with its manifest, atomically."""
        from safetensors.torch import save_file

        made_from = {**self.identity.compared(), "corpus": self.corpus}
        facts = {**self.facts, "teacher": self.identity.model, "sigma2": self.sigma2}
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        if self.scale is not None:
            tensors[_SCALE] = self.scale.contiguous()
        with atomic_directory(folder) as temporary:
            save_file(tensors, temporary / _FILE)
            manifest = Manifest("senses", FORMAT, made_from, dict(self.settings), facts)
            return write_manifest(temporary, manifest, blocks=True)

    @classmethod
    def load(cls, folder: Path, expect: TeacherIdentity | None = None, *, verify: bool = False) -> SenseDictionary:
        """Memory-map a dictionary: sizes and identities are checked, nothing is read before it is asked for.

        Args:
            folder: where it stands.
            expect: the teacher that it is going to be used with.
            verify: compare the checksums of all its blocks too, which reads it once.

        Raises:
            InputError: no dictionary there, cut short, changed (with `verify`), or made from another teacher than
                `expect`.
        """
        manifest = read_manifest(folder, "senses", FORMAT, verify=verify)
        if expect is not None:
            check_made_from(manifest, expect.compared(), command=REBUILD)
        with readable(folder):
            tensors = map_tensors(folder / _FILE)
            width, vocabulary = int(manifest.made_from["width"]), int(manifest.made_from["vocabulary"])
            _refuse_shapes(folder / _FILE, tensors, width, vocabulary)
            own = ("teacher", "sigma2")
            return cls(
                **tensors,
                sigma2=float(manifest.facts["sigma2"]),
                identity=teacher_of(manifest),
                corpus=str(manifest.made_from["corpus"]),
                settings=manifest.config,
                facts={key: value for key, value in manifest.facts.items() if key not in own},
            )


def _refuse_shapes(path: Path, tensors: Mapping[str, Tensor], width: int, vocabulary: int) -> None:
    """Stop where the tensors of a file are not those of one dictionary."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    rows = shapes.get("centroids", (0,))[0]
    expected = {"indptr": (vocabulary + 1,), "centroids": (rows, width), "support": (rows,), "spread": (rows,)}
    if "centroids" in tensors and tensors["centroids"].dtype == torch.int8:
        expected[_SCALE] = (rows,)
    fits = shapes.get("context", ())[:1] == (rows,) and len(shapes) == len(expected) + 1
    if not fits or any(shapes.get(name) != shape for name, shape in expected.items()):
        raise InputError(f"{path} holds {shapes}", f"the tensors of a dictionary: {expected} and context", REBUILD)
    if int(tensors["indptr"][-1]) != rows:
        raise InputError(f"{path} lists {int(tensors['indptr'][-1])} rows", f"the {rows} that it holds", REBUILD)
