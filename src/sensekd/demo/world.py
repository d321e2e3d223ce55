"""A miniature world from a seed: short texts, English or German, with the truth attached.

Everything random comes from one ``random.Random`` per stream (questions, training, held-out), so that the training
texts do not depend on how many held-out ones are asked for.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from sensekd.demo.language import Language, Sense, read_language
from sensekd.demo.questions import ask
from sensekd.demo.records import Document, Occurrence, Question, World
from sensekd.demo.sentences import (
    Sentence,
    filler_sentence,
    gloss_sentences,
    join,
    pair_sentence,
    sense_sentence,
    untold_sentence,
)
from sensekd.demo.statements import Withheld, class_statements, relation_statements, thing_statements

__all__ = ["Document", "Occurrence", "Question", "World", "build_world", "gold_documents", "write_world"]

SHARES = {"scene": 0.34, "gloss": 0.13, "relation": 0.34, "chain": 0.19}
"""Documents of each sort."""

EVEN = 0.2
"""Share of the scene documents that take any scene; the others take one by its number of senses."""


HELD_BACK = 8
"""One in so many telling sentences stands in held-out documents alone."""

TRIES = 100
"""Draws for one sense before another is taken: a sense has few sentences, and all of them may be on one side."""


def held_back(text: str) -> bool:
    """Whether a sentence that tells a sense is kept for the held-out documents; the sentence alone decides."""
    return zlib.crc32(text.encode()) % HELD_BACK == 0


def build_world(seed: int = 0, documents: int = 20_000, heldout: int = 600, language: str = "english") -> World:
    """Generates the world.

    Args:
        seed: everything follows from it.
        documents: training documents of about 50 words each.
        heldout: documents of the same sorts that equal no training document. No scene sentence of theirs that tells
            a sense before the word stands in a training document.
        language: `english` or `german`.
    """
    spoken = read_language(language)
    questions, withheld = ask(spoken, random.Random(f"{seed}:questions"))
    author = _Author(spoken, withheld)
    seen: set[str] = set()
    train = author.write(documents, random.Random(f"{seed}:train"), seen)
    return World(
        train=train,
        heldout=_Author(spoken, withheld, heldout=True).write(heldout, random.Random(f"{seed}:heldout"), seen),
        synonyms=tuple((p.first, p.second) for p in spoken.pairs if p.relation == "synonym"),
        antonyms=tuple((p.first, p.second) for p in spoken.pairs if p.relation == "antonym"),
        questions=questions,
        glosses={sense.name: sense.gloss for sense in spoken.senses},
        content_words=spoken.content_words,
    )


def write_world(world: World, folder: Path) -> None:
    """Writes ``train.jsonl``, ``heldout.jsonl``, ``gold.jsonl``, ``synonyms.tsv``, ``antonyms.tsv`` and
    ``questions/*.jsonl``."""
    import orjson

    def write(path: Path, lines: Iterable[bytes]) -> None:
        path.write_bytes(b"".join(line + b"\n" for line in lines))

    (folder / "questions").mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", map(orjson.dumps, world.train))
    write(folder / "heldout.jsonl", map(orjson.dumps, world.heldout))
    write(folder / "gold.jsonl", map(orjson.dumps, gold_documents(world)))
    write(folder / "synonyms.tsv", ("\t".join(pair).encode() for pair in world.synonyms))
    write(folder / "antonyms.tsv", ("\t".join(pair).encode() for pair in world.antonyms))
    for name, questions in sorted(world.questions.items()):
        write(folder / "questions" / f"{name}.jsonl", map(orjson.dumps, questions))


def _sentence(text: str, start: int) -> str:
    """The sentence around a character; a sentence ends with a full stop, and a full stop ends a sentence."""
    return text[text.rfind(".", 0, start) + 1 : text.find(".", start)].strip()


def gold_documents(world: World) -> tuple[Document, ...]:
    """The held-out documents, with those occurrences alone whose sentence stands in no training document.

    What is left can judge a dictionary that was built from the training documents: glosses and statements of relations,
    which are said in the same words on both sides, are gone.
    """
    known = {sentence.strip() for document in world.train for sentence in document.text.split(".")}
    found = []
    for document in world.heldout:
        kept = tuple(o for o in document.occurrences if _sentence(document.text, o.start) not in known)
        if kept:
            found.append(replace(document, occurrences=kept))
    return tuple(found)


class _Author:
    """Writes documents of every sort, on one side of the split, and never what is withheld."""

    def __init__(self, language: Language, withheld: Withheld, heldout: bool = False) -> None:
        self.language = language
        self.heldout = heldout
        self.withheld = withheld
        self.relations = relation_statements(language, withheld)
        self.weights = [2 if pair.sense is None else 1 for pair in language.pairs]
        self.things = thing_statements(language, withheld)
        self.classes = class_statements(language)
        self.pairs = tuple(pair for pair in language.pairs if pair.sense is None)
        self.sorts: dict[str, Callable[[random.Random], list[Sentence]]] = {
            "scene": self._scene,
            "gloss": self._gloss,
            "relation": self._relation,
            "chain": self._chain,
        }

    def write(self, count: int, rng: random.Random, seen: set[str]) -> tuple[Document, ...]:
        """``count`` documents, none of them in ``seen``, which grows by them."""
        documents: list[Document] = []
        while len(documents) < count:
            (sort,) = rng.choices(list(SHARES), list(SHARES.values()))
            document = join(self.sorts[sort](rng))
            if document.text not in seen:
                seen.add(document.text)
                documents.append(document)
        return tuple(documents)

    def _scene(self, rng: random.Random) -> list[Sentence]:
        """One scene; only its first sentence can leave a word's sense open, as the rest has the scene before it."""
        even = rng.random() < EVEN
        scene = rng.choice(list(self.language.scenes)) if even else rng.choice(self.language.senses).scene
        senses = self.language.senses_of_scene[scene]
        first = [untold_sentence(self.language, rng.choice(senses), rng)] if rng.random() < 0.3 else []
        return first + [self._in_scene(scene, senses, rng) for _ in range(rng.randint(3, 5))]

    def _in_scene(self, scene: str, senses: tuple[Sense, ...], rng: random.Random) -> Sentence:
        luck = rng.random()
        if luck < 0.48:
            return self._telling(rng.sample(senses, len(senses)), rng)
        if luck < 0.64:
            return filler_sentence(self.language, scene, rng)
        return pair_sentence(self.language, rng.choice(self.pairs), scene, rng)

    def _gloss(self, rng: random.Random) -> list[Sentence]:
        senses = rng.sample(self.language.senses, len(self.language.senses))
        sentences: list[Sentence] = []
        while len(sentences) < 4:
            sense = senses.pop()
            drawn = (gloss_sentences(self.language, sense, rng) for _ in range(TRIES))
            sentences += next((pair for pair in drawn if self._fits(pair[0])), ())
        return sentences

    def _relation(self, rng: random.Random) -> list[Sentence]:
        return [rng.choice(some) for some in rng.sample(self.relations, rng.randint(3, 6), counts=self.weights)]

    def _chain(self, rng: random.Random) -> list[Sentence]:
        things = [rng.choice(some) for some in rng.sample(self.things, rng.randint(3, 5))]
        return [*things, rng.choice(self.classes)]

    def _telling(self, senses: list[Sense], rng: random.Random) -> Sentence:
        """A telling sentence of the first sense that has one on this side of the split."""
        drawn = (sense_sentence(self.language, sense, rng) for sense in senses for _ in range(TRIES))
        return next(sentence for sentence in drawn if self._fits(sentence))

    def _fits(self, sentence: Sentence) -> bool:
        """Split with a substitute in the word's place too: free ones would crowd the other side's few sentences."""
        return sentence.text not in self.withheld.sentences and held_back(sentence.text) == self.heldout
