"""Lexical tests on a model's own states: CoarseWSD-20 and SimLex-999. No dictionary, no teacher.

All states are those after the final norm, which enter `lm_head`.

CoarseWSD-20 (Loureiro et al. 2021, arXiv 2008.11608): the state of an occurrence whose first piece stands at i is
h_{i-1}, which predicts it and has seen its left context alone. Per word, a sense is the mean of its training states; a
test occurrence gets the sense with the nearest mean (squared Euclidean distance, ties to the smaller label). An
occurrence without a state (it begins the text or stands inside a token), and every one of a word none of whose training
occurrences has a state, gets the most frequent sense of the training sentences, which is the baseline as well.

SimLex-999 (Hill et al. 2015, arXiv 1408.3456): a word is read alone, after a space, behind what the tokenizer puts
before every text; its state is that at its last piece, the first one that has seen the whole word. The similarity of
two words is the cosine of their states, and the figure is Spearman's rank correlation with the ratings; `centred` does
the same after the mean state of all words of the set is taken off, since states share a large common part.
"""

from __future__ import annotations

import csv
import functools
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from sensekd.artefacts import fingerprint
from sensekd.errors import InputError, require
from sensekd.evaluation.paper import Choice, chosen_names, flat
from sensekd.evaluation.parts import Parts
from sensekd.evaluation.quiet import Progress
from sensekd.evaluation.suites import refuse_closing
from sensekd.provenance import file_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAMES: Final = ("coarsewsd20", "simlex999")
_SPLITS: Final = ("train", "test")
_PARTS: Final = ("train.data.txt", "train.gold.txt", "test.data.txt", "test.gold.txt")
_SIMLEX: Final = "SimLex-999.txt"
# Of a token's index; no sentence is longer, and Python refuses to read numbers of thousands of digits.
_DIGITS: Final = 9
_COLUMNS: Final = ("word1", "word2", "SimLex999")


@dataclass(frozen=True)
class Sentence:
    """A text, where in it the word begins (in characters), and the word's sense."""

    text: str
    start: int
    sense: str


@dataclass(frozen=True)
class Pair:
    """Two words, and how similar people find them."""

    first: str
    second: str
    rating: float


def _sentence(line: str, sense: str, where: str) -> Sentence:
    number, tab, text = line.partition("\t")
    tokens = text.split(" ")
    if not tab or not number.strip().isdecimal() or len(number) > _DIGITS or int(number) >= len(tokens):
        raise InputError(f"{where}: {line[:60]!r}", "token index, tab, a sentence with that token", "correct the line")
    return Sentence(text, sum(len(token) + 1 for token in tokens[: int(number)]), sense)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}", "text in UTF-8", "convert it") from error


def _split(folder: Path, split: str, limit: int | None) -> list[Sentence]:
    data, gold = folder / f"{split}.data.txt", folder / f"{split}.gold.txt"
    lines = [line for line in _read(data).split("\n") if line.strip()]
    senses = _read(gold).split()
    if len(lines) != len(senses) or not lines:
        raise InputError(f"{data}: {len(lines)} sentences, {len(senses)} senses", "one each", "check the files")
    columns = enumerate(zip(lines, senses, strict=True), start=1)
    return [_sentence(line, sense, f"{data}:{number}") for number, (line, sense) in columns][:limit]


def coarse_folders(data: Path) -> list[Path]:
    """The folders of CoarseWSD-20's words under a folder, at whatever depth."""
    found = {path.parent for path in data.rglob(_PARTS[0])}
    return sorted(folder for folder in found if all((folder / part).is_file() for part in _PARTS))


def _word_of(text: str | None) -> str:
    if not text:
        raise ValueError("a row without a word")
    return text


def _rating(text: str) -> float:
    if not math.isfinite(rating := float(text)):
        raise ValueError(f"the rating {text!r}")
    return rating


def read_pairs(path: Path, limit: int | None = None) -> list[Pair]:
    """SimLex-999's own file: tab-separated, with a header.

    Raises:
        InputError: columns are missing, a rating is no number, or it is not UTF-8.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(_read(path), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
        pairs = [
            Pair(_word_of(row[_COLUMNS[0]]), _word_of(row[_COLUMNS[1]]), _rating(row[_COLUMNS[2]])) for row in rows
        ]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: {error!r}", f"the columns {', '.join(_COLUMNS)}", "take the original file"
        ) from error
    if len(pairs[:limit]) < 2:
        raise InputError(f"{path}: {len(pairs[:limit])} pairs", "at least two", "take the whole file")
    return pairs[:limit]


@torch.no_grad()
def last_states(model: PreTrainedModel, prefixes: Sequence[Sequence[int]], batch_size: int, show: Progress) -> Tensor:
    """[N, D] the state at the last token of every prefix, float32 on the CPU.

    Args:
        model: a decoder.
        prefixes: ids, at least one each; those longer than the context lose tokens at the left.
        batch_size: of one forward; sorted by length and padded on the right, which a decoder does not see.
        show: gets done and total.
    """
    from sensekd.evaluation.chatted import context_of

    room, width = context_of(model), int(model.get_input_embeddings().weight.shape[1])
    order = sorted(range(len(prefixes)), key=lambda number: (-len(prefixes[number]), number))
    states = torch.zeros(len(prefixes), width)
    training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = [torch.tensor(list(prefixes[number])[-room:]) for number in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=model.device)
        found = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        states[batch] = found[torch.arange(len(batch), device=model.device), ends].float().cpu()
        show(min(start + batch_size, len(order)), len(order))
    model.train(training)
    return states


def _fast(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} cannot say which characters a token covers", "a fast tokenizer",
            "save the model with a tokenizer.json",
        )  # fmt: skip


def left_contexts(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sentence]) -> list[list[int] | None]:
    """The ids before each occurrence's first piece; None where there are none or a token covers more than the word.

    Raises:
        InputError: a slow tokenizer.
    """
    _fast(tokenizer)
    encoded = tokenizer([item.text for item in sentences], return_offsets_mapping=True)
    found: list[list[int] | None] = []
    for item, ids, offsets in zip(sentences, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        covering = np.flatnonzero(spans[:, 1] > item.start)
        # A token may begin before the word by white space alone.
        whole = len(covering) > 0 and not item.text[spans[covering[0], 0] : item.start].strip()
        found.append(list(ids[: covering[0]]) if whole and covering[0] > 0 else None)
    return found


def _majority(senses: Sequence[str]) -> str:
    counts = Counter(senses)
    return min(counts, key=lambda sense: (-counts[sense], sense))


def nearest_sense(train: Tensor, senses: Sequence[str], test: Tensor) -> list[str]:
    """The sense of the nearest mean.

    Args:
        train: [N, D] states.
        senses: of each of them.
        test: [M, D].
    """
    labels = sorted(set(senses))
    rows = np.asarray(senses)
    means = torch.stack([train[torch.from_numpy(rows == label)].double().mean(0) for label in labels])
    apart = (test.double()[:, None] - means).square().sum(2)
    return [labels[at] for at in apart.argmin(1).tolist()]


def _word(train: list[Sentence], test: list[Sentence], states: Sequence[Tensor | None]) -> tuple[list[int], float, int]:
    """1 or 0 for each test sentence, the baseline's accuracy, and how many test sentences fell back to it."""
    frequent = _majority([item.sense for item in train])
    known = [(state, item.sense) for state, item in zip(states, train, strict=False) if state is not None]
    asked = [(number, state) for number, state in enumerate(states[len(train) :]) if state is not None and known]
    answers = [frequent] * len(test)
    if asked:
        means = torch.stack([state for state, _ in known]), [sense for _, sense in known]
        for (number, _), answer in zip(asked, nearest_sense(*means, torch.stack([s for _, s in asked])), strict=True):
            answers[number] = answer
    correct = [int(answer == item.sense) for answer, item in zip(answers, test, strict=True)]
    return correct, float(np.mean([item.sense == frequent for item in test])), len(test) - len(asked)


def coarse(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folders: Sequence[Path], choice: Choice, show: Progress
) -> dict[str, Any]:
    """CoarseWSD-20; `limit` counts the sentences of each split of each word.

    Returns:
        `metrics`: `accuracy` and `most_frequent` (means over words), `accuracy_micro` (over sentences); `items` (test
        sentences), `correct`, `fallbacks`, `words`.
    """
    limit = choice.limit(NAMES[0])
    words = {folder.name: [_split(folder, split, limit) for split in _SPLITS] for folder in folders}
    sentences = [item for splits in words.values() for split in splits for item in split]
    prefixes = left_contexts(tokenizer, sentences)
    placed = [number for number, prefix in enumerate(prefixes) if prefix is not None]
    rows = last_states(model, [prefixes[number] or [] for number in placed], choice.batch_size, show)
    states: list[Tensor | None] = [None] * len(sentences)
    for number, row in zip(placed, rows, strict=True):
        states[number] = row
    scores, correct, first = {}, [], 0
    for word, (train, test) in words.items():
        right, baseline, fallbacks = _word(train, test, states[first : first + len(train) + len(test)])
        scores[word] = {
            "accuracy": float(np.mean(right)), "most_frequent": baseline, "train": len(train), "test": len(test),
            "fallbacks": fallbacks,
        }  # fmt: skip
        correct += right
        first += len(train) + len(test)
    means = {name: float(np.mean([score[name] for score in scores.values()])) for name in ("accuracy", "most_frequent")}
    return {
        "metrics": {**means, "accuracy_micro": float(np.mean(correct))},
        "items": len(correct),
        "correct": correct,
        "fallbacks": sum(int(score["fallbacks"]) for score in scores.values()),
        "words": scores,
        "data": fingerprint([[item.text, item.start, item.sense] for item in sentences]),
    }


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """[N] cosines of the rows of two [N, D] tensors."""
    return torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=1)


def simlex(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, choice: Choice, show: Progress
) -> dict[str, Any]:
    """SimLex-999; `limit` counts pairs.

    Returns:
        `metrics`: `spearman`, `spearman_centred`; `items`.
    """
    stats = require("scipy.stats", "eval")
    pairs = read_pairs(path, choice.limit(NAMES[1]))
    words = sorted({word for pair in pairs for word in (pair.first, pair.second)})
    ids = [list(tokenizer(f" {word}")["input_ids"]) for word in words]
    states = last_states(model, ids, choice.batch_size, show)
    at = {word: number for number, word in enumerate(words)}
    first, second = ([at[getattr(pair, side)] for pair in pairs] for side in ("first", "second"))
    ratings = [pair.rating for pair in pairs]
    metrics = {}
    for name, rows in {"spearman": states, "spearman_centred": states - states.mean(0)}.items():
        found = stats.spearmanr(cosines(rows[first], rows[second]).numpy(), ratings).statistic
        # No rank correlation where all are equal; NaN is no JSON.
        metrics[name] = 0.0 if np.isnan(found) else float(found)
    return {
        "metrics": metrics,
        "items": len(pairs),
        "data": fingerprint([[p.first, p.second, p.rating] for p in pairs]),
    }


def _sources(choice: Choice) -> Mapping[str, list[Path]]:
    """Where each test that is asked for has its files: folders of words, or the list of pairs; empty where it has none.

    Raises:
        InputError: no such folder or test, or no files of one that is asked for by name.
    """
    names = chosen_names(choice, NAMES)
    if choice.data is None or not choice.data.is_dir():
        raise InputError(
            f"no folder {choice.data}" if choice.data else "neither --recipe nor --data is given",
            "a folder with CoarseWSD-20's words or SimLex-999.txt (--data), or a recipe with held-out text (--recipe)",
            "sensekd evaluate MODEL --suite intrinsic --data DIR",
        )
    found = {NAMES[0]: coarse_folders(choice.data), NAMES[1]: sorted(choice.data.rglob(_SIMLEX))[:1]}
    missing = [name for name in names if not found[name]]
    if missing and (choice.names or len(missing) == len(names)):
        expected = f"folders with {', '.join(_PARTS)}; {_SIMLEX}"
        raise InputError(f"no files of {', '.join(missing)} under {choice.data}", expected, "check --data and --task")
    return {name: found[name] for name in names}


def lexical_files(choice: Choice) -> dict[str, tuple[Path, ...]]:
    """The files of each test that is chosen and there.

    Raises:
        InputError: a test that was asked for by name has none, or none has.
    """
    found = _sources(choice)
    coarse_files = tuple(folder / part for folder in found.get(NAMES[0], ()) for part in _PARTS)
    files = {NAMES[0]: coarse_files, NAMES[1]: tuple(found.get(NAMES[1], ()))}
    return {name: paths for name, paths in files.items() if paths}


def lexical(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    choice: Choice,
    show: Callable[[str], Progress],
    parts: Parts | None = None,
) -> dict[str, Any]:
    """Run both tests on one model.

    Args:
        model: a decoder, on the device it shall run on.
        tokenizer: its tokenizer, a fast one.
        choice: which tests, from where, and how much of them.
        show: gives what takes done and total, for a title.
        parts: keeps the result of each test, for a run that is interrupted.

    Returns:
        As `paper`: `tasks`, `metrics`, `missing`, `files`.

    Raises:
        InputError: data that is missing or malformed, or a slow tokenizer.
    """
    refuse_closing(tokenizer)
    sources, files = _sources(choice), lexical_files(choice)
    parts = parts or Parts()

    def run(name: str, paths: Sequence[Path]) -> dict[str, Any]:
        progress = show(f"evaluate {name}")
        if name == NAMES[0]:
            return coarse(model, tokenizer, paths, choice, progress)
        return simlex(model, tokenizer, paths[0], choice, progress)

    def data(name: str) -> list[Any]:
        return [file_fingerprint(*files[name]), choice.limit(name)]

    found: dict[str, Any] = {}
    for name, paths in sources.items():
        if paths:
            found[name] = parts.once(name, functools.partial(data, name), functools.partial(run, name, paths))
    missing = [name for name in sources if name not in found]
    return {"tasks": found, "metrics": flat(found), "missing": missing, "files": files}
