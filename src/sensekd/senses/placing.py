"""From sense-labelled text to the states that predict the labelled words, and to the senses nearest to these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.errors import InputError
from sensekd.senses.capture import evaluating, window_states

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.senses.dictionary import SenseDictionary

BATCH: Final = 16
REASONS: Final = ("at_start", "inside_token", "without_senses")


@dataclass(frozen=True)
class Occurrence:
    """One labelled occurrence that can be placed.

    Attributes:
        document: index of its text.
        piece: the index i of its first piece; its sense is in h_{i-1}.
        token: x_i, the token whose senses it may have.
        pieces: how many tokens the word is cut into.
        word, sense: the labels.
        left_informative: whether the left context tells the sense, where the data says so.
    """

    document: int
    piece: int
    token: int
    pieces: int
    word: str
    sense: str
    left_informative: bool


def place(
    gold: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[NDArray[np.int64]], list[Occurrence], Counter[str]]:
    """Token ids of the documents, the occurrences found in them, and how many were skipped for what.

    Args:
        gold: documents `{"text", "occurrences": [{"word", "sense", "start", "end", "left_informative"}]}`.
        tokenizer: a fast one.

    Raises:
        InputError: a slow tokenizer.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} cannot say which characters a token covers", "a fast tokenizer",
            "save the teacher with a tokenizer.json",
        )  # fmt: skip
    documents, found, skipped = [], [], Counter[str]()
    # The same special prefix as in the corpus that the senses were built from.
    encoded = tokenizer([entry["text"] for entry in gold], return_offsets_mapping=True, return_attention_mask=False)
    columns = zip(gold, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    for number, (entry, ids, offsets) in enumerate(columns):
        documents.append(np.asarray(ids, dtype=np.int64))
        spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        for occurrence in entry["occurrences"]:
            start, text, word = int(occurrence["start"]), entry["text"], str(occurrence["word"])
            covering = np.flatnonzero(spans[:, 1] > start)
            if not len(covering) or text[spans[covering[0], 0] : start].strip():
                skipped["inside_token"] += 1
                continue
            piece = int(covering[0])
            if piece == 0:
                skipped["at_start"] += 1
                continue
            stop = int(occurrence.get("end", start + len(word)))
            pieces = int(((spans[:, 1] > start) & (spans[:, 0] < stop)).sum())
            left = bool(occurrence.get("left_informative", True))
            found.append(Occurrence(number, piece, int(ids[piece]), pieces, word, str(occurrence["sense"]), left))
    return documents, found, skipped


def window_of(dictionary: SenseDictionary) -> int:
    """The window that the dictionary's states were taken in, in tokens."""
    return int(dictionary.settings.get("window", 256))


def predicting_states(
    teacher: Any, documents: Sequence[NDArray[np.int64]], found: Sequence[Occurrence], window: int
) -> Tensor:
    """[occurrences, D] h_{i-1} of each occurrence, float32 on the CPU.

    Args:
        teacher: the model that the senses were built from.
        documents: token ids.
        found: places in them.
        window: of the dictionary's sample; texts shorter than it see the same context in a shorter one.
    """
    lengths = np.asarray([len(ids) for ids in documents])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.concatenate(documents)
    # The states wanted, by their index in the concatenated documents.
    wanted = np.asarray([indptr[item.document] + item.piece - 1 for item in found])
    order = np.unique([item.document for item in found])
    by_state = np.argsort(wanted, kind="stable")
    width = teacher.get_input_embeddings().weight.shape[1]
    states = torch.zeros(len(found), width)
    window = min(window, -(-int(lengths.max()) // 16) * 16)
    with evaluating(teacher):
        for batch in window_states(teacher, tokens, indptr, order, window, BATCH):
            here = indptr[batch.document] + batch.position
            # Positions of a batch are ascending, as documents are visited in their order.
            at = np.searchsorted(here, wanted[by_state])
            hit = at < len(here)
            hit[hit] = here[at[hit]] == wanted[by_state][hit]
            chosen = batch.states[torch.from_numpy(at[hit]).to(batch.states.device)]
            states[torch.from_numpy(by_state[hit])] = chosen.to(device="cpu", dtype=torch.float32)
    return states


def nearest_rows(dictionary: SenseDictionary, found: Sequence[Occurrence], states: Tensor) -> NDArray[np.int64]:
    """[occurrences] the row of the nearest own sense of each occurrence; -1 where its token has no senses."""
    rows = np.full(len(found), -1, dtype=np.int64)
    tokens = np.asarray([item.token for item in found], dtype=np.int64)
    for token in np.unique(tokens).tolist():
        start, stop = dictionary.span(token)
        if stop > start:
            at = np.flatnonzero(tokens == token)
            own = dictionary.stored.between(start, stop)
            for piece in np.array_split(at, -(-len(at) // 256)):
                apart = (own - states[torch.from_numpy(piece)][:, None]).square().sum(2)
                rows[piece] = start + apart.argmin(1).numpy()
    return rows
