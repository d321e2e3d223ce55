"""The pages on recipes and sizes: commands print what stands beside them, every recipe is listed, YAML is valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.config import TeacherConfig

ROOT = Path(__file__).parents[2]
SIZING = (ROOT / "docs" / "sizing.md").read_text()
RECIPES = (ROOT / "docs" / "recipes.md").read_text()


def squeezed(text: str) -> set[str]:
    return {" ".join(line.split()) for line in text.splitlines() if line.strip()}


def test_the_figures_are_those_that_the_command_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SENSEKD_DATA", str(tmp_path))
    monkeypatch.chdir(ROOT)
    (command,) = re.findall(r"^    sensekd (check .*)$", SIZING, re.MULTILINE)
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, result.output
    (block,) = re.findall(r"```\n(.*?)```", SIZING, re.DOTALL)
    assert len(squeezed(block)) >= 10
    assert squeezed(block) - squeezed(result.stdout) == set()


def test_the_table_of_the_disk_is_arithmetic() -> None:
    found = dict(re.findall(r"^\| (.*?) \|.*\| ([\d.]+ GB \+ [\d.]+ GB) \|$", SIZING, re.MULTILINE))
    rows = {"sample, 100 states a token, bfloat16": (100, 116), "sample, 200 states a token": (200, 116)}
    rows["dictionary, K = 10, bfloat16"] = (10, 296)
    assert set(found) == set(rows)
    for name, (each, more) in rows.items():
        states, rest = (count * each * 128256 / 1e9 for count in (4096 * 2, more))
        assert found[name] == f"{states:.1f} GB + {rest:.1f} GB"


def test_every_recipe_is_listed_and_snippets_are_valid() -> None:
    shipped = {f"recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    named = set(re.findall(r"`(recipes/[\w.-]+\.yaml)`", RECIPES))
    assert {name for name in shipped if "llama3" in name or "mistral-7b" in name or "qwen3" in name} <= named <= shipped
    (snippet,) = re.findall(r"```yaml\n(.*?)```", RECIPES, re.DOTALL)
    assert TeacherConfig.model_validate(yaml.safe_load(snippet)["teacher"]).shape is not None


def test_every_option_of_check_is_on_the_page() -> None:
    said = CliRunner().invoke(app, ["check", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).output
    options = set(re.findall(r"--[a-z][a-z-]+", said))
    own = {name for name in options if not name.startswith("--no-")} - {"--help", "--set"}
    assert {"--memory", "--rate"} <= own
    assert {name for name in own if f"`{name}" not in RECIPES} == set()
