"""Agreement with gold senses, on a teacher whose states say which word came before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from senses_fakes import FakeTeacher, identity

from sensekd.errors import InputError
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.quality import _Labels, _purity, evaluate_gold

WORDS = ["<s>", "river", "money", "bank", "bat", "ball", "cave", "rare", "the", "(bat"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


def dictionary() -> SenseDictionary:
    """The state before a word starts with the id of the word before: bank has senses at 1 and 2, bat at 5 and 6."""
    counts = [2 if word in ("bank", "bat") else 0 for word in WORDS]
    return SenseDictionary(
        indptr=torch.tensor([0, *np.cumsum(counts).tolist()]),
        centroids=torch.tensor([[1.0, 1, 1, 1], [2.0, 2, 1, 1], [5.0, 5, 1, 1], [6.0, 6, 1, 1]]),
        support=torch.ones(4, dtype=torch.int32),
        spread=torch.zeros(4),
        context=torch.full((4, 3, 24), -1, dtype=torch.int32),
        sigma2=1.0,
        identity=identity(4, len(WORDS)),
        corpus="c",
        settings={"window": 16},
    )


def entry(text: str, word: str, sense: str, left: bool = True) -> dict[str, Any]:
    start = text.index(word)
    occurrence = {"word": word, "sense": sense, "start": start, "end": start + len(word), "left_informative": left}
    return {"text": text, "occurrences": [occurrence]}


def gold(times: int = 10) -> list[dict[str, Any]]:
    one = [
        entry("river bank", "bank", "shore"),
        entry("money bank", "bank", "house"),
        entry("ball bat", "bat", "club"),
        entry("cave bat the", "bat", "animal"),
    ]
    return one * times


def judge(entries: list[dict[str, Any]], tokenizer: Any) -> dict[str, Any]:
    return evaluate_gold(dictionary(), FakeTeacher(len(WORDS)), tokenizer, entries)


def test_perfect_senses(tokenizer: Any) -> None:
    found = judge(gold(), tokenizer)
    assert found["ami"] == pytest.approx(1.0)
    assert found["ami_left"] == pytest.approx(1.0)
    assert found["purity"] == 1.0
    assert (found["occurrences"], found["words"], found["skipped"]) == (40, 2, 0)
    assert abs(found["ami_shuffled"]) < 0.2
    assert found["purity_most_frequent"] < 0.7


def test_senses_that_the_left_context_cannot_tell(tokenizer: Any) -> None:
    # After "the", both senses of bank look alike; only these are not left-informative.
    blurred = [entry("the bank", "bank", sense, left=False) for sense in ("shore", "house")] * 10
    found = judge(gold() + blurred, tokenizer)
    assert found["ami_left"] == pytest.approx(1.0)
    assert 0.3 < found["ami"] < 0.9
    assert found["occurrences"] == 60


def test_words_of_one_gold_sense_do_not_count(tokenizer: Any) -> None:
    found = judge([*gold(), *[entry("river bank", "bank", "shore")] * 5], tokenizer)
    assert found["occurrences"] == 45
    one_sense = [item for item in gold() if item["occurrences"][0]["sense"] != "house"]
    found = judge(one_sense, tokenizer)
    assert (found["occurrences"], found["words"]) == (20, 1)


def test_what_cannot_be_judged_is_counted(tokenizer: Any) -> None:
    inside = {"text": "cave (bat", "occurrences": [{"word": "bat", "sense": "animal", "start": 6, "end": 9}]}
    found = judge([*gold(), entry("the rare", "rare", "seldom"), inside], tokenizer)
    assert (found["skipped"], found["skipped_without_senses"], found["skipped_inside_token"]) == (2, 1, 1)


def test_the_very_first_token_has_no_state_before_it(tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    bare.backend_tokenizer.post_processor = None
    found = judge([*gold(), entry("bank river", "bank", "shore")], bare)
    assert (found["skipped_at_start"], found["occurrences"]) == (1, 40)


def test_bad_input_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="no gold senses"):
        judge([], tokenizer)
    with pytest.raises(InputError, match="none of 1 gold occurrences"):
        judge([entry("the rare", "rare", "seldom")], tokenizer)


def test_purity_is_learnt_on_the_other_half() -> None:
    # Every occurrence has a centroid of its own: the majority sense of a centroid would be right always.
    count = 400
    random = np.random.default_rng(0)
    senses = np.asarray(["a", "b"])[random.integers(0, 2, count)]
    labels = _Labels(np.asarray(["w"] * count), senses, np.arange(count))
    purity, frequent = _purity(labels, 0)
    assert purity == frequent
    assert 0.4 < purity < 0.6
    assert _purity(replace(labels, row=(senses == "a").astype(np.int64)), 0)[0] == 1.0


def test_seed_repeats(tokenizer: Any) -> None:
    assert judge(gold(), tokenizer) == judge(gold(), tokenizer)
