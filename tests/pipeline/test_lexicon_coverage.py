"""`sensekd lexicon show --tokenizer`: the coverage report without a run, and the same numbers in a run's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import write_inputs, write_recipe
from typer.testing import CliRunner

from sensekd.cli.main import app


def show(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["lexicon", "show", *arguments])
    return result.exit_code, result.stdout, result.output


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("coverage")
    recipe = write_recipe(folder, write_inputs(folder))
    assert CliRunner().invoke(app, ["lexicon", "build", str(recipe)]).exit_code == 0
    return folder, recipe


def test_the_table_and_its_numbers(inputs: tuple[Path, Path]) -> None:
    folder, _ = inputs
    options = ["--lexicon", str(folder / "run/lexicon"), "--tokenizer", str(folder / "teacher")]
    # One document a line: "w3 ~ w4" and so on; w3 to w12 but w5's partners are related, w20 to w23 are not.
    (folder / "text.txt").write_text("w20 w3 w21\nw20 w9 w22 w3 w23\n\nw3\n")
    code, stdout, _ = show(*options, "--corpus", str(folder / "text.txt"), "--json")
    assert code == 0
    (report,) = json.loads(stdout)["linking"]
    assert report["heads"] == {
        "spelling": 10, "heads": 10, "published": 10, "head_share": 1.0, "published_share": 1.0,
    }  # fmt: skip
    coverage: dict[str, Any] = report["coverage"]
    assert coverage["synonyms_by_pieces"] == [6, 0, 0]
    assert coverage["antonyms_by_pieces"] == [6, 0, 0]
    assert sum(coverage["dropped"].values()) == 0
    # Each text ends with </s>; its first token is no label. w3 stands twice as a label, w9 once.
    positions = report["positions"]
    assert positions["labels"] == 3 + 5 + 1
    assert (positions["synonym"], positions["antonym"], positions["either"], positions["cut"]) == (2, 3, 3, 0)
    assert positions["own"] == 2 + 3  # w3 and </s>
    code, stdout, _ = show(*options, *options[2:])
    assert code == 0
    lines = {line.rpartition("  ")[0].strip(): line.split() for line in stdout.splitlines()}
    assert [line.split()[-2:] for line in stdout.splitlines() if line.startswith("related words")] == [["10", "10"]]
    assert any("heads by the published rule" in name for name in lines)
    assert "labels" not in stdout


def test_what_it_refuses(inputs: tuple[Path, Path]) -> None:
    folder, _ = inputs
    code, _, said = show("--lexicon", str(folder / "run/lexicon"))
    assert code == 2
    assert "neither a word nor --tokenizer" in said
    code, _, said = show("--lexicon", str(folder / "run/lexicon"), "--tokenizer", str(folder / "nothing"))
    assert code == 2
    assert "no tokenizer loads" in said
    options = ["--lexicon", str(folder / "run/lexicon"), "--tokenizer", str(folder / "teacher")]
    code, _, said = show(*options, "--corpus", str(folder / "nothing.txt"))
    assert code == 2
    assert "no corpus at" in said
    assert show("w3", "--lexicon", str(folder / "run/lexicon"))[0] == 0


def test_a_run_reports_the_same(inputs: tuple[Path, Path]) -> None:
    from sensekd.config import load_recipe
    from sensekd.pipeline.prepare import prepare
    from sensekd.pipeline.run import open_workspace
    from sensekd.pipeline.stages import Silent

    folder, recipe = inputs
    loaded = load_recipe(recipe)
    coverage = prepare(open_workspace(loaded, Silent()))
    counted, positions = coverage["linking"]["positions"], coverage["positions"]
    assert counted["floor"] == 0.01
    assert counted["related"] == counted["either"] + counted["cut"]
    assert counted["either"] >= 0.01 * counted["whole"]
    # With the senses: what is related is supervised, cut, or without a sense.
    assert positions["synonym"] + positions["antonym"] > 0
    assert positions["related"] - positions["cut"] - positions["without_senses"] >= positions["synonym"]
    assert coverage["linking"]["floor"] == 0.5
    assert coverage["linking"]["no_head"] == {"several_pieces": 0, "other_case": 0}
    _, stdout, _ = show("--lexicon", str(folder / "run/lexicon"), "--tokenizer", str(folder / "teacher"), "--json")
    (report,) = json.loads(stdout)["linking"]
    assert report["coverage"]["dropped"] == coverage["linking"]["dropped"]


def test_the_page_names_every_loss() -> None:
    from sensekd.report.page import render_page

    coverage = {
        "linking": {"heads": 4, "dropped": {"too_long": 1234, "same_span": 0}, "no_head": {"several_pieces": 321}},
        "positions": {"labels": 1000, "own": 900, "synonym": 200, "antonym": 50, "related": 432, "cut": 98},
    }
    text = render_page({"arms": [], "summary": {}, "coverage": coverage}, {})
    for name, value in (
        ("neighbour of too many pieces", "1,234"), ("neighbour found already", "0"),
        ("no single token spells the word", "321"), ("token with linked neighbours", "432"),
        ("of these inside a longer word", "98"),
    ):  # fmt: skip
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text
    assert "20.0 %" in text
