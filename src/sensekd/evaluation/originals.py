"""The paper's benchmarks as rows, from the files that their authors published.

Rows have the columns of the datasets that lm-eval's tasks read, so that a task does not see where its rows came from.
A file is found by its name, wherever under the folder it stands.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from sensekd.errors import InputError

Row = dict[str, Any]

_LETTERS: Final = ("A", "B", "C", "D")
_FIVE: Final = ("A", "B", "C", "D", "E")
_TEST, _DEV = "_test.csv", "_dev.csv"
_SUFFIXES: Final = frozenset({".jsonl", ".json", ".csv"})
_EXPECTED: Final = {
    "arc": '{"id", "question": {"stem", "choices": [{"text", "label"}, …]}, "answerKey": one of the labels}',
    "csqa": '{"id", "question": {"stem", "choices": five of {"text", "label": A to E}}, "answerKey": A to E}',
    "piqa": '{"goal", "sol1", "sol2"}, and 0 or 1 for each line in <name>-labels.lst beside it',
    "mmlu": "question, four choices and the letter of the answer (A to D), without a header",
    "squad": '{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text"}]}]}]}]}',
}


@dataclass(frozen=True)
class Benchmark:
    """The rows of one task of lm-eval.

    Attributes:
        splits: `test`, `validation`, `dev` or `train` -> rows.
        files: what they were read from.
    """

    splits: Mapping[str, Sequence[Row]]
    files: tuple[Path, ...]


def _malformed(where: str, kind: str, reason: str) -> InputError:
    return InputError(f"{where}: {reason}", _EXPECTED[kind], "correct the file, or download it again")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text")
    return value


def _lines(path: Path, kind: str, read: Callable[[Any], Row]) -> list[Row]:
    """Rows of a file of JSON lines; blank lines are skipped."""
    rows = []
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                rows.append(read(orjson.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
                raise _malformed(f"{path}:{number}", kind, reason) from error
    if not rows:
        raise _malformed(str(path), kind, "no question")
    return rows


def _labelled(raw: Any) -> Row:
    """A question of ARC; labels may be letters or figures, three, four or five of them."""
    question = raw["question"]
    texts = [_text(choice["text"]) for choice in question["choices"]]
    labels = [str(choice["label"]).strip() for choice in question["choices"]]
    key = str(raw["answerKey"]).strip()
    if len(texts) < 2 or len(set(labels)) < len(labels) or key not in labels:
        raise ValueError(f"the answer is {key!r}, the labels are {labels}")
    choices = {"text": texts, "label": labels}
    return {"id": str(raw["id"]), "question": _text(question["stem"]), "choices": choices, "answerKey": key}


def _five_choices(raw: Any) -> Row:
    row = _labelled(raw)
    if tuple(row["choices"]["label"]) != _FIVE:
        raise ValueError(f"the labels are {row['choices']['label']}")
    return row


def _piqa(path: Path) -> list[Row]:
    beside = path.with_name(f"{path.stem}-labels.lst")
    if not beside.is_file():
        raise _malformed(str(path), "piqa", f"no {beside.name} beside it")
    rows = _lines(path, "piqa", lambda raw: {key: _text(raw[key]) for key in ("goal", "sol1", "sol2")})
    labels = beside.read_text(encoding="utf-8").split()
    if len(labels) != len(rows) or not set(labels) <= {"0", "1"}:
        raise _malformed(str(beside), "piqa", f"{len(labels)} labels ({sorted(set(labels))}) for {len(rows)} questions")
    return [{**row, "label": int(label)} for row, label in zip(rows, labels, strict=True)]


def _mmlu(path: Path, subject: str) -> list[Row]:
    rows: list[Row] = []
    # A byte order mark would become part of the first question.
    with path.open(encoding="utf-8-sig", newline="") as handle:
        try:
            for number, row in enumerate(csv.reader(handle, strict=True), start=1):
                if len(row) != 6 or row[5].strip() not in _LETTERS or not row[0].strip():
                    raise _malformed(f"{path}: row {number}", "mmlu", f"{len(row)} columns, the last {row[-1:]}")
                answer = _LETTERS.index(row[5].strip())
                rows.append({"question": row[0], "subject": subject, "choices": row[1:5], "answer": answer})
        except csv.Error as error:
            # An unclosed quote makes one field of all that follows.
            raise _malformed(f"{path}: row {len(rows) + 1}", "mmlu", str(error)) from error
    if not rows:
        raise _malformed(str(path), "mmlu", "no question")
    return rows


def _squad(path: Path) -> list[Row]:
    rows = []
    try:
        for article in orjson.loads(path.read_bytes())["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = {
                        "text": [str(answer["text"]) for answer in asked["answers"]],
                        "answer_start": [int(answer.get("answer_start", -1)) for answer in asked["answers"]],
                    }
                    rows.append({
                        "id": str(asked["id"]), "title": str(article["title"]), "context": _text(paragraph["context"]),
                        "question": _text(asked["question"]), "answers": answers,
                    })  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"question {len(rows) + 1}: {error!r}"
        raise _malformed(str(path), "squad", reason) from error
    if not rows:
        raise _malformed(str(path), "squad", "no question")
    return rows


class _Files:
    """The files of the benchmarks under a folder, found in one walk.

    Args:
        folder: looked through at whatever depth.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                self._paths.setdefault(path.name, []).append(path)

    def one(self, name: str) -> Path | None:
        """The file of that name, or None.

        Raises:
            InputError: there are several.
        """
        found = self._paths.get(name, [])
        if len(found) > 1:
            where = ", ".join(str(path.relative_to(self._folder)) for path in found[:3])
            raise InputError(
                f"{self._folder} holds {name} {len(found)} times: {where}", "one of each", "give a folder with one"
            )
        return found[0] if found else None

    def ending(self, suffix: str) -> list[Path]:
        """All files with such a name, by name.

        Raises:
            InputError: one of them is there several times.
        """
        return [path for name in sorted(self._paths) if name.endswith(suffix) and (path := self.one(name)) is not None]


def _single(files: _Files) -> Iterator[tuple[str, Benchmark]]:
    """The benchmarks of one file each."""
    readers: dict[str, tuple[str, str, Callable[[Path], list[Row]]]] = {
        "arc_challenge": ("ARC-Challenge-Test.jsonl", "test", lambda path: _lines(path, "arc", _labelled)),
        "arc_easy": ("ARC-Easy-Test.jsonl", "test", lambda path: _lines(path, "arc", _labelled)),
        "commonsense_qa": ("dev_rand_split.jsonl", "validation", lambda path: _lines(path, "csqa", _five_choices)),
        "piqa": ("valid.jsonl", "validation", _piqa),
    }
    for name, (file, split, read) in readers.items():
        if (path := files.one(file)) is not None:
            beside = path.with_name(f"{path.stem}-labels.lst")
            yield name, Benchmark({split: read(path)}, (path, beside) if name == "piqa" else (path,))


def _subjects(files: _Files) -> Iterator[tuple[str, Benchmark]]:
    for test in files.ending(_TEST):
        subject = test.name.removesuffix(_TEST)
        dev = files.one(subject + _DEV)
        if dev is None:
            raise InputError(
                f"no {subject}{_DEV} for {test}", "the questions that the shots of MMLU are taken from",
                "put the folder `dev` beside `test`",
            )  # fmt: skip
        yield f"mmlu_{subject}", Benchmark({"test": _mmlu(test, subject), "dev": _mmlu(dev, subject)}, (test, dev))


def read_originals(folder: Path) -> dict[str, Benchmark]:
    """Every benchmark whose files stand under a folder.

    `arc_challenge`, `arc_easy` (ARC-*-Test.jsonl), `commonsense_qa` (dev_rand_split.jsonl; the test split has no
    answers), `piqa` (valid.jsonl, valid-labels.lst), `mmlu_<subject>` (<subject>_test.csv, <subject>_dev.csv) and
    `squad_v2` (dev-v2.0.json, and train-v2.0.json for the shots where it is there).

    Raises:
        InputError: no such folder, none of these files in it, one of them twice, or a malformed one.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", "a folder with the original files", "check --data")
    try:
        files = _Files(folder)
        found = {**dict(_single(files)), **dict(_subjects(files))}
        if (dev := files.one("dev-v2.0.json")) is not None:
            train = files.one("train-v2.0.json")
            splits = {"validation": _squad(dev)} | ({"train": _squad(train)} if train else {})
            found["squad_v2"] = Benchmark(splits, (dev, train) if train else (dev,))
    except UnicodeDecodeError as error:
        raise InputError(f"a file under {folder} is not UTF-8: {error}", "text in UTF-8", "convert it") from error
    except csv.Error as error:  # A quotation mark that nothing closes takes the rest of the file into one cell.
        raise _malformed(f"a file under {folder}", "mmlu", str(error)) from error
    if not found:
        raise InputError(
            f"no benchmark under {folder}",
            "ARC-*-Test.jsonl, dev_rand_split.jsonl, valid.jsonl, *_test.csv with *_dev.csv, or dev-v2.0.json",
            "give the folder of the original files, or leave out --data to take them from the hub",
        )
    return found
