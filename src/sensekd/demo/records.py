"""The records of the miniature world: documents with gold senses, questions, and the world that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One use of an ambiguous word.

    ``start`` and ``end`` are character offsets into ``Document.text``. ``left_informative`` says whether the text
    before the word tells its sense, which is all that a decoder has read when it predicts the word.
    """

    word: str
    sense: str
    start: int
    end: int
    left_informative: bool


@dataclass(frozen=True, slots=True)
class Document:
    """A short text and every use of an ambiguous word in it, in reading order."""

    text: str
    occurrences: tuple[Occurrence, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A multiple-choice item: ``question + " " + choices[answer]`` is the true statement."""

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class World:
    """A generated world: its texts, its lexicon and its question sets.

    ``synonyms`` and ``antonyms`` hold unordered word pairs, each once. ``questions`` maps ``facts``, ``senses`` and
    ``relations`` to items whose true statement stands in no training document. ``glosses`` maps a sense id such as
    ``bank.river`` to its definition; ``content_words`` are the words that carry the world's meaning.
    """

    train: tuple[Document, ...]
    heldout: tuple[Document, ...]
    synonyms: tuple[tuple[str, str], ...]
    antonyms: tuple[tuple[str, str], ...]
    questions: Mapping[str, tuple[Question, ...]]
    glosses: Mapping[str, str]
    content_words: tuple[str, ...]
