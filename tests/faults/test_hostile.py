"""Nothing is unpickled, no foreign code runs without its flag, no name climbs out of a folder, no secret is kept."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Nursery, write_results, write_world
from tiny_run import write_recipe, write_teacher

import sensekd
from sensekd.artefacts import MANIFEST, Manifest, intact, read_manifest, sound, write_manifest
from sensekd.config import TeacherConfig, load_recipe
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.senses.sample import StateSample
from sensekd.senses.store import map_tensors
from sensekd.training.teacher import load_config, load_teacher

SOURCES = sorted(Path(sensekd.__file__).parent.rglob("*.py"))
FORBIDDEN = {
    "unpickling": r"\bpickle\b|\bc?loudpickle\b|\bdill\b|\bjoblib\b|\bshelve\b|\bmarshal\b",
    "torch's own format": r"torch\.(load|save)\(",
    "pickled arrays": r"allow_pickle\s*=\s*True",
    "foreign code by default": r"trust_remote_code[\"']?\s*[=:]\s*True",
    "YAML that makes objects": r"yaml\.(load|unsafe_load|full_load)\(",
    "code from text": r"(?<![\w.])(eval|exec)\(",
    "archives that are unpacked": r"\.extractall\(|\.extract\(|shutil\.unpack_archive",
    "shells": r"shell\s*=\s*True|os\.system\(",
}


class Touch:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT | os.O_WRONLY)


@pytest.mark.parametrize("what", list(FORBIDDEN))
def test_the_source_has_none_of(what: str) -> None:
    assert len(SOURCES) > 100
    found = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(FORBIDDEN[what], line.partition("#")[0]) and "allow_pickle=False" not in line:
                found.append(f"{path}:{number}: {line.strip()}")
    assert found == []


def test_the_patterns_find_what_they_forbid() -> None:
    bad = ["import pickle", "torch.load(path)", "np.load(p, allow_pickle=True)", "trust_remote_code=True",
           "yaml.load(text)", "eval(text)", "archive.extractall(folder)", "run(x, shell=True)"]  # fmt: skip
    for pattern, line in zip(FORBIDDEN.values(), bad, strict=True):
        assert re.search(pattern, line)


def test_a_pickle_in_the_place_of_an_array_or_a_tensor_is_refused_unread(tmp_path: Path) -> None:
    made = tmp_path / "made"
    tokens, sample = tmp_path / "tokens", tmp_path / "sample"
    for folder in (tokens, sample):
        folder.mkdir()
    for name in ("tokens", "indptr", "hashes"):
        np.save(tokens / f"{name}.npy", np.array([Touch(made)], dtype=object), allow_pickle=True)
    (sample / "sample.safetensors").write_bytes(pickle.dumps(Touch(made)))
    write_manifest(tokens, Manifest("tokens", 1, {}, {}))
    with pytest.raises(InputError, match="Python objects"):
        TokenDocuments.open(tokens)
    from sensekd.senses.sample import FORMAT

    write_manifest(sample, Manifest("sample", FORMAT, {}, {}, {"teacher": "t"}))
    with pytest.raises(InputError, match="cannot be read"):
        StateSample.load(sample)
    with pytest.raises(InputError, match="cannot be read"):
        map_tensors(sample / "sample.safetensors")
    assert not made.exists()
    pickle.loads((sample / "sample.safetensors").read_bytes())  # noqa: S301  (the bait does bite)
    assert made.exists()


def test_a_teacher_of_pickled_weights_is_refused_unread(tmp_path: Path) -> None:
    made, teacher = tmp_path / "made", tmp_path / "teacher"
    write_teacher(teacher)
    (teacher / "model.safetensors").unlink()
    (teacher / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(made)))
    with pytest.raises(InputError):
        load_teacher(TeacherConfig(model=str(teacher)), "cpu")
    assert not made.exists()


def test_code_beside_a_checkpoint_runs_by_an_explicit_flag_alone(tmp_path: Path) -> None:
    made, teacher = tmp_path / "made", tmp_path / "teacher"
    write_teacher(teacher)
    config = json.loads((teacher / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (teacher / "config.json").write_text(json.dumps(config))
    (teacher / "mine.py").write_text(
        "from transformers import PretrainedConfig\n"
        f"open({str(made)!r}, 'w').close()\n"
        "class Mine(PretrainedConfig):\n    model_type = 'mine'\n"
    )
    with pytest.raises(InputError, match="no model at"):
        load_config(TeacherConfig(model=str(teacher)))
    assert not made.exists()
    load_config(TeacherConfig(model=str(teacher), trust_remote_code=True))
    assert made.exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_an_artefact_names_no_file_outside_itself(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "artefact"
    folder.mkdir()
    (tmp_path / "outside").write_text("x")
    (folder / MANIFEST).write_text(json.dumps({
        "kind": "thing", "format": 1, "made_from": {}, "config": {}, "facts": {}, "versions": {},
        "files": {name: {"sha256": "0", "bytes": 1}},
    }))  # fmt: skip
    with pytest.raises(InputError, match="lies outside"):
        read_manifest(folder, "thing", 1)
    assert not intact(folder)
    assert not sound(folder)


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", "", ".hidden", "a\x00b", "a\nb"])
def test_a_recipe_s_names_do_not_climb(tmp_path: Path, name: str) -> None:
    tree = write_world(tmp_path)
    with pytest.raises(InputError, match="name"):
        load_recipe(write_recipe(tmp_path, {**tree, "name": name}))
    tree["compare"]["custom"] = {name: {"loss.kappa": 2}}
    with pytest.raises(InputError, match="custom arm"):
        load_recipe(write_recipe(tmp_path, tree))


def test_results_name_no_record_outside_the_run(home: Nursery, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_results(run)
    results = json.loads((run / "results.json").read_text())
    results["arms"][0]["arm"] = "../../secret"
    (run / "results.json").write_text(json.dumps(results))
    ended = home.run("report", str(run))
    assert ended.code == 2, ended.said
    assert "Traceback" not in ended.said


def test_results_of_any_form_give_a_page_or_one_error(home: Nursery, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_results(run)
    whole = json.loads((run / "results.json").read_text())
    odd: tuple[Any, ...] = (None, [], "<script>alert(1)</script>", {"x": {"y": None}})
    for at, key in enumerate(whole):
        for value in (odd[at % len(odd)],):
            (run / "results.json").write_text(json.dumps({**whole, key: value}))
            (run / "report.html").unlink(missing_ok=True)
            ended = home.run("report", str(run))
            assert ended.code in (0, 2), (key, value, ended.said)
            assert "Traceback" not in ended.said
            assert (run / "report.html").exists() == (ended.code == 0)
            if ended.code == 0:
                assert "<script>alert(1)" not in (run / "report.html").read_text()


def test_secrets_of_the_environment_are_kept_nowhere(home: Nursery, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, write_world(tmp_path)))
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")
    secrets = {name: f"do-not-keep-{number}" for number, name in enumerate(names)}
    ended = home.run("distill", recipe, "--arm", "pruned", "--json", environment=secrets)
    assert ended.code == 0, ended.said
    assert "do-not-keep" not in ended.said
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert b"do-not-keep" not in path.read_bytes(), path
    shutil.rmtree(tmp_path / "teacher")
    failed = home.run("distill", recipe, environment=secrets)
    assert failed.code == 2
    assert "do-not-keep" not in failed.said
