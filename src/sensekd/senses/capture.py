"""Teacher states, filed under tokens: the forward over windows, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.artefacts import check_made_from
from sensekd.errors import InputError, SenseKDError
from sensekd.senses.pool import Occurrences, SamplePool
from sensekd.senses.sample import CONTEXT, REBUILD, StateSample, hash_pair, unsigned

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
    for first in range(0, len(which), batch_size):
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
        filled = torch.nn.functional.pad(piece, (0, 0, 0, chunk - len(piece)))
        found.append(head(filled).argmax(-1)[: len(piece)])
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


def _settings(config: SensesConfig, teacher: Any) -> dict[str, Any]:
    names = ("assignment", "samples_per_token", "window", "batch_size", "dtype", "seed")
    settings = {name: getattr(config, name) for name in names}
    settings["teacher_dtype"] = str(teacher.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return settings


def _nothing_filed(config: SensesConfig, documents: int, positions: int) -> InputError:
    agree = config.assignment == "agree"
    return InputError(
        f"none of {documents} documents has a position to file ({positions} positions seen)",
        "documents of two tokens or more" + (", some of whose tokens the teacher predicts" if agree else ""),
        "give a larger corpus" + (" or another senses.assignment" if agree else ""),
    )


def _sample(
    documents: TokenDocuments, rows: Occurrences, states: Tensor, settings: dict[str, Any], identity: TeacherIdentity
) -> StateSample:
    """The record of what the pool kept, without facts."""
    tokens, counts = np.unique(rows.token, return_counts=True)
    return StateSample(
        tokens=tokens.astype(np.int64),
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        states=states,
        priority=unsigned(torch.from_numpy(rows.key)),
        document=documents.hashes[rows.document],
        position=rows.position.astype(np.int32),
        context=_contexts(documents, rows.document, rows.position),
        seen=np.unique(documents.hashes),
        identity=identity,
        settings=settings,
    )


def capture(
    teacher: Any,
    documents: TokenDocuments,
    config: SensesConfig,
    identity: TeacherIdentity,
    progress: Progress | None = None,
) -> StateSample:
    """Sample teacher states by priority, filed under a(t) (method: DSKD, arXiv 2602.22351, sense inventory).

    a(t) is the argmax of the teacher's logits at t (`predicted`), x_{t+1} (`next`), or defined only where the two are
    equal (`agree`). Equal documents count once. The bytes depend on device, dtype and thread count alone, which the
    facts of the sample name, and not on the order of the documents.

    Args:
        teacher: a causal language model of transformers; put into eval mode for the time of the call.
        documents: the tokenised corpus.
        config: window, batch, assignment, samples per token, dtype, seed.
        identity: of the teacher, to be recorded.
        progress: called with (windows done, windows in all).

    Raises:
        InputError: another tokenizer's corpus, a window too long for the teacher, or nothing to file.
        SenseKDError: a state that is not finite, in the teacher or in `config.dtype`.
    """
    check_made_from(documents.manifest, {"tokenizer": identity.tokenizer}, command=REBUILD)
    # Visiting documents by their hash makes the batches, too, a property of the set of documents.
    _, order = np.unique(documents.hashes, return_index=True)
    dtype = getattr(torch, config.dtype)
    device = teacher.get_input_embeddings().weight.device
    pool = SamplePool(identity.vocabulary, config.samples_per_token, documents.hashes, dtype, device)
    positions = 0
    with evaluating(teacher):
        for batch in window_states(
            teacher, documents.tokens, documents.indptr, order, config.window, config.batch_size
        ):
            _check_finite(batch, documents.hashes)
            _file(teacher, batch, config, documents, pool)
            positions += len(batch.position)
            if progress is not None:
                progress(batch.windows, batch.total)
    rows, states = pool.finish()
    if not len(rows.key):
        raise _nothing_filed(config, len(order), positions)
    if dtype != torch.float32 and not bool(torch.isfinite(states).all()):
        raise SenseKDError(f"teacher states overflow in {config.dtype}; set senses.dtype to float32 or bfloat16")
    sample = _sample(documents, rows, states, _settings(config, teacher), identity)
    facts = {
        "documents": len(order),
        "repeated_documents": len(documents) - len(order),
        "positions": positions,
        "kept": len(sample),
        "tokens": len(sample.tokens),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
    }
    return replace(sample, facts=facts)
