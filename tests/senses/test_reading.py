"""A word's senses as text, on a dictionary whose distances are plain numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from senses_fakes import identity

from sensekd.errors import InputError
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.reading import describe, render, word_tokens

PIECES = ["<s>", "Ġbank", "bank", "Ġriver", "Ġmoney", "Ġshore", "Ġslope", "Ġthe", "un", "rest", "Ġquiet"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(PIECES)}, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Split(Regex("un|rest"), "isolated")]
    )
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


@pytest.fixture(scope="module")
def dictionary() -> SenseDictionary:
    """On a line of width 2: bank at 0 and 10, river at 2, money at 13, shore at 4, slope at 6; the unit σ² is 2."""
    rows = {1: [0.0, 10.0], 3: [2.0], 4: [13.0], 5: [4.0], 6: [6.0]}
    counts = [len(rows.get(token, [])) for token in range(len(PIECES))]
    places = [place for token in sorted(rows) for place in rows[token]]
    context = torch.full((len(places), 2, 4), -1, dtype=torch.int32)
    context[0, 0] = torch.tensor([-1, 0, 7, 3])
    context[0, 1, 3] = 4
    return SenseDictionary(
        indptr=torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()]),
        centroids=torch.tensor([[place, 0.0] for place in places]),
        support=torch.tensor([6, 2, 5, 5, 5, 5], dtype=torch.int32),
        spread=torch.tensor([1.0, 0.5, 0, 0, 0, 0]),
        context=context,
        sigma2=2.0,
        identity=identity(2, len(PIECES)),
        corpus="c",
        settings={},
    )


def relations() -> Any:
    """bank ~ shore, bank ~ (un, rest), bank ⊣ slope, bank ⊣ quiet (which has no senses)."""
    size = len(PIECES)
    return SimpleNamespace(
        synonym_indptr=torch.tensor([0, 0] + [2] * (size - 1)),
        synonym_spans=torch.tensor([0, 3]),
        antonym_indptr=torch.tensor([0, 0] + [2] * (size - 1)),
        antonym_spans=torch.tensor([1, 2]),
        span_indptr=torch.tensor([0, 1, 2, 3, 5]),
        span_pieces=torch.tensor([5, 6, 10, 8, 9]),
    )


def test_readings_by_hand(dictionary: SenseDictionary, tokenizer: Any) -> None:
    first, second = describe(dictionary, tokenizer, " bank ", relations())
    assert (first.token, first.text, first.row, first.support, first.share) == (1, " bank", 0, 6, 0.75)
    assert (second.row, second.share, second.spread) == (1, 0.25, 0.25)
    # Squared distance / width 2 / σ² 2.
    assert first.neighbours == [(" river", 1.0), (" shore", 4.0), (" slope", 9.0), (" money", 42.25)]
    assert second.neighbours == [(" money", 2.25), (" slope", 4.0), (" shore", 9.0), (" river", 16.0)]
    assert (first.synonyms, first.antonyms) == ([(" shore", 4.0)], [(" slope", 9.0)])
    assert first.contexts == [" the river", " money"]
    assert second.contexts == []


def test_without_relations_these_stay_empty(dictionary: SenseDictionary, tokenizer: Any) -> None:
    assert all(not reading.synonyms and not reading.antonyms for reading in describe(dictionary, tokenizer, "bank"))


def test_rendering(dictionary: SenseDictionary, tokenizer: Any) -> None:
    text = render(describe(dictionary, tokenizer, "bank", relations()))
    assert text.splitlines() == [
        "token ' bank' (id 1): 2 senses",
        "  1. 75% of the samples (6), spread 0.50",
        "    the river ___",
        "    money ___",
        "    near:      river 1.00, shore 4.00, slope 9.00, money 42.25",
        "    synonyms:  shore 4.00",
        "    antonyms:  slope 9.00",
        "  2. 25% of the samples (2), spread 0.25",
        "    near:      money 2.25, slope 4.00, shore 9.00, river 16.00",
        "    synonyms:  shore 9.00",
        "    antonyms:  slope 4.00",
    ]


def test_both_forms_of_a_word_are_found(tokenizer: Any) -> None:
    assert word_tokens(tokenizer, "bank") == [1, 2]
    assert word_tokens(tokenizer, "river") == [3]


def test_words_without_senses_are_refused_with_the_reason(dictionary: SenseDictionary, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"makes 2 pieces of it \(un rest\)"):
        describe(dictionary, tokenizer, "unrest")
    with pytest.raises(InputError, match=r"is a token \(' quiet'\), but no state"):
        describe(dictionary, tokenizer, "quiet")
