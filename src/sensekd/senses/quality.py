"""How well the senses of a dictionary agree with gold senses of held-out text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from sensekd.errors import InputError, require
from sensekd.senses.capture import evaluating, window_states

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.senses.dictionary import SenseDictionary

BATCH: Final = 16
REASONS: Final = ("at_start", "inside_token", "without_senses")


@dataclass(frozen=True)
class _Occurrence:
    """One gold occurrence that can be placed: `piece` is the index i of its first piece, its sense is in h_{i-1}."""

    document: int
    piece: int
    token: int
    word: str
    sense: str
    left_informative: bool


@dataclass(frozen=True)
class _Labels:
    """Columns over the judged occurrences of words with two gold senses or more."""

    word: NDArray[Any]
    gold: NDArray[Any]
    row: NDArray[np.int64]

    def take(self, chosen: NDArray[Any]) -> _Labels:
        return _Labels(self.word[chosen], self.gold[chosen], self.row[chosen])

    def ambiguous(self) -> _Labels:
        """Only the words that have two gold senses or more here."""
        senses = Counter(word for word, _ in set(zip(self.word.tolist(), self.gold.tolist(), strict=True)))
        return self.take(np.asarray([senses[word] > 1 for word in self.word.tolist()], dtype=bool))

    def groups(self) -> list[NDArray[np.int64]]:
        """Indices of the occurrences of each word."""
        _, which = np.unique(self.word, return_inverse=True)
        return [np.flatnonzero(which == number) for number in range(int(which.max()) + 1)] if len(which) else []


def read_gold(path: Path) -> list[dict[str, Any]]:
    """Read sense-labelled documents, one JSON object a line; blank lines are skipped.

    Raises:
        InputError: no such file, an empty one, or a malformed line (named by file and number).
    """
    expected = '{"text": "…", "occurrences": [{"word", "sense", "start", "end"}]}'
    if not path.is_file():
        raise InputError(f"no gold senses at {path}", "a file of JSON lines", "check evaluation.gold_senses")
    documents = []
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                entry = orjson.loads(line)
                for occurrence in entry["occurrences"]:
                    str(occurrence["word"]), str(occurrence["sense"]), entry["text"][int(occurrence["start"])]
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise InputError(
                    f"{path}:{number}: {type(error).__name__}: {error}", expected, "correct the line"
                ) from error
            documents.append(entry)
    if not documents:
        raise InputError(f"{path} holds no document", expected, "check evaluation.gold_senses")
    return documents


def _place(
    gold: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, dictionary: SenseDictionary
) -> tuple[list[NDArray[np.int64]], list[_Occurrence], Counter[str]]:
    """Token ids of the documents, the occurrences found in them, and how many were skipped for what."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} cannot say which characters a token covers", "a fast tokenizer",
            "save the teacher with a tokenizer.json",
        )  # fmt: skip
    has_senses = dictionary.has_senses.numpy()
    documents, found, skipped = [], [], Counter[str]()
    # The same special prefix as in the corpus that the senses were built from.
    encoded = tokenizer([entry["text"] for entry in gold], return_offsets_mapping=True, return_attention_mask=False)
    columns = zip(gold, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    for number, (entry, ids, offsets) in enumerate(columns):
        documents.append(np.asarray(ids, dtype=np.int64))
        spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        for occurrence in entry["occurrences"]:
            start, text = int(occurrence["start"]), entry["text"]
            covering = np.flatnonzero(spans[:, 1] > start)
            if not len(covering) or text[spans[covering[0], 0] : start].strip():
                skipped["inside_token"] += 1
                continue
            piece = int(covering[0])
            if piece == 0:
                skipped["at_start"] += 1
            elif not has_senses[ids[piece]]:
                skipped["without_senses"] += 1
            else:
                word, sense = str(occurrence["word"]), str(occurrence["sense"])
                left = bool(occurrence.get("left_informative", True))
                found.append(_Occurrence(number, piece, int(ids[piece]), word, sense, left))
    return documents, found, skipped


def _nearest_rows(
    dictionary: SenseDictionary, teacher: Any, documents: Sequence[NDArray[np.int64]], found: Sequence[_Occurrence]
) -> NDArray[np.int64]:
    """[occurrences] the row of the nearest own sense of each occurrence, from h_{i-1}."""
    lengths = np.asarray([len(ids) for ids in documents])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.concatenate(documents)
    # The states wanted, by their index in the concatenated documents.
    wanted = np.asarray([indptr[item.document] + item.piece - 1 for item in found])
    rows = np.full(len(found), -1, dtype=np.int64)
    order = np.unique([item.document for item in found])
    by_state = np.argsort(wanted, kind="stable")
    # Texts shorter than the window of the sample see the same context in a shorter one.
    window = min(int(dictionary.settings.get("window", 256)), -(-int(lengths.max()) // 16) * 16)
    with evaluating(teacher):
        for batch in window_states(teacher, tokens, indptr, order, window, BATCH):
            here = indptr[batch.document] + batch.position
            states = batch.states.to(device="cpu", dtype=torch.float32)
            # Positions of a batch are ascending, as documents are visited in their order.
            at = np.searchsorted(here, wanted[by_state])
            hit = at < len(here)
            hit[hit] = here[at[hit]] == wanted[by_state][hit]
            for item, place in zip(by_state[hit], at[hit], strict=True):
                start, stop = dictionary.span(found[item].token)
                distances = (dictionary.stored.between(start, stop) - states[int(place)]).square().sum(1)
                rows[item] = start + int(distances.argmin())
    return rows


def _mutual_information(labels: _Labels) -> float:
    """AMI of rows and gold senses for each word, averaged with the words' occurrences as weights."""
    metrics = require("sklearn.metrics", "eval")
    labels = labels.ambiguous()
    groups = labels.groups()
    if not groups:
        return 0.0
    values = [metrics.adjusted_mutual_info_score(labels.gold[group], labels.row[group]) for group in groups]
    return float(np.average(values, weights=[len(group) for group in groups]))


def _most_frequent(values: Sequence[str]) -> str:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _half_right(learn: _Labels, judge: _Labels) -> tuple[int, int]:
    """How often the rows' majority senses in `learn` are right in `judge`, and how often the most frequent sense is."""
    overall = _most_frequent(learn.gold.tolist())
    majority = {int(row): _most_frequent(learn.gold[learn.row == row].tolist()) for row in np.unique(learn.row)}
    guessed = [majority.get(int(row), overall) for row in judge.row]
    truth = judge.gold.tolist()
    return sum(a == b for a, b in zip(guessed, truth, strict=True)), sum(overall == sense for sense in truth)


def _purity(labels: _Labels, seed: int) -> tuple[float, float]:
    """Share of right senses by centroid and by most frequent sense, both learnt on the other half of each word."""
    random = np.random.default_rng(seed)
    right = frequent = total = 0
    for group in labels.groups():
        shuffled = random.permutation(group)
        halves = labels.take(shuffled[::2]), labels.take(shuffled[1::2])
        for learn, judge in (halves, halves[::-1]):
            if len(learn.row) and len(judge.row):
                by_row, by_word = _half_right(learn, judge)
                right, frequent, total = right + by_row, frequent + by_word, total + len(judge.row)
    return (right / total, frequent / total) if total else (0.0, 0.0)


def _shuffled(labels: _Labels, seed: int) -> _Labels:
    random = np.random.default_rng(seed)
    rows = labels.row.copy()
    for group in labels.groups():
        rows[group] = rows[random.permutation(group)]
    return _Labels(labels.word, labels.gold, rows)


def evaluate_gold(
    dictionary: SenseDictionary,
    teacher: Any,
    tokenizer: PreTrainedTokenizerBase,
    gold: Sequence[Mapping[str, Any]],
    seed: int = 0,
) -> dict[str, Any]:
    """Judge a dictionary on sense-labelled text.

    The sense of an occurrence whose first piece stands at i is the sense of that piece nearest to h_{i-1}, the state
    that predicts it. Only words with two gold senses or more among the occurrences count.

    Args:
        dictionary: the senses.
        teacher: the model that it was built from.
        tokenizer: the teacher's, a fast one.
        gold: documents `{"text", "occurrences": [{"word", "sense", "start", "end", "left_informative"}]}`.
        seed: of the halves and of the shuffled labels.

    Returns:
        `ami` (adjusted mutual information, averaged over words by occurrences), `ami_left` (of occurrences whose left
        context tells the sense), `ami_shuffled` and `ami_left_shuffled` (rows permuted within each word: chance),
        `purity` (share of right senses when each centroid stands for its majority sense, learnt on the other half of
        the word's occurrences), `purity_most_frequent` (the same halves, its most frequent sense), `occurrences`,
        `words`, `skipped` and what was skipped for which reason.

    Raises:
        InputError: no gold, a slow tokenizer, or no occurrence that can be judged.
    """
    require("sklearn", "eval")
    if not gold:
        raise InputError("no gold senses", "at least one document", "check evaluation.gold_senses")
    documents, found, skipped = _place(gold, tokenizer, dictionary)
    reasons = {f"skipped_{reason}": skipped[reason] for reason in REASONS}
    if not found:
        raise InputError(
            f"none of {skipped.total()} gold occurrences can be judged ({reasons})",
            "words whose first piece has senses",
            "build the senses from a corpus in which these words occur",
        )
    everything = _Labels(
        np.asarray([item.word for item in found]),
        np.asarray([item.sense for item in found]),
        _nearest_rows(dictionary, teacher, documents, found),
    )
    left = everything.take(np.asarray([item.left_informative for item in found]))
    labels = everything.ambiguous()
    purity, frequent = _purity(labels, seed)
    return {
        "ami": _mutual_information(labels),
        "ami_left": _mutual_information(left),
        "ami_left_shuffled": _mutual_information(_shuffled(left, seed)),
        "ami_shuffled": _mutual_information(_shuffled(labels, seed)),
        "purity": purity,
        "purity_most_frequent": frequent,
        "occurrences": len(labels.row),
        "words": len(labels.groups()),
        "skipped": skipped.total(),
        **reasons,
    }
