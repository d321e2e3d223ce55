"""A full disk, a folder that cannot be written, text that changes while it is read: one error, and nothing lost."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from commands import Ended, Nursery, content, rests, write_results, write_world
from killing import STAGES, done_in, reused_in
from tiny_run import WORDS, write_corpus, write_recipe

from sensekd.errors import SenseKDError, system_failure
from tally import Tally


def one_error(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.said
    assert ended.said.count("error:") == 1, ended.said
    assert "Traceback" not in ended.said
    for word in words:
        assert word in ended.said


def fill_disk(home: Nursery, folder: Path, cases: int, seed: int, kinds: tuple[str, ...], told: Tally) -> None:
    recipe = str(write_recipe(folder, write_world(folder)))
    run, whole, command = folder / "run", folder / "whole", ("distill", recipe, "--arm", "pruned")
    first = home.run(*command, begin=f"{STAGES[0]}: started")
    assert first.code == 0, first.said
    run.rename(whole)
    generator, written, failed = random.Random(seed), set[str](), 0
    for stage in STAGES:
        operations = first.span(f"{stage}: started", f"{stage}: done")[0]
        for _ in range(cases):
            kind = generator.choice(kinds)
            order = {"fail": [kind, 1 + generator.randrange(operations)], "within": str(run)}
            ended = home.run(*command, begin=f"{stage}: started", **order)
            told.add("faults", "disks that fill or fail")
            if ended.code:
                failed += 1
                said = {"ENOSPC": "No space left", "EDQUOT": "quota", "EROFS": "Read-only", "EIO": "Input/output"}[kind]
                one_error(ended, 1, said, "start the same command again")
            assert written <= reused_in(ended.said)
            written |= done_in(ended.said)
            assert not any(path.parent == run and path.name.startswith("tmp") for path in run.iterdir())
    ended = home.run(*command)
    assert ended.code == 0, ended.said
    assert written <= reused_in(ended.said)
    assert content(run) == content(whole)
    assert rests(run) == []
    assert failed >= len(STAGES) * cases / 2
    told(f"{len(STAGES) * cases} runs onto a disk that fills, {failed} met it")


def test_a_full_disk_in_every_stage(home: Nursery, tmp_path: Path, told: Tally) -> None:
    fill_disk(home, tmp_path, 1, 1, ("ENOSPC",), told)


@pytest.mark.long
def test_a_full_disk_in_every_stage_at_length(home: Nursery, tmp_path: Path, told: Tally) -> None:
    fill_disk(home, tmp_path, 6, 2, ("ENOSPC", "EDQUOT", "EROFS", "EIO"), told)


def test_a_full_disk_keeps_the_page_that_was_there(home: Nursery, tmp_path: Path) -> None:
    write_results(tmp_path / "run")
    assert home.run("report", str(tmp_path / "run")).code == 0
    before = content(tmp_path / "run")
    ended = home.run("report", str(tmp_path / "run"), fail=["ENOSPC", 1], within=str(tmp_path / "run"))
    one_error(ended, 1, "No space left")
    assert content(tmp_path / "run") == before
    assert rests(tmp_path / "run") == []


def test_a_folder_that_cannot_be_written_is_the_users_to_change(home: Nursery, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, write_world(tmp_path)))
    (tmp_path / "run").mkdir()
    for command in (("distill", recipe), ("run", recipe), ("senses", "build", recipe, "--shard", "1/2")):
        for kind, words in (("EROFS", "Read-only file system"), ("EACCES", "Permission denied")):
            ended = home.run(*command, fail=[kind, 1], within=str(tmp_path / "run"))
            one_error(ended, 2, "cannot be written", words, "change `output`")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_corpus_that_changed_since_redoes_what_was_made_from_it(home: Nursery, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, write_world(tmp_path)))
    command = ("distill", recipe, "--arm", "pruned")
    killed = home.run(*command, begin="sample: started", event=3)
    assert killed.code == -9
    write_corpus(tmp_path / "train.jsonl", 61, 1, WORDS)
    second = home.run(*command)
    assert second.code == 0, second.said
    assert {"tokens train", "positions", "sample", "senses"} <= done_in(second.said)
    assert {"tokens heldout", "lexicon", "linking"} <= reused_in(second.said)
    (tmp_path / "run").rename(tmp_path / "resumed")
    assert home.run(*command).code == 0
    assert content(tmp_path / "run") == content(tmp_path / "resumed")


def test_a_corpus_that_changes_while_it_is_read_is_refused(home: Nursery, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, write_world(tmp_path)))
    corpus = tmp_path / "train.jsonl"
    longer = corpus.read_text() + json.dumps({"text": "w3 w4 w5"}) + "\n"
    command = ("distill", recipe, "--arm", "pruned")
    ended = home.run(*command, begin="tokens train: started", append=[3, str(corpus), longer])
    one_error(ended, 2, "changed while it was read")
    again = home.run(*command)
    assert again.code == 0, again.said
    assert "tokens train" in done_in(again.said)
    assert "61 documents" not in again.said
    manifest = json.loads((tmp_path / "run" / "tokens-train" / "manifest.json").read_text())
    assert manifest["facts"]["documents"] == 61


def test_words_of_libraries_in_other_languages_are_understood() -> None:
    class RustError(Exception):
        pass

    wrapped = RuntimeError("while writing")
    wrapped.__cause__ = RustError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (wrapped, wrapped.__cause__, OSError("1000 requested and 12 written")):
        failure = system_failure(error)
        assert isinstance(failure, SenseKDError)
        assert "make room" in str(failure)
        assert failure.exit_code == 1
    limited = RustError("Error while serializing: I/O error: File too large (os error 27)")
    failure = system_failure(limited)
    assert failure is not None
    assert "mend that" in str(failure)
    handled = KeyError("a defect of ours")
    handled.__context__ = limited
    assert system_failure(handled) is None
    assert system_failure(ValueError("a defect of ours")) is None
    defect = KeyError("a defect of ours")
    defect.__context__ = FileNotFoundError("this one was handled")
    assert system_failure(defect) is None
    defect.__cause__ = defect.__context__
    assert system_failure(defect) is not None
