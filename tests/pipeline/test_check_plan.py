"""`sensekd check` through the command line: the plan of the stages, problems, warnings, and that it leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import write_inputs, write_recipe, write_teacher
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.config import Recipe, recipe_from_tree
from sensekd.pipeline.check.plan import plan_of
from sensekd.pipeline.check.unread import unread_keys


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def actions(tree: dict[str, Any]) -> dict[str, str]:
    return {step.stage: step.action for step in plan_of(recipe_from_tree(tree, "tiny", kind=Recipe))}


STAGES = [
    "tokens train", "tokens heldout", "lexicon", "linking", "sample", "senses", "coverage",
    "teacher-0", "pruned-0", "dskd-0",
]  # fmt: skip


def test_what_each_preparing_stage_will_do(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    recipe = write_recipe(tmp_path, tree)
    assert actions(tree) == dict.fromkeys(STAGES, "run")
    assert not (tmp_path / "run").exists()
    assert invoke("senses", "build", str(recipe))[0] == 0
    stood = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    made = {"tokens train", "lexicon", "linking", "sample", "senses"}
    assert actions(tree) == {stage: "reuse" if stage in made else "run" for stage in STAGES}

    tree["senses"]["k"] = 2
    after = actions(tree)
    assert (after["sample"], after["senses"], after["linking"]) == ("reuse", "redo", "reuse")
    tree["senses"]["k"] = 3
    (tmp_path / "antonyms.tsv").write_text("w3\tw9\n")
    steps = {step.stage: step for step in plan_of(recipe_from_tree(tree, "tiny", kind=Recipe))}
    assert (steps["lexicon"].action, steps["linking"].action, steps["sample"].action) == ("redo", "redo", "reuse")
    assert steps["linking"].why == "after 'lexicon'; kept if that comes out the same"
    assert "has changed" in steps["lexicon"].why
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == stood
    # The build does what the plan said.
    code, _, said = invoke("senses", "build", str(recipe))
    assert code == 0
    assert "sample: reused" in said
    assert "lexicon: started" in said


@pytest.mark.long
def test_what_students_and_records_will_do(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    code, _, said = invoke("run", str(write_recipe(tmp_path, tree)))
    assert code == 0, said
    assert actions(tree) == dict.fromkeys(STAGES, "reuse")
    tree["loss"] = {"kappa": 2}
    assert {stage for stage, action in actions(tree).items() if action == "redo"} == {"pruned-0", "dskd-0"}
    del tree["loss"]
    (tmp_path / "run" / "students" / "dskd-0" / "model.safetensors").unlink()
    assert {stage for stage, action in actions(tree).items() if action == "redo"} == {"dskd-0"}


def test_a_damaged_artefact_is_made_again(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    assert invoke("senses", "build", str(write_recipe(tmp_path, tree)))[0] == 0
    path = tmp_path / "run" / "sample" / "sample.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    steps = {step.stage: step for step in plan_of(recipe_from_tree(tree, "tiny", kind=Recipe))}
    assert steps["sample"].action == "redo"
    assert "is not as the stage left it" in steps["sample"].why
    assert steps["senses"].action == "redo"


def test_a_foreign_dictionary_is_a_problem_that_names_both_sides(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    assert invoke("senses", "build", str(write_recipe(tmp_path, tree)))[0] == 0
    tree["senses"] = {"dictionary": str(tmp_path / "run" / "senses")}
    tree["output"] = str(tmp_path / "run2")
    code, _, said = invoke("check", str(write_recipe(tmp_path, tree)))
    assert code == 0, said
    write_teacher(tmp_path / "other", seed=1)
    tree["teacher"]["model"] = str(tmp_path / "other")
    code, _, said = invoke("check", str(write_recipe(tmp_path, tree)))
    assert code == 2
    assert "senses.dictionary" in said
    assert said.count("weights") >= 2
    assert not (tmp_path / "run2").exists()


def test_json_has_everything_even_where_something_is_wrong(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    path = str(write_recipe(tmp_path, tree))
    code, out, said = invoke("check", path, "--json", "--rate", "1000", "--memory", "20kB")
    assert code == 2
    assert "error:" in said
    found = json.loads(out)
    (problem,) = found["problems"]
    assert "corpus.path: no file" in problem
    assert found["parameters"]["teacher"] == 40 * 16 * 2 + 4 * (16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24 + 32) + 16
    assert found["texts"]["train"]["sureness"] == "unknown"
    assert found["hours"]["rate"] == {"tokens": 1000.0, "basis": "given"}
    (warning,) = [line for line in found["warnings"] if "a training step needs about" in line]
    assert "training.batch_size" in warning
    assert {part["name"] for part in found["memory"]} >= {"teacher, weights", "optimiser", "logits", "senses"}
    assert {step["stage"] for step in found["plan"]} == set(STAGES)


def test_text_and_measured_rate_and_coverage(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    tree["corpus"]["separator"] = "|"
    code, out, said = invoke("check", str(write_recipe(tmp_path, tree)), "--measure", "--coverage")
    assert code == 0, said
    for words in (
        "parameters (shapes from", "trained           = 1,952", "teacher's forward (measured)",
        "stages of `sensekd run`", "0 of 5 jobs stand", "warning: not read: corpus.separator: format is not text",
        "no problem found", "train             counted 1,260 in 60 documents", "heads 10",
    ):  # fmt: skip
        assert words in out, (words, out)
    assert not (tmp_path / "run").exists()


def test_sizes_alone_look_at_no_file(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    code, out, _ = invoke("check", str(write_recipe(tmp_path, tree)), "--sizes-only")
    assert code == 0
    assert "teacher" in out
    assert "stages" not in out


def test_what_cannot_be_sized_says_why(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    tree["teacher"]["model"] = str(tmp_path / "nobody")
    code, out, said = invoke("check", str(write_recipe(tmp_path, tree)))
    assert code == 2
    assert "not sized: no model at" in out
    assert "teacher: no model at" in said


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("student", {"train": ["nothing.*"]}, "matches no parameter"),
        ("student", {"lora": {"targets": ["nowhere"]}}, "matches no linear map"),
        ("student", {"vocabulary": 20}, "student.vocabulary is 20"),
        ("training", {"trainer": {"warmup_ratios": 1}}, "training.trainer.warmup_ratios"),
        ("training", {"scheduler": "sideways"}, "sideways"),
        ("linking", {"floor": 1.0}, None),
    ],
)
def test_what_does_not_fit_shows_before_anything_starts(
    section: str, fields: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    tree = write_inputs(tmp_path)
    tree[section] = {**tree.get(section, {}), **fields}
    if section == "linking":
        for name in ("synonyms", "antonyms"):
            (tmp_path / f"{name}.tsv").write_text("zebra\thorse\n")
        message = "coverage:"
    code, _, said = invoke("check", str(write_recipe(tmp_path, tree)), "--coverage")
    assert code == 2
    assert message is not None
    assert message in said


@pytest.mark.parametrize(
    ("changes", "unread"),
    [
        ({}, set()),
        ({"student": {"importance_tokens": 5}}, {"student.importance_tokens"}),
        ({"student": {"importance_tokens": 5, "selection": "importance"}}, set()),
        ({"loss": {"lambda": 0, "kappa": 2, "margin": 0.5}}, {"loss.kappa", "loss.margin"}),
        ({"loss": {"alpha": 0, "tau": 1.0}}, {"loss.tau"}),
        ({"loss": {"antonyms": False, "margin": 0.5}}, {"loss.margin"}),
        ({"loss": {"push": "contrastive", "margin": 0.5, "push_temperature": 0.2}}, {"loss.margin"}),
        (
            {"loss": {"push_temperature": 0.2, "assignment_temperature": 0.2}},
            {"loss.push_temperature", "loss.assignment_temperature"},
        ),
        ({"loss": {"kappa": 1, "assignment": "soft"}}, {"loss.assignment"}),
        ({"loss": {"lambda": 0, "confidence": "agreement", "anneal": {}}}, {"loss.confidence", "loss.anneal"}),
        ({"lexicon": {}, "linking": {"max_pieces": 2}}, {"linking.max_pieces"}),
        ({"student": {"width": 8, "train_top": 1}}, {"student.train_top"}),
        ({"corpus": {"split": "test", "seed": 4}}, {"corpus.split", "corpus.seed"}),
        ({"corpus": {"fraction": 0.5, "seed": 4}}, set()),
        (
            {"senses": {"dictionary": "d", "k": 4}},
            {"senses.k", "senses.samples_per_token", "senses.window"},
        ),
    ],
)  # fmt: skip
def test_keys_that_change_nothing(changes: dict[str, Any], unread: set[str], tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    for section, fields in changes.items():
        tree[section] = {**tree.get(section, {}), **fields} if fields else fields
    found = unread_keys(recipe_from_tree(tree, "tiny", kind=Recipe))
    assert {line.split(":")[0] for line in found} == unread
