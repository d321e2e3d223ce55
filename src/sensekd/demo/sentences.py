"""Fills frames with words: one sentence at a time, the gold senses kept beside the text."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sensekd.demo.language import Frame, Language, Pair, Sense, capitalised
from sensekd.demo.records import Document, Occurrence

SUBSTITUTED = 0.2
"""Share of the frames of an ambiguous word that hold its substitute: the word stays the likeliest filler."""

UNTOLD = 0.2
"""Share of the sentences without a cue before the word that have none after it either."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with its full stop, and the ambiguous words in it."""

    text: str
    occurrences: tuple[Occurrence, ...] = ()


def join(sentences: Sequence[Sentence]) -> Document:
    """One paragraph, offsets moved along."""
    occurrences: list[Occurrence] = []
    at = 0
    for sentence in sentences:
        occurrences += [replace(o, start=o.start + at, end=o.end + at) for o in sentence.occurrences]
        at += len(sentence.text) + 1
    return Document(" ".join(sentence.text for sentence in sentences), tuple(occurrences))


def fill(frame: Frame, words: Mapping[str, str]) -> tuple[str, dict[str, int]]:
    """The text without a full stop and where each slot's word starts (its last place where it stands twice)."""
    parts: list[str] = []
    starts: dict[str, int] = {}
    at = 0
    for place, piece in enumerate(frame):
        part = words[piece] if place % 2 else piece
        if place % 2:
            starts[piece] = at
        parts.append(part)
        at += len(part)
    return capitalised("".join(parts)), starts


def scene_words(language: Language, scene: str, rng: random.Random) -> dict[str, str]:
    """A word for every slot of a scene, and two different names."""
    words: dict[str, str] = {}
    for slot, some in language.scenes[scene].items():
        words |= language.grammar.forms(slot, rng.choice(some))
    words["n"], words["m"] = rng.sample(language.names, 2)
    return words


def sense_sentence(language: Language, sense: Sense, rng: random.Random, substitute: bool = True) -> Sentence:
    """A sentence whose left context tells the sense; with ``substitute``, now and then of a near word instead."""
    words = scene_words(language, sense.scene, rng)
    replaced = substitute and rng.random() < SUBSTITUTED
    words["W"] = sense.substitute if replaced else sense.word
    text, starts = fill(rng.choice(sense.before), words)
    return Sentence(f"{text}.", () if replaced else (_occurrence(sense, starts["W"], True),))


def untold_sentence(language: Language, sense: Sense, rng: random.Random) -> Sentence:
    """A sentence whose left context does not tell the sense, unless the gender of an article does."""
    form = "never" if rng.random() < UNTOLD else "after"
    words = scene_words(language, sense.scene, rng)
    words |= {"W": sense.word, "R": "".join(sense.after), **language.grammar.determined(sense.gender)}
    text, starts = fill(rng.choice(language.forms[form]), words)
    return Sentence(f"{text}.", (_occurrence(sense, starts["W"], sense.word in language.told_by_gender),))


def gloss_sentences(language: Language, sense: Sense, rng: random.Random) -> tuple[Sentence, Sentence]:
    """A telling sentence, and what the word means there."""
    (form,) = language.forms["gloss"]
    text, starts = fill(form, {"W": sense.word, "g": sense.gloss})
    told = Sentence(f"{text}.", (_occurrence(sense, starts["W"], True),))
    return sense_sentence(language, sense, rng, substitute=False), told


def filler_sentence(language: Language, scene: str, rng: random.Random) -> Sentence:
    return Sentence(f"{fill(rng.choice(language.forms['filler']), scene_words(language, scene, rng))[0]}.")


def pair_sentence(language: Language, pair: Pair, scene: str, rng: random.Random) -> Sentence:
    """Two opposites held against each other in a scene, or two words of one meaning agreeing."""
    form = f"{'contrast' if pair.relation == 'antonym' else 'same'} {pair.pos}"
    words = scene_words(language, scene, rng)
    words["x"], words["y"] = rng.sample((pair.first, pair.second), 2)
    return Sentence(f"{fill(rng.choice(language.forms[form]), words)[0]}.")


def _occurrence(sense: Sense, start: int, left_informative: bool) -> Occurrence:
    return Occurrence(sense.word, sense.name, start, start + len(sense.word), left_informative)
