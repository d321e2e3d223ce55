"""A recipe whose data is a mixture: text, a question set that the teacher answers, and conversations, packed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import WORDS, write_inputs, write_recipe
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.config import load_recipe
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.pipeline.check import problems
from sensekd.pipeline.prepare import corpus_key
from sensekd.training.respond import Responses

TEMPLATE = (
    "{% for m in messages %}{{ ' w30 ' if m.role == 'user' else ' w31 ' }}{{ m.content }}{{ eos_token }}{% endfor %}"
)


def mixture(folder: Path) -> dict[str, Any]:
    tree = write_inputs(folder)
    words = [*WORDS, *WORDS]
    prompts = [{"prompt": " ".join(words[n : n + 6])} for n in range(24)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    talks = [
        {
            "messages": [
                {"role": "user", "content": words[n]},
                {"role": "assistant", "content": f"{words[n + 1]} {words[n + 2]}"},
            ]
        }
        for n in range(24)
    ]
    (folder / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talks))
    (folder / "chat.jinja").write_text(TEMPLATE)
    tree["corpus"] = {
        "mixture": [
            {"path": str(folder / "train.jsonl"), "fraction": 0.5},
            {"path": str(folder / "prompts.jsonl"), "records": "completion", "respond": {"tokens": 3, "batch_size": 4}},
            {
                "path": str(folder / "talks.jsonl"),
                "records": "messages",
                "template": str(folder / "chat.jinja"),
                "limit": 12,
            },
        ]
    }
    tree["training"] |= {"packing": "documents", "sequence_length": 24}
    return tree


def call(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_mixture_is_answered_packed_and_distilled(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, mixture(tmp_path))
    assert problems(load_recipe(recipe)) == []
    (row,) = call("respond", str(recipe))["responses"]
    assert row["prompts"] == 24
    assert 24 <= row["tokens"] <= 72
    folder = tmp_path / "run"
    before = (folder / "responses-train-1" / "manifest.json").read_bytes()
    facts = call("distill", str(recipe))
    assert facts["steps"] == 4
    assert facts["shared_layers"] == 1
    assert (folder / "responses-train-1" / "manifest.json").read_bytes() == before
    documents, answers = TokenDocuments.open(folder / "tokens-train"), Responses.open(folder / "responses-train-1")
    assert documents.supervised is not None
    texts = len(documents) - 24 - 12
    assert 10 < texts < 50
    assert documents.supervised[: documents.indptr[texts]].all()
    for number in range(24):
        place = slice(documents.indptr[texts + number], documents.indptr[texts + number + 1])
        ids, mask = documents.tokens[place].tolist(), np.asarray(documents.supervised[place])
        # Six words of a prompt, the teacher's words, and an end of text that is a label only where the teacher said it.
        assert answers.of(ids[:6]) == np.asarray(ids)[mask].tolist()
        assert mask.tolist() == [False] * 6 + [True] * int(mask.sum()) + [False] * (len(ids) - 6 - int(mask.sum()))
    coverage = json.loads((folder / "coverage.json").read_text())["positions"]
    starts = documents.indptr[:-1]
    assert coverage["labels"] == int(documents.supervised.sum()) - int(documents.supervised[starts].sum())


def test_what_is_wrong_with_the_data_shows_before_anything_starts(tmp_path: Path) -> None:
    tree = mixture(tmp_path)
    tree["corpus"]["mixture"][1]["path"] = str(tmp_path / "nothing.jsonl")
    tree["corpus"]["mixture"][2]["template"] = str(tmp_path / "none.jinja")
    found = "\n".join(problems(load_recipe(write_recipe(tmp_path, tree))))
    assert "corpus.mixture[1].path: no file at" in found
    assert "corpus.mixture[2].template: no file at" in found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"corpus.mixture.0.skip_documents": 10_000}, r"corpus\.mixture\[0\]: no document in .* after the 10000"),
        ({"evaluation.corpus.path": "EMPTY"}, r"evaluation\.corpus: no document in .*empty\.jsonl$"),
    ],
)
def test_an_empty_text_shows_before_anything_starts(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    tree = mixture(tmp_path)
    for key, value in changes.items():
        *path, last = key.split(".")
        at: Any = tree
        for name in path:
            at = at[int(name) if name.isdecimal() else name]
        at[last] = str(tmp_path / "empty.jsonl") if value == "EMPTY" else value
    (found,) = problems(load_recipe(write_recipe(tmp_path, tree)))
    assert re.search(expected, found), found


def test_a_bad_record_shows_before_anything_starts(tmp_path: Path) -> None:
    tree = mixture(tmp_path)
    with (tmp_path / "talks.jsonl").open("a") as handle:
        handle.write('{"messages": []}\n')
    (found,) = problems(load_recipe(write_recipe(tmp_path, tree)))
    assert "record 24 has no conversation" in found


def test_respond_needs_a_part_that_asks(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_inputs(tmp_path))
    result = CliRunner().invoke(app, ["respond", str(recipe)])
    assert result.exit_code == 2
    assert "no part of `corpus` asks" in result.output


@pytest.mark.parametrize("changed", ["prompts.jsonl", "chat.jinja", "train.jsonl"])
def test_every_file_of_a_mixture_is_part_of_its_key(changed: str, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, mixture(tmp_path)))
    before = corpus_key(recipe.corpus)
    path = tmp_path / changed
    path.write_text(path.read_text() + "\n")
    assert corpus_key(recipe.corpus) != before


def test_an_unknown_kind_of_record_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    tree = mixture(tmp_path)
    tree["corpus"]["mixture"][0]["records"] = "poems"
    with pytest.raises(InputError, match=r"corpus\.mixture\.0\.records"):
        load_recipe(write_recipe(tmp_path, tree))
