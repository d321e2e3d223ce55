from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensekd.lexicon import ANTONYM, SYNONYM, Lexicon, merge, relation_frame
from sensekd.lexicon.affixes import PREFIXES, SUFFIXES, Parts, parts_of_segmentation, parts_of_template
from sensekd.lexicon.polarity import Negation, negation_of, negations_of_entry


def table(*pairs: str, pos: str = "a", language: str = "en") -> pl.DataFrame:
    """`a ~ b` is a synonym, `a ! b` an antonym."""
    rows = [pair.split() for pair in pairs]
    relations = [SYNONYM if sign == "~" else ANTONYM for _, sign, _ in rows]
    return relation_frame({
        "head": [row[0] for row in rows], "tail": [row[2] for row in rows], "relation": relations, "pos": pos,
        "language": language, "source": "s",
    })  # fmt: skip


def negation(word: str, *parts: str, language: str = "en") -> Negation:
    found = negations_of_entry(
        {"word": word, "etymology_templates": [
            {"name": "af", "args": {"1": language, **{str(n): part for n, part in enumerate(parts, 2)}}}
        ]}, language, "w",
    )  # fmt: skip
    assert len(found) == 1
    return found[0]


def signs(lexicon: Lexicon) -> set[str]:
    rows = lexicon.relations.select("head", "relation", "tail").iter_rows()
    return {f"{head} {'~' if relation == SYNONYM else '!'} {tail}" for head, relation, tail in rows if head < tail}


UNHAPPY = negation("unhappy", "un-", "happy")


@pytest.mark.parametrize(
    ("stated", "negations", "expected"),
    [
        # The case of the method.
        (["unhappy ~ sad", "happy ~ glad"], [UNHAPPY], {"happy ! sad", "glad ~ happy", "sad ~ unhappy"}),
        # What is stated stays.
        (["happy ! unhappy"], [UNHAPPY], {"happy ! unhappy"}),
        (["happy ! unhappy", "unhappy ~ sad"], [UNHAPPY], {"happy ! unhappy", "sad ~ unhappy", "happy ! sad"}),
        (["unhappy ~ sad", "happy ! sad"], [UNHAPPY], {"sad ~ unhappy", "happy ! sad"}),
        # Antonyms of the negated word are no synonyms of its base.
        (["unhappy ! glad", "happy ~ merry"], [UNHAPPY], {"glad ! unhappy", "happy ~ merry"}),
        # A base that the lexicon does not know counts where the etymology names it and the word spells it.
        (["unhappy ~ sad"], [UNHAPPY], {"sad ~ unhappy", "happy ! sad"}),
        (["impecunious ~ poor"], [negation("impecunious", "in-", "pecūnious")], {"impecunious ~ poor"}),
        (["penniless ~ poor"], [negation("penniless", "penny", "-less")], {"penniless ~ poor"}),
        (["hopeless ~ bad"], [negation("hopeless", "hope", "-less")], {"bad ~ hopeless"}),
        (["unhappiness ~ sorrow"], [negation("unhappiness", "un-", "happy", "-ness")], {"sorrow ~ unhappiness"}),
        (["unhappiness ~ sorrow", "happiness ~ joy"], [negation("unhappiness", "un-", "happy", "-ness")],
         {"sorrow ~ unhappiness", "happiness ~ joy", "happiness ! sorrow"}),
        # The affix does not negate here; nothing becomes its own antonym.
        (["ravel ~ unravel", "unravel ~ untangle"], [negation("unravel", "un-", "ravel")],
         {"ravel ~ unravel", "unravel ~ untangle"}),
        (["flammable ~ inflammable", "inflammable ~ burnable"], [negation("inflammable", "in-", "flammable")],
         {"flammable ~ inflammable", "burnable ~ inflammable"}),
        # A stated synonym is never turned into an antonym.
        (["invaluable ~ precious", "valuable ~ precious"], [negation("invaluable", "in-", "valuable")],
         {"invaluable ~ precious", "precious ~ valuable"}),
        # Both words negated: each base against the other word.
        (["unhappy ~ unlucky", "happy ~ glad", "lucky ~ favoured"], [UNHAPPY, negation("unlucky", "un-", "lucky")],
         {"unhappy ~ unlucky", "happy ! unlucky", "lucky ! unhappy", "glad ~ happy", "favoured ~ lucky"}),
        # Two words with one base.
        (["unhappy ~ nonhappy", "happy ~ glad"], [UNHAPPY], {"nonhappy ~ unhappy", "happy ! nonhappy", "glad ~ happy"}),
        # Case does not matter, and the lexicon's spelling is taken.
        (["Unhappy ~ sad", "Happy ~ glad"], [UNHAPPY], {"Happy ! sad", "Happy ~ glad", "Unhappy ~ sad"}),
    ],
)  # fmt: skip
def test_negating_affixes_turn_synonyms_into_antonyms(
    stated: list[str], negations: list[Negation], expected: set[str]
) -> None:
    lexicon = merge([table(*stated)], negations=negations)
    assert signs(lexicon) == expected
    assert signs(merge([table(*stated)], negations=negations * 2)) == expected


def test_part_of_speech_weight_source_and_counts() -> None:
    frames = [table("hopeless ~ desperate", "unhappy ~ sad", "happy ~ glad"), table("hope ~ trust", pos="n")]
    lexicon = merge(frames, negations=[UNHAPPY, negation("hopeless", "hope", "-less")])
    derived = lexicon.relations.filter(relation=ANTONYM).select("head", "tail", "weight", "pos", "source").rows()
    assert derived == [("happy", "sad", 0.5, "a", "s + un- of w"), ("sad", "happy", 0.5, "a", "s + un- of w")]
    assert lexicon.facts["polarity"] == {
        "words": 2, "used": 1, "refused": {"unknown_base": 0, "synonym_of_base": 0},
        "rows": {"base_itself": 0, "part_of_speech": 1, "contradicted": 0, "stated": 0}, "antonyms": 1,
    }  # fmt: skip


def test_another_language_is_another_lexicon() -> None:
    frames = [table("unhappy ~ sad", "happy ~ glad"), table("unhappy ~ traurig", "happy ~ froh", language="de")]
    lexicon = merge(frames, negations=[UNHAPPY])
    assert lexicon.relations.filter(relation=ANTONYM)["language"].unique().to_list() == ["en"]


@pytest.mark.parametrize(
    ("word", "parts", "bases"),
    [
        ("unhappy", Parts(("un",), ("happy",), ()), ("happy",)),
        # Spelling without the affix, and the stem as stated; which of them is a word the lexicon decides.
        ("penniless", Parts((), ("penny",), ("less",)), ("penny", "penni")),
        # Another affix: the stem is not the base.
        ("unhappiness", Parts(("un",), ("happy",), ("ness",)), ("happiness",)),
        ("unaffected", Parts(("un", "a"), ("fect",), ("ed",)), ("affected",)),
        ("impossible", Parts(("in",), ("possible",), ()), ("possible",)),
        ("impossibility", Parts(("in",), ("possible",), ("ity",)), ("possibility",)),
        # The affix inside, no affix, no negating one, two negating ones, no stem.
        ("reunhappy", Parts(("re", "un"), ("happy",), ()), None),
        ("happy", Parts((), ("happy",), ()), None),
        ("rewrite", Parts(("re",), ("write",), ()), None),
        ("unhopeless", Parts(("un",), ("hope",), ("less",)), None),
        ("un", Parts(("un",), (), ()), None),
    ],
)
def test_the_base_of_a_word(word: str, parts: Parts, bases: tuple[str, ...] | None) -> None:
    found = negation_of(word, parts, "en", "w")
    assert (None if found is None else found.bases) == bases


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("prefix", ["en", "un", "happy"], Parts(("un",), ("happy",), ())),
        ("pre", ["en", "un-", "happy"], Parts(("un",), ("happy",), ())),
        ("suffix", ["en", "hope", "less"], Parts((), ("hope",), ("less",))),
        ("af", ["en", "un-", "happy", "-ness"], Parts(("un",), ("happy",), ("ness",))),
        ("affix", ["en", "un-<t:not>", "happy"], Parts(("un",), ("happy",), ())),
        ("confix", ["en", "un", "speak", "able"], Parts(("un",), ("speak",), ("able",))),
        ("surface analysis", ["en", "peninsula", "-ar"], Parts((), ("peninsula",), ("ar",))),
        ("af", ["la", "in-", "felix"], None), ("af", ["en", "*un-", "happy"], None),
        ("cog", ["en", "un-", "happy"], None), ("suffix", ["en", "", "ive"], None), ("af", ["en", "un-"], None),
        ("af", ["en", 5, "x"], None), ("af", ["en", "-o-", "x"], None),
    ],
)  # fmt: skip
def test_affix_templates(name: str, arguments: list[Any], expected: Parts | None) -> None:
    template = {"name": name, "args": {str(n): value for n, value in enumerate(arguments, 1)}}
    assert parts_of_template(template, "en") == expected


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ("<un<{(accept)}>able>", Parts(("un",), ("accept",), ("able",))),
        ("<un<<a<{(shame)}>ly>", Parts(("un", "a"), ("shame",), ("ly",))),
        ("{(trust)}>ful>>ness>", Parts((), ("trust",), ("ful", "ness"))),
        ("<un<{<a<(know)(ledge)}", Parts(("un",), ("", "know", "ledge"), ())),
        ("{<in<(tent)}", Parts((), ("", "tent"), ())),
        ("", Parts((), (), ())),
    ],
)
def test_segmentations(segmentation: str, expected: Parts) -> None:
    assert parts_of_segmentation(segmentation) == expected


def test_other_languages_have_their_own_affixes() -> None:
    assert negation("unglücklich", "un-", "glücklich", language="de").bases == ("glücklich",)
    assert negation("epäselvä", "epä-", "selvä", language="fi").bases == ("selvä",)
    assert (
        negations_of_entry(
            {"word": "inside", "etymology_templates": [{"name": "af", "args": {"1": "sv", "2": "in-", "3": "side"}}]},
            "sv",
            "w",
        )
        == []
    )
    for affixes in (*PREFIXES.values(), *SUFFIXES.values()):
        spellings = [spelling for group in affixes for spelling in group]
        assert len(spellings) == len(set(spellings))
        assert all(spelling == spelling.casefold().strip("-") for spelling in spellings)


_WORDS = st.sampled_from(["happy", "unhappy", "sad", "glad", "lucky", "unlucky", "nonhappy"])
_PAIRS = st.lists(st.tuples(_WORDS, st.sampled_from("~!"), _WORDS), max_size=10)


@settings(max_examples=60, deadline=None)
@given(_PAIRS)
def test_whatever_is_stated_stands_and_nothing_contradicts_itself(pairs: list[tuple[str, str, str]]) -> None:
    frame = table(*(" ".join(pair) for pair in pairs))
    stated = merge([frame])
    lexicon = merge(
        [frame], negations=[UNHAPPY, negation("unlucky", "un-", "lucky"), negation("nonhappy", "non-", "happy")]
    )
    before, after = signs(stated), signs(lexicon)
    assert before <= after
    assert all("!" in sign for sign in after - before)
    assert not {sign.replace("~", "!") for sign in after if "~" in sign} & after
    assert all(head != tail for head, tail in lexicon.relations.select("head", "tail").rows())
