"""What the documentation says exists: links, commands, recipes, the command reference."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        match for page in PAGES for match in re.findall(r"(?:^ *|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named <= targets


def test_every_recipe_named_exists() -> None:
    named = {match for page in PAGES for match in re.findall(r"recipes/[\w.-]+\.yaml", page.read_text())}
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_the_command_reference_is_the_code_s(tmp_path: Path) -> None:
    out = tmp_path / "cli.md"
    arguments = ["utils", "docs", "--name", "sensekd", "--title", "Command line", "--output", str(out)]
    subprocess.run([sys.executable, "-m", "typer", "sensekd.cli.main", *arguments], check=True, capture_output=True)
    assert (ROOT / "docs" / "cli.md").read_text() == out.read_text(), "run `make docs`"


def test_the_rooms_in_the_architecture_page_are_those_of_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "src/sensekd").iterdir() if path.name[0] not in "_."}
    assert {room for room in rooms - {"py.typed"} if room not in text} == set()
