"""The demo in small: every stage of it, with budgets at which nothing is learned. `make demo` is the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from inside import jobs_inside
from test_pipeline import Notes, without_times

from sensekd.config import ARMS
from sensekd.errors import InputError
from sensekd.pipeline.demo import run_demo

SMALL = (
    "world.documents=600",
    "world.heldout=60",
    "demo_teacher.steps=8",
    "senses.assignment=next",
    "senses.corpus=null",
    "training.steps=2",
    "compare.seeds=[0]",
    "compare.workers=1",
)


@jobs_inside()
def test_every_stage_then_nothing_again(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    results = run_demo(output, SMALL, first := Notes(), "sensekd demo")
    assert first.started[:2] == ["world", "world"]
    assert {entry["arm"] for entry in results["arms"]} == {"teacher", *ARMS}
    for entry in results["arms"]:
        assert {"facts", "senses", "relations", "ce", "kl", "agreement", "antonym_discrimination"} <= set(
            entry["metrics"]
        )
        student = output / "students" / f"{entry['arm']}-0"
        assert student.is_dir() == (entry["arm"] != "teacher")
    assert {"ami", "ami_shuffled", "purity", "purity_most_frequent"} <= set(results["senses"])
    assert set(results["chance"]) == {"facts", "senses", "relations"}
    assert results["examples"]

    before = without_times(output / "results.json")
    run_demo(output, SMALL, again := Notes(), "sensekd demo")
    assert again.started == []
    assert without_times(output / "results.json") == before
    assert json.loads((output / "results.json").read_text())["times"]["stages"]["teacher"] > 0


@pytest.mark.parametrize("override", ["loss.nothing=1", "world.nothing=1", "demo_teacher.steps=many"])
def test_a_wrong_override_is_refused_before_anything_is_made(tmp_path: Path, override: str) -> None:
    with pytest.raises(InputError, match=override.partition("=")[0]):
        run_demo(tmp_path / "demo", [override], Notes(), "sensekd demo")
    assert not (tmp_path / "demo").exists()
