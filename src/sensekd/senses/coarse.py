"""Word sense disambiguation by nearest centroid on CoarseWSD-20 (Loureiro et al. 2021, arXiv 2008.11608).

The state that predicts the word, h_{i-1}, has seen its left context alone. The word's first piece decides whose senses
it may have; the nearest one stands for the gold sense that most of its training sentences have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sensekd.errors import InputError, require
from sensekd.senses.placing import Occurrence, nearest_rows, place, predicting_states

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.senses.dictionary import SenseDictionary

SPLITS: Final = ("train", "test")
FEW: Final = 300
# Of a token's index; no sentence is longer, and Python refuses to read numbers of thousands of digits.
_DIGITS: Final = 9
_LAYOUT: Final = "one folder a word, with train.data.txt, train.gold.txt, test.data.txt and test.gold.txt"


@dataclass(frozen=True)
class CoarseWord:
    """The labelled sentences of one word, as documents of one occurrence each."""

    word: str
    train: list[dict[str, Any]]
    test: list[dict[str, Any]]


@dataclass(frozen=True)
class WordScore:
    """How one word fares.

    Attributes:
        word: it.
        pieces: into how many tokens most of its occurrences are cut.
        rows: how many senses its first pieces have in the dictionary.
        train, test: sentences.
        fallbacks: test sentences without a state or a sense; the most frequent sense of train is their answer.
        accuracy: of the majority sense of the nearest centroid.
        most_frequent: of the most frequent sense of train.
        ami: adjusted mutual information of nearest centroids and gold senses on the test sentences that have both.
    """

    word: str
    pieces: int
    rows: int
    train: int
    test: int
    fallbacks: int
    accuracy: float
    most_frequent: float
    ami: float


@dataclass(frozen=True)
class CoarseStates:
    """The states of all placed occurrences; they serve every dictionary of the same teacher and window.

    Attributes:
        words: the words.
        found: the placed occurrences; `document` counts through all sentences, word by word, train before test.
        states: [occurrences, D].
    """

    words: Sequence[CoarseWord]
    found: list[Occurrence]
    states: Tensor


def _sentence(line: str, label: str, word: str, where: str) -> dict[str, Any]:
    number, separator, text = line.partition("\t")
    tokens = text.split(" ")
    if not separator or not number.strip().isdecimal() or len(number) > _DIGITS or int(number) >= len(tokens):
        raise InputError(f"{where}: {line[:60]!r}", "token index, tab, a sentence with that token", "correct the line")
    index = int(number)
    start = sum(len(token) + 1 for token in tokens[:index])
    occurrence = {"word": word, "sense": label, "start": start, "end": start + len(tokens[index])}
    return {"text": text, "occurrences": [occurrence]}


def _split(folder: Path, name: str) -> list[dict[str, Any]]:
    data, gold = folder / f"{name}.data.txt", folder / f"{name}.gold.txt"
    if not data.is_file() or not gold.is_file():
        raise InputError(f"{folder} lacks {name}.data.txt or {name}.gold.txt", _LAYOUT, "check --coarse")
    try:
        lines, labels = data.read_text(encoding="utf-8").split("\n"), gold.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(f"{data} or {gold.name} is not UTF-8: {error}", "text in UTF-8", "check the files") from error
    lines = [line for line in lines if line.strip()]
    if len(lines) != len(labels) or not lines:
        raise InputError(f"{data}: {len(lines)} sentences, {len(labels)} labels", "a label for each", "check the files")
    columns = enumerate(zip(lines, labels, strict=True), 1)
    return [_sentence(line, label, folder.name, f"{data}:{number}") for number, (line, label) in columns]


def read_coarse(folder: Path, limit: int | None = None) -> list[CoarseWord]:
    """Read the words of CoarseWSD-20, one folder each.

    Args:
        folder: what holds the words' folders.
        limit: sentences of a split of a word, from its start; all by default.

    Raises:
        InputError: no folder of a word, files missing, or a malformed line (named by file and number).
    """
    names = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not names:
        raise InputError(f"no word in {folder}", _LAYOUT, "give the folder CoarseWSD-20 itself")
    return [CoarseWord(path.name, *(_split(path, name)[:limit] for name in SPLITS)) for path in names]


def coarse_states(
    teacher: Any, tokenizer: PreTrainedTokenizerBase, words: Sequence[CoarseWord], window: int
) -> CoarseStates:
    """One pass of the teacher over all sentences.

    Raises:
        InputError: a slow tokenizer, or no occurrence that can be placed.
    """
    sentences = [entry for word in words for entry in (*word.train, *word.test)]
    documents, found, skipped = place(sentences, tokenizer)
    if not found:
        raise InputError(f"none of {len(sentences)} occurrences can be placed ({dict(skipped)})", "words after a token")
    return CoarseStates(words, found, predicting_states(teacher, documents, found, window))


def _majority(values: Sequence[str]) -> str:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _score(word: CoarseWord, found: Mapping[int, Occurrence], rows: Mapping[int, int]) -> WordScore:
    """Score one word; `found` and `rows` go by the number of the sentence, train before test."""
    metrics = require("sklearn.metrics", "eval")
    gold = [str(entry["occurrences"][0]["sense"]) for entry in (*word.train, *word.test)]
    train, test = range(len(word.train)), range(len(word.train), len(gold))
    frequent = _majority(gold[: len(word.train)])
    by_row: dict[int, list[str]] = {}
    for number in train:
        if number in rows:
            by_row.setdefault(rows[number], []).append(gold[number])
    majority = {row: _majority(labels) for row, labels in by_row.items()}
    # A centroid that no training sentence is nearest to has no majority either.
    answers = [majority.get(rows.get(number, -1), frequent) for number in test]
    judged = [number for number in test if number in rows]
    truth = [gold[number] for number in test]
    ami = metrics.adjusted_mutual_info_score([gold[n] for n in judged], [rows[n] for n in judged]) if judged else 0.0
    return WordScore(
        word=word.word,
        pieces=Counter(item.pieces for item in found.values()).most_common(1)[0][0] if found else 0,
        rows=len(set(rows.values())),
        train=len(train),
        test=len(test),
        fallbacks=len(test) - len(judged),
        accuracy=float(np.mean([a == b for a, b in zip(answers, truth, strict=True)])),
        most_frequent=float(np.mean([frequent == sense for sense in truth])),
        ami=float(ami),
    )


def _summary(scores: Sequence[WordScore]) -> dict[str, float]:
    if not scores:
        return {"words": 0}
    names = ("accuracy", "most_frequent", "ami")
    means = {name: float(np.mean([getattr(score, name) for score in scores])) for name in names}
    above = sum(score.accuracy > score.most_frequent for score in scores)
    below = sum(score.accuracy < score.most_frequent for score in scores)
    return {"words": len(scores), **means, "words_above": above, "words_below": below}


def score_coarse(dictionary: SenseDictionary, states: CoarseStates) -> dict[str, Any]:
    """Judge a dictionary on CoarseWSD-20.

    Words are counted alike in every mean (macro). Answers for test sentences whose word cannot be placed, whose first
    piece has no senses, or whose nearest centroid no training sentence has, are the most frequent sense of train, which
    is the baseline too.

    Returns:
        `all`, `one_piece`, `more_pieces`, `few_sentences` (under 300 for training), each with `words`, and the macro
        means `accuracy`, `most_frequent` and `ami`, and how many words are above and below the baseline; `fallbacks`,
        `by_word` (a list of `WordScore` as dictionaries).
    """
    nearest: NDArray[np.int64] = nearest_rows(dictionary, states.found, states.states)
    at = {item.document: number for number, item in enumerate(states.found)}
    scores, first = [], 0
    for word in states.words:
        count = len(word.train) + len(word.test)
        here = {number: at[first + number] for number in range(count) if first + number in at}
        found = {number: states.found[place] for number, place in here.items()}
        rows = {number: int(nearest[place]) for number, place in here.items() if nearest[place] >= 0}
        scores.append(_score(word, found, rows))
        first += count
    return {
        "all": _summary(scores),
        "one_piece": _summary([score for score in scores if score.pieces == 1]),
        "more_pieces": _summary([score for score in scores if score.pieces > 1]),
        "few_sentences": _summary([score for score in scores if score.train < FEW]),
        "fallbacks": sum(score.fallbacks for score in scores),
        "by_word": [asdict(score) for score in scores],
    }
