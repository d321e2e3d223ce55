"""A miniature world from a seed: short English texts with the truth attached.

Everything random comes from one ``random.Random`` per stream (questions, training, held-out), so that the training
texts do not depend on how many held-out ones are asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
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

__all__ = ["Document", "Occurrence", "Question", "World", "build_world", "write_world"]

SHARES = {"scene": 0.34, "gloss": 0.13, "relation": 0.34, "chain": 0.19}
"""Documents of each sort."""

EVEN = 0.2
"""Share of the scene documents that take any scene; the others take one by its number of senses."""


def build_world(seed: int = 0, documents: int = 20_000, heldout: int = 600) -> World:
    """Generates the world.

    Args:
        seed: everything follows from it.
        documents: training documents of about 50 words each.
        heldout: documents of the same sorts that equal no training document.
    """
    language = read_language()
    questions, withheld = ask(language, random.Random(f"{seed}:questions"))
    author = _Author(language, withheld)
    seen: set[str] = set()
    train = author.write(documents, random.Random(f"{seed}:train"), seen)
    return World(
        train=train,
        heldout=author.write(heldout, random.Random(f"{seed}:heldout"), seen),
        synonyms=tuple((p.first, p.second) for p in language.pairs if p.relation == "synonym"),
        antonyms=tuple((p.first, p.second) for p in language.pairs if p.relation == "antonym"),
        questions=questions,
        glosses={sense.name: sense.gloss for sense in language.senses},
        content_words=language.content_words,
    )


def write_world(world: World, folder: Path) -> None:
    """Writes ``train.jsonl``, ``heldout.jsonl``, ``synonyms.tsv``, ``antonyms.tsv`` and ``questions/*.jsonl``."""
    import orjson

    def write(path: Path, lines: Iterable[bytes]) -> None:
        path.write_bytes(b"".join(line + b"\n" for line in lines))

    (folder / "questions").mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", map(orjson.dumps, world.train))
    write(folder / "heldout.jsonl", map(orjson.dumps, world.heldout))
    write(folder / "synonyms.tsv", ("\t".join(pair).encode() for pair in world.synonyms))
    write(folder / "antonyms.tsv", ("\t".join(pair).encode() for pair in world.antonyms))
    for name, questions in sorted(world.questions.items()):
        write(folder / "questions" / f"{name}.jsonl", map(orjson.dumps, questions))


class _Author:
    """Writes documents of every sort, and never what is withheld."""

    def __init__(self, language: Language, withheld: Withheld) -> None:
        self.language = language
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
            return self._unasked(lambda: sense_sentence(self.language, rng.choice(senses), rng))
        if luck < 0.64:
            return filler_sentence(self.language, scene, rng)
        return pair_sentence(self.language, rng.choice(self.pairs), scene, rng)

    def _gloss(self, rng: random.Random) -> list[Sentence]:
        sentences: list[Sentence] = []
        for sense in rng.sample(self.language.senses, 2):
            example, told = gloss_sentences(self.language, sense, rng)
            while example.text in self.withheld.sentences:
                example, told = gloss_sentences(self.language, sense, rng)
            sentences += [example, told]
        return sentences

    def _relation(self, rng: random.Random) -> list[Sentence]:
        return [rng.choice(some) for some in rng.sample(self.relations, rng.randint(3, 6), counts=self.weights)]

    def _chain(self, rng: random.Random) -> list[Sentence]:
        things = [rng.choice(some) for some in rng.sample(self.things, rng.randint(3, 5))]
        return [*things, rng.choice(self.classes)]

    def _unasked(self, draw: Callable[[], Sentence]) -> Sentence:
        while (sentence := draw()).text in self.withheld.sentences:
            pass
        return sentence
