"""Every shipped recipe loads, is sized without weights and sets no key that is not read; two are the paper's."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensekd.config import PositionsConfig, Recipe, load_recipe
from sensekd.pipeline.check.report import Options, examine
from sensekd.pipeline.check.shapes import parameters_of
from sensekd.pipeline.check.unread import unread_keys

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
# Parameters as the models' own pages count them, layers of the student, and n of the shared trunk.
KNOWN = {
    "llama3-8b": (8_030_261_248, 16, 14),
    "llama3-8b-published": (8_030_261_248, 16, 14),
    "mistral-7b": (7_241_732_096, 16, 14),
    "mistral-7b-published": (7_241_732_096, 16, 14),
    "qwen3": (596_049_920, 14, 10),
    "smollm2": (361_821_120, 16, 12),
}


def recipe(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recipe:
    # An empty folder: what check says must not depend on the files that a machine happens to have.
    monkeypatch.setenv("SENSEKD_DATA", str(tmp_path))
    return load_recipe(FOLDER / f"{name}.yaml", [f"output={tmp_path / 'run'}"])


def test_the_recipes_that_are_promised_are_there() -> None:
    assert {*KNOWN, "stories3m"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("name", [path.stem for path in RECIPES])
def test_no_key_is_set_that_is_not_read(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded = recipe(name, monkeypatch, tmp_path)
    assert loaded.name == name
    assert unread_keys(loaded) == []


@pytest.mark.parametrize("name", KNOWN)
def test_sized_without_weights_or_network(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded = recipe(name, monkeypatch, tmp_path)
    sizes = examine(loaded, Options(memory=80 * 10**9, tflops=790, files=False)).sizes
    assert sizes is not None
    parameters, layers, trunk = KNOWN[name]
    assert parameters_of(sizes.shapes.teacher) == parameters
    assert (sizes.shapes.student.config.num_hidden_layers, sizes.shapes.trunk) == (layers, trunk)
    parts = {part.name: part.bytes for part in sizes.memory}
    trained = sizes.shapes.trainable
    assert parts["teacher, weights"] == 2 * parameters
    assert (parts["student, weights"], parts["gradients"], parts["optimiser"]) == (
        4 * trained,
        4 * trained,
        8 * trained,
    )
    assert sum(parts.values()) < 80e9
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "rate", "k", "lam"), [("llama3-8b-published", 5e-5, 10, 1.0), ("mistral-7b-published", 2e-5, 5, 1.5)]
)
def test_the_published_setting(
    name: str, rate: float, k: int, lam: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = recipe(name, monkeypatch, tmp_path)
    training, loss = loaded.training, loaded.loss
    assert loaded.teacher.shape is not None
    assert loaded.teacher.shape["num_hidden_layers"] == 32
    assert (loaded.student.layers, loaded.student.selection, loaded.student.train_top) == (16, "first", 2)
    assert (training.learning_rate, training.weight_decay, training.scheduler, training.warmup) == (
        rate, 1e-3, "cosine", 0.1,
    )  # fmt: skip
    assert (loaded.senses.k, loaded.senses.units, loaded.senses.assignment) == (k, "raw", "predicted")
    assert (loss.lam, loss.kappa, loss.push, loss.effective_margin) == (lam, 5, "absolute", 1.0)
    assert (loaded.preset, loss.targets, loss.neighbours) == ("published", "published", 25)
    assert (loss.tau, loss.alpha, loss.positions) == (2.0, 0.7, PositionsConfig(fraction=0.4, minimum=25))
    parts = [(part.records, part.fraction, part.respond and part.respond.tokens) for part in loaded.corpus.parts]
    choices = [(kind, 0.25, 1) for kind in ("csqa", "piqa", "arc", "arc", "mmlu")]
    assert parts == [*choices, ("squad", 0.3, 10)]
    # Two epochs of the shares of the sets' sizes, a prompt a row.
    prompts = sum(round(size / 4) for size in (9741, 16113, 2251, 1119, 99842)) + round(0.3 * 130319)
    assert training.packing == "none"
    assert training.steps * training.batch_size / prompts == pytest.approx(2, rel=1e-3)
