"""Pages as a browser shows them: silent, without requests, without overflow, and the explorer answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import explorer_fakes as fakes
import pytest
import sample_results as sample

from sensekd.report.page import RunData, write_explorer, write_runs

for module, extra in (("scipy", "eval"), ("bokeh", "report"), ("jinja2", "report"), ("playwright", "dev")):
    pytest.importorskip(module, reason=f"needs {module} (extra `{extra}`)")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run, of two, and explorers alone."""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in ("one", "two", "alone", "hostile")}
    run = RunData(sample.results(), sample.histories(), fakes.tree())
    write_runs([run], found["one"])
    write_runs([run, RunData(sample.results(), sample.histories(1), fakes.hostile(), "other")], found["two"])
    write_explorer(fakes.tree(), "fakes", found["alone"])
    write_explorer(fakes.hostile(), "hostile", found["hostile"])
    return found


@pytest.mark.parametrize("name", ["one", "two", "alone", "hostile"])
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (360, True)], ids=["desk", "phone in the dark"])
def test_it_opens_in_silence_and_fits(name: str, width: int, dark: bool, pages: dict[str, Path], visit: Open) -> None:
    seen = visit(pages[name], width, dark)
    if name in {"one", "two"}:
        seen.page.wait_for_selector(".plot .bk-Figure")
    assert seen.console == []
    assert seen.requests == [pages[name].as_uri()]
    assert seen.overflow <= 0
    ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in ground[4:-1].split(",")) < 200) == dark


def test_overflow_would_be_seen(pages: dict[str, Path], visit: Open) -> None:
    seen = visit(pages["alone"], 360)
    wide = "document.body.append(Object.assign(document.createElement('div'), {style: 'width: 500px; height: 9px'}))"
    seen.page.evaluate(wide)
    assert seen.overflow > 0


def test_a_word_that_is_typed_shows_its_senses(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["alone"]).page
    page.get_by_label("Type a word").fill("slope")
    assert page.locator(".token h3").all_inner_texts() == ["slope"]
    page.get_by_label("Type a word").fill("BANK")
    assert page.locator(".token h3").all_inner_texts() == ["bank", "bank"]
    first = page.locator(".token").first
    assert first.locator(".sense").count() == 2
    assert "6 samples, 75 %, spread 0.50" in first.locator(".sense").first.inner_text()
    assert first.locator(".sense q").first.inner_text() == "the river bank"
    assert first.locator(".sense q mark").first.inner_text() == "bank"
    assert "synonyms: shore 4.00" in first.locator(".sense").first.inner_text()
    assert first.locator(".map circle[data-sense]").count() == 4
    assert [first.locator(f".map path.{kind}").count() for kind in ("synonym", "antonym")] == [1, 1]
    page.get_by_label("Type a word").fill("nothing")
    assert page.get_by_role("status").first.inner_text() == "“nothing” is not on the page."


def test_the_keyboard_is_enough(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["alone"]).page
    page.keyboard.press("Tab")
    page.keyboard.type("sl")
    page.keyboard.press("Enter")
    assert page.locator(".token h3").all_inner_texts() == ["slope"]
    for _ in range(2):
        page.keyboard.press("Backspace")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    assert page.locator(".token h3").first.inner_text() == "bank"
    # On to the choice of states, and to the map.
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('class')") == "map"
    page.keyboard.press("ArrowRight")
    assert page.locator(".detail").first.inner_text() == "Sense 1: the bank"
    page.keyboard.press("ArrowLeft")
    assert page.locator(".detail").first.inner_text() == "Sense 2: the river money bank"
    assert page.locator(".map circle.chosen").count() == 1


def test_the_states_of_a_student_move_on_the_map(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["alone"]).page
    first = page.locator(".token").first
    before = first.locator(".map circle[data-sense]").first.get_attribute("cx")
    first.get_by_label("kd", exact=True).check()
    assert first.locator(".map line.pull").count() == 4
    assert first.locator(".map circle[data-sense]").first.get_attribute("cx") != before
    assert first.locator(".map circle[data-sense]").first.get_attribute("data-sense") == "1"
    row = first.locator("table.models tbody tr").nth(1).inner_text().split()
    assert row[:2] == ["kd", "0.0"]


def test_text_of_tokens_is_text(pages: dict[str, Path], visit: Open) -> None:
    seen = visit(pages["hostile"])
    page = seen.page
    page.locator(".map").first.focus()
    page.keyboard.press("ArrowRight")
    assert f"{fakes.EVIL}⟨U+202E⟩" in page.locator(".detail").first.inner_text()
    for radio in page.locator(".choose input").all():
        radio.check()
    page.get_by_label("Type a word").fill(fakes.EVIL)
    assert page.locator("select option").count() == 1
    assert page.evaluate("window.hit") is None
    assert page.locator("main script, main iframe, main img").count() == 0
    assert fakes.OVERRIDE not in page.content()
    assert seen.console == []
