"""One entry of Wiktextract to relations: linkages of senses and of words, and every reason to drop one.

An entry is one (word, language, etymology, part of speech). Linkages stand with a sense, or with the whole word where
the page did not say which sense is meant; then `word_senses` finds the sense. What it cannot find stays a relation of
the word, under the linkage's own `sense` text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import polars as pl

from sensekd.lexicon.relations import SCHEMA, fold_word
from sensekd.lexicon.word_senses import TAG_JOINER, Meaning, WordSenses, joined, meaning_of, strings

POS: Final = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_SUSPECT: Final = re.compile(r"[\[\]{}<>|#:\x00-\x1f\x7f]|''|&#?\w+;|^\s|\s$|^$").search
_ANCHOR: Final = re.compile(r"#.")
_PAGE: Final = re.compile(r"^:|^(?:Thesaurus|Wikisaurus|Appendix|Category|Wikipedia|Reconstruction|https?):")
_MARKUP: Final = re.compile(r"[\[\]{}<>|\x00-\x1f\x7f]|''|&#?\w+;")
_CLAIM: Final = ("head", "relation", "weight", "language", "pos", "gloss", "tags", "page")


class _Head(NamedTuple):
    word: str
    folded: str
    language: str
    pos: str
    tags: tuple[str, ...]


@dataclass
class EntryReader:
    """Turns entries into relations and counts what it leaves out.

    Attributes:
        linkages: key of an entry -> (relation, weight), such as `{"synonyms": ("synonym", 1.0)}`.
        items: linkages seen.
        kept: linkages that gave a row or several.
        dropped: linkages that gave none, by reason.
        unresolved: linkages whose `sense_index`, `sense` or `_dis1` names no sense of the entry; they are kept.
    """

    linkages: Mapping[str, tuple[str, float]]
    items: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unresolved: int = 0
    # A row is a word and a claim: everything else that stands in it, which is the same for many words.
    _tails: list[str] = field(default_factory=list)
    _claims: list[int] = field(default_factory=list)
    _table: list[tuple[str, str, float, str, str, str, str, str]] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Rows that `take` would give."""
        return len(self._tails)

    def take(self, source: str) -> pl.DataFrame:
        """The rows since the last call, of which there must be some; a thesaurus page stands behind the source."""
        columns = dict(zip(_CLAIM, zip(*self._table, strict=True), strict=True))
        pages = [f"{source} {page}" if page else source for page in columns.pop("page")]
        marks = pl.Series("tags", [marks or None for marks in columns.pop("tags")], dtype=pl.String())
        tags = pl.select(pl.coalesce(marks.str.split(TAG_JOINER), pl.lit([], dtype=SCHEMA["tags"]))).to_series()
        series = [pl.Series(name, columns[name], dtype=SCHEMA[name]) for name in columns]
        series += [tags.alias("tags"), pl.Series("source", pages, dtype=pl.String())]
        rows = pl.DataFrame(series)[pl.Series(self._claims, dtype=pl.UInt32())]
        rows.insert_column(1, pl.Series("tail", self._tails, dtype=pl.String()))
        self._tails, self._claims, self._table = [], [], []
        return rows

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
        head = _Head(entry["word"], fold_word(entry["word"]), language, pos, strings(entry.get("tags")))
        raw = entry.get("senses")
        raw = raw if isinstance(raw, list) else []
        for sense in raw:
            if isinstance(sense, dict):
                for key, relation in self.linkages.items():
                    if key in sense:
                        self._take(head, sense[key], relation, meaning_of(sense, head.tags))
        senses: WordSenses | None = None
        for key, relation in self.linkages.items():
            if key in entry:
                senses = senses or WordSenses(raw, head.tags)
                self._take(head, entry[key], relation, senses)
        if self.kept > kept:
            return "kept"
        return "nothing_usable" if self.items > items else "without_relations"

    def _take(self, head: _Head, items: object, relation: tuple[str, float], about: Meaning | WordSenses) -> None:
        """Rows of one list of linkages, for one meaning, or for the senses that each of them names."""
        if not isinstance(items, list):
            self.items += 1
            self.dropped["mistyped"] += 1
            return
        name, folded, dropped = relation[0], head.folded, self.dropped
        tails, numbers, kept = self._tails, self._claims, 0
        for item in items:
            tail = item.get("word") if isinstance(item, dict) else None
            if not isinstance(tail, str):
                dropped[_untyped(item)] += 1
                continue
            # One plain word is the commonest case and needs no closer look.
            if not tail.isalnum() and _SUSPECT(tail):
                tail = tail.strip()
                reason = _unusable(tail)
                if reason:
                    dropped[reason] += 1
                    continue
            # Normal forms leave ASCII alone.
            if (tail.casefold() if tail.isascii() else fold_word(tail)) == folded:
                dropped["self"] += 1
                continue
            if isinstance(about, Meaning):
                meaning = about
            else:
                # Most linkages of an entry share a few indices.
                index = item.get("sense_index")
                meaning = (about.known.get(index) if type(index) is str else None) or about.meaning(item)
            if not meaning.senses:
                dropped["form_of"] += 1
                continue
            kept += 1
            if not meaning.settled:
                self.unresolved += 1
            if "tags" in item or "source" in item:
                claims = self._claim(head, relation, meaning, item)
            elif name in meaning.claims:
                claims = meaning.claims[name]
            else:
                claims = meaning.claims[name] = self._claim(head, relation, meaning, {})
            for claim in claims:
                tails.append(tail)
                numbers.append(claim)
        self.items += len(items)
        self.kept += kept

    def _claim(self, head: _Head, relation: tuple[str, float], meaning: Meaning, item: Mapping[str, Any]) -> list[int]:
        """Positions in the table of what an item says, one for each sense."""
        page, own = item.get("source"), strings(item.get("tags"))
        page = page if isinstance(page, str) else ""
        first = len(self._table)
        for sense, share in meaning.senses:
            marks = joined((*sense.tags, *own)) if own else sense.marks
            weight = relation[1] * share
            self._table.append((head.word, relation[0], weight, head.language, head.pos, sense.gloss, marks, page))
        return list(range(first, len(self._table)))


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
