"""The sample of teacher states that a dictionary is clustered from: which occurrences are kept, and the record on disk.

Every occurrence has a priority, a hash of (seed, document hash, position), and a token keeps its smallest ones. So what
is kept is a property of the corpus as a set of documents: its order, its shards and interruptions leave no trace, and
two samples merge exactly by union.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.artefacts import Manifest, atomic_directory, check_made_from, read_manifest, readable, write_manifest
from sensekd.provenance import TeacherIdentity
from sensekd.senses.writing import FILE, PIECE, SampleColumns, SampleFile

FORMAT: Final = 1
REBUILD: Final = "sensekd senses build RECIPE"
_SIGN: Final = -(1 << 63)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_WEYL: Final = _signed(0x9E3779B97F4A7C15)
_FIRST: Final = _signed(0xBF58476D1CE4E5B9)
_SECOND: Final = _signed(0x94D049BB133111EB)


def _shift(value: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask makes it the logical shift of the unsigned number.
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _FIRST
    value = (value ^ _shift(value, 27)) * _SECOND
    return value ^ _shift(value, 31)


def hash_pair(seed: int, first: Tensor, second: Tensor) -> Tensor:
    """A 64-bit hash of (seed, first, second), element by element.

    Args:
        seed: any integer.
        first: int64, any shape.
        second: int64, of a shape that broadcasts with `first`.

    Returns:
        int64 of the broadcast shape, uniform over all 64 bits; different `second` never collide for equal `first`.
    """
    start = _mix(torch.tensor(_signed(seed * 2 + 1), dtype=torch.int64, device=first.device) * _WEYL)
    return _mix(_mix((first ^ start) + _WEYL) + second * _WEYL)


def uniform(bits: Tensor) -> Tensor:
    """float64 in [0, 1) from the upper 53 of 64 random bits."""
    return _shift(bits, 11).to(torch.float64) * 2.0**-53


def unsigned(keys: Tensor) -> NDArray[np.uint64]:
    """Priorities as uint64 from signed sort keys; the order stays."""
    return (keys.cpu() ^ _SIGN).numpy().view(np.uint64)


def keep_smallest(
    tokens: NDArray[Any], priority: NDArray[Any], document: NDArray[Any], position: NDArray[Any], limit: int
) -> NDArray[np.int64]:
    """Indices of the `limit` smallest priorities of each token, each occurrence once.

    Args:
        tokens, priority, document, position: [N]; ties of priority go by (document, position).
        limit: how many a token keeps.

    Returns:
        [kept] indices, sorted by (token, priority, document, position).
    """
    order = np.lexsort((position, document, priority, tokens))
    if not len(order):
        return order
    columns = [column[order] for column in (tokens, priority, document, position)]
    new_token = np.concatenate([[True], columns[0][1:] != columns[0][:-1]])
    fresh = np.concatenate([[True], np.any([column[1:] != column[:-1] for column in columns], axis=0)])
    order, new_token = order[fresh], new_token[fresh]
    starts = np.flatnonzero(new_token)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return np.asarray(order[rank < limit], dtype=np.int64)


def corpus_fingerprint(hashes: NDArray[np.uint64]) -> str:
    """Identity of a set of documents, by their hashes: neither order nor repetitions change it."""
    return hashlib.sha256(np.unique(hashes).astype("<u8").tobytes()).hexdigest()[:16]


def teacher_of(manifest: Manifest) -> TeacherIdentity:
    """The teacher that an artefact was made from."""
    made = manifest.made_from
    return TeacherIdentity(
        model=str(manifest.facts.get("teacher", "?")),
        weights=str(made["weights"]),
        tokenizer=str(made["tokenizer"]),
        width=int(made["width"]),
        vocabulary=int(made["vocabulary"]),
        state=str(made["state"]),
        dtype=made.get("dtype"),
    )


@dataclass(frozen=True)
class StateSample:
    """At most `samples_per_token` states for each token, DSKD's raw material (arXiv 2602.22351).

    Attributes:
        tokens: [U] int64, the tokens that have states, ascending.
        indptr: [U + 1] int64; the states of `tokens[u]` are rows `indptr[u]:indptr[u + 1]`, by ascending priority.
        states: [N, D] h^T, the teacher's last hidden states after the final norm.
        priority: [N] uint64.
        document: [N] uint64, the hash of the document's ids.
        position: [N] int32; the state at position t predicts the token at t + 1.
        context: [N, L] int32, the ids up to and including position t; -1 = before the document.
        seen: [M] uint64, ascending: the hashes of all documents of the corpus, sampled or not.
        identity: the teacher.
        settings: what shaped the sample.
        facts: counts, device and threads of the build; never compared.
    """

    tokens: NDArray[np.int64]
    indptr: NDArray[np.int64]
    states: Tensor
    priority: NDArray[np.uint64]
    document: NDArray[np.uint64]
    position: NDArray[np.int32]
    context: NDArray[np.int32]
    seen: NDArray[np.uint64]
    identity: TeacherIdentity
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.priority)

    @property
    def counts(self) -> NDArray[np.int64]:
        """[U] how many states each token has (n_v)."""
        return np.diff(self.indptr)

    @property
    def corpus(self) -> str:
        """Fingerprint of the set of documents."""
        return corpus_fingerprint(self.seen)

    @property
    def columns(self) -> SampleColumns:
        """The bookkeeping, without states and contexts."""
        return SampleColumns(self.tokens, self.indptr, self.priority, self.document, self.position, self.seen)

    def save(self, folder: Path) -> Manifest:
        """Write the sample with its manifest, atomically."""
        dtype, width = self.states.dtype, self.states.shape[1]
        with atomic_directory(folder) as temporary:
            with SampleFile(temporary / FILE, self.columns, lambda part: self.context[part], dtype, width) as file:
                for piece in torch.split(self.states, PIECE):
                    file.append(piece)
            return write_manifest(temporary, sample_manifest(self.seen, self.identity, self.settings, self.facts))

    @classmethod
    def load(cls, folder: Path, expect: TeacherIdentity | None = None) -> StateSample:
        """Memory-map a sample.

        Raises:
            InputError: no sample there, cut short, or made from another teacher than `expect`.
        """
        from safetensors.torch import load_file

        manifest = read_manifest(folder, "sample", FORMAT)
        if expect is not None:
            check_made_from(manifest, expect.compared(), command=REBUILD)
        with readable(folder / FILE):
            tensors = load_file(folder / FILE)
            states = tensors.pop("states")
            return cls(
                **{name: tensor.numpy() for name, tensor in tensors.items()},
                states=states,
                identity=teacher_of(manifest),
                settings=manifest.config,
                facts={key: value for key, value in manifest.facts.items() if key != "teacher"},
            )


def sample_manifest(
    seen: NDArray[np.uint64], identity: TeacherIdentity, settings: Mapping[str, Any], facts: Mapping[str, Any]
) -> Manifest:
    """The manifest of a sample over the documents `seen`."""
    made_from = {**identity.compared(), "corpus": corpus_fingerprint(seen)}
    return Manifest("sample", FORMAT, made_from, dict(settings), {**facts, "teacher": identity.model})


def sample_facts(columns: SampleColumns, device: str, threads: object) -> dict[str, Any]:
    """What a reader may want to know; it follows from the documents and the machine, not from how they were split."""
    counts = {"documents": len(columns.seen), "kept": len(columns), "tokens": len(columns.tokens)}
    return {**counts, "device": device, "threads": threads}
