from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensekd.config import ARMS, Recipe, arm_recipe, load_recipe, parse_override
from sensekd.config import recipe_from_tree as any_recipe_from_tree
from sensekd.errors import InputError

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def recipe_from_tree(values: dict[str, Any], name: str, overrides: Sequence[str] = ()) -> Recipe:
    return any_recipe_from_tree(values, name, overrides, kind=Recipe)


def tree() -> dict[str, Any]:
    return {
        "name": "t",
        "output": "runs/t",
        "teacher": {"model": "m"},
        "corpus": {"path": "c.jsonl"},
        "student": {"layers": 2},
        "training": {"steps": 5},
        "evaluation": {"corpus": {"path": "h.jsonl"}},
    }


def test_defaults_are_the_method_s_starting_values_but_where_the_study_changed_them() -> None:
    recipe = recipe_from_tree(tree(), "t")
    assert (recipe.loss.alpha, recipe.loss.tau, recipe.loss.lam, recipe.loss.mu) == (3.0, 2.0, 1.0, 0.0)
    assert (recipe.loss.kappa, recipe.loss.pull) == (1, "teacher")
    assert (recipe.loss.effective_margin, recipe.loss.positions) == (0.8, "all")
    assert (recipe.senses.k, recipe.senses.samples_per_token, recipe.senses.minimum_support) == (10, 200, 2)
    assert (recipe.senses.assignment, recipe.linking.max_pieces) == ("next", 3)
    assert recipe_from_tree(tree(), "t", ["loss.push=relative"]).loss.effective_margin == 0.0


def test_all_errors_show_at_once() -> None:
    wrong = tree() | {"nonsense": 1, "loss": {"alpha": -1, "lamda": 3}, "student": {}}
    with pytest.raises(InputError) as caught:
        recipe_from_tree(wrong, "t")
    text = str(caught.value)
    assert "4 errors" in text
    for part in ("nonsense: unknown key", "loss.lamda: unknown key", "loss.alpha:", "student.layers:"):
        assert part in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.lambda", "key=value"),
        ("loss.lambda=[1", "not YAML"),
        ("name.x=1", "'name' is not a section"),
        ("compare.arms=[kd, nothing]", "unknown arms"),
        ("compare.baseline=dskd2", "not among the arms"),
        ("compare.seeds=[1, 1]", "different numbers"),
        ("compare.custom={more: {training.steps: 3}}", "only `loss"),
        ("lexicon.sources=[{kind: pairs}]", "needs `path` and `relation`"),
        ("lexicon.sources=[{kind: wordnet}]", "either `path`"),
        ("name=../escape", "pattern"),
        ("compare.arms=[kd, kd]", "names one twice"),
        ("compare.custom={x: {loss.nothing: 1}}", "nothing: unknown key"),
        ("loss.margin=.inf", "finite"),
        ("corpus.separator=''", "at least 1"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe_from_tree(tree(), "t", [override])


def test_bare_words_of_yaml_are_no_booleans() -> None:
    for word in ("auto", "on", "off"):
        assert recipe_from_tree(tree(), "t", [f"loss.chunked={word}"]).loss.chunked == word
    with pytest.raises(InputError, match=r"loss\.chunked"):
        recipe_from_tree(tree(), "t", ["loss.chunked=1"])


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tree()))
    recipe = load_recipe(path, ["loss.lambda=0.25", "compare.seeds=[4]", "corpus.separator='|'"])
    assert (recipe.loss.lam, recipe.compare.seeds, recipe.corpus.separator) == (0.25, (4,), "|")
    assert parse_override("a.b=true") == ("a.b", True)


def test_a_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recipe at"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_text("a: [1")
    with pytest.raises(InputError, match="not YAML"):
        load_recipe(tmp_path / "b.yaml")
    (tmp_path / "l.yaml").write_text("- 1")
    with pytest.raises(InputError, match="holds list"):
        load_recipe(tmp_path / "l.yaml")


def test_only_sensekd_data_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSEKD_DATA", "/data")
    monkeypatch.setenv("SECRET", "s")
    assert recipe_from_tree(tree() | {"teacher": {"model": "${SENSEKD_DATA}/m"}}, "t").teacher.model == "/data/m"
    with pytest.raises(InputError, match="only"):
        recipe_from_tree(tree() | {"teacher": {"model": "${SECRET}/m"}}, "t")
    monkeypatch.delenv("SENSEKD_DATA")
    with pytest.raises(InputError, match="is not set"):
        recipe_from_tree(tree() | {"teacher": {"model": "${SENSEKD_DATA}/m"}}, "t")


def test_arms_differ_in_the_loss_alone() -> None:
    recipe = recipe_from_tree(tree(), "t", ["compare.custom={soft: {loss.lambda: 0.1}}", "loss.mu=0.5"])
    whole = recipe.model_dump(by_alias=True)
    for arm in [*ARMS, "soft"]:
        changed, steps = arm_recipe(recipe, arm, 7)
        assert steps == (0 if arm == "pruned" else 5)
        other = changed.model_dump(by_alias=True)
        assert {key for key in whole if whole[key] != other[key]} <= {"seed", "loss"}
    losses = {arm: arm_recipe(recipe, arm, 0)[0].loss for arm in [*ARMS, "soft"]}
    assert (losses["ce"].alpha, losses["ce"].lam, losses["kd"].alpha, losses["kd"].lam) == (0, 0, 3.0, 0)
    assert (losses["kd+hidden"].mu, losses["dskd-own"].synonyms, losses["dskd"].synonyms) == (1.0, False, True)
    assert (losses["soft"].lam, losses["dskd"].mu) == (0.1, 0.5)
    assert losses["ce"].mu == losses["kd"].mu == 0


def test_every_shipped_recipe_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSEKD_DATA", "/data")
    assert RECIPES
    for path in RECIPES:
        assert load_recipe(path).name == path.stem
