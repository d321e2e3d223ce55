"""Reads the hand-written vocabulary of a world: scenes, ambiguous words, relations, the chain of classes, forms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import pairwise

from sensekd.demo.grammar import GRAMMARS, Grammar

Frame = tuple[str, ...]
"""Literal text at even places, slot names at odd ones."""

_SLOT = re.compile(r"\{(\w+)\}")
_HEAD = re.compile(r"(\w+)(?:/([mfn]))? (\w+) (~?)(\w+): (.+)")
_VERBS = ("can", "has", "kann", "hat")


@dataclass(frozen=True, slots=True)
class Sense:
    """One sense of an ambiguous word. ``substitute`` fits its frames; only ``synonymous`` ones are in the lexicon."""

    word: str
    scene: str
    substitute: str
    synonymous: bool
    gloss: str
    before: tuple[Frame, ...]
    after: Frame
    gender: str = ""

    @property
    def name(self) -> str:
        return f"{self.word}.{self.scene}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two related words; ``relation`` is ``synonym`` or ``antonym``, ``pos`` the letter before its line."""

    first: str
    second: str
    relation: str
    pos: str
    sense: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Words of one meaning, and their opposites place by place."""

    pos: str
    sides: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of things, the class above it, its members and what holds of all of them ("can fly", "has wings")."""

    name: str
    above: str | None
    members: tuple[str, ...]
    properties: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """Everything a person wrote for one world; nothing here is random."""

    scenes: Mapping[str, Mapping[str, tuple[str, ...]]]
    senses: tuple[Sense, ...]
    pairs: tuple[Pair, ...]
    groups: tuple[Group, ...]
    kinds: tuple[Kind, ...]
    forms: Mapping[str, tuple[Frame, ...]]
    names: tuple[str, ...]
    grammar: Grammar = GRAMMARS["english"]

    @cached_property
    def told_by_gender(self) -> frozenset[str]:
        """Ambiguous words whose senses differ in gender, so that an article before the word tells them apart."""
        genders: dict[str, set[str]] = {}
        for sense in self.senses:
            genders.setdefault(sense.word, set()).add(sense.gender)
        return frozenset(word for word, found in genders.items() if len(found) > 1)

    @cached_property
    def senses_of_scene(self) -> Mapping[str, tuple[Sense, ...]]:
        return {scene: tuple(s for s in self.senses if s.scene == scene) for scene in self.scenes}

    @cached_property
    def content_words(self) -> tuple[str, ...]:
        """The single words of the inventories, sorted; function words and names are not among them."""
        bare = self.grammar.bare
        words = {bare(word) for slots in self.scenes.values() for some in slots.values() for word in some}
        words |= {word for pair in self.pairs for word in (pair.first, pair.second)}
        words |= {word for sense in self.senses for word in (sense.word, sense.substitute)}
        words |= {bare(word) for kind in self.kinds for word in (kind.name, *kind.members)}
        return tuple(sorted(words))


def read_language(name: str = "english") -> Language:
    """Parses the text files under ``demo/<name>``; the formats are described at the head of each file."""
    sections = dict(_sections(_lines(name, "forms")))
    pairs, groups = _relations(name)
    senses = tuple(_senses(name))
    own = [Pair(s.word, s.substitute, "synonym", "n", s.name) for s in senses if s.synonymous]
    return Language(
        scenes={scene: _scene(lines) for scene, lines in _sections(_lines(name, "topics"))},
        senses=senses,
        pairs=(*pairs, *own),
        groups=groups,
        kinds=tuple(_kinds(name)),
        forms={key: tuple(map(compile_frame, lines)) for key, lines in sections.items() if key != "names"},
        names=tuple(sections["names"]),
        grammar=GRAMMARS[name],
    )


def compile_frame(text: str) -> Frame:
    """``"The {A} ran"`` becomes ``("The ", "A", " ran")``."""
    return tuple(_SLOT.split(text))


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _lines(language: str, part: str) -> list[str]:
    path = resources.files("sensekd.demo") / language / f"{part}.txt"
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def _sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    starts = [i for i, line in enumerate(lines) if line.startswith("[")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start].strip("[]"), lines[start + 1 : end]


def _scene(lines: list[str]) -> Mapping[str, tuple[str, ...]]:
    return {slot: tuple(words.split()) for slot, words in (line.split(": ") for line in lines)}


def _senses(name: str) -> Iterator[Sense]:
    lines = _lines(name, "senses")
    heads = [i for i, line in enumerate(lines) if _HEAD.fullmatch(line)]
    for start, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        match = _HEAD.fullmatch(lines[start])
        assert match is not None
        word, gender, scene, tilde, substitute, gloss = match.groups()
        body = lines[start + 1 : end]
        before = tuple(compile_frame(line) for line in body if not line.startswith(">"))
        (after,) = (compile_frame(line.removeprefix("> ")) for line in body if line.startswith(">"))
        yield Sense(word, scene, substitute, not tilde, gloss, before, after, gender or "")


def _relations(name: str) -> tuple[tuple[Pair, ...], tuple[Group, ...]]:
    pairs: list[Pair] = []
    groups: list[Group] = []
    for line in _lines(name, "relations"):
        pos, words = line.split(": ")
        left, right = (tuple(side.split()) for side in words.split("/"))
        groups.append(Group(pos, (left, right)))
        for side in (left, right):
            pairs += [Pair(a, b, "synonym", pos) for a, b in pairwise(side)]
        pairs += [Pair(a, b, "antonym", pos) for a, b in zip(left, right, strict=False)]
    return tuple(pairs), tuple(groups)


def _kinds(name: str) -> Iterator[Kind]:
    """Blocks of a head ``class < above: members`` and the lines ``can:`` and ``has:`` (``kann:``, ``hat:``)."""
    head, properties = "", []
    for line in [*_lines(name, "chain"), ""]:
        verb, _, rest = line.partition(": ")
        if verb in _VERBS:
            properties += [f"{verb} {phrase}" for phrase in rest.split("; ")]
            continue
        if head:
            names, _, members = head.partition(": ")
            kind, _, above = names.partition(" < ")
            yield Kind(kind, above or None, tuple(members.split()), tuple(properties))
        head, properties = line, []
