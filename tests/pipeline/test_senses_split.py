"""`senses build --shard`, torchrun, `senses merge` and `senses update` on a run of seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_run import WORDS, write_corpus, write_inputs, write_recipe, write_teacher
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.config import CorpusConfig, load_recipe
from sensekd.errors import InputError
from sensekd.pipeline.growing import merge_senses, update_senses
from sensekd.pipeline.shards import build_shard_of
from sensekd.pipeline.single import build_senses_of
from sensekd.pipeline.stages import Silent


def files(*folders: Path) -> list[dict[str, bytes]]:
    return [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    ]


def assert_same_run(run: Path, other: Path) -> None:
    assert files(run / "sample", run / "senses") == files(other / "sample", other / "senses")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs over two corpora, `a` with fewer words, and over both together."""
    folder = tmp_path_factory.mktemp("split")
    recipe = write_recipe(folder, write_inputs(folder) | {"lexicon": {"sources": []}})
    write_corpus(folder / "a.jsonl", 40, 5, WORDS[:25])
    write_corpus(folder / "b.jsonl", 40, 6, WORDS)
    (folder / "both.jsonl").write_text((folder / "a.jsonl").read_text() + (folder / "b.jsonl").read_text())
    for name in ("a", "b", "both"):
        build_senses_of(load_recipe(recipe, overrides(folder, name, name)), Silent())
    return folder


def overrides(folder: Path, corpus: str, output: str) -> list[str]:
    return [f"corpus.path={folder / f'{corpus}.jsonl'}", f"output={folder / output}"]


def test_shards_of_independent_jobs(world: Path) -> None:
    recipe = load_recipe(world / "recipe.yaml", overrides(world, "both", "shards"))
    facts = [build_shard_of(recipe, f"{number}/3", Silent())["facts"] for number in (3, 1, 2)]
    assert sum(fact["documents"] for fact in facts) == 80
    folders = [world / "shards" / f"sample-{number}-of-3" for number in (1, 2, 3)]
    told = merge_senses(folders, world / "joined", Silent(), device="cpu")
    assert told["merged"] == 3
    assert_same_run(world / "joined", world / "both")
    # The run itself finds its shards.
    build_senses_of(recipe, Silent())
    assert_same_run(world / "shards", world / "both")
    assert not list((world / "shards" / "work").iterdir()), "no journal is left"


def test_processes_of_torchrun(world: Path) -> None:
    recipe = str(world / "recipe.yaml")
    settings = [part for value in overrides(world, "both", "torchrun") for part in ("--set", value)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "sensekd.cli.main", "senses", "build", recipe, "--json", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["facts"]["rows"] > 30
    assert "sample: 2 shards are merged" in done.stderr
    assert_same_run(world / "torchrun", world / "both")
    assert not list((world / "torchrun").glob("sample-*"))


def test_merging_dictionaries_and_runs(world: Path) -> None:
    done = CliRunner().invoke(
        app, ["senses", "merge", str(world / "a" / "senses"), str(world / "b"), "--output", str(world / "m"), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert_same_run(world / "m", world / "both")


def test_a_dictionary_without_its_sample_does_not_merge(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "a" / "senses", tmp_path / "senses")
    with pytest.raises(InputError, match=r"sample of the dictionary .* is gone"):
        merge_senses([tmp_path / "senses", world / "b"], tmp_path / "out", Silent())
    shutil.rmtree(tmp_path / "senses")
    with pytest.raises(InputError, match="neither a sample nor a dictionary"):
        merge_senses([tmp_path], tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_dictionaries_of_different_settings_do_not_merge(world: Path, tmp_path: Path) -> None:
    recipe = load_recipe(world / "recipe.yaml", [*overrides(world, "b", "k2"), "senses.k=2"])
    build_senses_of(recipe, Silent())
    with pytest.raises(InputError, match="k: 3 and 2"):
        merge_senses([world / "a", world / "k2"], tmp_path / "out", Silent())
    tree = yaml.safe_load((world / "recipe.yaml").read_text())
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(tree | {"senses": {**tree["senses"], "k": 3}}))
    merge_senses([world / "a", world / "k2"], tmp_path / "out", Silent(), recipe=tmp_path / "other.yaml")
    assert_same_run(tmp_path / "out", world / "both")


def test_an_update_in_place(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "a", tmp_path / "a")
    arguments = ["senses", "update", str(tmp_path / "a" / "senses"), "--corpus", str(world / "b.jsonl")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "(first senses)" in done.output
    assert_same_run(tmp_path / "a", world / "both")
    assert not (tmp_path / "a" / "work" / "update").exists()
    # What was seen counts once: nothing changes a second time.
    again = update_senses(tmp_path / "a", CorpusConfig(path=str(world / "b.jsonl")), Silent())
    assert (again["new"]["documents"], again["changes"]) == (0, [])
    assert_same_run(tmp_path / "a", world / "both")


def test_an_update_that_was_cut_off_before_its_dictionary(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sensekd.senses.dictionary import SenseDictionary

    shutil.copytree(world / "a", tmp_path / "a")
    corpus = CorpusConfig(path=str(world / "b.jsonl"))

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SenseDictionary, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            update_senses(tmp_path / "a", corpus, Silent())
    told = update_senses(tmp_path / "a", corpus, Silent())
    assert told["new"]["first_senses"] == 12, "the report is of the old dictionary against the new one"
    assert_same_run(tmp_path / "a", world / "both")


def test_an_update_with_another_teacher_is_refused(world: Path, tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher", seed=7)
    shutil.copytree(world / "a", tmp_path / "a")
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_text())
    recipe["teacher"]["model"] = str(tmp_path / "teacher")
    (tmp_path / "a" / "recipe.json").write_text(json.dumps(recipe))
    before = files(tmp_path / "a" / "senses")
    with pytest.raises(InputError, match=r"weights: \w+ and \w+"):
        update_senses(tmp_path / "a", CorpusConfig(path=str(world / "b.jsonl")), Silent())
    recipe["teacher"] |= {"model": str(world / "teacher"), "dtype": "bfloat16"}
    (tmp_path / "a" / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(InputError, match="dtype: float32 and bfloat16"):
        update_senses(tmp_path / "a", CorpusConfig(path=str(world / "b.jsonl")), Silent())
    assert files(tmp_path / "a" / "senses") == before


def test_an_update_without_a_recipe_finds_the_teacher_by_name(world: Path, tmp_path: Path) -> None:
    for name in ("sample", "senses"):
        shutil.copytree(world / "a" / name, tmp_path / "d" / name)
    update_senses(tmp_path / "d" / "senses", CorpusConfig(path=str(world / "b.jsonl")), Silent(), output=tmp_path / "n")
    assert_same_run(tmp_path / "n", world / "both")
    assert files(tmp_path / "d" / "senses") == files(world / "a" / "senses")


def test_bad_arguments_exit_with_2(world: Path) -> None:
    runner = CliRunner()
    recipe = str(world / "recipe.yaml")
    assert runner.invoke(app, ["senses", "build", recipe, "--shard", "3/2"]).exit_code == 2
    update = ["senses", "update", str(world / "a"), "--corpus", "nowhere.txt", "--format"]
    assert runner.invoke(app, [*update, "csv"]).exit_code == 2
    assert runner.invoke(app, [*update, "text"]).exit_code == 2
    shutil.rmtree(world / "a" / "work" / "update")
