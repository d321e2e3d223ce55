"""Pages of the site that no file under docs/ holds: the Python API, and what lies in the repository's root."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "src" / "sensekd"
# The rooms in the order of the data's flow; one that is missing here comes last.
ROOMS: Final = (
    "errors", "provenance", "artefacts", "presets", "config", "corpus", "lexicon", "linking", "senses", "targets",
    "published", "losses", "training", "evaluation", "report", "demo", "pipeline", "cli",
)  # fmt: skip


def modules(room: str) -> Iterator[str]:
    """The public modules of a room by their full names, the package itself first."""
    path = PACKAGE / room
    if not path.is_dir():
        yield f"sensekd.{room}"
        return
    for file in sorted(path.rglob("*.py"), key=lambda each: (each.parent.parts, each.name != "__init__.py", each.name)):
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if "._" not in name:
            yield name


def first_sentence(module: str) -> str:
    """What a module's docstring begins with."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def api_pages() -> dict[str, str]:
    """A page for each room with every public function and class of it, and one that lists the rooms."""
    found = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    rooms = [*ROOMS, *sorted(name for name in found - {*ROOMS} if not name.startswith("_"))]
    rows = [f"| [{room}]({room}.md) | {first_sentence(f'sensekd.{room}')} |" for room in rooms]
    head = (
        "# Python API\n\nMade from docstrings. Data flows from the top of this table to its end; an import may only "
        "point back up.\n"
    )
    pages = {"api/index.md": "\n".join([head, "| room | |", "|---|---|", *rows]) + "\n"}
    for room in rooms:
        parts = [f"::: {module}\n" for module in modules(room)]
        pages[f"api/{room}.md"] = "\n".join([f"# {room}\n", *parts])
    return pages


def root_pages() -> dict[str, str]:
    """CONTRIBUTING and CHANGELOG, with their links as they are within docs/."""
    pages = {}
    for name in ("CONTRIBUTING", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        pages[f"{name.lower()}.md"] = re.sub(r"\]\(docs/", "](", text)
    return pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of docs/."""
    for name, text in {**api_pages(), **root_pages()}.items():
        files.append(File.generated(config, name, content=text))
    return files
