"""CoarseWSD: reading, placing and scoring, on a teacher whose states say which word came before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from senses_fakes import FakeTeacher, identity

from sensekd.errors import InputError
from sensekd.senses.coarse import coarse_states, read_coarse, score_coarse
from sensekd.senses.dictionary import SenseDictionary

WORDS = ["<s>", "river", "money", "bank", "bat", "ball", "cave", "rare", "the", "of"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def write(folder: Path, word: str, train: list[tuple[str, int]], test: list[tuple[str, int]]) -> None:
    (folder / word).mkdir(parents=True)
    for name, entries in (("train", train), ("test", test)):
        lines = [f"{text.split(' ').index(word)}\t{text}" for text, _ in entries]
        (folder / word / f"{name}.data.txt").write_text("\n".join(lines) + "\n")
        (folder / word / f"{name}.gold.txt").write_text("\n".join(str(label) for _, label in entries) + "\n")


def dictionary(bank: int = 2, bat: int = 2) -> SenseDictionary:
    """The state before a word starts with the id of the word before, the sum so far, and its place."""
    counts = [{"bank": bank, "bat": bat}.get(word, 0) for word in WORDS]
    rows = [[1.0, 9, 1, 1], [2.0, 10, 1, 1]][:bank] + [[5.0, 13, 1, 1], [6.0, 14, 1, 1]][:bat]
    return SenseDictionary(
        indptr=torch.tensor([0, *np.cumsum(counts).tolist()]),
        centroids=torch.tensor(rows),
        support=torch.ones(len(rows), dtype=torch.int32),
        spread=torch.zeros(len(rows)),
        context=torch.full((len(rows), 3, 24), -1, dtype=torch.int32),
        sigma2=1.0,
        identity=identity(4, len(WORDS)),
        corpus="c",
        settings={"window": 16},
    )


def test_scores_by_hand(tmp_path: Path, tokenizer: Any) -> None:
    shore, house = ("the river bank of", 1), ("the money bank of", 0)
    # One house is said of the river: the majority of that centroid is still the shore.
    write(tmp_path, "bank", [house] * 4 + [shore] * 3 + [("the river bank of", 0)], [shore] * 3 + [house] * 2)
    # No training sentence is nearest to the second sense of bat.
    write(
        tmp_path, "bat", [("the ball bat of", 0)] * 3, [("the ball bat of", 0), ("the cave bat of", 1), ("bat of", 0)]
    )
    words = read_coarse(tmp_path)
    states = coarse_states(FakeTeacher(len(WORDS)), tokenizer, words, 16)
    assert states.states[0].tolist() == [2.0, 10.0, 1.0, 1.0]
    found = score_coarse(dictionary(), states)
    bank, bat = found["by_word"]
    assert (bank["accuracy"], bank["most_frequent"], bank["ami"]) == (1.0, 0.4, pytest.approx(1.0))
    assert (bank["train"], bank["test"], bank["fallbacks"], bank["pieces"], bank["rows"]) == (8, 5, 0, 1, 2)
    assert (bat["accuracy"], bat["most_frequent"], bat["fallbacks"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 1)
    assert found["all"]["accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert (found["all"]["words_above"], found["all"]["words_below"], found["fallbacks"]) == (1, 0, 1)
    assert found["one_piece"] == found["all"]
    assert found["more_pieces"] == {"words": 0}
    assert found["few_sentences"]["words"] == 2


def test_without_senses_the_most_frequent_sense_answers(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path, "bank", [("the river bank", 1)] * 2 + [("the money bank", 0)], [("the money bank", 0)] * 2)
    states = coarse_states(FakeTeacher(len(WORDS)), tokenizer, read_coarse(tmp_path), 16)
    found = score_coarse(dictionary(bank=0), states)["by_word"][0]
    assert (found["accuracy"], found["most_frequent"], found["fallbacks"], found["rows"]) == (0.0, 0.0, 2, 0)


def test_a_limit_takes_the_first_sentences(tmp_path: Path) -> None:
    write(tmp_path, "bank", [("the river bank", 1)] * 5, [("bank of", 0)] * 4)
    word = read_coarse(tmp_path, 2)[0]
    assert (len(word.train), len(word.test)) == (2, 2)
    assert word.test[0]["occurrences"][0]["start"] == 0
    occurrence = word.train[0]["occurrences"][0]
    assert word.train[0]["text"][occurrence["start"] : occurrence["end"]] == "bank"


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no word"):
        read_coarse(tmp_path)
    with pytest.raises(InputError, match="no word"):
        read_coarse(tmp_path / "nowhere")
    write(tmp_path, "bank", [("the river bank", 1)], [("bank of", 0)])
    gold = tmp_path / "bank" / "test.gold.txt"
    gold.write_text("0\n1\n")
    with pytest.raises(InputError, match="1 sentences, 2 labels"):
        read_coarse(tmp_path)
    gold.write_text("0\n")
    for line in ("9\tbank of", "bank of", "x\tbank of"):
        (tmp_path / "bank" / "test.data.txt").write_text(f"{line}\n")
        with pytest.raises(InputError, match=r"test\.data\.txt:1"):
            read_coarse(tmp_path)
    gold.unlink()
    with pytest.raises(InputError, match="lacks"):
        read_coarse(tmp_path)


@pytest.mark.data
def test_the_real_files_are_read(data_dir: Path) -> None:
    words = read_coarse(data_dir / "senses" / "coarsewsd20" / "CoarseWSD-20")
    assert len(words) == 20
    assert sum(len(word.train) for word in words) == 23_370
    assert sum(len(word.test) for word in words) == 10_196
    entries = [(word.word, entry) for word in words for entry in (*word.train, *word.test)]
    cut = [entry["text"][item["start"] : item["end"]] for _, entry in entries for item in entry["occurrences"]]
    assert sum(word == piece for (word, _), piece in zip(entries, cut, strict=True)) == len(entries) - 3
