"""The site of the documentation, opened from the disk: silent, nothing fetched, and the search answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew."""
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.mark.parametrize("name", ["index", "tutorial", "reference-recipe", "api/losses"])
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (360, True)], ids=["desk", "phone in the dark"])
def test_pages_open_in_silence_and_fit(
    name: str, width: int, dark: bool, site: Path, visit: Callable[..., Any]
) -> None:
    seen = visit(site / f"{name}.html", width, dark)
    seen.page.wait_for_selector("article h1")
    assert seen.console == []
    assert [address for address in seen.requests if not address.startswith("file:")] == []
    assert seen.overflow <= 0


def test_the_search_answers_without_a_server(site: Path, visit: Callable[..., Any]) -> None:
    seen = visit(site / "tutorial.html")
    seen.page.locator("input.md-search__input").click()
    seen.page.keyboard.type("polarity", delay=20)
    answers = seen.page.locator(".md-search-result__item a[href*='lexicon.html']")
    answers.first.wait_for(state="attached", timeout=60_000)
    assert seen.console == []
    assert [address for address in seen.requests if not address.startswith("file:")] == []
