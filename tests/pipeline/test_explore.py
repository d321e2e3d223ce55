"""The explorer of a run: kept beside it, made anew where something changed, and alone as a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from inside import jobs_inside
from tiny_run import write_inputs
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.config import Recipe
from sensekd.errors import InputError
from sensekd.pipeline.explore import EXPLORER, draw_report, explorer_of_run, write_senses_page
from sensekd.pipeline.run import compare
from sensekd.pipeline.single import open_run
from sensekd.pipeline.stages import Silent

for module, extra in (("scipy", "eval"), ("bokeh", "report"), ("jinja2", "report")):
    pytest.importorskip(module, reason=f"needs the extra `{extra}`")


def embedded(page: Path, name: str = "explorer") -> dict[str, Any]:
    """The explorer's data as it stands in a page."""
    _, _, rest = page.read_text(encoding="utf-8").partition(f'<script type="application/json" id="{name}">')
    return dict(json.loads(rest.partition("</script>")[0]))


@pytest.fixture(scope="module")
@jobs_inside()
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one arm."""
    tree = write_inputs(tmp_path_factory.mktemp("explore"))
    tree["compare"] = {"arms": ["pruned", "dskd"], "seeds": [3], "workers": 1, "baseline": "pruned"}
    recipe = Recipe.model_validate(tree)
    results = compare(recipe, Silent(), "sensekd compare recipe.yaml")
    assert {"lexicon", "sample", "senses", "dskd-3"} <= set(results["times"]["memory"])
    assert all(peak["host"] > 1e7 for peak in results["times"]["memory"].values())
    return Path(recipe.output)


def test_a_run_shows_its_words_and_its_students(run: Path) -> None:
    data = embedded(run / "report.html")
    assert data == json.loads((run / EXPLORER).read_text(encoding="utf-8"))
    assert {"w3", "w4", "w5", "w9", "w12"} <= {word["word"] for word in data["words"]}
    assert [model["name"] for model in data["models"]] == ["teacher", "pruned", "dskd"]
    teacher = data["models"][0]
    assert (teacher["agrees"], teacher["to_teacher"]) == (1.0, 0.0)
    assert all(model["to_teacher"] > 0 for model in data["models"][1:])
    assert data["sample"] is True


def test_it_is_kept_until_something_changes(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    kept = json.loads((copy / EXPLORER).read_text(encoding="utf-8"))
    (copy / "students" / "dskd-3" / "model.safetensors").unlink()
    assert explorer_of_run(open_run(copy)) == kept, "a student is needed only where the explorer is made"
    shutil.rmtree(copy / "students" / "dskd-3")
    assert [model["name"] for model in explorer_of_run(open_run(copy))["models"]] == ["teacher", "pruned"]
    shutil.rmtree(copy / "sample")
    assert explorer_of_run(open_run(copy))["sample"] is True, "the states on the page outlive the sample"
    (copy / EXPLORER).unlink()
    bare = explorer_of_run(open_run(copy), models=False)
    assert (bare["sample"], bare["models"]) == (False, [])


def test_a_page_without_an_explorer_says_why(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copied"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "senses")
    notes = draw_report([run, copy], tmp_path / "two.html")
    assert len(notes) == 1
    assert "no senses artefact" in notes[0]
    assert embedded(tmp_path / "two.html", "r0-explorer")["words"]
    assert "r1-explorer" not in (tmp_path / "two.html").read_text(encoding="utf-8")


def test_a_dictionary_alone(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "senses.html"
    facts = write_senses_page(run / "senses", page, words=["w20", "w21"], limit=2)
    data = embedded(page)
    assert [word["word"] for word in data["words"]] == ["w20", "w21"]
    assert facts["words"] == 2
    assert data["sample"] is True
    assert data["models"] == []
    with pytest.raises(InputError, match="'nowhere'"):
        write_senses_page(run / "senses", tmp_path / "none.html", words=["nowhere"])
    assert not (tmp_path / "none.html").exists()


def test_the_commands(run: Path, tmp_path: Path) -> None:
    runner, page = CliRunner(), tmp_path / "x.html"
    told = runner.invoke(app, ["senses", "page", str(run), "--output", str(page), "--json"])
    assert told.exit_code == 0, told.output
    assert page.stat().st_size > 10_000
    told = runner.invoke(app, ["report", str(run), str(run), "--out", str(page)])
    assert told.exit_code == 0, told.output
    assert "2 runs side by side" in page.read_text(encoding="utf-8")
    assert runner.invoke(app, ["report", str(tmp_path)]).exit_code == 2
