"""`run` and `compare` from end to end on a run of seconds: contract, reuse, interruption, equality."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from inside import jobs_inside
from tiny_run import write_inputs, write_recipe
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.config import load_recipe
from sensekd.pipeline.run import compare
from sensekd.pipeline.stages import Progress

SENSEKD = [sys.executable, "-c", "from sensekd.cli.main import entry; entry()"]


class Notes:
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, name: str) -> Progress:
        return lambda done, total: None

    @property
    def started(self) -> list[str]:
        return [line.partition(":")[0] for line in self.lines if line.endswith("started") or ": done in" in line]


def without_times(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text())
    del results["times"]
    return results


@pytest.fixture(scope="module")
@jobs_inside()
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tiny")
    recipe = write_recipe(folder, write_inputs(folder))
    return folder, recipe, compare(load_recipe(recipe), Notes(), "sensekd compare recipe.yaml")


def test_results_follow_the_contract(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, _ = finished
    results = json.loads((folder / "run" / "results.json").read_text())
    arms = [(entry["arm"], entry["seed"]) for entry in results["arms"]]
    assert arms == [("teacher", 0), ("kd", 0), ("dskd", 0), ("kd", 1), ("dskd", 1)]
    for entry in results["arms"]:
        assert entry["tokens"] == (0 if entry["arm"] == "teacher" else 4 * 4 * 16)
        assert {"ce", "kl", "agreement", "antonym_discrimination", "quiz"} <= set(entry["metrics"])
    teacher = results["arms"][0]["metrics"]
    assert (teacher["kl"], teacher["agreement"]) == (0.0, 1.0)
    values = [entry["metrics"]["ce"] for entry in results["arms"] if entry["arm"] == "dskd"]
    summary = results["summary"]["dskd"]["ce"]
    assert summary["mean"] == pytest.approx(sum(values) / 2)
    assert summary["low"] <= summary["mean"] <= summary["high"]
    assert {(row["arm"], row["against"]) for row in results["differences"]} >= {("dskd", "kd"), ("teacher", "kd")}
    assert results["senses"] is None
    assert set(results["coverage"]) == {"lexicon", "linking", "positions"}
    positions = results["coverage"]["positions"]
    assert positions["labels"] >= positions["own"] > positions["synonym"] > 0
    assert results["provenance"]["recipe"]["loss"]["lambda"] == 1.0
    assert set(results["times"]["arms"]) == {"teacher-0", "kd-0", "kd-1", "dskd-0", "dskd-1"}
    assert (folder / "run" / "report.html").stat().st_size > 10_000


def test_the_sense_loss_changes_the_student(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    by_arm = {(e["arm"], e["seed"]): e["metrics"]["ce"] for e in finished[2]["arms"]}
    assert by_arm["kd", 0] != by_arm["dskd", 0]
    assert by_arm["kd", 0] != by_arm["kd", 1]


@jobs_inside()
def test_nothing_is_run_again_and_what_changed_is(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, recipe, _ = finished
    before = without_times(folder / "run" / "results.json")
    again = Notes()
    compare(load_recipe(recipe), again, "sensekd compare recipe.yaml")
    assert again.started == []
    assert without_times(folder / "run" / "results.json") == before

    changed = Notes()
    compare(load_recipe(recipe, ["loss.lambda=0.5", "compare.seeds=[0]"]), changed, "sensekd compare recipe.yaml")
    assert changed.started == ["dskd-0"]  # Plain KD has no λ: its student stands.
    (folder / "run" / "senses" / "manifest.json").unlink()
    compare(load_recipe(recipe, ["compare.seeds=[0]", "compare.arms=[kd]"]), (lost := Notes()), "")
    assert lost.started[:1] == ["senses"]


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    """All jobs one after the other in this process, which is no worker, and beside each other in two that are."""
    recipe = write_recipe(tmp_path, write_inputs(tmp_path))
    found, students = [], []
    for workers in (1, 2):
        output = tmp_path / f"run{workers}"
        overrides = [f"compare.workers={workers}", "compare.seeds=[0]", f"output={output}"]
        with jobs_inside() if workers == 1 else nullcontext():
            compare(load_recipe(recipe, overrides), Notes(), "c")
        found.append(without_times(output / "results.json"))
        assert found[-1]["provenance"]["recipe"]["compare"].pop("workers") == workers
        students.append((output / "students" / "dskd-0" / "model.safetensors").read_bytes())
    assert found[0] == found[1]
    assert students[0] == students[1]


@jobs_inside()
def test_a_recipe_that_drops_its_lexicon_reuses_nothing_made_with_it(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_inputs(tmp_path))
    small = ["compare.seeds=[0]", "compare.arms=[dskd]", "compare.baseline=dskd"]
    with_lexicon = compare(load_recipe(recipe, small), Notes(), "c")
    compare(load_recipe(recipe, [*small, "lexicon.sources=[]"]), second := Notes(), "c")
    assert second.started == ["coverage", "coverage", "teacher-0", "dskd-0"]
    assert with_lexicon["coverage"]["linking"]["heads"] > 0
    assert without_times(tmp_path / "run" / "results.json")["coverage"]["linking"] is None


@jobs_inside()
def test_what_is_damaged_is_made_again(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, recipe, _ = finished
    (folder / "run" / "relations" / "relations.safetensors").write_bytes(b"cut")
    (folder / "run" / "students" / "kd-0" / "tokenizer.json").unlink()
    (folder / "run" / ".senses.abcd1234").mkdir()
    compare(load_recipe(recipe, ["compare.seeds=[0]", "compare.arms=[kd]"]), notes := Notes(), "c")
    assert notes.started == ["linking", "linking", "kd-0"]
    assert not list((folder / "run").glob(".*"))


def started(*arguments: str) -> subprocess.Popen[str]:
    """The command in a process that can be interrupted, even where this one was started with SIGINT ignored."""
    return subprocess.Popen(
        [*SENSEKD, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def sensekd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SENSEKD, *arguments], capture_output=True, text=True)


def test_ctrl_c_exits_130_and_the_next_start_goes_on(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    tree["training"] |= {"steps": 200, "save_every": 5}
    recipe = str(write_recipe(tmp_path, tree))
    work, student = tmp_path / "run" / "work", tmp_path / "run" / "students" / "dskd-0"
    process = started("run", recipe)
    limit = time.monotonic() + 120
    while not list(work.glob("*/checkpoint-*/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert not student.exists()
    assert not list((tmp_path / "run").rglob(".*"))

    # What goes on is a process again, but one that has the libraries already: this one.
    with jobs_inside():
        second = CliRunner().invoke(app, ["run", recipe])
    assert second.exit_code == 0, second.output
    for stage in ("tokens train", "linking", "sample", "senses", "coverage"):
        assert f"{stage}: reused" in second.stderr
    record = json.loads((tmp_path / "run" / "records" / "dskd-0.json").read_text())
    assert record["resumed_from"] >= 5
    assert not list(work.glob("*/checkpoint-*"))

    with jobs_inside():
        untouched = CliRunner().invoke(app, ["run", recipe, "--set", f"output={tmp_path / 'other'}"])
    assert untouched.exit_code == 0, untouched.output
    other = tmp_path / "other" / "students" / "dskd-0"
    assert (student / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.mark.long  # The walk of the documentation gives them one by one in the short form.
def test_the_commands_one_by_one(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, write_inputs(tmp_path)))
    run = tmp_path / "run"
    lexicon = json.loads(sensekd("lexicon", "build", recipe, "--json").stdout)
    assert lexicon["facts"]["pairs"]
    shown = sensekd("lexicon", "show", "w3", "--lexicon", str(run / "lexicon"))
    assert "synonym" in shown.stdout
    assert "w9" in shown.stdout
    senses = json.loads(sensekd("senses", "build", recipe, "--json").stdout)
    assert senses["facts"]["rows"] > 30
    assert "w3" in sensekd("senses", "show", "w3", "--run", str(run)).stdout
    distilled = json.loads(sensekd("distill", recipe, "--json").stdout)
    assert distilled["shared_layers"] == 1
    assert distilled["tokens"] == 256
    found = json.loads(sensekd("evaluate", distilled["student"], "--recipe", recipe, "--json").stdout)
    assert found["metrics"]["ce"] > 0
    ended = sensekd("run", recipe)
    assert "report.html" in ended.stdout, ended.stderr
    assert sensekd("check", recipe).returncode == 0
    page = tmp_path / "page.html"
    assert sensekd("report", str(run), "--out", str(page)).returncode == 0
    assert page.is_file()


def test_the_readme_s_loop_runs(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    import torch

    (block,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    input_ids = torch.randint(3, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    states = torch.zeros(2, 22, 16)
    names: dict[str, Any] = {
        "run": finished[0] / "run",
        "input_ids": input_ids,
        "labels": input_ids[:, 1:],
        "teacher_states": states[0],
        "student_states": states[1].requires_grad_(),
    }
    exec(block, names)
    assert names["pull"].count.item() == 22
    assert names["sense_loss"].item() > 0
