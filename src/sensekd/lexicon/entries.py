"""One entry of Wiktextract to relations: senses, linkages of senses and of words, and every reason to drop one.

An entry is one (word, language, etymology, part of speech). Linkages stand with a sense, or with the whole word where
the page did not say which sense is meant. A linkage of the word is given to senses by, in this order: its
`sense_index`, a `sense` text that equals a gloss, the largest of its `_dis1` weights, the only sense there is. What
none of them settles stays a relation of the word, under the linkage's own `sense` text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sensekd.lexicon.relations import fold_word

POS: Final = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
# Their meaning is another entry's.
FORMS: Final = frozenset({"form-of", "alt-of"})
TAG_JOINER: Final = "\x1f"
_SUSPECT: Final = re.compile(r"[\[\]{}<>|#:\x00-\x1f\x7f]|''|&#?\w+;|^\s|\s$|^$").search
_ANCHOR: Final = re.compile(r"#.")
_PAGE: Final = re.compile(r"^:|^(?:Thesaurus|Wikisaurus|Appendix|Category|Wikipedia|Reconstruction|https?):")
_MARKUP: Final = re.compile(r"[\[\]{}<>|\x00-\x1f\x7f]|''|&#?\w+;")
_LABEL: Final = re.compile(r"(\d{1,4})\s*[–—-]\s*(\d{1,4})(?![\w])|(\d+\w*)")
_LONGEST_RANGE: Final = 200


# A relation as an entry states it, as the names say; tags joined by `TAG_JOINER`, sorted; `thesaurus` the page it comes
# from, or empty. A plain tuple, because a dump makes millions.
ROW: Final = ("head", "tail", "relation", "weight", "language", "pos", "gloss", "tags", "thesaurus")
Row = tuple[str, str, str, float, str, str, str, str, str]


class _Sense(NamedTuple):
    gloss: str
    glosses: tuple[str, ...]
    tags: tuple[str, ...]
    index: object
    is_form: bool


_NO_SENSE: Final = _Sense("", (), (), None, False)


@dataclass
class EntryReader:
    """Turns entries into rows and counts what it leaves out.

    Attributes:
        linkages: key of an entry -> (relation, weight), such as `{"synonyms": ("synonym", 1.0)}`.
        rows: what was found so far; the caller takes and clears it.
        items: linkages seen.
        kept: linkages that gave a row or several.
        dropped: linkages that gave none, by reason.
        unresolved: linkages whose `sense_index`, `sense` or `_dis1` names no sense of the entry; they are kept.
    """

    linkages: Mapping[str, tuple[str, float]]
    rows: list[Row] = field(default_factory=list)
    items: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unresolved: int = 0

    def read(self, entry: Mapping[str, Any], language: str) -> str:
        """Take the relations of an entry.

        Args:
            entry: a parsed line, with a word.
            language: what its rows say.

        Returns:
            `kept`, `without_relations`, or `nothing_usable` (it has linkages, and all were dropped).
        """
        items, kept = self.items, self.kept
        pos = entry.get("pos")
        pos = POS.get(pos, pos) if isinstance(pos, str) else ""
        head = _Head(entry["word"], fold_word(entry["word"]), language, pos, _strings(entry.get("tags")))
        raw = entry.get("senses")
        raw = raw if isinstance(raw, list) else []
        for sense in raw:
            if isinstance(sense, dict):
                for key, relation in self.linkages.items():
                    if key in sense:
                        self._of_sense(head, sense, sense[key], relation)
        for key, relation in self.linkages.items():
            if key in entry:
                self._of_word(head, raw, entry[key], relation)
        if self.kept > kept:
            return "kept"
        return "nothing_usable" if self.items > items else "without_relations"

    def _of_sense(self, head: _Head, raw: Mapping[str, Any], items: object, relation: tuple[str, float]) -> None:
        if not isinstance(items, list):
            self._drop("mistyped")
        elif items:
            sense = _sense(raw)
            self._take(head, items, relation, [] if sense.is_form else [(sense, 1.0)], None)

    def _of_word(self, head: _Head, raw: Sequence[object], items: object, relation: tuple[str, float]) -> None:
        if not isinstance(items, list):
            self._drop("mistyped")
        elif items:
            senses = _Senses([_sense(sense) if isinstance(sense, dict) else _NO_SENSE for sense in raw])
            self._take(head, items, relation, [], senses)

    def _drop(self, reason: str) -> None:
        self.items += 1
        self.dropped[reason] += 1

    def _take(
        self,
        head: _Head,
        items: list[Any],
        relation: tuple[str, float],
        meant: Sequence[tuple[_Sense, float]],
        senses: _Senses | None,
    ) -> None:
        """Rows of one list of linkages, for the senses `meant`, or for those of `senses` that each names."""
        word, folded, language, pos, tags = head
        name, weight = relation
        add, dropped, kept = self.rows.append, self.dropped, 0
        for item in items:
            tail = item.get("word") if isinstance(item, dict) else None
            if not isinstance(tail, str):
                dropped[_untyped(item)] += 1
                continue
            if _SUSPECT(tail):
                tail = tail.strip()
                reason = _unusable(tail)
                if reason:
                    dropped[reason] += 1
                    continue
            # Normal forms leave ASCII alone; most words are spared the dearer fold.
            if (tail.casefold() if tail.isascii() else fold_word(tail)) == folded:
                dropped["self"] += 1
                continue
            if senses is not None:
                meant, settled = senses.meant(item)
                self.unresolved += not settled
            if not meant:
                dropped["form_of"] += 1
                continue
            kept += 1
            page = item.get("source", "")
            page = page if isinstance(page, str) else ""
            own = _strings(item["tags"]) if "tags" in item else ()
            for sense, share in meant:
                marks = _joined((*tags, *sense.tags, *own)) if own or tags or sense.tags else ""
                add((word, tail, name, weight * share, language, pos, sense.gloss, marks, page))
        self.items += len(items)
        self.kept += kept


class _Head(NamedTuple):
    word: str
    folded: str
    language: str
    pos: str
    tags: tuple[str, ...]


class _Senses:
    """The senses of an entry, to which linkages of the word are given."""

    def __init__(self, senses: list[_Sense]) -> None:
        self._all = senses
        self._real = [sense for sense in senses if not sense.is_form]
        self._labels: dict[str, list[_Sense]] | None = None
        self._indexed: dict[object, list[tuple[_Sense, float]]] = {}

    def meant(self, item: Mapping[str, Any]) -> tuple[list[tuple[_Sense, float]], bool]:
        """The senses that an item is about with their weights, and whether what the item says of them was settled.

        No sense at all means that only forms of other words are meant.
        """
        if self._all and not self._real:
            return [], True
        index, weights = item.get("sense_index"), item.get("_dis1")
        known = self._indexed.get(index) if isinstance(index, (str, int)) else None
        if known is not None:
            return known, True
        found: list[_Sense] = []
        text = item.get("sense")
        text = " ".join(text.split()) if isinstance(text, str) else ""
        if index is not None:
            found = self._by_index(index)
            if found:
                known = self._indexed[index] = [(sense, 1.0) for sense in found if not sense.is_form]
                return known, True
        if text:
            found = [sense for sense in self._all if _same(text, sense.glosses)]
        if found:
            return [(sense, 1.0) for sense in found if not sense.is_form], True
        if weights is not None:
            shares = self._by_weight(weights)
            if shares:
                return shares, True
        said = index is not None or bool(text) or weights is not None
        if not text and len(self._real) == 1:
            return [(self._real[0], 1.0)], not said
        return [(_NO_SENSE._replace(gloss=text), 1.0)], not said

    def _by_index(self, index: object) -> list[_Sense]:
        labels = _labels_of(index)
        if self._labels is None:
            self._labels = {}
            for sense in self._all:
                for label in _labels_of(sense.index):
                    self._labels.setdefault(label, []).append(sense)
            if not self._labels:
                # Editions that do not number their senses count them.
                self._labels = {str(number): [sense] for number, sense in enumerate(self._all, 1)}
        found = [sense for label in labels for sense in self._labels.get(label, ())]
        return list(dict.fromkeys(found)) if len(found) > 1 else found

    def _by_weight(self, weights: object) -> list[tuple[_Sense, float]]:
        shares = _shares(weights) if isinstance(weights, str) else ()
        if len(shares) != len(self._all):
            return []
        pairs = [(sense, share) for sense, share in zip(self._all, shares, strict=True) if not sense.is_form]
        largest = max((share for _, share in pairs), default=0.0)
        return [(sense, share) for sense, share in pairs if share == largest > 0]


def _sense(raw: Mapping[str, Any]) -> _Sense:
    glosses = tuple(" ".join(gloss.split()) for gloss in _strings(raw.get("glosses")))
    tags = _strings(raw.get("tags"))
    # Glosses run from the general to the particular.
    return _Sense(glosses[-1] if glosses else "", glosses, tags, raw.get("sense_index"), not FORMS.isdisjoint(tags))


def _strings(value: object) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()


@lru_cache(maxsize=4096)
def _joined(tags: tuple[str, ...]) -> str:
    return TAG_JOINER.join(sorted({tag for tag in tags if tag}))


def _untyped(item: object) -> str:
    return "no_word" if isinstance(item, dict) and item.get("word") is None else "mistyped"


def _unusable(word: str) -> str | None:
    if not word:
        return "no_word"
    if _ANCHOR.search(word):
        return "anchor"
    if _PAGE.search(word):
        return "page"
    return "markup" if _MARKUP.search(word) else None


def _same(text: str, glosses: Sequence[str]) -> bool:
    return any(text == gloss or text.casefold() == gloss.casefold() for gloss in glosses)


def _labels_of(index: object) -> tuple[str, ...]:
    if isinstance(index, str):
        return _parsed_labels(index)
    return (str(index),) if isinstance(index, int) and not isinstance(index, bool) else ()


@lru_cache(maxsize=4096)
def _parsed_labels(text: str) -> tuple[str, ...]:
    """`1, 3–5, 7b` -> 1, 3, 4, 5, 7b."""
    labels: list[str] = []
    for low, high, single in _LABEL.findall(text[:200]):
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
    total = math.fsum(weights)
    if not total > 0 or not math.isfinite(total) or min(weights) < 0:
        return ()
    return tuple(weight / total for weight in weights)
