"""Data flows one way: an import may only point back up the list of rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sensekd

ROOMS = (
    "errors", "provenance", "artefacts", "presets", "numeric", "config", "corpus",
    "lexicon", "linking", "senses", "targets", "published", "losses", "training",
    "evaluation", "report", "demo", "pipeline", "cli",
)  # fmt: skip
ROOT = Path(sensekd.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def imported_rooms(source: str) -> set[str]:
    """Rooms of the package that a source imports, wherever in the file and for whatever purpose."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("sensekd.")}
    return found - {"__version__"}


def forward_imports(room: str, source: str) -> set[str]:
    return {other for other in imported_rooms(source) if ROOMS.index(other) > ROOMS.index(room)}


def test_every_file_is_in_a_room() -> None:
    rooms = {file.relative_to(ROOT).parts[0].removesuffix(".py") for file in FILES} - {"__init__"}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_import_points_forward(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if room == "__init__":
        assert not imported_rooms(file.read_text())
    else:
        assert forward_imports(room, file.read_text()) == set()


def test_a_forward_import_is_found() -> None:
    source = "def f():\n    from sensekd.training.data import TokenBlocks\n    import sensekd.errors\n"
    assert forward_imports("linking", source) == {"training"}
    assert forward_imports("evaluation", source) == set()


def test_evaluation_and_losses_know_nothing_of_senses_and_models() -> None:
    for room, foreign in {"evaluation": "senses", "losses": "config"}.items():
        sources = [file for file in FILES if file.relative_to(ROOT).parts[0].removesuffix(".py") == room]
        assert sources
        assert not any(foreign in imported_rooms(file.read_text()) for file in sources)
