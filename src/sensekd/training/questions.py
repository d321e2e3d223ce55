"""Question sets in the formats that their authors give them in, as prompts with gold answers.

A question with choices asks for a letter; the letters follow the order of the choices, whatever labels the file uses.

    Question: <question>
    A. <choice>
    B. <choice>
    Answer: B

A question on a passage asks for the shortest gold answer's words, or for `unanswerable`.
"""

from __future__ import annotations

import csv
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from sensekd.errors import InputError

Pair = tuple[str, str | None]

UNANSWERABLE: Final = "unanswerable"
_MMLU_COLUMNS: Final = 6


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """A question with lettered choices, ending where the letter belongs."""
    lines = [f"{letter}. {choice.strip()}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
    return "\n".join([f"Question: {question.strip()}", *lines, "Answer:"])


def passage_prompt(context: str, question: str) -> str:
    """A question on a passage, ending where the answer belongs."""
    return f"Context: {context.strip()}\nQuestion: {question.strip()}\nAnswer:"


def _letter(index: int) -> str:
    return f" {string.ascii_uppercase[index]}"


def _malformed(path: Path, where: str, expected: str) -> InputError:
    return InputError(f"{path}: {where}", expected, "check `corpus.records` and the file")


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                yield number, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise _malformed(path, f"line {number} is not JSON: {error}", "one JSON object a line") from error


def _labelled(name: str) -> Iterator[Pair]:
    """ARC and CommonsenseQA: choices with labels (letters or figures), and the label of the answer if it is known."""
    path = Path(name)
    expected = '{"question": {"stem": text, "choices": [{"text": text, "label": text}, …]}, "answerKey": label}'
    for number, row in _lines(path):
        try:
            question = row["question"]
            choices = [(choice["label"], choice["text"]) for choice in question["choices"]]
            prompt = choice_prompt(question["stem"], [text for _, text in choices])
            key = row.get("answerKey")
            answer = None if key is None else _letter([label for label, _ in choices].index(key))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise _malformed(path, f"line {number} is no such question ({error})", expected) from error
        yield prompt, answer


def _piqa(name: str) -> Iterator[Pair]:
    """PIQA: two solutions a goal; the answers (0 or 1) stand beside it in `<stem>-labels.lst`, if anywhere."""
    path = Path(name)
    beside = path.with_name(f"{path.stem}-labels.lst")
    labels = beside.read_text(encoding="utf-8").split() if beside.is_file() else None
    for index, (number, row) in enumerate(_lines(path)):
        try:
            prompt = choice_prompt(row["goal"], [row["sol1"], row["sol2"]])
            answer = None if labels is None else {"0": _letter(0), "1": _letter(1)}[labels[index]]
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            expected = f'{{"goal": text, "sol1": text, "sol2": text}}, and 0 or 1 for each line in {beside.name}'
            raise _malformed(path, f"line {number} is no such question ({error!r})", expected) from error
        yield prompt, answer


def _mmlu(name: str) -> Iterator[Pair]:
    """MMLU: CSV without a header, question, four choices, letter; one file, or a folder of them."""
    folder = Path(name)
    paths = sorted(folder.glob("*.csv")) if folder.is_dir() else [folder]
    if not paths:
        raise InputError(f"no *.csv in {folder}", "the subjects of MMLU, a file each", "check the path of the corpus")
    for path in paths:
        with path.open(encoding="utf-8", newline="") as handle:
            for number, row in enumerate(csv.reader(handle), start=1):
                if len(row) != _MMLU_COLUMNS or row[-1].strip() not in {"A", "B", "C", "D"}:
                    expected = "question, four choices and the letter of the answer"
                    raise _malformed(path, f"row {number} has {len(row)} columns, the last {row[-1:]}", expected)
                yield choice_prompt(row[0], row[1:-1]), f" {row[-1].strip()}"


def _squad(name: str) -> Iterator[Pair]:
    """SQuAD v2: questions on passages, some of which the passage does not answer."""
    path = Path(name)
    try:
        articles = orjson.loads(path.read_bytes())["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = [answer["text"].strip() for answer in question["answers"]]
                    if not answers and not question.get("is_impossible"):
                        answer = None
                    else:
                        answer = f" {min(answers, key=len)}" if answers else f" {UNANSWERABLE}"
                    yield passage_prompt(paragraph["context"], question["question"]), answer
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _malformed(path, f"is not SQuAD v2 ({error!r})", "data[].paragraphs[].qas[] in JSON") from error


def _checked(read: Callable[[str], Iterator[Pair]]) -> Callable[[str], Iterator[Pair]]:
    def checked(name: str) -> Iterator[Pair]:
        if not Path(name).exists():
            raise InputError(f"no question set at {name}", "its file", "check the path of `corpus` in the recipe")
        try:
            yield from read(name)
        except UnicodeDecodeError as error:
            raise InputError(f"{name} is not UTF-8: {error}", "text in UTF-8", "convert it with iconv") from error
        except csv.Error as error:  # A quotation mark that nothing closes takes the rest of the file into one cell.
            raise _malformed(Path(name), f"cannot be read as CSV ({error})", "rows of short cells") from error

    return checked


READERS: Final[dict[str, Callable[[str], Iterator[Pair]]]] = {
    "arc": _checked(_labelled),
    "csqa": _checked(_labelled),
    "piqa": _checked(_piqa),
    "mmlu": _checked(_mmlu),
    "squad": _checked(_squad),
}
