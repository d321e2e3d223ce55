"""The three multiple-choice sets, and what the texts must leave unsaid because of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from sensekd.demo.language import Language, Pair, Sense, capitalised
from sensekd.demo.records import Question
from sensekd.demo.sentences import fill, sense_sentence
from sensekd.demo.statements import Withheld, properties_of

CHOICES = 4
FACTS = 180
PER_SENSE = 2
PER_PROPERTY = 3
"""At most so many members of one class have the same property withheld: the others are what it is learned from."""


def ask(language: Language, rng: random.Random) -> tuple[dict[str, tuple[Question, ...]], Withheld]:
    """All question sets and what has to be withheld for them."""
    facts, told_facts = _facts(language, rng)
    senses, sentences = _senses(language, rng)
    relations, told_relations = _relations(language, rng)
    withheld = Withheld(frozenset(told_facts), frozenset(told_relations), frozenset(sentences))
    return {"facts": facts, "senses": senses, "relations": relations}, withheld


def _facts(language: Language, rng: random.Random) -> tuple[tuple[Question, ...], list[tuple[str, str]]]:
    """Things and properties that the thing's class has; never said of the thing itself."""
    true = {thing: properties_of(language, k) for k in language.kinds for thing in k.members}
    picked: list[tuple[str, str]] = []
    of_class: Counter[tuple[str, str]] = Counter()
    asked: set[tuple[str, str]] = set()
    every = [(kind, thing, p) for kind in language.kinds for thing in kind.members for p in true[thing]]
    for kind, thing, p in rng.sample(every, len(every)):
        verb = p.split(" ", 1)[0]
        if len(picked) < FACTS and (thing, verb) not in asked and of_class[kind.name, p] < PER_PROPERTY:
            picked.append((thing, p))
            asked.add((thing, verb))
            of_class[kind.name, p] += 1
    answers = [p for _, p in picked]
    questions = []
    for thing, p in picked:
        verb, phrase = p.split(" ", 1)
        wrong = [q for q in answers if q.startswith(f"{verb} ") and q not in true[thing]]
        others = [q.split(" ", 1)[1] for q in _draw(wrong, rng)]
        questions.append((f"{capitalised(language.grammar.named('e', thing)['e'])} {verb}", phrase, others))
    return _arrange(questions, rng), picked


def _senses(language: Language, rng: random.Random) -> tuple[tuple[Question, ...], list[str]]:
    """What a word means in a new sentence; the word's other meanings stand beside the right one."""
    (form,) = language.forms["gloss"]
    questions, sentences = [], []
    for sense in language.senses:
        cue = fill(form, {"W": sense.word, "g": ""})[0].strip()
        for text in _new_sentences(language, sense, rng):
            same_word = [s.gloss for s in language.senses if s.word == sense.word and s != sense]
            same_scene = [s.gloss for s in language.senses if s.scene == sense.scene and s != sense]
            anywhere = [s.gloss for s in language.senses if s.word != sense.word and s.scene != sense.scene]
            near = same_word[: CHOICES - 1] + _draw(same_scene, rng, 1)
            others = (near + _draw(anywhere, rng))[: CHOICES - 1]
            questions.append((f"{text} {cue}", sense.gloss, others))
            sentences.append(text)
    return _arrange(questions, rng), sentences


def _new_sentences(language: Language, sense: Sense, rng: random.Random) -> list[str]:
    texts: dict[str, None] = {}
    while len(texts) < PER_SENSE:
        texts[sense_sentence(language, sense, rng, substitute=False).text] = None
    return list(texts)


def _relations(language: Language, rng: random.Random) -> tuple[tuple[Question, ...], list[tuple[str, str, str]]]:
    """Opposites and synonyms in a form never used for the word; a word of the other relation stands beside.

    A word is withheld in both relations: were it in one only, the form alone would point to the other's word. Of a
    group's words those are taken whose partners are not, so that the reverse of what is asked is always said.
    """
    picked: list[tuple[Pair, str, str]] = []
    for group in language.groups:
        start = rng.randrange(2)
        withheld = [word for side in range(2) for word in group.sides[side][(start + side) % 2 :: 2]]
        picked += [(pair, word, other) for word in withheld for pair, other in _partners(language, word)]
    questions = []
    for pair, x, y in picked:
        (form,) = language.forms[f"{pair.relation} asked"]
        related = _group(language, x)
        opposite = [other for p, other in _partners(language, x) if p.relation != pair.relation]
        pool = [b for p, _, b in picked if p.pos == pair.pos and b not in related]
        others = (_draw(opposite, rng, 1) + _draw(pool, rng))[: CHOICES - 1]
        questions.append((fill(form, {"x": x, "y": ""})[0].strip(), y, others))
    return _arrange(questions, rng), [(pair.relation, x, y) for pair, x, y in picked]


def _partners(language: Language, word: str) -> list[tuple[Pair, str]]:
    """The pairs of a word that is in one group, each with the other word."""
    pairs = [p for p in language.pairs if p.sense is None and word in (p.first, p.second)]
    return [(p, p.second if p.first == word else p.first) for p in pairs]


def _group(language: Language, word: str) -> frozenset[str]:
    return frozenset(w for g in language.groups for w in sum(g.sides, ()) if word in sum(g.sides, ()))


def _draw(pool: Iterable[str], rng: random.Random, count: int = CHOICES - 1) -> list[str]:
    """Up to ``count`` different ones; what stands more often in the pool is likelier."""
    shuffled = list(pool)
    rng.shuffle(shuffled)
    return list(dict.fromkeys(shuffled))[:count]


def _arrange(items: Sequence[tuple[str, str, list[str]]], rng: random.Random) -> tuple[Question, ...]:
    """Shuffles the items, and spreads the right answers evenly over the places."""
    questions = []
    for number, (question, answer, others) in enumerate(rng.sample(items, len(items))):
        place = number % (len(others) + 1)
        choices = [*others[:place], answer, *others[place:]]
        questions.append(Question(question, tuple(choices), place))
    return tuple(rng.sample(questions, len(questions)))
