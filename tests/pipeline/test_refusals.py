"""Bad input: one clear error that names what was found, exit code 2, nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import WORDS, write_corpus, write_inputs, write_recipe, write_teacher
from typer.testing import CliRunner

from sensekd.cli.main import app

Change = Callable[[Path, dict[str, Any]], None]


def missing_corpus(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "train.jsonl").unlink()


def missing_pairs(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "synonyms.tsv").unlink()


def missing_teacher(folder: Path, tree: dict[str, Any]) -> None:
    tree["teacher"]["model"] = str(folder / "nobody")


def unknown_key(folder: Path, tree: dict[str, Any]) -> None:
    tree["training"]["learning_rat"] = 1e-3


def small_vocabulary(folder: Path, tree: dict[str, Any]) -> None:
    write_teacher(folder / "teacher", rows=20)


def empty_corpus(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "train.jsonl").write_text("")


def strange_lexicon(folder: Path, tree: dict[str, Any]) -> None:
    for name in ("synonyms", "antonyms"):
        (folder / f"{name}.tsv").write_text("zebra\thorse\n")


def short_corpus(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": f"w3 w{n}"}) + "\n" for n in range(4, 7)))
    tree["training"]["sequence_length"] = 64


def many_layers(folder: Path, tree: dict[str, Any]) -> None:
    tree["student"]["layers"] = 9


def broken_question(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "quiz.jsonl").write_text('{"question": "w3", "choices": ["w4"], "answer": 0}\n')


def no_output_folder(folder: Path, tree: dict[str, Any]) -> None:
    tree["output"] = str(folder / "train.jsonl" / "run")


def no_configuration(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "teacher" / "config.json").unlink()


def cut_weights(folder: Path, tree: dict[str, Any]) -> None:
    path = folder / "teacher" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def broken_gold(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "gold.jsonl").write_text('{"text": "w3 w4", "occurrences": [{"word": "w4"}]}\n')
    tree["evaluation"]["gold_senses"] = str(folder / "gold.jsonl")


def impossible_arm(folder: Path, tree: dict[str, Any]) -> None:
    tree["compare"]["custom"] = {"mine": {"loss.kappa": -1}}


def climbing_arm(folder: Path, tree: dict[str, Any]) -> None:
    tree["compare"]["custom"] = {"../../mine": {"loss.kappa": 1}}


def foreign_trainer_field(folder: Path, tree: dict[str, Any]) -> None:
    tree["training"]["trainer"] = {"warmup_ratios": 0.1}


CASES: list[tuple[Change, str]] = [
    (missing_corpus, "corpus.path: no file at"),
    (missing_pairs, "lexicon.sources[0].path: no file at"),
    (missing_teacher, "no model at"),
    (unknown_key, "training.learning_rat: unknown key"),
    (small_vocabulary, "the tokenizer has 40 tokens, the model 20 rows"),
    (empty_corpus, "no document in"),
    (strange_lexicon, "have a neighbour"),
    (short_corpus, "fewer than one block"),
    (many_layers, "student.layers is 9"),
    (broken_question, "quiz.jsonl:1"),
    (foreign_trainer_field, "warmup_ratios"),
    (no_output_folder, "cannot be written"),
    (no_configuration, "no model at"),
    (cut_weights, "no decoder loads"),
    (broken_gold, "gold.jsonl:1"),
    (impossible_arm, "custom arm 'mine': kappa"),
    (climbing_arm, "custom arm '../../mine'"),
]


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(("change", "message"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_refusal(tmp_path: Path, change: Change, message: str) -> None:
    tree = write_inputs(tmp_path)
    change(tmp_path, tree)
    code, said = invoke("run", str(write_recipe(tmp_path, tree)), "--set", "compare.workers=1")
    assert code == 2, said
    assert message in said
    assert "error:" in said
    assert "expected:" in said
    run = tmp_path / "run"
    assert not run.exists() or [path.name for path in run.rglob(".*")] == []
    assert not (run / "results.json").exists()


def test_a_dictionary_of_another_teacher_is_refused_naming_both(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    assert invoke("senses", "build", str(write_recipe(tmp_path, tree)))[0] == 0
    write_teacher(tmp_path / "other", seed=1)
    tree |= {"output": str(tmp_path / "run2"), "teacher": {"model": str(tmp_path / "other")}}
    tree["senses"]["dictionary"] = str(tmp_path / "run" / "senses")
    code, said = invoke("run", str(write_recipe(tmp_path, tree)))
    assert code == 2
    assert "was made from weights" in said
    assert said.count("weights") >= 2


def test_a_corpus_without_a_word_of_the_dictionary_is_refused(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    write_corpus(tmp_path / "train.jsonl", 60, 1, WORDS[:18])
    assert invoke("senses", "build", str(write_recipe(tmp_path, tree)))[0] == 0
    write_corpus(tmp_path / "train.jsonl", 60, 1, WORDS[18:])
    tree |= {"output": str(tmp_path / "run2"), "linking": {"position_floor": 0}}
    tree["senses"]["dictionary"] = str(tmp_path / "run" / "senses")
    code, said = invoke("run", str(write_recipe(tmp_path, tree)))
    assert code == 2
    assert "has a sense" in said


def test_a_lexicon_that_says_nothing_of_the_text_is_refused_before_the_teacher_runs(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    write_corpus(tmp_path / "train.jsonl", 60, 1, WORDS[18:])
    code, said = invoke("run", str(write_recipe(tmp_path, tree)))
    assert code == 2
    assert "0 have a linked synonym or antonym (0.0%" in said
    assert "linking.position_floor" in said
    assert not (tmp_path / "run" / "sample").exists()


def test_check_names_every_problem_at_once(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    for change in (missing_corpus, missing_pairs, many_layers):
        change(tmp_path, tree)
    code, said = invoke("check", str(write_recipe(tmp_path, tree)))
    assert code == 2
    for part in ("corpus.path", "lexicon.sources[0].path", "student.layers is 9"):
        assert part in said


@pytest.mark.parametrize("command", ["lexicon", "senses"])
def test_looking_up_what_is_not_there(tmp_path: Path, command: str) -> None:
    option = "--lexicon" if command == "lexicon" else "--run"
    code, said = invoke(command, "show", "bank", option, str(tmp_path))
    assert code == 2
    assert str(tmp_path) in said


def test_usage_errors_exit_2_too() -> None:
    assert invoke("run")[0] == 2
    assert invoke("nonsense")[0] == 2
