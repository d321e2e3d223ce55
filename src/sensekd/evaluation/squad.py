"""SQuAD v2 by its authors' rules (Rajpurkar et al. 2018, arXiv 1806.03822): exact match, F1, and when not to answer.

Answers are compared in lower case, without punctuation and articles, with single spaces. Of several gold answers the
best counts; those that this leaves empty do not. A question without a gold answer is answered rightly by the empty
string alone.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Answered:
    """A prediction and what it is held against.

    Attributes:
        prediction: the answer; empty for "there is none".
        golds: the gold answers; empty where the question has none.
        no_answer: how probable the model finds it that there is none; only its order counts.
    """

    prediction: str
    golds: tuple[str, ...]
    no_answer: float = 0.0


def normalise(text: str) -> str:
    """An answer without case, punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _references(golds: Sequence[str]) -> list[str]:
    return [gold for gold in golds if normalise(gold)] or [""]


def exact(prediction: str, golds: Sequence[str]) -> float:
    """1.0 where the prediction equals a gold answer, else 0.0."""
    return float(any(normalise(prediction) == normalise(gold) for gold in _references(golds)))


def _overlap(prediction: str, gold: str) -> float:
    found, wanted = normalise(prediction).split(), normalise(gold).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over words, of the gold answer that gives most."""
    return max(_overlap(prediction, gold) for gold in _references(golds))


def _has_answer(item: Answered) -> bool:
    return bool(item.golds)


def _best(items: Sequence[Answered], scores: Sequence[float]) -> float:
    """The mean under the threshold on `no_answer` that serves best, chosen in hindsight.

    Items at or below the threshold keep their prediction, those above it count as unanswered.
    """
    current = best = float(sum(not _has_answer(item) for item in items))
    for item, score in sorted(zip(items, scores, strict=True), key=lambda pair: pair[0].no_answer):
        if _has_answer(item):
            current += score
        elif item.prediction:
            current -= 1.0
        best = max(best, current)
    return best / len(items)


def _mean(scores: Sequence[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None


def judge(items: Sequence[Answered]) -> dict[str, float]:
    """The official figures, as shares (not per cent).

    Args:
        items: at least one.

    Returns:
        `exact`, `f1`; `HasAns_exact`, `HasAns_f1`, `NoAns_exact` (`NoAns_f1` equals it) over the questions with and
        without an answer, where there are such; `best_exact`, `best_f1` under the best threshold on `no_answer`.
    """
    exacts = [exact(item.prediction, item.golds) for item in items]
    f1s = [f1(item.prediction, item.golds) for item in items]
    asked = [_has_answer(item) for item in items]
    with_answer = [number for number, has in enumerate(asked) if has]
    without = [number for number, has in enumerate(asked) if not has]
    figures = {
        "exact": _mean(exacts),
        "f1": _mean(f1s),
        "HasAns_exact": _mean([exacts[number] for number in with_answer]),
        "HasAns_f1": _mean([f1s[number] for number in with_answer]),
        "NoAns_exact": _mean([exacts[number] for number in without]),
        "NoAns_f1": _mean([f1s[number] for number in without]),
        "best_exact": _best(items, exacts),
        "best_f1": _best(items, f1s),
    }
    return {name: value for name, value in figures.items() if value is not None}
