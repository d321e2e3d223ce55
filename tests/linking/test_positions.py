"""What the relations reach of a text, against counting by hand and a naive loop."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from test_linking import ANTONYM, SYNONYM, TEXT, byte_level, lexicon_of, wrapped

from sensekd.errors import InputError
from sensekd.linking import Positions, count_positions, link, positions, word_tokens

ROWS = [("red", "crimson", SYNONYM), ("big", "small", ANTONYM), ("small", "little", SYNONYM)]


@pytest.fixture(scope="module")
def linked() -> tuple:  # type: ignore[type-arg]
    tokenizer = wrapped(byte_level())
    return tokenizer, link(lexicon_of(ROWS), tokenizer, vocabulary=430)


def packed(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    flat = np.asarray([index for ids in documents for index in ids], dtype=np.uint16)
    return flat, np.cumsum([0, *map(len, documents)])


def test_by_hand(linked: tuple) -> None:  # type: ignore[type-arg]
    tokenizer, relations = linked
    texts = ["the red car, the redder small red", "big. Big", " red"]
    documents = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    found = count_positions(relations, word_tokens(tokenizer, 430), *packed(documents))
    # " red" and " small" are whole; the last word of a text counts as cut, since what follows it is unknown. The first
    # token of a text is no label.
    assert (found.synonym, found.antonym, found.either) == (2, 1, 2)
    assert found.labels == sum(len(ids) - 1 for ids in documents)
    assert found.related == found.either + found.cut
    assert found.cut == 1


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_against_a_loop_whatever_the_chunks(linked: tuple, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:  # type: ignore[type-arg]
    monkeypatch.setattr(positions, "_CHUNK", chunk)
    tokenizer, relations = linked
    generator = random.Random(chunk)
    # Some begin with a space: the end of the text before them is unknown all the same.
    texts = [
        generator.choice(["", " "]) + " ".join(generator.choices(" ".join(TEXT).split(), k=generator.randint(0, 9)))
        for _ in range(12)
    ]
    documents = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    words = word_tokens(tokenizer, 430)
    expected = dict.fromkeys(Positions.__dataclass_fields__, 0)
    seen: list[int] = []
    for ids in documents:
        for at in range(1, len(ids)):
            joined = [bool(relations.ends_word[a] & relations.starts_word[b]) for a, b in itertools.pairwise(ids)]
            uncut = not joined[at - 1] and at + 1 < len(ids) and not joined[at]
            synonym, antonym = (
                bool(getattr(relations, f"{name}_indptr").diff()[ids[at]]) for name in (SYNONYM, ANTONYM)
            )
            seen.append(ids[at])
            expected["labels"] += 1
            expected["whole"] += uncut and bool(words[ids[at]])
            expected["synonym"] += uncut and synonym
            expected["antonym"] += uncut and antonym
            expected["either"] += uncut and (synonym or antonym)
            expected["related"] += synonym or antonym
            expected["cut"] += (synonym or antonym) and not uncut
    expected["own"] = sum(seen.count(index) >= 2 for index in seen)
    assert count_positions(relations, words, *packed(documents)).as_dict() == expected
    assert expected["either"] > 0


def test_the_floor_of_positions() -> None:
    found = Positions(labels=100, whole=50, own=90, synonym=4, antonym=2, either=5, related=9, cut=4)
    assert found.share == 0.1
    found.refuse_below_floor(0.1)
    with pytest.raises(InputError, match=r"of 50 whole words in 100 labels .* 5 have") as caught:
        found.refuse_below_floor(0.11)
    assert "linking.position_floor" in str(caught.value)
    nothing = Positions(0, 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(InputError):
        nothing.refuse_below_floor(0.01)


def test_tokens_that_end_a_word(linked: tuple) -> None:  # type: ignore[type-arg]
    tokenizer, _ = linked
    words = word_tokens(tokenizer, 430)
    assert words.dtype == torch.bool
    vocabulary = tokenizer.get_vocab()
    assert [bool(words[vocabulary[token]]) for token in ("Ġred", ".", "1", "<s>", "Ġ")] == [
        True,
        False,
        True,
        False,
        False,
    ]
