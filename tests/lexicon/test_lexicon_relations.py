from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensekd.artefacts import MANIFEST
from sensekd.errors import InputError
from sensekd.lexicon import ANTONYM, SYNONYM, Lexicon, merge, relation_frame
from sensekd.lexicon.relations import SCHEMA, base_language


def frame(*rows: tuple[str, str, str], **columns: object) -> pl.DataFrame:
    heads, tails, relations = ([row[i] for row in rows] for i in range(3))
    given = {"head": heads, "tail": tails, "relation": relations, "language": "en"}
    return relation_frame({**given, **columns})


def pairs(lexicon: Lexicon) -> set[tuple[str, str, str]]:
    return set(lexicon.relations.select("head", "tail", "relation").iter_rows())


def test_both_directions_of_each_pair() -> None:
    lexicon = merge([frame(("big", "large", SYNONYM), ("big", "small", ANTONYM))])
    assert pairs(lexicon) == {
        ("big", "large", SYNONYM), ("large", "big", SYNONYM), ("big", "small", ANTONYM), ("small", "big", ANTONYM),
    }  # fmt: skip
    assert lexicon.facts["pairs"] == {ANTONYM: 1, SYNONYM: 1}
    assert lexicon.facts["words"] == 3


def test_a_relation_that_is_not_symmetric_stays_as_it_stands() -> None:
    assert pairs(merge([frame(("dog", "animal", "hypernym"))])) == {("dog", "animal", "hypernym")}


def test_the_antonym_wins_over_the_synonym_in_any_direction_and_case() -> None:
    rows = [("hot", "cool", SYNONYM), ("hot", "warm", SYNONYM), ("Cool", "hot", ANTONYM), ("cool", "HOT", SYNONYM)]
    lexicon = merge([frame(*rows)])
    assert pairs(lexicon) == {
        ("Cool", "hot", ANTONYM), ("hot", "Cool", ANTONYM), ("hot", "warm", SYNONYM), ("warm", "hot", SYNONYM),
    }  # fmt: skip
    assert lexicon.facts["dropped"]["conflict"] == 2
    assert lexicon.facts["conflicting_pairs"] == 1


def test_a_conflict_in_another_language_is_none() -> None:
    lexicon = merge([frame(("gift", "present", SYNONYM)), frame(("gift", "present", ANTONYM), language="de")])
    assert lexicon.facts["conflicting_pairs"] == 0
    assert lexicon.relations.height == 4


def test_regions_of_a_language_are_one_in_conflicts_and_hypernyms_yield_too() -> None:
    british = frame(("flat", "even", ANTONYM), language="en-GB")
    lexicon = merge(
        [frame(("flat", "even", SYNONYM), ("even", "flat", "hypernym"), ("flat", "level", SYNONYM)), british]
    )
    assert pairs(lexicon) == {
        ("flat", "even", ANTONYM), ("even", "flat", ANTONYM), ("flat", "level", SYNONYM), ("level", "flat", SYNONYM),
    }  # fmt: skip
    assert (lexicon.facts["dropped"]["conflict"], lexicon.facts["conflicting_pairs"]) == (2, 1)
    assert set(lexicon.relations["language"]) == {"en", "en-GB"}


@pytest.mark.parametrize(
    ("code", "base"),
    [("en", "en"), ("en-GB", "en"), ("en_us", "en"), ("sr-Latn-RS", "sr"), ("roa-opt", "roa-opt"),
     ("zh-min-nan", "zh-min-nan"), ("de-1996", "de"), ("", "")],
)  # fmt: skip
def test_the_base_of_a_language(code: str, base: str) -> None:
    assert base_language(code) == base


def test_no_word_is_related_to_itself() -> None:
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    rows = [
        ("May", "may", SYNONYM),
        (decomposed, composed.upper(), SYNONYM),
        ("a  b", " a b", ANTONYM),
        ("", "x", SYNONYM),
    ]
    lexicon = merge([frame(*rows)])
    assert lexicon.relations.is_empty()
    assert lexicon.facts["dropped"] == {"tagged": 0, "empty": 1, "self": 3, "conflict": 0, "duplicate": 0}


def test_a_tagged_row_goes_and_an_untagged_one_for_the_same_pair_stays() -> None:
    old = frame(("thou", "you", SYNONYM), ("cold", "warm", ANTONYM), tags=[["Archaic"], ["obsolete", "rare"]])
    new = frame(("cold", "warm", SYNONYM), ("thou", "you", SYNONYM), tags=[["rare"], []])
    # The tagged antonym is gone before conflicts are looked for.
    lexicon = merge([old, new], drop_tags=["archaic", "obsolete"])
    assert {row for row in pairs(lexicon) if row[0] < row[1]} == {("cold", "warm", SYNONYM), ("thou", "you", SYNONYM)}
    assert lexicon.facts["dropped"]["tagged"] == 2
    assert lexicon.of("cold")["tags"].to_list() == [["rare"]]


def test_rows_that_say_the_same_are_joined() -> None:
    first = frame(("big", "large", SYNONYM), weight=0.5, source="b", tags=[["x", "z"]])
    second = frame(("large", "big", SYNONYM), ("big", "large", SYNONYM), weight=0.8, source="a", tags=[["y"], ["x"]])
    lexicon = merge([first, second])
    row = lexicon.of("big").row(0, named=True)
    assert lexicon.relations.height == 2
    assert lexicon.facts["dropped"]["duplicate"] == 1
    assert (row["weight"], row["source"], row["tags"]) == (0.8, "a; b", ["x", "z"])


def test_senses_stay_apart_and_a_missing_direction_takes_the_gloss_of_a_synonym_only() -> None:
    rows = [("bank", "shore", SYNONYM), ("bank", "depository", SYNONYM), ("bank", "debtor", ANTONYM)]
    lexicon = merge([frame(*rows, gloss=["beside water", "for money", "for money"])])
    assert sorted(lexicon.of("BANK")["gloss"]) == ["beside water", "for money", "for money"]
    assert lexicon.of("shore")["gloss"].to_list() == ["beside water"]
    assert lexicon.of("debtor")["gloss"].to_list() == [""]


def test_a_frame_with_other_columns_is_refused() -> None:
    with pytest.raises(InputError, match="columns"):
        merge([pl.DataFrame({"head": ["a"], "tail": ["b"]})])


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    lexicon = merge([frame(("big", "large", SYNONYM))], made_from={"sources": ["x"]}, config={"language": "en"})
    lexicon.save(tmp_path / "lexicon")
    loaded = Lexicon.load(tmp_path / "lexicon")
    assert loaded.relations.equals(lexicon.relations)
    assert loaded.facts["fingerprint"] == lexicon.fingerprint == loaded.fingerprint
    assert (loaded.made_from, loaded.config) == (lexicon.made_from, lexicon.config)


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    merge([frame(("big", "large", SYNONYM))]).save(tmp_path / "lexicon")
    file = tmp_path / "lexicon" / "relations.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(InputError, match="checksum"):
        Lexicon.load(tmp_path / "lexicon")


def test_the_bytes_do_not_depend_on_the_order_of_the_input(tmp_path: Path) -> None:
    generator = random.Random(5)
    words = [f"word{i}" for i in range(40)]
    rows = [(*generator.sample(words, 2), generator.choice([SYNONYM, ANTONYM])) for _ in range(400)]
    frames = [frame(*rows[i::4], source=f"s{i}", weight=0.25 * (i + 1)) for i in range(4)]
    shuffled = [part.sample(fraction=1.0, shuffle=True, seed=i) for i, part in enumerate(reversed(frames))]
    merge(frames).save(tmp_path / "a")
    merge(shuffled).save(tmp_path / "b")
    for name in ("relations.parquet", MANIFEST):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


_WORDS = st.sampled_from(["a", "A", "b", "B", "c", " c", "d  e", "d e", "é", "e\u0301", ""])
_ROWS = st.lists(st.tuples(_WORDS, _WORDS, st.sampled_from([SYNONYM, ANTONYM])), max_size=12)


@settings(max_examples=60, deadline=None)
@given(_ROWS, _ROWS)
def test_what_holds_of_every_merged_table(left: list[tuple[str, str, str]], right: list[tuple[str, str, str]]) -> None:
    lexicon = merge([frame(*left), frame(*right, source="other")])
    found = pairs(lexicon)
    assert all((tail, head, relation) in found for head, tail, relation in found)
    folded = {(head.casefold(), tail.casefold(), relation) for head, tail, relation in found}
    assert all(head != tail for head, tail, _ in folded)
    assert not {row[:2] for row in folded if row[2] == SYNONYM} & {row[:2] for row in folded if row[2] == ANTONYM}
    assert merge([lexicon.relations]).relations.equals(lexicon.relations)
    assert merge([frame(*right, source="other"), frame(*left)]).relations.equals(lexicon.relations)
    assert dict(lexicon.relations.schema) == SCHEMA
    assert lexicon.facts["read"] == len(left) + len(right)
