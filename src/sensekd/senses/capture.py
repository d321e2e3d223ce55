"""Teacher states, filed under tokens: the forward over windows, and what is kept of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.artefacts import Manifest, atomic_directory, check_made_from, fingerprint, write_manifest
from sensekd.errors import InputError, SenseKDError
from sensekd.numeric import argmax
from sensekd.senses.journal import Journal
from sensekd.senses.pool import Occurrences, PoolShape, SamplePool
from sensekd.senses.sample import REBUILD, StateSample, hash_pair, sample_facts, sample_manifest, unsigned
from sensekd.senses.shards import WHOLE, Shard
from sensekd.senses.writing import CONTEXT, FILE, SampleColumns, SampleFile

if TYPE_CHECKING:
    from sensekd.config import SensesConfig
    from sensekd.corpus import TokenDocuments
    from sensekd.provenance import TeacherIdentity

Progress = Callable[[int, int], None]

# A state's bits must not depend on the row it is computed in. Matrix kernels treat the last, incomplete tile of rows
# differently; with a multiple of this many rows there is no such tile.
_ROWS: Final = 64
_CHUNK: Final = 512
_LOGITS: Final = 1 << 26


@dataclass(frozen=True)
class WindowStates:
    """The states of the real positions of one batch of windows; n positions.

    Attributes:
        document: [n] index of the document.
        position: [n] t, counted from the start of the document.
        following: [n] x_{t+1}.
        states: [n, D] h^T_t on the teacher's device.
        windows: how many windows are done with this batch.
        total: how many there are.
    """

    document: NDArray[np.int64]
    position: NDArray[np.int64]
    following: NDArray[np.int64]
    states: Tensor
    windows: int
    total: int


@contextmanager
def evaluating(teacher: Any) -> Iterator[None]:
    """Run a block with the model in eval mode and without gradients; the mode is put back afterwards."""
    training = teacher.training
    teacher.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        teacher.train(training)


def _padding_id(teacher: Any, vocabulary: int) -> int:
    pad = getattr(teacher.config, "pad_token_id", None)
    return pad if isinstance(pad, int) and 0 <= pad < vocabulary else 0


def _check_window(teacher: Any, window: int) -> None:
    limit = getattr(teacher.config, "max_position_embeddings", None)
    if isinstance(limit, int) and window > limit:
        raise InputError(
            f"senses.window is {window}", f"at most {limit}, the teacher's positions", f"set senses.window to {limit}"
        )


def window_states(
    teacher: Any,
    tokens: NDArray[Any],
    indptr: NDArray[np.int64],
    order: NDArray[np.int64],
    window: int,
    batch_size: int,
    done: int = 0,
) -> Iterator[WindowStates]:
    """The last hidden states (after the final norm) of every position that has a following token in its document.

    Each document is cut into windows by itself, and every forward has the same shape, right-padded: the model is
    causal, so padding changes nothing, and equal windows have equal bits wherever they stand. The batch is rounded
    up until batch x window is a multiple of 64, for the same reason.

    Args:
        teacher: a causal language model of transformers, in eval mode.
        tokens: [N] ids of all documents.
        indptr: [documents + 1]; document d is `tokens[indptr[d]:indptr[d + 1]]`.
        order: indices of the documents to visit.
        window: tokens in a window.
        batch_size: windows in a forward, at least.
        done: windows of the first batches that are left out, as an earlier call counted them.

    Raises:
        InputError: a window longer than the teacher's positions, or ids outside its vocabulary.
    """
    _check_window(teacher, window)
    vocabulary = teacher.get_input_embeddings().weight.shape[0]
    device = teacher.get_input_embeddings().weight.device
    pad = _padding_id(teacher, vocabulary)
    while batch_size * window % _ROWS:
        batch_size += 1
    starts, lengths = indptr[order], np.diff(indptr)[order] - 1
    pieces = -(-np.maximum(lengths, 0) // window)
    which = np.repeat(np.arange(len(order)), pieces)
    offset = window * (np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    for first in range(done, len(which), batch_size):
        rows = slice(first, first + batch_size)
        position = offset[rows, None] + np.arange(window)
        valid = position < lengths[which[rows], None]
        at = (starts[which[rows], None] + position)[valid]
        ids = np.full((batch_size, window), pad, dtype=np.int64)
        ids[: len(valid)][valid] = tokens[at]
        if ids.max() >= vocabulary:
            raise InputError(
                f"the corpus holds the id {ids.max()}",
                f"ids below {vocabulary}, the teacher's vocabulary",
                "tokenise it with the teacher's own tokenizer",
            )
        hidden = teacher.base_model(torch.from_numpy(ids).to(device), use_cache=False).last_hidden_state
        flat = torch.from_numpy(np.flatnonzero(valid)).to(device)
        yield WindowStates(
            document=np.broadcast_to(order[which[rows], None], valid.shape)[valid],
            position=position[valid],
            following=tokens[at + 1].astype(np.int64),
            states=hidden.flatten(0, 1).index_select(0, flat),
            windows=min(first + batch_size, len(which)),
            total=len(which),
        )


def _predicted(teacher: Any, states: Tensor) -> Tensor:
    """Argmax of the logits, [n]. Soft-caps and positive scales of some families leave it as it is."""
    head = teacher.get_output_embeddings()
    if head is None:
        raise InputError(
            f"{type(teacher).__name__} has no output embeddings",
            "a causal language model",
            "set senses.assignment: next",
        )
    chunk = max(_ROWS, min(_CHUNK, _LOGITS // head.weight.shape[0]) // _ROWS * _ROWS)
    found = []
    for piece in torch.split(states, chunk):
        # One fixed shape here too: the last piece is filled up.
        filled = torch.nn.functional.pad(piece, (0, 0, 0, chunk - len(piece))) if len(piece) < chunk else piece
        found.append(argmax(head(filled))[: len(piece)])
    return torch.cat(found)


def _check_finite(batch: WindowStates, hashes: NDArray[np.uint64]) -> None:
    finite = torch.isfinite(batch.states).all(-1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0, 0])
        document, position = int(batch.document[bad]), int(batch.position[bad])
        raise SenseKDError(
            f"the teacher's state at position {position} of document {document} (hash {int(hashes[document]):016x}) is "
            "not finite; run the teacher in float32 or bfloat16, or leave the document out"
        )


def _file(teacher: Any, batch: WindowStates, config: SensesConfig, documents: TokenDocuments, pool: SamplePool) -> None:
    """Give the pool what it may still want of one batch; everything else is refused on the teacher's device."""
    device = batch.states.device
    following = torch.from_numpy(batch.following).to(device)
    filed = following if config.assignment == "next" else _predicted(teacher, batch.states)
    content = torch.from_numpy(documents.hashes[batch.document].view(np.int64)).to(device)
    key = hash_pair(config.seed, content, torch.from_numpy(batch.position).to(device))
    wanted = key <= pool.threshold[filed]
    if config.assignment == "agree":
        wanted &= filed == following
    index = wanted.nonzero()[:, 0]
    chosen = index.cpu().numpy()
    found = Occurrences(
        filed[index].cpu().numpy(), key[index].cpu().numpy(), batch.document[chosen], batch.position[chosen]
    )
    pool.add(found, batch.states.index_select(0, index))


def _contexts(documents: TokenDocuments, index: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.int32]:
    back = position[:, None] - np.arange(CONTEXT - 1, -1, -1)
    at = documents.indptr[index][:, None] + np.maximum(back, 0)
    return np.where(back >= 0, documents.tokens[at].astype(np.int32), np.int32(-1))


def _settings(config: SensesConfig) -> dict[str, Any]:
    names = ("assignment", "samples_per_token", "window", "batch_size", "dtype", "seed")
    return {name: getattr(config, name) for name in names}


def teacher_dtype(teacher: Any) -> str:
    """The dtype that a teacher computes in, by its name in torch."""
    return str(teacher.get_input_embeddings().weight.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class CapturePlan:
    """Which documents are captured, and where a capture keeps what it has until it is done.

    Attributes:
        work: a folder for the states so far and the journal, on the file system of the sample; a capture that was
            killed goes on from what stands there. It is gone when the sample stands. None: a temporary folder.
        shard: the documents by hash.
        known: hashes of documents that are left out.
        every: seconds between two records of the journal.
    """

    work: Path | None = None
    shard: Shard = WHOLE
    known: NDArray[np.uint64] | None = None
    every: float = 60.0

    @property
    def partial(self) -> bool:
        """Whether this is a part of a larger whole, which may turn out empty."""
        return self.shard.count > 1 or self.known is not None

    def visits(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Indices of the documents, each content once, ascending by hash."""
        # Visiting documents by their hash makes the batches, too, a property of the set of documents.
        content, order = np.unique(hashes, return_index=True)
        wanted = self.shard.holds(content)
        if self.known is not None:
            wanted &= ~np.isin(content, self.known)
        return np.asarray(order[wanted], dtype=np.int64)


@dataclass(frozen=True)
class _Job:
    """A capture that is under way."""

    teacher: Any
    documents: TokenDocuments
    config: SensesConfig
    identity: TeacherIdentity
    order: NDArray[np.int64]

    @property
    def key(self) -> str:
        """Identity of everything that decides the bytes."""
        content = fingerprint(self.documents.hashes[self.order].tolist())
        device = self.teacher.get_input_embeddings().weight.device
        made = [self.identity.compared(), self.documents.manifest.id, _settings(self.config)]
        return fingerprint([content, made, device.type, torch.get_num_threads()])

    def fill(self, pool: SamplePool, done: int, progress: Progress | None) -> None:
        """Run the teacher over the windows that are left."""
        tokens, indptr = self.documents.tokens, self.documents.indptr
        size = (self.config.window, self.config.batch_size)
        with evaluating(self.teacher):
            for batch in window_states(self.teacher, tokens, indptr, self.order, *size, done):
                _check_finite(batch, self.documents.hashes)
                _file(self.teacher, batch, self.config, self.documents, pool)
                pool.settle(batch.windows)
                if progress is not None:
                    progress(batch.windows, batch.total)

    def write(self, path: Path, pool: SamplePool, journal: Journal) -> SampleColumns:
        """Move the states of a finished pool into the sample's file, part by part."""
        rows = pool.finish(journal.progress.windows)
        index, position = rows["document"].astype(np.int64), rows["position"]
        hashes = self.documents.hashes
        keys = torch.from_numpy(np.ascontiguousarray(rows["key"]))
        columns = SampleColumns.filed(rows["token"], unsigned(keys), hashes[index], position, hashes[self.order])
        dtype, width = getattr(torch, self.config.dtype), self.identity.width
        file: SampleFile | None = None
        contexts = partial(_contexts_of, self.documents, index, position)
        for first, pieces in pool.parts():
            if file is None:
                file = SampleFile(path, columns, contexts, dtype, width, rows=first)
            for piece in pieces:
                if dtype != torch.float32 and not bool(torch.isfinite(piece).all()):
                    file.close()
                    raise SenseKDError(
                        f"teacher states overflow in {self.config.dtype}; set senses.dtype to float32 or bfloat16"
                    )
                file.append(piece)
            file.sync()
        if file is not None:
            file.close()
        return columns


def _contexts_of(
    documents: TokenDocuments, index: NDArray[np.int64], position: NDArray[Any], part: slice
) -> NDArray[np.int32]:
    return _contexts(documents, index[part], position[part])


def capture_into(
    folder: Path,
    teacher: Any,
    documents: TokenDocuments,
    config: SensesConfig,
    identity: TeacherIdentity,
    progress: Progress | None = None,
    plan: CapturePlan = CapturePlan(),
) -> Manifest:
    """Sample teacher states by priority, filed under a(t) (method: DSKD, arXiv 2602.22351, sense inventory).

    a(t) is the argmax of the teacher's logits at t (`predicted`), x_{t+1} (`next`), or defined only where the two are
    equal (`agree`). Equal documents count once. The bytes depend on device, dtype and thread count alone, which the
    manifest of the sample names, and not on the order of the documents or on interruptions. Memory holds the
    bookkeeping (about 24 bytes a state); the disk, at most half as much again as the states kept.

    Args:
        folder: of the sample.
        teacher: a causal language model of transformers; put into eval mode for the time of the call.
        documents: the tokenised corpus.
        config: window, batch, assignment, samples per token, dtype, seed.
        identity: of the teacher, to be recorded; its dtype is filled in.
        progress: called with (windows done, windows in all).
        plan: which documents, and where to work.

    Raises:
        InputError: another tokenizer's corpus, a window too long for the teacher, or nothing to file.
        SenseKDError: a state that is not finite, in the teacher or in `config.dtype`, or a full disk.
    """
    check_made_from(documents.manifest, {"tokenizer": identity.tokenizer}, command=REBUILD)
    identity = replace(identity, dtype=teacher_dtype(teacher))
    job = _Job(teacher, documents, config, identity, plan.visits(documents.hashes))
    device = teacher.get_input_embeddings().weight.device
    work = plan.work or Path(tempfile.mkdtemp(prefix="sensekd-", dir=_parent(folder)))
    try:
        journal = Journal(work, job.key, plan.every if plan.work else float("inf"))
        shape = PoolShape(identity.vocabulary, config.samples_per_token, identity.width, getattr(torch, config.dtype))
        pool = SamplePool(journal, shape, documents.hashes, device)
        job.fill(pool, journal.progress.windows, progress)
        columns = job.write(work / FILE, pool, journal)
        if not len(columns) and not plan.partial:
            raise _nothing_filed(config, documents, job.order)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        facts = sample_facts(columns, name, torch.get_num_threads())
        with atomic_directory(folder) as temporary:
            # A second name for the file, not a copy: killed before the folder stands, the file is still in `work`.
            try:
                (temporary / FILE).hardlink_to(work / FILE)
            except OSError:  # A file system without links.
                shutil.copyfile(work / FILE, temporary / FILE)
            manifest = write_manifest(temporary, sample_manifest(columns.seen, identity, _settings(config), facts))
        shutil.rmtree(work)
    finally:
        if plan.work is None:
            shutil.rmtree(work, ignore_errors=True)
    return manifest


def _parent(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.parent


def capture(
    teacher: Any,
    documents: TokenDocuments,
    config: SensesConfig,
    identity: TeacherIdentity,
    progress: Progress | None = None,
    plan: CapturePlan = CapturePlan(),
) -> StateSample:
    """The sample of `capture_into`, from a temporary folder whose file lives as long as the sample does."""
    with tempfile.TemporaryDirectory(prefix="sensekd-") as name:
        folder = Path(name) / "sample"
        capture_into(folder, teacher, documents, config, identity, progress, plan)
        # The mapping outlives the name of the file.
        return StateSample.load(folder)


def _nothing_filed(config: SensesConfig, documents: TokenDocuments, order: NDArray[np.int64]) -> InputError:
    positions = int(np.maximum(np.diff(documents.indptr)[order] - 1, 0).sum())
    agree = config.assignment == "agree"
    return InputError(
        f"none of {len(order)} documents has a position to file ({positions} positions seen)",
        "documents of two tokens or more" + (", some of whose tokens the teacher predicts" if agree else ""),
        "give a larger corpus" + (" or another senses.assignment" if agree else ""),
    )
