"""The page: what it says, that nothing is fetched, that nothing of the data becomes markup."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sample_results as sample

from sensekd.errors import InputError
from sensekd.report.figures import TERMS, arm_of, mean_curves
from sensekd.report.page import render_page, write_page
from sensekd.report.verdict import verdict

for module, extra in (("scipy", "eval"), ("bokeh", "report"), ("jinja2", "report")):
    pytest.importorskip(module, reason=f"needs the extra `{extra}`")

EVIL = '<script>alert("1")</script>&'


class Reader(HTMLParser):
    """Elements with their attributes, visible text, and the content of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.raw: list[tuple[str, str]] = []
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in {"script", "style"} else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw.append((self._inside, data))
        else:
            self.text.append(data)

    @property
    def visible(self) -> str:
        return " ".join(" ".join(self.text).replace("\N{NO-BREAK SPACE}", " ").split())

    def pictures(self) -> dict[str, Any]:
        """The JSON of all pictures: the first script."""
        return dict(json.loads(next(data for tag, data in self.raw if tag == "script")))


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(sample.results(), sample.histories())


def test_the_verdict_comes_first(page: str) -> None:
    reader, expected = Reader(page), verdict(sample.results())
    assert "dskd beats kd on senses" in expected.headline
    headings = [tag for tag, _ in reader.elements if tag in {"h1", "h2", "table"}]
    assert headings[0] == "h1"
    assert expected.headline in reader.visible
    for finding in expected.findings:
        assert finding.text.replace("\N{NO-BREAK SPACE}", " ") in reader.visible


def test_everything_is_on_it(page: str) -> None:
    visible = Reader(page).visible
    for text in (
        "sensekd compare recipes/demo.yaml", "longer than 3 pieces", "2 pieces", "the clerk of the old", "91.1 %",
        "92.4 s", "transformers", "0.57", "shuffled labels: 0.01", "lambda: 1.0", "614,400",
    ):  # fmt: skip
        assert text in visible, text


def test_nothing_is_fetched(page: str) -> None:
    reader = Reader(page)
    for tag, attributes in reader.elements:
        for name, value in attributes.items():
            if name in {"src", "href", "srcset", "action", "data", "poster"}:
                assert (value or "").startswith("data:"), (tag, name, value)
    styles = "".join(data for tag, data in reader.raw if tag == "style")
    assert "url(" not in styles
    assert "@import" not in styles
    (policy,) = [a["content"] for t, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert 1_000_000 < len(page.encode()) < 2_000_000


def test_every_picture_has_its_box_and_ids_are_unique(page: str) -> None:
    reader = Reader(page)
    pictures = reader.pictures()
    boxes = [attributes["id"] for _, attributes in reader.elements if attributes.get("class") == "plot"]
    assert list(pictures) == boxes
    assert len([name for name in boxes if str(name).startswith("difference")]) == 7
    assert [f"curve-{term}" for term in TERMS] == [name for name in boxes if str(name).startswith("curve")]
    roots = [item["root_id"] for item in pictures.values()]
    assert len(set(roots)) == len(roots)
    assert '"ce"' not in json.dumps(pictures["difference-0"]), "an arm without the teacher would set the scale"


def test_equal_results_give_equal_pages(page: str) -> None:
    assert render_page(sample.results(), sample.histories()) == page


def test_nothing_of_the_data_becomes_markup(page: str) -> None:
    results = sample.results()
    for row in results["differences"]:
        row.update({side: EVIL for side in ("arm", "against") if row[side] == "dskd-own"})
    results["summary"][EVIL] = results["summary"].pop("dskd-own")
    results["coverage"]["linking"]["dropped"][EVIL] = 1
    results["coverage"][EVIL] = {EVIL: EVIL}
    results["examples"][0]["word"] = EVIL
    results["provenance"] |= {"command": EVIL, "versions": {EVIL: EVIL}}
    results["provenance"]["recipe"]["name"] = EVIL
    results["times"]["stages"][EVIL] = 1.0
    reader = Reader(render_page(results, {f"{EVIL}-0": sample.histories()["dskd-0"]}))
    scripts = [tag for tag, _ in reader.elements if tag == "script"]
    assert len(scripts) == len([tag for tag, _ in Reader(page).elements if tag == "script"])
    assert reader.visible.count(EVIL) >= 7
    assert EVIL in json.dumps(reader.pictures()).replace('\\"', '"')


def test_honest_when_nothing_wins_and_when_parts_are_missing() -> None:
    results = sample.results()
    for row in results["differences"]:
        row.update(low=-1.0, high=1.0, includes_zero=True)
    bare = {key: results[key] for key in ("arms", "summary", "differences")} | {"senses": None}
    visible = Reader(render_page(bare, {})).visible
    assert "No measure tells dskd from kd" in visible
    assert "Training" not in visible
    assert "Sense dictionary" not in visible
    lone = {"arms": [], "summary": {"dskd": results["summary"]["dskd"]}, "differences": []}
    assert "Nothing was compared" in Reader(render_page(lone, {})).visible


def test_curves_are_means_over_seeds() -> None:
    histories = {
        "kd-0": [{"step": 1, "ce": 2.0}, {"step": 2, "ce": 1.0}, {"step": 2, "train_runtime": 5.0}],
        "kd-1": [{"step": 1, "ce": 4.0}],
        "dskd-own-12": [{"step": 1, "ce": 9.0}],
    }
    assert mean_curves(histories, "ce") == {"kd": {1: 3.0, 2: 1.0}, "dskd-own": {1: 9.0}}
    assert mean_curves(histories, "pull") == {}
    assert [arm_of(name) for name in ("kd", "dskd-own", "dskd-own-3", "-1")] == ["kd", "dskd-own", "dskd-own", "-1"]


def test_written_whole(tmp_path: Path, page: str) -> None:
    out = tmp_path / "deep" / "report.html"
    write_page(sample.results(), sample.histories(), out)
    assert out.read_text(encoding="utf-8") == page
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(InputError, match=r"sensekd\[report\]"):
        write_page(sample.results(), {}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
