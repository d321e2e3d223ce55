"""The explorer on a page: nothing of it becomes markup, nothing works unseen, and pages stay small."""

from __future__ import annotations

import json
from pathlib import Path

import explorer_fakes as fakes
import pytest
import sample_results as sample
from test_page import Reader

from sensekd.errors import InputError
from sensekd.evaluation.resampling import correct
from sensekd.report.fitting import fit
from sensekd.report.page import RunData, render_explorer, render_page, render_runs, write_explorer
from sensekd.report.sides import side_tables
from sensekd.report.text import data_json, flat, shown, visible
from sensekd.report.views import views

for module, extra in (("scipy", "eval"), ("bokeh", "report"), ("jinja2", "report")):
    pytest.importorskip(module, reason=f"needs the extra `{extra}`")


def test_what_would_act_unseen_is_written_out() -> None:
    assert visible("a\N{RIGHT-TO-LEFT OVERRIDE}b\x00") == "a⟨U+202E⟩b⟨U+0000⟩"
    assert visible("\ud800\N{LINE SEPARATOR}\ue000") == "⟨U+D800⟩⟨U+2028⟩⟨U+E000⟩"
    kept = "Grüße עברית می\N{ZERO WIDTH NON-JOINER}خواهم 😀 a\tb\nc"
    assert visible(kept) == kept
    assert shown({"\x07": ["\x08", 1, None]}) == {"⟨U+0007⟩": ["⟨U+0008⟩", 1, None]}
    assert flat("one  two\nthree", 9) == "…wo three"


def test_data_ends_no_element() -> None:
    tree = {"</script>": ["<!--", "&lt;", "\N{LINE SEPARATOR}", '"\\']}
    text = str(data_json(tree))
    assert not set(text) & set("<>&\N{LINE SEPARATOR}")
    assert json.loads(text) == tree


def test_nothing_of_the_tokens_becomes_markup() -> None:
    text, words = render_explorer(fakes.hostile(), fakes.EVIL)
    reader = Reader(text)
    assert words == 2
    assert [data for tag, data in reader.raw if tag == "script" and data.strip() == "window.hit = 1"] == []
    assert len([tag for tag, _ in reader.elements if tag == "script"]) == 2
    assert fakes.OVERRIDE not in text
    assert fakes.EVIL in reader.visible
    stored = next(json.loads(data) for tag, data in reader.raw if tag == "script")
    assert stored["words"][0]["word"].startswith(f"{fakes.EVIL}⟨U+202E⟩")


def test_it_stands_on_the_page_of_a_run_and_makes_the_examples_superfluous() -> None:
    reader = Reader(render_page(sample.results(), sample.histories(), fakes.tree()))
    visible_text = reader.visible
    assert "Sense explorer" in visible_text
    assert "narrow is left out: its states have 1 dimensions, the senses 2." in visible_text
    assert "4 contexts of the first 3 words" in visible_text
    assert "the clerk of the old" not in visible_text
    names = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(names)) == len(names)


def test_the_last_words_go_where_a_page_would_be_too_large() -> None:
    small = fakes.tree()
    words = [{**small["words"][0], "word": f"word {at}"} for at in range(9000)]
    large = {**small, "words": words, "available": 9000}
    kept = fit(large, 300_000)
    assert 0 < len(kept["words"]) < 9000
    assert kept["words"] == words[: len(kept["words"])]
    assert len(data_json(kept).encode()) < 300_000 < len(data_json({**kept, "words": words}).encode())
    runs = [RunData(sample.results(1), {}, large, name) for name in ("one", "two")]
    for text in (render_explorer(large, "x")[0], render_runs(runs)):
        assert 5_500_000 < len(text.encode()) < 6_000_000
        assert "more were left out to keep the page small" in text


def test_runs_side_by_side() -> None:
    first, second = sample.results(), sample.results()
    second["provenance"]["recipe"]["loss"] = {**second["provenance"]["recipe"]["loss"], "lambda": 0.25}
    second["provenance"]["command"] = "sensekd compare other.yaml"
    tables = {table.title: {row.name: row.cells for row in table.rows} for table in side_tables([first, second])}
    assert {name: [cell.text for cell in cells] for name, cells in tables["Where the recipes differ"].items()} == {
        "loss.lambda": ["1.0", "0.25"]
    }
    assert tables["What each found"]["Senses"][0].outcome == "better"
    assert tables["What each is and took"]["training tokens"][0].text == "614,400"
    kd = first["summary"]["kd"]["facts"]["mean"]
    assert tables["Facts of every arm"]["kd"][1].text == f"{100 * kd:.1f}\N{NO-BREAK SPACE}%"
    reader = Reader(render_runs([RunData(first, sample.histories(), fakes.tree()), RunData(second, {}, None)]))
    assert "2 runs side by side" in reader.visible
    assert "demo (1)" in reader.visible
    assert "sensekd compare other.yaml" in reader.visible
    names = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(names)) == len(names)
    targets = [value for _, a in reader.elements if (value := a.get("href") or "").startswith("#")]
    assert [target[1:] in names for target in targets] == [True, True]
    boxes = [name for name in names if "difference-" in str(name) or "curve-" in str(name)]
    assert list(reader.pictures()) == boxes
    with pytest.raises(InputError, match="no run"):
        render_runs([])


def test_what_a_comparison_has_beside_its_table_is_on_the_page_of_every_run() -> None:
    results = sample.results()
    results["multiplicity"] = {"differences": correct(results["differences"])}
    (view,) = views(results)
    reader = Reader(render_runs([RunData(results), RunData(sample.results()), RunData(results)]))
    assert reader.visible.count(view.note) == 2
    assert all(reader.visible.count(" ".join(filter(None, row))) >= 2 for row in view.rows)
    named = [attributes["id"] for _, attributes in reader.elements if "view-" in (attributes.get("id") or "")]
    assert named == ["r0-view-1", "r2-view-1"]


def test_throughput_and_memory_are_on_the_page() -> None:
    results = sample.results()
    results["times"]["memory"] = {"senses": {"host": 1.25e9, "gpu": 3e8}, "kd-0": {"host": 4.12e8}}
    text = Reader(
        render_page(results, {"kd-0": [{"step": 1, "tokens_per_second": v} for v in (10, 7000, 7100)]})
    ).visible
    assert "kd 7,000" in text
    assert "senses 1.2 GB senses (GPU) 300 MB kd-0 412 MB" in text


def test_written_alone(tmp_path: Path) -> None:
    assert write_explorer(fakes.tree(), "fakes", tmp_path / "deep" / "x.html") == 3
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["x.html"]
