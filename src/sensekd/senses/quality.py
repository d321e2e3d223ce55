"""How well the senses of a dictionary agree with gold senses of held-out text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sensekd.errors import InputError, require
from sensekd.senses.placing import REASONS, nearest_rows, place, predicting_states, window_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.senses.dictionary import SenseDictionary


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
    documents, placed, skipped = place(gold, tokenizer)
    has_senses = dictionary.has_senses.numpy()
    found = [item for item in placed if has_senses[item.token]]
    skipped["without_senses"] = len(placed) - len(found)
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
        nearest_rows(dictionary, found, predicting_states(teacher, documents, found, window_of(dictionary))),
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
