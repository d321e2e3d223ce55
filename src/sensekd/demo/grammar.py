"""What a language does to a noun: the forms that frames can ask for, from an entry of the hand-written word lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

LANGUAGES: Final = {"en": "english", "de": "german"}
"""Folders of `demo` by language code."""


class Grammar(Protocol):
    """Turns an entry of a word list into texts by slot name."""

    def bare(self, entry: str) -> str:
        """The word alone."""

    def forms(self, slot: str, entry: str) -> Mapping[str, str]:
        """What a frame may ask for where a scene offers `entry` for `slot`; the bare word stands under `slot`."""

    def named(self, slot: str, noun: str) -> Mapping[str, str]:
        """A noun of the chain of classes: one of them under `slot`, every one of them under `slot` + "0"."""

    def determined(self, gender: str) -> Mapping[str, str]:
        """The definite article of the ambiguous word, by slot."""


class English:
    """Nouns do not change; only the indefinite article does, and frames hold all other words."""

    def bare(self, entry: str) -> str:
        """The entry itself."""
        return entry

    def forms(self, slot: str, entry: str) -> Mapping[str, str]:
        """The entry under its slot."""
        return {slot: entry}

    def named(self, slot: str, noun: str) -> Mapping[str, str]:
        """`an owl` and `owl`."""
        return {slot: f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}", f"{slot}0": noun}

    def determined(self, gender: str) -> Mapping[str, str]:
        """Nothing: frames hold `the`."""
        return {}


class German:
    """Entries `noun/gender` and, for places, `noun/gender/preposition`; anything else is a word without forms.

    Articles carry the case; the nouns of the lists are those that do not change in the singular outside the genitive.
    """

    _DEFINITE: Final = {
        "n": {"m": "der", "f": "die", "n": "das"},
        "a": {"m": "den", "f": "die", "n": "das"},
        "d": {"m": "dem", "f": "der", "n": "dem"},
    }
    _CONTRACTED: Final = {("an", "dem"): "am", ("in", "dem"): "im", ("bei", "dem"): "beim", ("zu", "dem"): "zum"}

    def bare(self, entry: str) -> str:
        """The entry without gender and preposition."""
        return entry.partition("/")[0]

    def forms(self, slot: str, entry: str) -> Mapping[str, str]:
        """The noun with its article: `_n`, `_a`, `_d` by case; places also `_l` (where), `_b` (near), `_z` (to)."""
        noun, *rest = entry.split("/")
        if not rest:
            return {slot: entry}
        gender, *preposition = rest
        found = {slot: noun, **{f"{slot}_{case}": f"{of[gender]} {noun}" for case, of in self._DEFINITE.items()}}
        for where in preposition:
            for ending, word in (("l", where), ("b", "bei"), ("z", "zu")):
                found[f"{slot}_{ending}"] = f"{self._before(word, gender)} {noun}"
        return found

    def named(self, slot: str, noun: str) -> Mapping[str, str]:
        """`eine Eule` and `jede Eule`."""
        word, _, gender = noun.partition("/")
        one, every = ("eine", "jede") if gender == "f" else ("ein", {"m": "jeder", "n": "jedes"}[gender])
        return {slot: f"{one} {word}", f"{slot}0": f"{every} {word}"}

    def determined(self, gender: str) -> Mapping[str, str]:
        """`D_n`, `D_a`, `D_d`."""
        return {f"D_{case}": of[gender] for case, of in self._DEFINITE.items()}

    def _before(self, preposition: str, gender: str) -> str:
        """The preposition with the dative article, in one word where German has one."""
        article = self._DEFINITE["d"][gender]
        if (preposition, article) == ("zu", "der"):
            return "zur"
        return self._CONTRACTED.get((preposition, article), f"{preposition} {article}")


GRAMMARS: Final[Mapping[str, Grammar]] = {"english": English(), "german": German()}
"""By folder."""
