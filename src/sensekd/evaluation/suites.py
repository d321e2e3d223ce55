"""Multiple-choice sets from JSON lines, scored by lm-eval on a model in memory."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from sensekd.errors import InputError, require
from sensekd.evaluation.quiet import bars, errors_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Question:
    """One item: the right one of `choices` is `choices[answer]`."""

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class SuiteResult:
    """One set's result.

    Attributes:
        accuracy: share of the items whose right choice has the highest log-likelihood.
        correct: 1 or 0 for every item, in the order of the file.
        chance: what guessing gives: the mean of 1 / number of choices.
        items: how many.
    """

    accuracy: float
    correct: tuple[int, ...]
    chance: float
    items: int


def _question(line: bytes, where: str) -> Question:
    expected = '{"question": "…", "choices": ["…", "…"], "answer": index of the right choice}'
    try:
        raw = orjson.loads(line)
        question, choices, answer = raw["question"], raw["choices"], raw["answer"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        missing = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{where}: {missing}", expected, "correct the line") from error
    texts = [question, *choices] if isinstance(choices, list) else [question, None]
    if not all(isinstance(text, str) and text.strip() for text in texts) or len(texts) < 3:
        found = f"{where}: the question or a choice is empty or not a text, or there are fewer than two choices"
        raise InputError(found, expected, "correct the line")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise InputError(f"{where}: answer {answer!r}", f"an index from 0 to {len(choices) - 1}", "correct the line")
    return Question(question, tuple(choices), answer)


def read_questions(path: Path) -> list[Question]:
    """Read a set, one JSON object a line; blank lines are skipped.

    Raises:
        InputError: no such file, an empty one, or a malformed line (named by file and number).
    """
    if not path.is_file():
        raise InputError(f"no question set at {path}", "a file of JSON lines", "check the path in the recipe")
    with path.open("rb") as handle:
        questions = [_question(line, f"{path}:{at}") for at, line in enumerate(handle, 1) if line.strip()]
    if not questions:
        raise InputError(f"{path} holds no question", "one JSON object a line", "check the file")
    return questions


def _task(name: str, questions: list[Question]) -> dict[str, Any]:
    """A task of lm-eval. Fields are named, not templated, so that braces in a question stay what they are."""
    from datasets import Dataset

    rows = {
        "question": [item.question for item in questions],
        "choices": [list(item.choices) for item in questions],
        "answer": [item.answer for item in questions],
    }
    return {
        "task": name,
        "output_type": "multiple_choice",
        "custom_dataset": lambda **_: {"test": Dataset.from_dict(rows)},
        "test_split": "test",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }


def _samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: list[dict[str, Any]], batch_size: int
) -> dict[str, list[dict[str, Any]]]:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    if tokenizer.pad_token_id is None:
        tokenizer = copy.deepcopy(tokenizer)  # HFLM would set one on the caller's.
    with errors_only("lm_eval"), tempfile.TemporaryDirectory() as empty:
        loaded = TaskManager(include_path=empty, include_defaults=False).load(tasks)
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    # `evaluate` is the core of `simple_evaluate`, without its look at the machine and its reseeding of every generator.
    with bars():
        results = evaluate(lm=lm, task_dict=loaded, bootstrap_iters=0, log_samples=True)
    return dict(results["samples"])


def refuse_closing(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that puts the end token after every text.

    Raises:
        InputError: it does; a question would end with it, and a choice be cut at the wrong place.
    """
    if tokenizer.eos_token_id is not None and tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
        raise InputError(
            f"the tokenizer ends every text with {tokenizer.eos_token!r}",
            "one that adds at most a beginning-of-sequence token",
            "save the tokenizer without the end token in its post-processor",
        )


def multiple_choice(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, Path],
    *,
    batch_size: int,
) -> dict[str, SuiteResult]:
    """Answer every set: the choice with the highest log-likelihood after `question + " "` wins, the first of equals.

    Args:
        model: a decoder, on the device it shall run on.
        tokenizer: its tokenizer.
        sets: name -> file of JSON lines {"question": str, "choices": [str], "answer": int}.
        batch_size: sequences of one forward.

    Returns:
        Results by name, in alphabetical order whatever the order of `sets`.

    Raises:
        InputError: a set cannot be read, or lm-eval is not installed.
    """
    if not sets:
        return {}
    questions = {name: read_questions(sets[name]) for name in sorted(sets)}
    require("lm_eval", "eval")
    refuse_closing(tokenizer)
    was_training, generator = model.training, random.getstate()
    try:
        samples = _samples(model, tokenizer, [_task(*item) for item in questions.items()], batch_size)
    finally:
        model.train(was_training)
        random.setstate(generator)  # The libraries underneath draw from it; a caller's own draws shall not move.
    results = {}
    for name, items in questions.items():
        ordered = sorted(samples[name], key=lambda sample: int(sample["doc_id"]))
        correct = tuple(int(sample["acc"]) for sample in ordered)
        chance = sum(1 / len(item.choices) for item in items) / len(items)
        results[name] = SuiteResult(sum(correct) / len(correct), correct, chance, len(items))
    return results
