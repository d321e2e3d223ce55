"""Lexical tests on a model whose states are known: nearest means and rank correlations by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from paper_world import model as tiny_model
from paper_world import silent
from paper_world import tokenizer as byte_level
from scipy.stats import spearmanr

from sensekd.errors import InputError
from sensekd.evaluation.lexical import Sentence, last_states, left_contexts, lexical, nearest_sense, read_pairs
from sensekd.evaluation.paper import Choice
from sensekd.evaluation.parts import Parts

WORDS = ["<s>", "up", "down", "left", "bank", "seal", "old", "new", "hot", "cold"]
# The state at a token depends on it alone: `up` and `left` point one way, `down` the other.
PLANE = {"up": (1, 0), "left": (2, 0.5), "down": (-1, 0)}
PLANE |= {"old": (1, 0), "new": (3, 1), "hot": (2, 3), "cold": (-1, 1)}


class Plane(torch.nn.Module):
    """A decoder whose last state at a token is that token's place in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(len(WORDS), 2)
        with torch.no_grad():
            self.table.weight.copy_(torch.tensor([PLANE.get(word, (0.0, 0.1)) for word in WORDS]))
        config = SimpleNamespace(max_position_embeddings=64)
        self.config = SimpleNamespace(get_text_config=lambda: config)
        self.device = torch.device("cpu")

    @property
    def base_model(self) -> Any:
        return lambda input_ids, use_cache: SimpleNamespace(last_hidden_state=self.table(input_ids))

    def get_input_embeddings(self) -> Any:
        return self.table


@pytest.fixture(scope="module")
def words() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<s>")


def write_word(folder: Path, word: str, train: list[tuple[str, str]], test: list[tuple[str, str]]) -> None:
    (folder / word).mkdir(parents=True)
    for split, rows in {"train": train, "test": test}.items():
        lines = [f"{text.split(' ').index(word)}\t{text}" for text, _ in rows]
        (folder / word / f"{split}.data.txt").write_text("\n".join(lines) + "\n")
        (folder / word / f"{split}.gold.txt").write_text("\n".join(sense for _, sense in rows) + "\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    train = [("up bank", "0"), ("left bank", "0"), ("down bank", "1")]
    test = [("left bank", "0"), ("down bank", "1"), ("hot down bank", "1"), ("up bank", "1")]
    write_word(tmp_path / "CoarseWSD-20", "bank", train, test)
    write_word(tmp_path / "CoarseWSD-20", "seal", [("up seal", "2"), ("down seal", "1")], [("down seal", "2")])
    rows = [("old", "new", 9.0), ("hot", "cold", 1.0), ("old", "hot", 3.0), ("old", "cold", 2.0), ("new", "hot", 5.0)]
    lines = ["word1\tword2\tPOS\tSimLex999"] + [f"{a}\t{b}\tA\t{rating}" for a, b, rating in rows]
    (tmp_path / "SimLex-999.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_nearest_mean_of_left_contexts(data: Path, words: Any) -> None:
    found = lexical(Plane(), words, Choice(data), silent)
    coarse = found["tasks"]["coarsewsd20"]
    # bank: means (1.5, 0.25) and (-1, 0); the last test sentence is labelled against its context. seal: all wrong.
    assert coarse["correct"] == [1, 1, 1, 0, 0]
    assert coarse["words"]["bank"] == {"accuracy": 0.75, "most_frequent": 0.25, "train": 3, "test": 4, "fallbacks": 0}
    assert coarse["words"]["seal"]["accuracy"] == 0.0
    # A tie of two senses goes to the smaller label.
    assert coarse["words"]["seal"]["most_frequent"] == 0.0
    assert found["metrics"]["coarsewsd20/accuracy"] == 0.375
    assert found["metrics"]["coarsewsd20/accuracy_micro"] == 0.6
    assert found["metrics"]["coarsewsd20/most_frequent"] == 0.125
    limited = lexical(Plane(), words, Choice(data, limits={"coarsewsd20": 2}), silent)["tasks"]["coarsewsd20"]
    assert (limited["items"], limited["words"]["bank"]["train"]) == (3, 2)


def test_what_an_interrupted_run_has_finished_is_taken_over(data: Path, words: Any, tmp_path: Path) -> None:
    ran: list[str] = []

    def show(title: str) -> Any:
        ran.append(title)
        return silent(title)

    def run(limits: dict[str, int]) -> Any:
        return lexical(Plane(), words, Choice(data, limits=limits), show, Parts(tmp_path / "parts"))

    assert run({}) == run({}) == lexical(Plane(), words, Choice(data), silent)
    assert ran == ["evaluate coarsewsd20", "evaluate simlex999"]
    run({"coarsewsd20": 2})
    assert ran[2:] == ["evaluate coarsewsd20"]


def test_rank_correlation_of_cosines(data: Path, words: Any) -> None:
    metrics = lexical(Plane(), words, Choice(data, ("simlex999",)), silent)["tasks"]["simlex999"]["metrics"]
    pairs = [("old", "new"), ("hot", "cold"), ("old", "hot"), ("old", "cold"), ("new", "hot")]
    ratings = [9.0, 1.0, 3.0, 2.0, 5.0]

    def cosine(first: np.ndarray, second: np.ndarray) -> float:
        return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    places = {word: np.asarray(PLANE[word]) for word in ("old", "new", "hot", "cold")}
    mean = np.mean(list(places.values()), axis=0)
    plain = [cosine(places[a], places[b]) for a, b in pairs]
    centred = [cosine(places[a] - mean, places[b] - mean) for a, b in pairs]
    assert metrics["spearman"] == pytest.approx(spearmanr(plain, ratings).statistic)
    assert metrics["spearman_centred"] == pytest.approx(spearmanr(centred, ratings).statistic)
    assert metrics["spearman"] != metrics["spearman_centred"]


def test_which_occurrences_have_a_left_context() -> None:
    pieces = byte_level()
    texts = [("stone bird", 0), ("huge stone", 5), ("upstone", 2), ("huge stone", 7)]
    first, second, third, inside = left_contexts(pieces, [Sentence(text, start, "0") for text, start in texts])
    assert first is None, "nothing precedes the word"
    assert second == pieces("huge")["input_ids"]
    assert third is not None
    assert pieces.decode(third) == "up"
    assert inside is None, "the token that covers this place begins inside another word"


def test_a_word_without_any_state_gets_the_most_frequent_sense(tmp_path: Path) -> None:
    pieces = byte_level()
    rows = [("bank up", "1"), ("bank down", "0"), ("bank", "1")]
    write_word(tmp_path, "bank", rows, [("bank left", "1"), ("up bank", "0")])
    found = lexical(tiny_model(len(pieces), 32), pieces, Choice(tmp_path), silent)
    coarse = found["tasks"]["coarsewsd20"]
    assert coarse["correct"] == [1, 0]
    assert coarse["fallbacks"] == 2
    assert found["missing"] == ["simlex999"]


def test_states_are_those_before_the_head_whatever_the_batch() -> None:
    pieces = byte_level()
    answering = tiny_model(len(pieces), 24)
    prefixes = [pieces(text)["input_ids"] for text in ("tiny bird", "glass", "under huge stone sings " * 6, "river")]
    caught = []
    answering.lm_head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0][0, -1]))
    with torch.no_grad():
        for prefix in prefixes:
            answering(torch.tensor([prefix[-24:]]))
    for size in (1, 3):
        found = last_states(answering, prefixes, size, lambda *_: None)
        torch.testing.assert_close(found, torch.stack(caught), atol=1e-5, rtol=1e-5)


def test_ties_go_to_the_smaller_label() -> None:
    train = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert nearest_sense(train, ["b", "a"], torch.tensor([[0.0, 3.0], [0.1, 0.0]])) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("CoarseWSD-20/bank/test.data.txt", "9\tup bank\n" * 4, r"test\.data\.txt:1: "),
        ("CoarseWSD-20/bank/test.gold.txt", "0\n", "4 sentences, 1 senses"),
        ("SimLex-999.txt", "word1\tword2\n" + "a\tb\n" * 3, "SimLex999"),
        ("SimLex-999.txt", "word1\tword2\tSimLex999\na\tb\tmuch\n", "much"),
        ("SimLex-999.txt", "word1\tword2\tSimLex999\na\tb\t1\n", "1 pairs"),
        ("SimLex-999.txt", "word1\tword2\tSimLex999\ncaf\xe9\tb\t1\n", "SimLex-999.txt is not UTF-8"),
        ("CoarseWSD-20/bank/train.data.txt", "0\tcaf\xe9\n", r"train\.data\.txt is not UTF-8"),
    ],
)
def test_malformed_files_are_named(data: Path, words: Any, name: str, content: str, match: str) -> None:
    (data / name).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=match):
        lexical(Plane(), words, Choice(data), silent)


def test_no_data_is_refused(tmp_path: Path, words: Any) -> None:
    with pytest.raises(InputError, match="neither --recipe nor --data"):
        lexical(Plane(), words, Choice(), silent)
    with pytest.raises(InputError, match="no files of coarsewsd20, simlex999"):
        lexical(Plane(), words, Choice(tmp_path), silent)


@pytest.mark.data
def test_the_original_files_are_read(data_dir: Path) -> None:
    paths = sorted((data_dir / "senses").rglob("SimLex-999.txt"))
    if not paths:
        pytest.skip("no SimLex-999.txt under senses/")
    pairs = read_pairs(paths[0])
    assert all(0 <= pair.rating <= 10 for pair in pairs)
