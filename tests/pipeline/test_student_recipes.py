"""Recipes with students of other kinds, through the command line: what is recorded, and what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import write_inputs, write_recipe, write_teacher
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sensekd.cli.main import app


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_importance_over_a_padded_half_precision_teacher(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    write_teacher(tmp_path / "teacher", rows=48)
    tree["teacher"]["dtype"] = "bfloat16"
    tree["student"] |= {"selection": "importance", "importance_tokens": 100, "vocabulary": "tokenizer"}
    tree["training"]["trainer"] = {"bf16": True, "gradient_checkpointing": True}
    code, said = invoke("distill", str(write_recipe(tmp_path, tree)), "--json")
    assert code == 0, said
    facts: dict[str, Any] = json.loads(said[said.index("{") :])
    scores = facts["importance"]
    assert len(scores) == 4
    assert facts["importance_tokens"] == 112
    best = sorted(range(4), key=lambda index: -scores[index])[:2]
    assert facts["layers"] == sorted(best)
    student = AutoModelForCausalLM.from_pretrained(facts["student"])
    assert (student.dtype, student.config.vocab_size) == (torch.bfloat16, 40)


@pytest.mark.long
def test_a_narrow_student_is_trained_and_evaluated(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    tree["student"] |= {"width": 8}
    tree["evaluation"]["questions"] = {}
    code, said = invoke("run", str(write_recipe(tmp_path, tree)))
    assert code == 0, said
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "run" / "records").glob("dskd-*.json"))
    assert record["student"]["trunk_reason"] == "the student is 8 wide, the teacher 16"
    assert {"ce", "kl", "pull"} <= set(record["history"][-1])
    assert record["metrics"]["kl"] > 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "dskd" in {arm["arm"] for arm in results["arms"]}


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("teacher", {"quantization": "8bit"}, "but the teacher stands on cpu"),
        ("teacher", {"device": "warp"}, "teacher.device: 'warp' cannot be used"),
        ("student", {"selection": [0, 9]}, "student.selection names layer 9"),
        ("student", {"selection": [1, 0]}, "must rise"),
        ("student", {"lora": {"rank": 0}}, "student.lora.rank"),
    ],
)
def test_check_finds_what_cannot_be(section: str, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    tree[section] |= fields
    code, said = invoke("check", str(write_recipe(tmp_path, tree)))
    assert code == 2
    assert message in said
