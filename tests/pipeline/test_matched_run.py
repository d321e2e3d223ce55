"""Tuned arms at equal tokens and at equal time, and the sensitivity, from end to end on a run of seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import jobs_inside
from test_pipeline import Notes, without_times
from tiny_run import write_corpus, write_inputs, write_recipe

from sensekd.config import load_recipe
from sensekd.errors import InputError
from sensekd.pipeline.jobs import Job
from sensekd.pipeline.overlap import note_overlap
from sensekd.pipeline.run import compare
from sensekd.pipeline.sensitivity import sensitivity
from sensekd.pipeline.stages import Silent, Stages
from sensekd.pipeline.tuning import open_test_split
from sensekd.pipeline.workspace import Workspace
from sensekd.report.table import plain_table
from sensekd.report.views import plain_sensitivity

pytest.importorskip("lm_eval", reason="needs the extra `eval`")
DIVERGES, HIGH = 1e30, 0.02


@pytest.fixture(scope="module")
@jobs_inside()
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("matched")
    tree = write_inputs(folder)
    write_corpus(folder / "development.jsonl", 8, 3)
    tree["training"]["steps"] = 3
    tree["compare"] |= {
        "budget": "time",
        "costs": {"kd": 1.0, "dskd": 2.0},
        "bootstrap": 200,
        "correction": "holm",
        "development": {"corpus": {"path": str(folder / "development.jsonl")}},
        "tune": {"trials": 3, "space": {"training.learning_rate": [1e-3, HIGH, DIVERGES]}},
        "sensitivity": {"lambda": [4.0], "kappa": [], "k": [1], "margin": [], "seeds": [0]},
    }
    recipe = write_recipe(folder, tree)
    return folder, recipe, compare(load_recipe(recipe), Notes(), "sensekd compare recipe.yaml")


def record(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "records" / f"{name}.json").read_text())
    return found


def test_every_arm_is_tuned_alike_on_the_development_split(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, results = finished
    tuning = results["tuning"]
    assert (tuning["trials"], tuning["test_openings"]) == (3, 1)
    assert tuning["development"] == {"documents": 8, "in_test": 0, "in_training": 0}
    for arm in ("kd", "dskd"):
        own = tuning["arms"][arm]
        rates = [each["settings"].get("training.learning_rate") for each in own["trials"]]
        assert rates[0] is None
        assert set(rates[1:]) == {HIGH, DIVERGES}
        lost = own["trials"][rates.index(DIVERGES)]
        assert (lost["mean"], lost["values"]) == (None, [])
        assert "not finite" in lost["failed"]
        means = {at: each["mean"] for at, each in enumerate(own["trials"]) if each["mean"] is not None}
        assert len(means) == 2
        assert own["chosen"] == min(means, key=lambda at: means[at])
        # A trial leaves no student, and is not measured on the test text.
        trial, final = record(folder, f"{arm}@trial0-0"), record(folder, f"{arm}-0")
        assert trial["metrics"]["tokens"] != final["metrics"]["tokens"]
        assert "quiz" not in trial["metrics"]
    assert {path.name for path in (folder / "run" / "students").iterdir()} == {
        "kd-0", "kd-1", "dskd-0", "dskd-1", "kd@time-0", "kd@time-1",
    }  # fmt: skip
    assert not list((folder / "run" / "work").iterdir())


@pytest.mark.long
def test_the_chosen_setting_is_what_is_compared(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, recipe, results = finished
    chosen = results["tuning"]["arms"]["kd"]["settings"]
    assert chosen == {"training.learning_rate": HIGH}
    untuned = compare(
        load_recipe(recipe, [
            f"output={folder / 'plain'}", "compare.tune=null", "compare.budget=tokens", "compare.costs=null",
            "compare.arms=[kd]", "compare.seeds=[0]", f"training.learning_rate={HIGH}",
        ]),
        Notes(),
        "c",
    )  # fmt: skip
    wanted = [run["metrics"] for run in untuned["arms"] if run["arm"] == "kd"]
    assert [run["metrics"] for run in results["arms"] if (run["arm"], run["seed"]) == ("kd", 0)] == wanted


def test_equal_time_gives_the_cheaper_arm_more_steps(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    _, _, results = finished
    timed = results["equal_time"]
    assert timed["steps"] == {"kd": 6, "dskd": 3}
    assert timed["slowest"] == "dskd"
    tokens = {(run["arm"], run["seed"]): run["tokens"] for run in timed["arms"]}
    assert tokens["kd", 0] == 2 * tokens["dskd", 0] == 6 * 4 * 16
    assert [run for run in timed["arms"] if run["arm"] == "dskd"] == [
        run for run in results["arms"] if run["arm"] == "dskd"
    ]
    ce = {(run["arm"], run["seed"]): run["metrics"]["ce"] for run in (*results["arms"], *timed["arms"])}
    assert timed["summary"]["kd"]["ce"]["mean"] != results["summary"]["kd"]["ce"]["mean"]
    assert timed["summary"]["kd"]["ce"]["mean"] == pytest.approx((ce["kd", 0] + ce["kd", 1]) / 2)
    assert set(results["times"]["equal_time"]["costs"]) == {"kd", "dskd"}


def test_items_and_corrections_stand_beside_the_differences(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, results = finished
    (row,) = [row for row in results["items"] if row["arm"] == "dskd"]
    right = {name: record(folder, name)["items"]["quiz"] for name in ("kd-0", "kd-1", "dskd-0", "dskd-1")}
    gained = sum(sum(right[f"dskd-{seed}"]) - sum(right[f"kd-{seed}"]) for seed in (0, 1))
    assert (row["metric"], row["items"], row["runs"], row["resamples"]) == ("quiz", 6, 2, 200)
    assert row["mean"] == pytest.approx(gained / 12)
    assert row["low"] <= row["mean"] <= row["high"]
    family = [row for row in results["differences"] if "p_holm" in row]
    assert {row["arm"] for row in family} == {"dskd"}
    assert results["multiplicity"]["differences"]["family"] == len(family)


def test_everything_is_in_the_table_and_on_the_page(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, results = finished
    table, page = plain_table(results, 200), (folder / "run" / "report.html").read_text()
    for text in (
        "At equal wall time",
        "Question by question",
        "After the correction",
        "Tuning",
        "once, for these models",
    ):
        assert text in table, text
        assert text in page, text


def test_nothing_is_done_twice_and_another_look_is_counted(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, recipe, _ = finished
    before = without_times(folder / "run" / "results.json")
    compare(load_recipe(recipe), again := Notes(), "sensekd compare recipe.yaml")
    assert again.started == []
    assert without_times(folder / "run" / "results.json") == before
    more = compare(load_recipe(recipe, ["compare.arms=[kd]", "compare.costs={kd: 1.0}"]), again := Notes(), "c")
    assert again.started == []
    assert more["tuning"]["test_openings"] == 2
    assert "2 times" in plain_table(more, 200)


def test_development_text_of_the_test_split_is_refused(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, recipe, _ = finished
    for file, message in {
        "heldout": r"12 of 12 texts stand in the test split \(evaluation\) too\n",
        "train": r"60 of 60 texts stand in the training text \(corpus\) too\n",
    }.items():
        same = [f"compare.development.corpus.path={folder / f'{file}.jsonl'}", f"output={folder / 'plain'}"]
        with pytest.raises(InputError, match=message):
            compare(load_recipe(recipe, same), Notes(), "c")


def test_an_untuned_comparison_in_the_same_folder_was_a_look_at_the_test_split(
    finished: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, recipe, results = finished
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "test-split.json").unlink()
    work = Workspace(load_recipe(recipe, [f"output={tmp_path / 'run'}"]), Stages(tmp_path / "run", Silent()))
    jobs = [Job("kd", 0)]
    assert [open_test_split(work, jobs), open_test_split(work, jobs)] == [1, 1]
    untuned = {name: value for name, value in results.items() if name != "tuning"}
    inputs = results["provenance"]["inputs"]
    (tmp_path / "run" / "sensitivity.json").write_text(json.dumps({**untuned, "split": "development"}))
    other = {"provenance": {"inputs": {**inputs, "heldout": "another text"}}}
    (tmp_path / "run" / "results.json").write_text(json.dumps({**untuned, **other}))
    assert open_test_split(work, jobs) == 1
    (tmp_path / "run" / "results.json").write_text(json.dumps(untuned))
    assert [open_test_split(work, jobs), open_test_split(work, jobs)] == [2, 2]
    (tmp_path / "run" / "sensitivity.json").write_text(json.dumps({**untuned, "split": "heldout"}))
    assert open_test_split(work, jobs) == 3


def test_held_out_text_that_is_trained_on_is_said(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, recipe, _ = finished
    note_overlap(Workspace(load_recipe(recipe), Stages(folder / "run", notes := Notes())))
    assert notes.lines == []
    train, heldout = ((folder / "run" / f"tokens-{name}") for name in ("train", "heldout"))
    hashes = np.load(heldout / "hashes.npy")
    known = (train / "hashes.npy").read_bytes()
    try:
        np.save(train / "hashes.npy", np.concatenate([hashes[:5], np.load(train / "hashes.npy")[5:]]))
        note_overlap(Workspace(load_recipe(recipe), Stages(folder / "run", notes)))
    finally:
        (train / "hashes.npy").write_bytes(known)
    (line,) = notes.lines
    assert "5 of 12 held-out texts stand in the training text too" in line


def test_sensitivity_varies_one_factor_at_a_time(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, recipe, _ = finished
    results = sensitivity(load_recipe(recipe), notes := Notes(), "sensekd compare recipe.yaml --sensitivity")
    assert [line for line in notes.started if line.startswith(("sample", "senses"))] == ["senses-k1", "senses-k1"]
    named = [(point["factor"], point["value"], point["arm"], point["default"]) for point in results["factors"]]
    assert named == [
        ("lambda", 1.0, "dskd", True), ("lambda", 4.0, "dskd@lambda=4", False), ("kappa", 1, "dskd", True),
        ("k", 1, "dskd@k=1", False), ("k", 3, "dskd", True), ("margin", 0.8, "dskd", True),
    ]  # fmt: skip
    raw = {(point["factor"], point["value"]): point["raw"] for point in results["factors"]}
    assert raw["lambda", 4.0] == pytest.approx(4 / results["sigma2"])
    assert raw["margin", 0.8] == pytest.approx(0.8 * results["sigma2"])
    assert results["split"] == "development"
    ce = {arm: found["ce"]["mean"] for arm, found in results["summary"].items()}
    assert len(set(ce.values())) == 4 == len(ce)
    assert {row["arm"] for row in results["from_default"]} == {"dskd@lambda=4", "dskd@k=1"}
    assert {row["against"] for row in results["differences"]} == {"kd"}
    assert json.loads((folder / "run" / "sensitivity.json").read_text())["factors"] == results["factors"]
    text = plain_sensitivity(results, 160)
    assert "4" in text
    assert "3 (recipe)" in text
    sensitivity(load_recipe(recipe), again := Notes(), "c")
    assert again.started == []
