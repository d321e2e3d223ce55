"""The miniature world keeps what it promises: sizes, gold senses, and questions that the texts do not answer."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from sensekd.demo.language import read_language
from sensekd.demo.sentences import fill
from sensekd.demo.world import Document, Question, World, build_world, gold_documents, write_world

SETS = ("facts", "senses", "relations")


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(seed=0, documents=12_000, heldout=400)


@pytest.fixture(scope="module")
def words(world: World) -> Counter[str]:
    """Every word of the training text, lower case, and how often it stands there."""
    return Counter(re.findall(r"[a-z-]+", "\n".join(d.text for d in world.train).lower()))


def normalised(text: str) -> str:
    return " ".join(re.findall(r"[a-z-]+", text.lower()))


def test_the_words_are_enough_and_used(world: World, words: Counter[str]) -> None:
    assert len(set(world.content_words)) >= 400
    assert {word for word in world.content_words if words[word] == 0} == set()
    assert sum(words[word] >= 50 for word in world.content_words) >= 400


def test_relations_are_enough_and_used(world: World, words: Counter[str]) -> None:
    synonyms, antonyms = ({frozenset(p) for p in pairs} for pairs in (world.synonyms, world.antonyms))
    assert len(synonyms) == len(world.synonyms) >= 150
    assert len(antonyms) == len(world.antonyms) >= 80
    assert not synonyms & antonyms
    assert all(len(pair) == 2 and all(words[word] > 20 for word in pair) for pair in synonyms | antonyms)


def test_ambiguous_words_have_two_or_three_senses_of_different_scenes() -> None:
    language = read_language()
    senses = Counter(sense.word for sense in language.senses)
    assert len(senses) >= 40
    assert set(senses.values()) == {2, 3}
    assert len({sense.name for sense in language.senses}) == len(language.senses)
    assert len({sense.gloss for sense in language.senses}) == len(language.senses)


def test_most_frames_tell_the_sense_before_the_word() -> None:
    language = read_language()
    before = {frame for sense in language.senses for frame in sense.before}
    later = {frame for form in ("after", "never") for frame in language.forms[form]}
    assert len(before) >= 60
    assert later
    assert len(before) >= 0.7 * (len(before) + len(later))
    # A slot of the scene or a word of the frame itself stands before the ambiguous word; in the others, nothing does.
    scene_slots = set("APTJV")
    assert all(scene_slots & set(frame[1 : frame.index("W") : 2]) for frame in before)
    assert not any(scene_slots & set(frame[1 : frame.index("W") : 2]) for frame in later)


def test_most_occurrences_are_told_before_but_not_all(world: World) -> None:
    told = [o.left_informative for d in world.train for o in d.occurrences]
    assert 0.7 <= sum(told) / len(told) <= 0.97


def test_every_use_of_an_ambiguous_word_has_its_sense(world: World) -> None:
    ambiguous = {name.split(".")[0] for name in world.glosses}
    for document in (*world.train[:4000], *world.heldout):
        found = [m.span() for m in re.finditer(r"[A-Za-z-]+", document.text) if m.group().lower() in ambiguous]
        assert found == [(o.start, o.end) for o in document.occurrences]
        assert all(document.text[o.start : o.end].lower() == o.word for o in document.occurrences)
        assert all(o.sense in world.glosses and o.sense.startswith(f"{o.word}.") for o in document.occurrences)


def test_what_is_not_told_stands_first(world: World) -> None:
    """Later sentences of a scene have the scene before them, so only a first sentence can leave a sense open."""
    scenes = [d for d in world.train if any(d.text.startswith(s) for s in ("Nobody could", "Everyone was"))]
    assert scenes
    for document in scenes:
        first, *later = document.occurrences
        assert not first.left_informative
        assert all(o.left_informative for o in later)


def test_the_same_seed_gives_the_same_world(world: World) -> None:
    again = build_world(seed=0, documents=12_000, heldout=10)
    assert again.train == world.train
    assert again.questions == world.questions
    other = build_world(seed=1, documents=50, heldout=10)
    assert other.train != world.train[:50]


def test_heldout_documents_are_new(world: World) -> None:
    assert len(world.heldout) == 400
    texts = [d.text for d in (*world.train, *world.heldout)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", SETS)
def test_questions_are_well_formed(world: World, name: str) -> None:
    questions = world.questions[name]
    assert 150 <= len(questions) <= 250
    assert len({q.question for q in questions}) == len(questions)
    for q in questions:
        assert len(q.choices) == 4
        assert len(set(q.choices)) == len(q.choices)
        lengths = [len(choice.split()) for choice in q.choices]
        assert max(lengths) - min(lengths) <= 2


@pytest.mark.parametrize("name", SETS)
def test_no_text_gives_an_answer_away(world: World, name: str) -> None:
    texts = "\n".join(normalised(d.text) for d in (*world.train, *world.heldout))
    assert [q for q in world.questions[name] if normalised(f"{q.question} {q.choices[q.answer]}") in texts] == []


def test_a_withheld_fact_is_said_in_no_form(world: World) -> None:
    texts = "\n".join(normalised(d.text) for d in (*world.train, *world.heldout))
    for q in world.questions["facts"]:
        thing = q.question.split(" ", 1)[1]
        assert f"every {thing} {q.choices[q.answer]}" not in texts


def test_example_sentences_are_new(world: World) -> None:
    texts = "\n".join(d.text for d in (*world.train, *world.heldout))
    assert [q for q in world.questions["senses"] if q.question.rpartition(" Here ")[0] in texts] == []


def test_what_a_relation_question_needs_is_said_otherwise(world: World) -> None:
    """The other forms for the same word and the reverse of the asked statement stand in the training text."""
    texts = "\n".join(d.text for d in world.train)
    for q in world.questions["relations"]:
        x, y = q.question.split()[1], q.choices[q.answer]
        assert q.question.startswith(f"So {x} is ")
        assert f"{q.question.replace(x, y, 1)} {x}." in texts
        other = f"The opposite of {x} is {y}." if "opposite" in q.question else f"Another word for {x} is {y}."
        assert other in texts


def test_distractors_are_hard(world: World) -> None:
    synonyms, antonyms = ({frozenset(p) for p in pairs} for pairs in (world.synonyms, world.antonyms))
    hard = 0
    for q in world.questions["relations"]:
        x = q.question.split()[1]
        right, wrong = (antonyms, synonyms) if "opposite" in q.question else (synonyms, antonyms)
        true = [frozenset((x, choice)) in right for choice in q.choices]
        assert true.index(True) == q.answer
        assert sum(true) == 1
        beside = any(frozenset((x, choice)) in wrong for choice in q.choices)
        assert beside == any(x in pair for pair in wrong)
        hard += beside
    assert hard >= 0.5 * len(world.questions["relations"])
    for q in world.questions["senses"]:
        word = q.question.rpartition(" Here ")[2].split()[0]
        own = {gloss for name, gloss in world.glosses.items() if name.split(".")[0] == word}
        assert own <= set(q.choices)


@pytest.mark.parametrize("name", SETS)
def test_answers_cannot_be_guessed(world: World, name: str) -> None:
    questions = world.questions[name]
    places = Counter(q.answer for q in questions)
    assert max(places.values()) - min(places.values()) <= 2
    assert guessed(questions) <= 0.25 + 0.15


def guessed(questions: tuple[Question, ...]) -> float:
    """Accuracy of choosing what is most often right among all choices it stands in, the asked item left out."""
    right = Counter(q.choices[q.answer] for q in questions)
    offered = Counter(choice for q in questions for choice in q.choices)
    correct = 0.0
    for q in questions:
        answer = q.choices[q.answer]
        rates = [(right[c] - (c == answer)) / max(1, offered[c] - 1) for c in q.choices]
        best = [i for i, rate in enumerate(rates) if rate == max(rates)]
        correct += (q.answer in best) / len(best)
    return correct / len(questions)


def test_guessing_is_found_where_it_works() -> None:
    fixed = tuple(Question(f"q{i}", ("yes", f"a{i}", f"b{i}", f"c{i}"), 0) for i in range(20))
    assert guessed(fixed) == 1.0


def test_fill_tells_where_a_word_starts() -> None:
    text, starts = fill(("the ", "A", " saw a ", "W", ""), {"A": "cook", "W": "bat"})
    assert text == "The cook saw a bat"
    assert text[starts["W"] :] == "bat"


def test_the_folder_holds_the_world(tmp_path: Path) -> None:
    world = build_world(seed=3, documents=40, heldout=5)
    write_world(world, tmp_path / "world")
    folder = tmp_path / "world"
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [d.text for d in world.train]
    assert set(rows[0]) == {"text", "occurrences"}
    marks = [o for row in rows for o in row["occurrences"]]
    assert set(marks[0]) == {"word", "sense", "start", "end", "left_informative"}
    assert len((folder / "heldout.jsonl").read_text().splitlines()) == 5
    pairs = [tuple(line.split("\t")) for line in (folder / "antonyms.tsv").read_text().splitlines()]
    assert tuple(pairs) == world.antonyms
    for name in SETS:
        lines = [json.loads(line) for line in (folder / "questions" / f"{name}.jsonl").read_text().splitlines()]
        assert tuple(Question(q["question"], tuple(q["choices"]), q["answer"]) for q in lines) == world.questions[name]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_world(build_world(seed=5, documents=30, heldout=5), tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 8
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_documents_are_short_paragraphs(world: World) -> None:
    def sentences(document: Document) -> int:
        return document.text.count(".")

    assert {sentences(d) for d in world.train} <= set(range(3, 7))


def test_telling_sentences_of_heldout_documents_are_new(world: World) -> None:
    """Statements (what a word means, what is another word for it) are the same everywhere; scene sentences are not."""
    language = read_language()
    train = {sentence for d in world.train for sentence in re.findall(r"[^.]+\.", d.text)}
    train = {sentence.strip() for sentence in train}
    stated = re.compile(r"Here \w+ means |The opposite of |Another word for |So \w+ ")
    found: Counter[str] = Counter()
    for document in world.heldout:
        for o in document.occurrences:
            start = document.text.rfind(".", 0, o.start) + 1
            sentence = document.text[start : document.text.index(".", o.end) + 1].strip()
            if o.left_informative and not stated.match(sentence):
                assert sentence not in train
                found[o.sense] += 1
    # Few senses may lack a sentence on the held-out side.
    assert len(found) >= 0.8 * len(language.senses)


def test_gold_occurrences_stand_in_sentences_that_training_lacks(world: World) -> None:
    training = "\n".join(document.text for document in world.train)
    gold = gold_documents(world)
    sentences = []
    for document in gold:
        for o in document.occurrences:
            assert document.text[o.start : o.end].lower().startswith(o.word)
            start = document.text.rfind(". ", 0, o.start) + 2 if ". " in document.text[: o.start] else 0
            sentences.append(document.text[start : document.text.find(".", o.end) + 1])
    assert len(sentences) >= 200
    assert [sentence for sentence in sentences if sentence in training] == []
    assert len(sentences) < sum(len(document.occurrences) for document in world.heldout)
