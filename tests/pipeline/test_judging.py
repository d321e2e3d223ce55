"""`sensekd senses evaluate` on a tiny run: gold senses, CoarseWSD folders, refusals, adaptive numbers of senses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_run
from typer.testing import CliRunner

from sensekd.cli.main import app


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tiny_run.write_recipe(tmp_path, tiny_run.write_inputs(tmp_path))


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["senses", "evaluate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def coarse(folder: Path) -> Path:
    (folder / "coarse" / "w5").mkdir(parents=True)
    for split in ("train", "test"):
        sentences = [f"2\tw{8 + number} w{9 + number % 2} w5 w3" for number in range(6)]
        (folder / "coarse" / "w5" / f"{split}.data.txt").write_text("\n".join(sentences))
        (folder / "coarse" / "w5" / f"{split}.gold.txt").write_text("\n".join("010101"))
    return folder / "coarse"


def gold(folder: Path) -> Path:
    entries = []
    for number in range(12):
        text = f"w{20 + number % 2} w5 w7"
        occurrence = {"word": "w5", "sense": f"s{number % 2}", "start": 4, "end": 6}
        entries.append({"text": text, "occurrences": [occurrence]})
    (folder / "gold.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder / "gold.jsonl"


def test_a_recipe_then_its_run(tmp_path: Path, recipe: Path) -> None:
    found = json.loads(
        run(recipe, "--coarse", coarse(tmp_path), "--set", f"evaluation.gold_senses={gold(tmp_path)}", "--json")
    )
    assert found["gold"]["occurrences"] == 12
    assert (found["coarse"]["all"]["words"], found["coarse"]["fallbacks"]) == (1, 0)
    assert found["coarse"]["by_word"][0]["most_frequent"] == 0.5
    text = run(tmp_path / "run", "--coarse", tmp_path / "coarse")
    assert "purity" in text
    assert f"w5         {found['coarse']['by_word'][0]['accuracy']:.3f}  0.500" in text
    assert not (tmp_path / "run" / "students").exists()
    assert "--set with the run" in run(tmp_path / "run", "--set", "senses.k=2", code=2)


def test_adaptive_senses_go_through(tmp_path: Path, recipe: Path) -> None:
    run(recipe, "--coarse", coarse(tmp_path), "--set", "senses.k=adaptive", "--set", "senses.k_max=4")
    manifest = json.loads((tmp_path / "run" / "senses" / "manifest.json").read_text())
    assert (manifest["config"]["k"], manifest["config"]["k_max"]) == ("adaptive", 4)
    assert manifest["facts"]["senses"] > 0


def test_refusals(tmp_path: Path, recipe: Path) -> None:
    assert "names no gold senses" in run(recipe, code=2)
    assert "no run at" in run(tmp_path, code=2)
    assert "no word in" in run(recipe, "--coarse", tmp_path / "nowhere", code=2)
    assert not (tmp_path / "run").exists()
    assert "senses.k" in run(recipe, "--set", "senses.k=many", code=2)
