"""A teacher that returns NaN: one error wherever it shows first, and nothing that was made from it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Nursery, content, rests, write_world
from test_disk import one_error
from tiny_run import WORDS, write_corpus, write_recipe, write_teacher
from transformers import AutoModelForCausalLM


def poison(teacher: Path, word: str) -> None:
    """The teacher returns NaN wherever a text holds the word."""
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        model.get_input_embeddings().weight[3 + WORDS.index(word)] = torch.nan
    model.save_pretrained(teacher)


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    """The last word stands in the held-out text alone, the one before it in the training text alone."""
    tree = write_world(tmp_path)
    del tree["evaluation"]["gold_senses"]
    write_corpus(tmp_path / "train.jsonl", 60, 1, WORDS[:-1])
    write_corpus(tmp_path / "heldout.jsonl", 12, 2, [*WORDS[:-2], WORDS[-1]])
    return tree


def test_a_teacher_that_fails_on_the_training_text(home: Nursery, tmp_path: Path, world: dict[str, Any]) -> None:
    poison(tmp_path / "teacher", WORDS[-2])
    run, recipe = tmp_path / "run", str(write_recipe(tmp_path, world))
    ended = home.run("distill", recipe, "--arm", "dskd")
    one_error(ended, 1, "not finite", "float32 or bfloat16")
    assert not (run / "sample").exists()
    assert not (run / "senses").exists()
    assert rests(run) == []
    assert (run / "tokens-train").is_dir(), "what has nothing to do with it is kept"
    write_teacher(tmp_path / "teacher")
    again = home.run("distill", recipe, "--arm", "pruned")
    assert again.code == 0, again.said
    assert "tokens train: reused" in again.said


def test_a_teacher_that_fails_on_the_held_out_text(home: Nursery, tmp_path: Path, world: dict[str, Any]) -> None:
    poison(tmp_path / "teacher", WORDS[-1])
    run, recipe = tmp_path / "run", str(write_recipe(tmp_path, world))
    ended = home.run("run", recipe, "--set", "training.steps=2")
    one_error(ended, 1, "ce of the teacher not finite on held-out text")
    assert not list((run / "records").glob("teacher-0.json"))
    assert not (run / "results.json").exists()
    assert rests(run) == []
    before = content(tmp_path / "teacher")
    ended = home.run("evaluate", str(tmp_path / "teacher"), "--recipe", recipe, "--json")
    one_error(ended, 1, "not finite on held-out text")
    assert "NaN" not in ended.said.partition("error:")[0]
    assert content(tmp_path / "teacher") == before
