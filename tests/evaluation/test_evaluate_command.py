"""`sensekd evaluate` without a recipe: results with provenance, equal bytes, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paper_world import World, model, tokenizer
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.errors import InputError
from sensekd.pipeline.evaluating import (
    Request,
    evaluate_suite,
    parse_limits,
    parts_of,
    results_file,
    save_results,
    table,
)

pytest.importorskip("lm_eval", reason="needs the extra `eval`")


def evaluate(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("evaluate")
    World(found / "data")
    pieces = tokenizer()
    pieces.save_pretrained(found / "model")
    model(len(pieces), 256).save_pretrained(found / "model")
    return found


@pytest.mark.parametrize("suite", ["paper", "paper-chat"])
def test_results_have_provenance_and_are_the_same_twice(folder: Path, tmp_path: Path, suite: str) -> None:
    options = ("--suite", suite, "--data", folder / "data", "--limit", 2, "--limit", "mmlu=1", "--device", "cpu")
    first = evaluate(folder / "model", *options, "--json", "--output", tmp_path)
    assert first.exit_code == 0, first.output
    assert evaluate(folder / "model", *options, "--output", tmp_path / "again.json").exit_code == 0
    written = (tmp_path / "results.json").read_bytes()
    assert written == (tmp_path / "again.json").read_bytes()
    found = json.loads(first.stdout)
    assert found == json.loads(written)
    assert (found["suite"], found["missing"]) == (suite, [])
    assert {name: task["items"] for name, task in found["tasks"].items()} == {
        "arc_challenge": 2, "arc_easy": 2, "commonsense_qa": 2, "piqa": 2, "mmlu": 2, "squad_v2": 2,
    }  # fmt: skip
    provenance = found["provenance"]
    assert len(provenance["files"]["piqa"]) == 32
    assert provenance["settings"]["limits"] == {"*": 2, "mmlu": 1}
    assert provenance["model"]["weights"]
    assert provenance["versions"]["lm-eval"] != "not installed"


class Reporter:
    """Says what was noted and what ran; interrupts before a benchmark of this name."""

    def __init__(self, stop: str = "") -> None:
        self.stop, self.notes, self.ran = stop, list[str](), list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, title: str) -> Any:
        name = title.removeprefix("evaluate ")
        if name == self.stop:
            raise KeyboardInterrupt
        self.ran.append(name)
        return lambda done, total: None


@pytest.mark.parametrize("suite", ["paper", "paper-chat"])
def test_an_interrupted_suite_goes_on_after_its_last_benchmark(folder: Path, tmp_path: Path, suite: str) -> None:
    def run(stop: str = "", **changes: Any) -> tuple[Reporter, bytes]:
        reporter, output = Reporter(stop), tmp_path / "results.json"
        names = ("arc_easy", "piqa", "mmlu", "squad_v2")
        request = Request(str(folder / "model"), suite, folder / "data", names, {"*": 2}, device="cpu")
        parts = parts_of(output)
        save_results(output, evaluate_suite(replace(request, **changes), reporter, parts))
        parts.clear()
        return reporter, output.read_bytes()

    first, whole = run()
    assert first.ran == ["arc_easy", "piqa", "mmlu", "squad_v2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json"]
    with pytest.raises(KeyboardInterrupt):
        run("squad_v2")
    parts = tmp_path / "results.json.parts"
    assert len(list(parts.iterdir())) == 3
    piqa = next(parts.glob("piqa-*.json"))
    piqa.write_text(piqa.read_text().replace('"items": 2', '"items": 3'))  # Not as it was written: run again.
    with pytest.raises(KeyboardInterrupt):
        run("piqa", batch_size=3)  # A part of other settings is not taken.
    (parts / f".{piqa.name}.abcdefgh").write_text("{")  # What a killed run had begun to write.
    again, found = run()
    assert again.ran == ["piqa", "squad_v2"]
    assert [note.partition(":")[0] for note in again.notes if "taken over" in note] == ["arc_easy", "mmlu"]
    assert found == whole
    (other,) = parts.iterdir()  # Theirs stays.
    other.unlink()
    run()
    assert not parts.exists()


def test_other_questions_are_no_part_of_these(folder: Path, tmp_path: Path) -> None:
    request = Request(str(folder / "model"), "paper", folder / "data", ("mmlu",), {"*": 2}, device="cpu")
    World(tmp_path / "data")
    other = next((tmp_path / "data").rglob("anatomy_dev.csv"))
    other.write_text(other.read_text().replace("river", "lamp"))  # Shots alone.
    for changed in (request, replace(request, limits={"*": 3}), replace(request, data=tmp_path / "data")):
        reporter = Reporter()
        evaluate_suite(changed, reporter, parts_of(tmp_path))
        assert reporter.ran == ["mmlu"]
    assert len(list((tmp_path / "results.json.parts").iterdir())) == 3


def test_another_way_of_asking_is_no_part_of_these(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    request = Request(str(tmp_path / "model"), "paper-chat", folder / "data", ("piqa",), {"*": 2}, device="cpu")
    for template in (None, "{{ messages[0].content }}"):
        if template:
            (tmp_path / "model" / "chat_template.jinja").write_text(template)
        reporter = Reporter()
        evaluate_suite(request, reporter, parts_of(tmp_path))
        assert reporter.ran == ["piqa"]


def test_the_fingerprints_follow_the_files(folder: Path, tmp_path: Path) -> None:
    def run(data: Path) -> Any:
        options = ("--suite", "paper-chat", "--task", "piqa", "--limit", 2, "--device", "cpu", "--json")
        return json.loads(evaluate(folder / "model", "--data", data, *options).stdout)

    World(tmp_path / "other", seed=7)
    one, other = run(folder / "data"), run(tmp_path / "other")
    assert one["provenance"]["files"] != other["provenance"]["files"]
    assert one["tasks"]["piqa"]["data"] != other["tasks"]["piqa"]["data"]
    assert one["provenance"]["model"] == other["provenance"]["model"]


def test_the_table_says_how_many_shots() -> None:
    found = {"metrics": {"acc": 0.5}, "items": 4, "chance": 0.25, "truncated": 1}
    text = table({"tasks": {"mmlu": {**found, "shots": {"asked": 5, "mean": 2.5, "least": 0}}}})
    assert "acc 0.5000" in text
    assert "2.50 of 5 shots on average" in text
    assert "1 cut from the left" in text


def test_limits() -> None:
    assert parse_limits(("20", "mmlu=5")) == {"*": 20, "mmlu": 5}
    choice = Request("m", "paper", limits={"*": 20, "mmlu": 5}).choice
    assert (choice.limit("mmlu"), choice.limit("piqa")) == (5, 20)
    assert Request("m", "paper").choice.limit("piqa") is None
    for wrong in ("0", "x", "mmlu=", "mmlu=-1", "1.5"):
        with pytest.raises(InputError, match="--limit"):
            parse_limits((wrong,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nobody/there", "--suite", "paper"), "no model at 'nobody/there'"),
        (("MODEL", "--suite", "paper", "--data", "DATA", "--limit", "some"), "--limit 'some'"),
        (("MODEL", "--suite", "paper", "--data", "DATA", "--task", "arc"), "no benchmark 'arc'"),
        (("MODEL", "--suite", "paper", "--data", "EMPTY"), "no benchmark under"),
        # Before the model is looked for.
        (("nobody/there", "--data", "EMPTY"), "no files of coarsewsd20, simlex999"),
        (("nobody/there", "--suite", "paper-chat", "--data", "EMPTY"), "no benchmark under"),
        (("MODEL", "--suite", "paper", "--recipe", "r.yaml"), "--recipe with --suite paper"),
        (("MODEL",), "neither --recipe nor --data"),
        (("MODEL", "--data", "DATA"), "no files of coarsewsd20, simlex999"),
        (("MODEL", "--data", "DATA", "--device", "moon"), "--device: 'moon'"),
    ],
)
def test_refusals(folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    names = {"MODEL": folder / "model", "DATA": folder / "data", "EMPTY": tmp_path}
    result = evaluate(*(names.get(each, each) for each in arguments), "--output", tmp_path / "results.json")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "results.json").exists()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.json").mkdir()
    for output in (tmp_path / "file", tmp_path / "file" / "deeper" / "results.json", tmp_path / "taken.json"):
        result = evaluate("nobody/there", "--suite", "paper", "--data", folder / "data", "--output", output)
        assert result.exit_code == 2, result.output
        assert f"--output {output}" in result.stderr
    assert results_file(tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "results.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.json"]
