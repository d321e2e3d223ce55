"""Pages that follow from the code, names that pages use, and the site that is built from them."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import reduce
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from forked import unfollowed
from sensekd.config import Recipe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCES = sorted((ROOT / "src" / "sensekd").rglob("*.py"))


def resolve(name: str) -> Any:
    """The object behind a dotted name: the longest part that is a module, then attributes."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        return reduce(lambda owner, part: _member(owner, part), parts[cut:], module)
    raise AttributeError(name)


def _member(owner: Any, name: str) -> Any:
    # A field of a dataclass without a default is no attribute of its class.
    return name if name in getattr(owner, "__dataclass_fields__", {}) else getattr(owner, name)


def is_key(name: str) -> bool:
    """Whether a dotted name is a key of the recipe."""
    section: Any = Recipe
    for part in name.split("."):
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return False
        fields = {field.alias or key: field for key, field in section.model_fields.items()}
        if part not in fields:
            return False
        section = fields[part].annotation
    return True


def third_column(page: str) -> list[str]:
    """Code in the third column of a page's tables."""
    rows = re.findall(r"^\|[^|\n]*\|[^|\n]*\|([^|\n]*)\|", (DOCS / page).read_text(), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_every_term_of_the_concepts_stands_in_the_code() -> None:
    names = [name for name in third_column("concepts.md") if name.startswith("sensekd.")]
    assert len(names) > 20
    for name in names:
        resolve(name)
    with pytest.raises(AttributeError):
        resolve("sensekd.senses.SenseDictionary.sigma3")


def test_every_symbol_of_the_method_stands_in_the_code() -> None:
    names = third_column("method.md")
    assert {"loss.kappa", "teacher_ND"} <= set(names)
    words = {word for path in SOURCES for word in re.findall(r"\w+", path.read_text())}
    for name in names:
        plain = name.partition("(")[0].lstrip(".")
        assert is_key(plain) or all(part in words for part in plain.split(".")), name
        if re.match(r"(loss|senses|linking)\.", plain):
            assert is_key(plain), name
    assert not is_key("loss.kapa")


def test_refusals_are_quoted_as_they_are() -> None:
    quoted = re.findall(r"\*\*refused:\*\* `([^`]+)`", (DOCS / "footguns.md").read_text())
    assert len(quoted) >= 8
    said = [
        node.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert {words for words in quoted if not any(words in text for text in said)} == set()


def test_the_recipe_reference_is_the_code_s() -> None:
    made = subprocess.run([sys.executable, str(DOCS / "recipe_keys.py")], check=True, capture_output=True, text=True)
    assert (DOCS / "reference-recipe.md").read_text() == made.stdout, "run `make docs`"
    for section in ("loss", "student", "compare.tune", "corpus.respond"):
        assert f"\n## {section}\n" in made.stdout
    assert "| `lambda` | number ≥ 0 | `1.0` |" in made.stdout


class Loaded(HTMLParser):
    """Addresses that a browser fetches for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in {"script", "img", "iframe", "source"}:
            self.found.append(given.get("src", ""))
        elif tag == "link" and given.get("rel") in {"stylesheet", "icon", "preconnect", "preload"}:
            self.found.append(given.get("href", ""))


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**unfollowed(), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    pages = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    rooms = {
        path.stem
        for path in (ROOT / "src" / "sensekd").iterdir()
        if path.name[0] not in "_." and path.suffix != ".typed"
    }
    assert {f"api/{room}.html" for room in rooms} <= set(pages)
    assert {f"{path.stem}.html" for path in DOCS.glob("*.md")} <= set(pages)
    assert "chunk_elements" in pages["reference-recipe.html"]
    assert "sense_pull" in pages["api/losses.html"]
    for name, text in pages.items():
        loaded = Loaded()
        loaded.feed(text)
        assert [address for address in loaded.found if re.match(r"(https?:)?//", address)] == [], name
