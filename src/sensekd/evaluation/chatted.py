"""The suite `paper-chat`: the published protocol (DSKD, arXiv 2602.22351), exact match of one generated token.

A question is one turn of the user, in the words that the training data has (`training/questions.py`); the model says
one token, on SQuAD v2 ten. A choice is right when that token, without white space around it, is the letter of the
right answer. SQuAD v2 is judged by the official rules, with "unanswerable" for the empty answer. No shots, no sampling.
A tokenizer without a chat template gets the prompt as plain text, as it does in training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from sensekd.artefacts import fingerprint
from sensekd.errors import InputError, require
from sensekd.evaluation.originals import Benchmark, Row
from sensekd.evaluation.paper import SHOTS, Choice, chosen_names, flat, local_rows, stderr
from sensekd.evaluation.parts import Parts
from sensekd.evaluation.quiet import Progress
from sensekd.evaluation.squad import Answered, exact, f1, judge
from sensekd.evaluation.suites import refuse_closing
from sensekd.training.questions import choice_prompt, passage_prompt
from sensekd.training.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SQUAD: Final = "squad_v2"
_TOKENS: Final = {_SQUAD: 10}
_SPLITS: Final = ("test", "validation")
_DEFAULT_CONTEXT: Final = 2048


@dataclass(frozen=True)
class Asked:
    """One item.

    Attributes:
        prompt: what the user says.
        golds: the letter, or the gold answers; empty where there is none.
        choices: how many; 0 on a passage.
        row: as it was read.
    """

    prompt: str
    golds: tuple[str, ...]
    choices: int
    row: Row


def _lettered(question: str, texts: Sequence[str], right: int, row: Row) -> Asked:
    return Asked(choice_prompt(question, texts), (_LETTERS[right],), len(texts), row)


def ask(name: str, row: Row) -> Asked:
    """The item of a row.

    Args:
        name: benchmark.
        row: with the columns of its dataset.
    """
    if name == _SQUAD:
        return Asked(passage_prompt(row["context"], row["question"]), tuple(row["answers"]["text"]), 0, row)
    if name == "piqa":
        return _lettered(row["goal"], [row["sol1"], row["sol2"]], int(row["label"]), row)
    if name == "mmlu":
        return _lettered(row["question"], row["choices"], int(row["answer"]), row)
    texts, labels = row["choices"]["text"], row["choices"]["label"]
    return _lettered(row["question"], texts, labels.index(row["answerKey"]), row)


def _hub_rows(name: str) -> Iterator[list[Row]]:
    """The evaluated rows of a benchmark from the hub, task by task."""
    from datasets import load_dataset

    require("lm_eval", "eval")
    from sensekd.evaluation.harness import registered, squad_dataset

    if name == _SQUAD:
        places = [(*squad_dataset(), "validation")]
    else:
        configs = {task: config for task, config in sorted(registered().items()) if task == name or _of(task, name)}
        places = [
            (config["dataset_path"], config.get("dataset_name"), config.get("test_split") or config["validation_split"])
            for config in configs.values()
        ]
    for path, subset, split in places:
        try:
            yield list(load_dataset(path, subset, split=split))
        except (OSError, ValueError) as error:
            raise InputError(
                f"the dataset {path} cannot be loaded: {str(error).splitlines()[0]}",
                "the hub, or what its cache holds",
                "give a folder of the original files with --data",
            ) from error


def _of(task: str, name: str) -> bool:
    return name == "mmlu" and task.startswith("mmlu_")


def _evaluated(benchmark: Benchmark) -> list[Row]:
    split = next(split for split in _SPLITS if split in benchmark.splits)
    return list(benchmark.splits[split])


def _prompts(tokenizer: PreTrainedTokenizerBase, items: Sequence[Asked]) -> tuple[list[list[int]], bool]:
    """Ids of every prompt, and whether they are a chat's."""
    if tokenizer.chat_template is None:
        return [list(tokenizer(item.prompt)["input_ids"]) for item in items], False
    from sensekd.training.chat import Chat

    chat = Chat(tokenizer)
    return [chat.prompt([Message("user", item.prompt)]) for item in items], True


@torch.no_grad()
def generate(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], tokens: int, batch_size: int, show: Progress
) -> list[list[int]]:
    """The most probable next tokens of every prompt, one after the other.

    Args:
        model: a decoder.
        prompts: ids; those without room for the answer lose tokens at the left.
        tokens: how many to generate.
        batch_size: prompts of one forward; they are sorted by length and padded on the left.
        show: gets done and total.

    Returns:
        Ids without what follows the end token.
    """
    from transformers import GenerationConfig

    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    stops = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    config = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, eos_token_id=sorted(stops) or None, pad_token_id=0, use_cache=tokens > 1
    )
    room = context_of(model) - tokens
    order = sorted(range(len(prompts)), key=lambda number: (-len(prompts[number]), number))
    answers: list[list[int]] = [[] for _ in prompts]
    kept, training = model.generation_config, model.training
    model.eval()
    # What the checkpoint says about sampling or penalties would be merged into ours.
    model.generation_config = config
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = [list(prompts[number])[-room:] for number in batch]
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=model.device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
            said = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
            for number, row in zip(batch, said, strict=True):
                end = next((at for at, token in enumerate(row) if token in stops), len(row))
                answers[number] = row[:end]
            show(min(start + batch_size, len(order)), len(order))
    finally:
        model.generation_config = kept
        model.train(training)
    return answers


def context_of(model: PreTrainedModel) -> int:
    """How many positions a model has; 2,048 where its configuration does not say."""
    config = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(found or _DEFAULT_CONTEXT)


def _prediction(text: str) -> str:
    line = text.strip().partition("\n")[0].strip()
    return "" if line.lower().rstrip(".") == "unanswerable" else line


def _figures(name: str, items: Sequence[Asked], said: Sequence[str]) -> dict[str, Any]:
    if name == _SQUAD:
        answered = [Answered(_prediction(text), item.golds) for text, item in zip(said, items, strict=True)]
        # There is no probability of "no answer" under this protocol, hence no threshold.
        figures = {key: value for key, value in judge(answered).items() if not key.startswith("best_")}
        correct = [exact(item.prediction, item.golds) for item in answered]
        errors = {"exact": stderr(correct), "f1": stderr([f1(item.prediction, item.golds) for item in answered])}
        return {"metrics": figures, "stderr": errors, "correct": list(map(int, correct))}
    pairs = [(text.strip(), item) for text, item in zip(said, items, strict=True)]
    correct = [float(text == item.golds[0]) for text, item in pairs]
    letters = [len(text) == 1 and text in _LETTERS[: item.choices] for text, item in pairs]
    return {
        "metrics": {"exact_match": math.fsum(correct) / len(correct), "letters": sum(letters) / len(letters)},
        "stderr": {"exact_match": stderr(correct)},
        "correct": list(map(int, correct)),
        "chance": math.fsum(1 / item.choices for item in items) / len(items),
    }


def _rows(choice: Choice, names: Sequence[str]) -> tuple[dict[str, list[list[Row]]], list[str], dict[str, Any]]:
    """Benchmark -> rows task by task, what has no files, and the files."""
    if choice.data is None:
        return {name: list(_hub_rows(name)) for name in names}, [], {}
    local, missing = local_rows(choice, names)
    files = {task: rows.files for group in local.values() for task, rows in group.items()}
    return {name: [_evaluated(rows) for rows in group.values()] for name, group in local.items()}, missing, files


def paper_chat(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    choice: Choice,
    show: Callable[[str], Progress],
    parts: Parts | None = None,
) -> dict[str, Any]:
    """Run the suite on one model.

    Args:
        model: a decoder, on the device it shall run on.
        tokenizer: its tokenizer, with a chat template or without.
        choice: which benchmarks, from where, and how much of them.
        show: gives what takes done and total, for a title.
        parts: keeps the result of each benchmark, for a run that is interrupted.

    Returns:
        As `paper`: `tasks` (by benchmark `metrics` with `exact_match` and `letters`, the share of answers that are the
        letter of a choice; for SQuAD v2 its figures; `items`, `correct`, `tokens` generated, `chat`: whether there is
        a template, `truncated`), `metrics`, `missing`, `files`.

    Raises:
        InputError: data that is missing or malformed, or a context without room for an answer.
    """
    names = chosen_names(choice, list(SHOTS))
    refuse_closing(tokenizer)
    sources, missing, files = _rows(choice, names)
    parts = parts or Parts()

    def run(name: str, items: Sequence[Asked], data: str) -> dict[str, Any]:
        tokens = _TOKENS.get(name, 1)
        if context_of(model) <= tokens:
            raise InputError(f"a context of {context_of(model)}", f"more than the {tokens} tokens of an answer")
        prompts, chat = _prompts(tokenizer, items)
        said = generate(model, prompts, tokens, choice.batch_size, show(f"evaluate {name}"))
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in said]
        return _figures(name, items, texts) | {
            "items": len(items), "tokens": tokens, "chat": chat,
            "truncated": sum(len(ids) > context_of(model) - tokens for ids in prompts),
            "data": data,
        }  # fmt: skip

    found: dict[str, Any] = {}
    for name, groups in sources.items():
        items = [ask(name, row) for rows in groups for row in rows[: choice.limit(name)]]
        data = fingerprint([item.row for item in items])
        found[name] = parts.once(name, functools.partial(str, data), functools.partial(run, name, items, data))
    return {"tasks": found, "metrics": flat(found), "missing": missing, "files": files}
