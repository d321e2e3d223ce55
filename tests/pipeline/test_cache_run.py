"""`sensekd distill` and `compare` with a teacher cache: a stage of its own, shared by arms, and the same students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inside import jobs_inside
from tiny_run import write_inputs, write_recipe
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.config import load_recipe
from sensekd.errors import InputError
from sensekd.pipeline import jobs
from sensekd.pipeline.workspace import Workspace


def call(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


EXACT = ["--set", "cache.mode=before", "--set", "cache.top=all", "--set", "cache.log_probs=float32"]


def test_distill_reads_the_cache_and_not_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = str(write_recipe(tmp_path, write_inputs(tmp_path)))
    student = tmp_path / "run" / "students" / "dskd-0" / "model.safetensors"
    call("distill", recipe)
    live = student.read_bytes()
    assert not (tmp_path / "run" / "cache").exists()
    told = call("distill", recipe, *EXACT, "--set", "cache.trunk=true")
    assert student.read_bytes() == live
    assert told["shared_layers"] == 1
    (cache,) = (tmp_path / "run" / "cache").iterdir()
    manifest = (cache / "manifest.json").read_bytes()
    # Another seed reads the same cache; its teacher is never made.
    monkeypatch.setattr(Workspace, "teacher", property(lambda _: pytest.fail("the teacher was loaded")))
    call("distill", recipe, *EXACT, "--set", "cache.trunk=true", "--set", "seed=1")
    assert (cache / "manifest.json").read_bytes() == manifest
    monkeypatch.undo()
    call("distill", recipe, *EXACT, "--set", "loss.kappa=3")
    assert len([*(tmp_path / "run" / "cache").iterdir()]) == 2, "what it was made from has changed: another cache"


@jobs_inside()
def test_arms_share_a_cache_and_a_damaged_one_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = write_inputs(tmp_path)
    tree["cache"] = {"mode": "before", "top": 8}
    tree["compare"] |= {
        "arms": ["pruned", "ce", "kd", "dskd"],
        "custom": {"reach": {"loss.pull": "teacher"}},
        "seeds": [0],
    }
    recipe = str(write_recipe(tmp_path, tree))
    call("compare", recipe)
    # All look at probabilities, dskd and its variant at row ids, the variant at distances; ce and pruned at nothing.
    caches = sorted((tmp_path / "run" / "cache").iterdir())
    assert len(caches) == 1
    blocks = caches[0] / "blocks.bin"
    wanted = blocks.read_bytes()
    blocks.write_bytes(bytes([wanted[0] ^ 1]) + wanted[1:])
    (caches[0] / "labels.bin").unlink()
    # As long as no training needs it, a cache may be anything.
    for arm in ("kd", "dskd"):
        (tmp_path / "run" / "records" / f"{arm}-0.json").unlink()
    call("compare", recipe)
    assert blocks.read_bytes() == wanted
    # Alone, kd writes a smaller cache of its own, and is the same student.
    student = Path("students") / "kd-0" / "model.safetensors"
    shared = (tmp_path / "run" / student).read_bytes()
    call("distill", recipe, "--arm", "kd", "--set", f"output={tmp_path / 'alone'}")
    (own,) = (tmp_path / "alone" / "cache").iterdir()
    assert (own / "blocks.bin").stat().st_size < len(wanted)
    assert (tmp_path / "alone" / student).read_bytes() == shared
    # Where the shared one is damaged and its owner is done, kd writes its own too.
    blocks.write_bytes(bytes([wanted[0] ^ 1]) + wanted[1:])
    (tmp_path / "run" / "records" / "kd-0.json").unlink()
    call("compare", recipe)
    assert sorted((tmp_path / "run" / "cache").iterdir()) == sorted([caches[0], tmp_path / "run" / "cache" / own.name])
    assert (tmp_path / "run" / student).read_bytes() == shared


def test_a_cache_changes_the_key_of_the_jobs_that_read_it(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_inputs(tmp_path))
    keys = []
    for overrides in ((), ("cache.mode=off",), ("cache.mode=before",)):
        loaded = load_recipe(recipe, overrides)
        assert loaded.cached == (overrides == ("cache.mode=before",))
        work = Workspace(loaded, None)  # type: ignore[arg-type]
        monkey = pytest.MonkeyPatch()
        monkey.setattr(Workspace, "artefact", lambda self, name: name)
        keys.append([jobs.Job(arm, 0).key(work) for arm in ("ce", "dskd")])
        monkey.undo()
    assert keys[0] == keys[1]
    assert keys[0][0] == keys[2][0]
    assert keys[0][1] != keys[2][1]


def test_published_targets_cannot_be_cached(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path) | {"preset": "published"}
    recipe = write_recipe(tmp_path, tree)
    load_recipe(recipe)
    with pytest.raises(InputError, match="draws neighbours anew"):
        load_recipe(recipe, ["cache.mode=first_epoch"])
