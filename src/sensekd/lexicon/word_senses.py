"""The senses of a Wiktextract entry, and which of them a linkage of the whole word is about."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

TAG_JOINER: Final = "\x1f"
_LABEL: Final = re.compile(r"(\d{1,4})\s*[–—-]\s*(\d{1,4})(?!\w)|(\d+\w*)")
_LONGEST_RANGE: Final = 200
_LONGEST_INDEX: Final = 200
_INDEX: Final = (str, int)  # and not bool, which Python counts among the numbers


class Sense(NamedTuple):
    """A sense: `tags` are the entry's and its own, `marks` the same joined."""

    gloss: str
    tags: tuple[str, ...]
    marks: str


@dataclass
class Meaning:
    """What a linkage is about: senses with their weights; none if only forms of other words are meant.

    Attributes:
        senses: (sense, weight) pairs.
        settled: whether what the linkage says of its sense names a sense of the entry (True if it says nothing).
        claims: relation -> what a reader made of this meaning before, so that it is made once.
    """

    senses: Sequence[tuple[Sense, float]]
    settled: bool = True
    claims: dict[str, list[int]] = field(default_factory=dict)


def read_sense(raw: object, entry_tags: tuple[str, ...]) -> Sense:
    """A sense from an element of `senses`, whatever that is."""
    if not isinstance(raw, dict):
        return Sense("", entry_tags, joined(entry_tags))
    # Glosses run from the general to the particular.
    glosses = strings(raw.get("glosses"))
    tags = entry_tags + strings(raw.get("tags"))
    return Sense(" ".join(glosses[-1].split()) if glosses else "", tags, joined(tags))


def meaning_of(raw: object, entry_tags: tuple[str, ...]) -> Meaning:
    """The meaning of linkages that stand with a sense."""
    return Meaning(() if is_form(raw) else ((read_sense(raw, entry_tags), 1.0),))


def strings(value: object) -> tuple[str, ...]:
    """The strings of a list; none of anything else."""
    return tuple([text for text in value if isinstance(text, str)]) if isinstance(value, list) else ()


@lru_cache(maxsize=4096)
def joined(tags: tuple[str, ...]) -> str:
    """Different tags in order, joined by `TAG_JOINER`."""
    return TAG_JOINER.join(sorted({tag for tag in tags if tag}))


def is_form(raw: object) -> bool:
    """Whether an element of `senses` is tagged as a form of another word: its meaning is that word's."""
    tags = raw.get("tags") if isinstance(raw, dict) else None
    return isinstance(tags, list) and ("form-of" in tags or "alt-of" in tags)


class WordSenses:
    """The senses of an entry, to which linkages of the word are given; a sense is read when one asks for it.

    Attributes:
        known: the meanings of the indices that were asked for.
    """

    def __init__(self, raw: Sequence[object], entry_tags: tuple[str, ...]) -> None:
        self._raw, self._tags = raw, entry_tags
        self._real = [number for number, sense in enumerate(raw) if not is_form(sense)]
        self._labels: dict[str, list[int]] | None = None
        self.known: dict[object, Meaning] = {}
        self._silent: Meaning | None = None

    def meaning(self, item: Mapping[str, Any]) -> Meaning:
        """What an item is about: by its index, else its text, else its weights, else the only sense there is."""
        if self._raw and not self._real:
            return Meaning(())
        index, weights, text = item.get("sense_index"), item.get("_dis1"), item.get("sense")
        if index is None and weights is None and text is None:
            self._silent = self._silent or self._unsettled("", settled=True)
            return self._silent
        known = self.known.get(index) if type(index) in _INDEX else None
        if known is not None:
            return known
        found = self._by_index(index)
        if found:
            known = self.known[index] = self._meant(found)
            return known
        text = " ".join(text.split()) if isinstance(text, str) else ""
        if text:
            found = [number for number, sense in enumerate(self._raw) if _same(text, sense)]
        if found:
            return self._meant(found)
        shares = self._by_weight(weights)
        return Meaning(shares) if shares else self._unsettled(text, settled=False)

    def _meant(self, numbers: Sequence[int]) -> Meaning:
        return Meaning([(self._sense(number), 1.0) for number in numbers if number in self._real])

    def _sense(self, number: int) -> Sense:
        return read_sense(self._raw[number], self._tags)

    def _unsettled(self, text: str, *, settled: bool) -> Meaning:
        """The only sense, or the word as such under the text that the item gives."""
        if not text and len(self._real) == 1:
            return Meaning([(self._sense(self._real[0]), 1.0)], settled)
        return Meaning([(read_sense(None, self._tags)._replace(gloss=text), 1.0)], settled)

    def _by_index(self, index: object) -> list[int]:
        labels = _labels_of(index)
        if labels and self._labels is None:
            self._labels = {}
            for number, sense in enumerate(self._raw):
                if isinstance(sense, dict) and "sense_index" in sense:
                    for label in _labels_of(sense["sense_index"]):
                        self._labels.setdefault(label, []).append(number)
            if not self._labels:
                # Editions that do not number their senses count them.
                self._labels = {str(number + 1): [number] for number in range(len(self._raw))}
        return list(dict.fromkeys([number for label in labels for number in (self._labels or {}).get(label, ())]))

    def _by_weight(self, weights: object) -> list[tuple[Sense, float]]:
        shares = _shares(weights) if isinstance(weights, str) else ()
        if len(shares) != len(self._raw):
            return []
        largest = max((shares[number] for number in self._real), default=0.0)
        return [(self._sense(number), largest) for number in self._real if shares[number] == largest > 0]


def _same(text: str, raw: object) -> bool:
    """Whether a text is one of the glosses of a sense, in any case."""
    glosses = strings(raw.get("glosses")) if isinstance(raw, dict) else ()
    return any(text.casefold() == " ".join(gloss.split()).casefold() for gloss in glosses)


def _labels_of(index: object) -> tuple[str, ...]:
    if isinstance(index, str):
        return _parsed_labels(index)
    return (str(index),) if isinstance(index, int) and not isinstance(index, bool) else ()


@lru_cache(maxsize=4096)
def _parsed_labels(text: str) -> tuple[str, ...]:
    """`1, 3–5, 7b` -> 1, 3, 4, 5, 7b."""
    labels: list[str] = []
    for low, high, single in _LABEL.findall(text[:_LONGEST_INDEX]):
        if single:
            labels.append(single)
        elif int(low) <= int(high) < int(low) + _LONGEST_RANGE:
            labels += map(str, range(int(low), int(high) + 1))
    return tuple(dict.fromkeys(labels))


@lru_cache(maxsize=4096)
def _shares(text: str) -> tuple[float, ...]:
    """`30 10` -> 0.75, 0.25; nothing for what is no list of weights."""
    try:
        weights = [float(part) for part in text.split()]
    except ValueError:
        return ()
    if not weights or not all(0 <= weight < math.inf for weight in weights):
        return ()
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights) if 0 < total < math.inf else ()
