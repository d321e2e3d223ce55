"""A word's senses as text, on a dictionary whose distances are plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from senses_fakes import identity

from sensekd.errors import InputError
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.reading import SenseReading, describe, render, word_tokens

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


def test_relatives_of_several_tokens_are_composed(dictionary: SenseDictionary, tokenizer: Any) -> None:
    """(un, rest) has no senses of its own; here it is given one on the place 8."""
    asked = []

    def compose(pieces: Sequence[int]) -> torch.Tensor:
        asked.append(list(pieces))
        return torch.tensor([[8.0, 0.0], [40.0, 0.0]])

    first, second = describe(dictionary, tokenizer, "bank", relations(), compose)
    assert asked == [[8, 9]]
    assert first.synonyms == [(" shore", 4.0), ("unrest", 16.0)]
    assert second.synonyms == [("unrest", 1.0), (" shore", 9.0)]
    third, _ = describe(dictionary, tokenizer, "bank", relations(), lambda _: torch.zeros(0, 2))
    assert third.synonyms == [(" shore", 4.0)]


def test_a_narrow_store_reads_the_same(dictionary: SenseDictionary, tokenizer: Any) -> None:
    wide = describe(dictionary, tokenizer, "bank", relations())
    assert describe(dictionary.stored_as("float16"), tokenizer, "bank", relations()) == wide
    narrow = describe(dictionary.stored_as("int8"), tokenizer, "bank", relations())
    assert narrow[0].neighbours[0] == (" river", 1.0)


def test_rendering(dictionary: SenseDictionary, tokenizer: Any) -> None:
    text = render(describe(dictionary, tokenizer, "bank", relations()))
    assert text.splitlines() == [
        "' bank' (token 1): 2 senses of 8 samples",
        "",
        "  1. █████████     75%  6 samples, spread 0.50",
        "     the river [bank]",
        "     money [bank]",
        "     near      river 1.00 · shore 4.00 · slope 9.00 · money 42.25",
        "     synonyms  shore 4.00",
        "     antonyms  slope 9.00",
        "",
        "  2. ███           25%  2 samples, spread 0.25",
        "     near      money 2.25 · slope 4.00 · shore 9.00 · river 16.00",
        "     synonyms  shore 9.00",
        "     antonyms  slope 4.00",
        "   ! dead: no sample lies near it",
    ]
    assert (
        "     the river >bank<"
        in render(describe(dictionary, tokenizer, "bank"), lambda text: f">{text}<").splitlines()
    )


def reading(text: str, contexts: list[str], token: int = 1, share: float = 1.0) -> SenseReading:
    return SenseReading(token, text, 0, 1, share, 0.0, contexts, [])


@pytest.mark.parametrize(
    ("text", "context", "expected"),
    [
        (" bank", "the old", "the old [bank]"),
        ("er", "the bank", "the bank[er]"),
        ("\n", "the\n end.", "the end. ['\\n']"),
        (" bank", "x" * 80, "…" + "x" * 76 + " [bank]"),
    ],
)
def test_the_word_stands_at_the_end_of_its_context(text: str, context: str, expected: str) -> None:
    assert render([reading(text, [context])]).splitlines()[3] == f"     {expected}"


@pytest.mark.parametrize(
    ("share", "bar"),
    [(1.0, "█" * 12), (0.5, "█" * 6), (1 / 96, "▏"), (0.0001, "▏"), (11 / 96, "█▍"), (0.99, "█" * 11 + "▉")],
)
def test_bars(share: float, bar: str) -> None:
    line = render([reading("a", [], share=share)]).splitlines()[2]
    assert line.startswith(f"  1. {bar.ljust(12)} ")
    assert line.endswith("1 sample, spread 0.00")


def test_senses_are_numbered_token_by_token() -> None:
    text = render([reading(" a", []), reading(" a", []), reading("a", [], token=2)])
    heads = [line for line in text.splitlines() if "token" in line or "." in line[:5]]
    assert [line[:8] for line in heads] == ["' a' (to", "  1. ███", "  2. ███", "'a' (tok", "  1. ███"]


def test_both_forms_of_a_word_are_found(tokenizer: Any) -> None:
    assert word_tokens(tokenizer, "bank") == [1, 2]
    assert word_tokens(tokenizer, "river") == [3]


def test_words_without_senses_are_refused_with_the_reason(dictionary: SenseDictionary, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"makes 2 pieces of it \(un rest\)"):
        describe(dictionary, tokenizer, "unrest")
    with pytest.raises(InputError, match=r"is a token \(' quiet'\), but no state"):
        describe(dictionary, tokenizer, "quiet")
