"""The plain statements of the world: relations between words, and the chain of classes with its properties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sensekd.demo.language import Kind, Language, Pair
from sensekd.demo.records import Occurrence
from sensekd.demo.sentences import Sentence, fill


@dataclass(frozen=True, slots=True)
class Withheld:
    """What the question sets ask and no training or held-out text may say.

    ``facts`` holds (thing, property), ``relations`` (relation, x, y) in the asked form and direction, ``sentences``
    the example sentences of the sense questions.
    """

    facts: frozenset[tuple[str, str]]
    relations: frozenset[tuple[str, str, str]]
    sentences: frozenset[str]


def relation_statements(language: Language, withheld: Withheld) -> tuple[tuple[Sentence, ...], ...]:
    """For every pair of the lexicon, each form in each direction but the withheld ones."""
    return tuple(tuple(_statements_of(language, pair, withheld)) for pair in language.pairs)


def _statements_of(language: Language, pair: Pair, withheld: Withheld) -> Iterator[Sentence]:
    for x, y in ((pair.first, pair.second), (pair.second, pair.first)):
        forms = list(language.forms[pair.relation])
        if (pair.relation, x, y) not in withheld.relations:
            forms += language.forms[f"{pair.relation} asked"] * 2
        for form in forms:
            text, starts = fill(form, {"x": x, "y": y})
            yield Sentence(f"{text}.", _gold(pair, {"x": x, "y": y}, starts))


def _gold(pair: Pair, words: Mapping[str, str], starts: Mapping[str, int]) -> tuple[Occurrence, ...]:
    """The ambiguous word of a sense's own synonym pair; the other word tells its sense where it comes first."""
    if pair.sense is None:
        return ()
    slot = "x" if words["x"] == pair.first else "y"
    start, told = starts[slot], starts[slot] > min(starts.values())
    return (Occurrence(pair.first, pair.sense, start, start + len(pair.first), told),)


def kinds_above(language: Language, kind: Kind) -> tuple[Kind, ...]:
    """The kind itself and everything above it, nearest first."""
    by_name = {k.name: k for k in language.kinds}
    chain = [kind]
    while chain[-1].above is not None:
        chain.append(by_name[chain[-1].above])
    return tuple(chain)


def properties_of(language: Language, kind: Kind) -> tuple[str, ...]:
    """All that holds of a member of the kind, what its own class gives first."""
    return tuple(p for k in kinds_above(language, kind) for p in k.properties)


def class_statements(language: Language) -> tuple[Sentence, ...]:
    """Which class stands above which, and what holds of each."""
    sentences: list[Sentence] = []
    named = language.grammar.named
    for kind in language.kinds:
        words = dict(named("k", kind.name))
        sentences += _all_forms(language, "class", [words | {"p": p} for p in properties_of(language, kind)])
        above = kinds_above(language, kind)[1:]
        member = dict(named("e", kind.name))
        sentences += _all_forms(language, "member", [{**member, **named("k", k.name)} for k in above])
    return tuple(sentences)


def thing_statements(language: Language, withheld: Withheld) -> tuple[tuple[Sentence, ...], ...]:
    """For every thing of the chain: its classes, and its properties but the withheld ones."""
    statements: list[tuple[Sentence, ...]] = []
    named = language.grammar.named
    for kind in language.kinds:
        for thing in kind.members:
            words = dict(named("e", thing))
            above = [{**words, **named("k", k.name)} for k in kinds_above(language, kind)]
            told = [p for p in properties_of(language, kind) if (thing, p) not in withheld.facts]
            properties = _all_forms(language, "property", [words | {"p": p} for p in told])
            statements.append((*_all_forms(language, "member", above), *properties))
    return tuple(statements)


def _all_forms(language: Language, key: str, fillings: list[dict[str, str]]) -> list[Sentence]:
    return [Sentence(f"{fill(form, words)[0]}.") for words in fillings for form in language.forms[key]]
