"""The study's experiments are recipes that load, and its page says what its results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.study import tables
from benchmarks.study.plan import changed, plan
from benchmarks.study.run import as_run
from benchmarks.study.texts import SIZE, documents_of_books, split_of

from sensekd.config import load_recipe

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "study"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SENSEKD_DATA", str(tmp_path))
    return tmp_path


def test_every_experiment_is_a_recipe_that_loads(tmp_path: Path) -> None:
    for name, experiment in plan().items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(as_run(experiment), allow_unicode=True), encoding="utf-8")
        assert load_recipe(path, ()).compare.trained


def test_development_and_test_text_of_an_experiment_are_never_the_same() -> None:
    for name, experiment in plan().items():
        development = experiment.tree["compare"].get("development")
        assert development is None or development["corpus"] != experiment.tree["evaluation"]["corpus"], name


def test_what_was_committed_is_what_the_plan_runs() -> None:
    found = sorted(RESULTS.glob("*.json"))
    assert found
    for path in found:
        results = json.loads(path.read_text(encoding="utf-8"))
        assert results["name"] == path.stem
        found, known = (_without_workers(tree) for tree in (results["recipe"], plan()[path.stem].tree))
        assert found == known, f"{path.stem} was run from another recipe"


def _without_workers(tree: dict[str, Any]) -> dict[str, Any]:
    """The recipe without how many processes ran it."""
    return {**tree, "compare": {key: value for key, value in tree["compare"].items() if key != "workers"}}


def test_the_page_has_the_tables_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", RESULTS)
    page = tmp_path / "study.md"
    page.write_text((ROOT / "docs" / "study.md").read_text(encoding="utf-8"), encoding="utf-8")
    tables.write_tables(page)
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "study.md").read_text(encoding="utf-8")


def test_a_changed_recipe_leaves_the_other_alone() -> None:
    tree = {"loss": {"kappa": 1}}
    assert changed(tree, {"loss.lambda": 3.0, "a.b": 1}) == {"loss": {"kappa": 1, "lambda": 3.0}, "a": {"b": 1}}
    assert tree == {"loss": {"kappa": 1}}


def test_books_become_documents_that_stand_in_one_split(data: Path) -> None:
    novels, articles = data / "corpora" / "novels", data / "corpora" / "wikitext2"
    novels.mkdir(parents=True)
    articles.mkdir()
    paragraph = "word " * 120
    (novels / "a.txt").write_text("\r\n\r\n".join(f"{number} {paragraph}" for number in range(20)), encoding="utf-8")
    for name in ("wikitext2_train_5k.txt", "wiki.test.raw"):
        (articles / name).write_text("\n".join(f'A role @-@ playing , " game " {paragraph}' for _ in range(6)))
    documents = list(documents_of_books(data))
    assert len(documents) == len(set(documents)) == 5  # Four of the novel, one of both article files: equal ones once.
    assert all(len(document) >= SIZE for document in documents)
    assert documents[-1].startswith('A role-playing, "game" word')
    assert {split_of(document) for document in documents} <= {"train", "development", "test"}
