"""A whole run with `preset: published`, and one with the other choices of the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import Notes
from tiny_run import write_inputs, write_recipe

from sensekd.config import load_recipe
from sensekd.pipeline.run import compare

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    tree = write_inputs(folder)
    # Neighbours of two tokens: those of one are lost.
    (folder / "synonyms.tsv").write_text("w3\tw4 w20\nw5\tw6 w21\nw7\tw8\n")
    (folder / "antonyms.tsv").write_text("w3\tw9 w8\nw5\tw10 w13\n")
    tree["compare"] = {"arms": ["dskd"], "seeds": [0], "baseline": "dskd"}
    write_recipe(folder, tree)
    return folder


def record_of(folder: Path, overrides: list[str]) -> dict[str, Any]:
    compare(load_recipe(folder / "recipe.yaml", overrides), Notes(), "sensekd compare recipe.yaml")
    found: dict[str, Any] = json.loads((folder / "run" / "records" / "dskd-0.json").read_text())
    return found


def test_the_published_preset_runs_from_end_to_end(folder: Path) -> None:
    record = record_of(folder, ["preset=published"])
    assert all(row["n_pull"] == row["n_push"] > 0 for row in record["history"])
    assert all(row["n_pull"] < row["n_labels"] for row in record["history"])
    manifest = json.loads((folder / "run" / "recipe.json").read_text())
    assert manifest["loss"]["targets"] == "published"


def test_chunks_and_another_divergence_run_from_end_to_end(folder: Path) -> None:
    record = record_of(folder, ["loss.chunked=on", "loss.divergence=jsd"])
    assert record["student"]["logits"] == "in chunks; logits are the scores themselves"
    assert all("jsd" in row and "kl" not in row for row in record["history"])
