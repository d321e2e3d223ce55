"""The German world keeps what the English one promises, and its sentences are German."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.demo.grammar import GRAMMARS, LANGUAGES, German
from sensekd.demo.language import Language, read_language
from sensekd.demo.sentences import untold_sentence
from sensekd.demo.world import World, build_world, gold_documents

WORD = re.compile(r"[A-Za-zÄÖÜäöüß]+")
# Articles, and the words that hold one, with the genders that they may stand before in the singular.
GENDERS = {
    "der": "mf", "die": "f", "das": "n", "den": "m", "dem": "mn", "ein": "mn", "eine": "f", "am": "mn", "im": "mn",
    "beim": "mn", "zum": "mn", "zur": "f", "jeder": "m", "jede": "f", "jedes": "n",
}  # fmt: skip


@pytest.fixture(scope="module")
def language() -> Language:
    return read_language("german")


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(seed=0, documents=4000, heldout=200, language="german")


def genders(language: Language) -> dict[str, set[str]]:
    """Genders of every noun that the word lists give one."""
    entries = [entry for slots in language.scenes.values() for some in slots.values() for entry in some]
    entries += [entry for kind in language.kinds for entry in (kind.name, *kind.members)]
    found: dict[str, set[str]] = {}
    for entry in entries:
        noun, _, rest = entry.partition("/")
        if rest:
            found.setdefault(noun, set()).add(rest[0])
    for sense in language.senses:
        found.setdefault(sense.word, set()).add(sense.gender)
        found.setdefault(sense.substitute, set()).add(sense.gender)
    return found


def test_sizes(language: Language, world: World) -> None:
    senses = Counter(sense.word for sense in language.senses)
    assert len(senses) == 15
    assert set(senses.values()) == {2}
    assert len({sense.gloss for sense in language.senses}) == len(language.senses)
    assert len(world.antonyms) >= 40
    assert len(world.synonyms) >= 40
    assert not {frozenset(pair) for pair in world.synonyms} & {frozenset(pair) for pair in world.antonyms}
    assert {name: len(questions) for name, questions in world.questions.items()} == {
        "facts": 140, "senses": 60, "relations": 90,
    }  # fmt: skip


def test_every_article_has_the_gender_of_its_noun(language: Language, world: World) -> None:
    nouns = genders(language)
    # Two lists that give a noun two genders would show here, but for the words whose senses differ in it.
    assert {noun for noun, found in nouns.items() if len(found) > 1} == set(language.told_by_gender)
    checked: Counter[str] = Counter()
    for document in (*world.train, *world.heldout):
        words = WORD.findall(document.text)
        for article, noun in itertools.pairwise(words):
            allowed = GENDERS.get(article.lower())
            if allowed is not None and noun in nouns:
                assert nouns[noun] & set(allowed), (article, noun, document.text)
                checked[noun] += 1
    assert len(checked) >= 0.9 * len(nouns)


def test_cases_follow_prepositions(world: World) -> None:
    """Behind a preposition of the dative stands no other case's article."""
    wrong = re.compile(r"\b([Vv]on|[Mm]it|[Nn]ach|[Zz]u|[Bb]ei|[Aa]us|[Uu]nter|[Nn]eben) (den|das|die|ein) ")
    motion = re.compile(r"\b(durch|um|für|ohne) (dem|der) ")
    texts = [document.text for document in world.train]
    assert [text for text in texts if wrong.search(text) or motion.search(text)] == []


def test_forms_of_nouns() -> None:
    german = German()
    assert german.forms("P", "Küche/f/in") == {
        "P": "Küche", "P_n": "die Küche", "P_a": "die Küche", "P_d": "der Küche", "P_l": "in der Küche",
        "P_b": "bei der Küche", "P_z": "zur Küche",
    }  # fmt: skip
    forms = german.forms("P", "Markt/m/auf")
    assert (forms["P_a"], forms["P_l"], forms["P_b"], forms["P_z"]) == (
        "den Markt", "auf dem Markt", "beim Markt", "zum Markt",
    )  # fmt: skip
    assert german.forms("P", "Haus/n/in")["P_l"] == "im Haus"
    assert german.forms("J", "alt") == {"J": "alt"}
    assert german.named("e", "Reh/n") == {"e": "ein Reh", "e0": "jedes Reh"}
    assert GRAMMARS["english"].named("k", "animal") == {"k": "an animal", "k0": "animal"}


def test_every_use_of_an_ambiguous_word_has_its_sense(world: World) -> None:
    ambiguous = {name.split(".")[0] for name in world.glosses}
    for document in (*world.train, *world.heldout):
        found = [match.span() for match in WORD.finditer(document.text) if match.group() in ambiguous]
        assert found == [(o.start, o.end) for o in document.occurrences]
    assert len(gold_documents(world)) > 30


def test_an_article_that_tells_the_sense_counts_as_telling(language: Language) -> None:
    assert language.told_by_gender == {"Steuer", "Leiter", "Kiefer", "See"}
    for sense in language.senses:
        (occurrence,) = untold_sentence(language, sense, random.Random(0)).occurrences
        assert occurrence.left_informative == (sense.word in language.told_by_gender)


@pytest.mark.parametrize("name", ["facts", "senses", "relations"])
def test_no_text_gives_an_answer_away(world: World, name: str) -> None:
    texts = "\n".join(document.text for document in (*world.train, *world.heldout))
    for q in world.questions[name]:
        assert f"{q.question} {q.choices[q.answer]}" not in texts
        assert len(set(q.choices)) == 4
    if name == "senses":
        assert not any(q.question.rpartition(" Hier ")[0] in texts for q in world.questions[name])


def test_the_words_are_used(world: World) -> None:
    words = Counter(WORD.findall("\n".join(document.text for document in world.train)))
    lower = Counter({word.lower(): count for word, count in words.items()})
    # A third of the documents of the demo's own world; a rare adjective of a rare scene may be missing.
    assert sum(words[word] + lower[word.lower()] == 0 for word in world.content_words) <= 5


def test_every_language_has_its_recipe_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    from sensekd.pipeline.demo import demo_recipe

    for code, folder in LANGUAGES.items():
        recipe = demo_recipe(tmp_path, [], code)
        assert recipe.world.language == folder
        assert recipe.lexicon.language == code
    result = CliRunner().invoke(app, ["demo", "--language", "xx", "--output", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "no miniature world in 'xx'" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_german_from_end_to_end_in_small(tmp_path: Path) -> None:
    """Every stage with budgets at which nothing is learned, then the recipe that it leaves."""
    small = {
        "world.documents": 400, "world.heldout": 30, "demo_teacher.steps": 2, "senses.assignment": "next",
        "senses.corpus": "null", "corpus.max_documents": 150, "training.steps": 2, "compare.seeds": "[0]",
        "compare.workers": 1, "compare.arms": "[kd]",
    }  # fmt: skip
    sets = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    output = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "--language", "de", "--output", str(output), *sets, "--json"])
    assert result.exit_code == 0, result.output
    recipe = yaml.safe_load((output / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["lexicon"]["language"] == "de"
    assert "der " in (output / "world/train.jsonl").read_text(encoding="utf-8")
    sets = ["--set", f"output={tmp_path / 'run'}", "--set", "evaluation.questions={}"]
    again = CliRunner().invoke(app, ["run", str(output / "recipe.json"), *sets])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "run/results.json").is_file()
