"""The real command line in one process and in two: equal results, and resuming to the bit after SIGKILL."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes_world import (
    STEPS,
    World,
    finish,
    kill_all,
    kill_at_random,
    kill_one,
    launcher_of,
    make_world,
    popen,
    ranks,
    start,
    wait_for_step,
)
from processes_world import weights as weights_of
from safetensors.torch import load_file
from typer.testing import CliRunner

from tally import Tally

Kill = Callable[[subprocess.Popen[str]], None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def one(world: World) -> Path:
    """A training in one process that was left alone; in this process, since it is the very same code."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import distill_arm
    from sensekd.pipeline.stages import Silent

    output = world.run("one")
    distill_arm(load_recipe(world.recipe, [f"output={output}"]), "dskd", Silent())
    return output


@pytest.fixture(scope="module")
def killed(world: World) -> Path:
    """The folder of a training in two processes of torchrun of which one was killed, and the other has said so."""
    output = world.run("killed-two")
    survivors_say_it_once(kill_at_random(world, output, 2, 1, kill_one(1), Tally(lambda name, value: None)))
    return output


@pytest.fixture(scope="module")
def two(world: World, killed: Path) -> tuple[Path, list[dict[str, Any]], str]:
    """Two processes of torchrun, left alone: a comparison that tunes, `run`, and `compare` in the same folder.

    At their end they go on with the training that was killed, since two processes take longer to start than to train.

    Returns:
        The folder, what the commands said on standard output, and all of standard error.
    """
    output = world.run("two")
    sets = ["--json", "--set", f"output={output}", "--set", "compare.seeds=[0]"]
    commands = [
        ["compare", str(world.recipe), *sets, "--set", "compare.budget=time"],
        ["run", str(world.recipe), *sets],
        ["compare", str(world.recipe), *sets],
        ["distill", str(world.recipe), "--json", "--set", f"output={killed}"],
    ]
    (output / "commands.json").write_text(json.dumps(commands))
    worker = Path(__file__).with_name("together_worker.py")
    process = popen([*launcher_of(2), str(worker), str(output / "commands.json"), str(output)])
    out, err = process.communicate(timeout=600)  # Four commands; a busy machine takes minutes for them.
    assert process.returncode == 0, err[-4000:]
    for rank in range(2):
        assert json.loads((output / f"codes-{rank}.json").read_text()) == [2, 0, 0, 0], err[-4000:]
    return output, [json.loads(line) for line in out.strip().splitlines()], err


def resumed_to_the_bit(world: World, output: Path, processes: int, whole: Path) -> int:
    step: int = finish(start(world, output, processes))["resumed_from"]
    assert weights_of(output).read_bytes() == weights_of(whole).read_bytes()
    return step


def survivors_say_it_once(process: subprocess.Popen[str]) -> None:
    """One rank was killed: the launcher and the other rank end by themselves, with one error of ours."""
    _, err = process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    ours, _, launcher = err.partition("failed (exitcode: -9)")
    assert ours.count("error: another process of this training has died (") == 1
    assert "Traceback" not in ours
    assert "Signal 9 (SIGKILL)" in launcher
    assert "error: " not in launcher


@pytest.mark.long
def test_resume_after_sigkill_of_one_process(world: World, one: Path, told: Tally) -> None:
    """The short form kills a training in the nursery; here it is the command as a user starts it."""
    output = world.run("killed-one")
    kill_at_random(world, output, 1, 0, kill_all, told).communicate()
    assert resumed_to_the_bit(world, output, 1, one) > 0


def test_resume_after_a_rank_of_two_is_killed(
    killed: Path, two: tuple[Path, list[dict[str, Any]], str], told: Tally
) -> None:
    told.add("faults", "kills")
    told.add("faults", "kills that met a command alive")
    whole, said, _ = two
    assert said[2]["resumed_from"] > 0
    assert weights_of(killed).read_bytes() == weights_of(whole).read_bytes()


def test_run_and_compare_in_two_processes(two: tuple[Path, list[dict[str, Any]], str]) -> None:
    output, said, err = two
    assert [set(each["summary"]) for each in said[:2]] == [{"teacher", "pruned", "dskd"}, {"teacher", "kd", "dskd"}]
    assert [row["arm"] for row in said[1]["differences"] if row["metric"] == "kl"] == ["teacher", "dskd"]
    # One process reports what is done; of what `run` did `compare` does only the rest again.
    notes = [line.partition("] ")[2] for line in err.splitlines() if line.startswith("[")]
    for name in ("teacher-0", "dskd-0"):
        assert sum(note.startswith(f"{name}: done") for note in notes) == 1
        assert sum(note.startswith(f"{name}: reused") for note in notes) == 1
    assert sum(note.startswith("kd-0: done") for note in notes) == 1
    assert err.count("error: ") == 1
    assert "error: a launcher has started 2 processes of a comparison that tunes or measures time" in err
    record = json.loads((output / "records" / "kd-0.json").read_text())
    # 84 blocks are 21 batches of 2 x 2 sequences, accumulated by two: 11 steps, the last of them over one batch.
    batches = STEPS // 11 * 21 + STEPS % 11 * 2
    assert record["tokens"] == batches * 2 * 2 * 15


def test_what_is_reported_is_the_student_that_was_saved(world: World, two: tuple[Path, Any, str]) -> None:
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import evaluate_folder
    from sensekd.pipeline.stages import Silent

    output, said, _ = two
    recipe = load_recipe(world.recipe, [f"output={output}"])
    found = evaluate_folder(recipe, output / "students" / "dskd-0", Silent())["metrics"]
    for each in said[:2]:
        told = {name: row["mean"] for name, row in each["summary"]["dskd"].items()}
        assert told.keys() >= {"ce", "kl", "agreement", "quiz"}
        assert told == {name: found[name] for name in told}


def test_commands_of_one_process_refuse_several(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("sensekd.cli.console.first_to_say", lambda _: True)
    from sensekd.cli.main import app

    output = tmp_path / "run"
    sets = ["--set", f"output={output}"]
    recipe = str(world.recipe)
    for command in (
        ["demo", "--output", str(output)],
        ["check", recipe, *sets],
        ["lexicon", "build", recipe, *sets],
        ["evaluate", "nowhere", "--recipe", recipe, *sets],
        ["compare", recipe, "--sensitivity", *sets],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2, (command, done.output)
        assert "error: a launcher has started 2 processes of a command that runs in one" in done.output
        assert "start this command without the launcher" in done.output
    assert not list(output.glob("*"))


def test_two_processes_equal_one(world: World, two: tuple[Path, Any, str]) -> None:
    """The same global batch: 2 x 2 sequences in two processes, 4 in one."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import distill_arm
    from sensekd.pipeline.stages import Silent

    output = world.run("one-of-four")
    recipe = load_recipe(world.recipe, [f"output={output}", "training.batch_size=4"])
    distill_arm(recipe, "dskd", Silent())
    single, double = load_file(weights_of(output)), load_file(weights_of(two[0]))
    assert single.keys() == double.keys()
    assert max(float((single[name] - double[name]).abs().max()) for name in single) < 1e-6


def test_what_one_process_made_is_not_taken_for_what_two_make(world: World, one: Path) -> None:
    from sensekd.config import load_recipe
    from sensekd.pipeline.jobs import Job
    from sensekd.pipeline.run import open_workspace
    from sensekd.pipeline.stages import Silent

    work = open_workspace(load_recipe(world.recipe, [f"output={one}"]), Silent())
    alone = Job("dskd", 0).key(work)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "0")
        together = Job("dskd", 0).key(work)
        assert "processes" not in Job("pruned", 0).key(work)
    assert together == alone | {"processes": "2"}


# ---- long forms


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_resume_after_ten_kills(world: World, processes: int, request: pytest.FixtureRequest, told: Tally) -> None:
    """Of one process, or of two: of all that was started, or of one rank alone."""
    whole = request.getfixturevalue("one") if processes == 1 else request.getfixturevalue("two")[0]
    killed: list[str] = []
    steps: list[int] = []
    for seed in range(10, 20):
        output = world.run(f"killed-{processes}-{seed}")
        who = random.Random(seed).choice(["all", "0", "1"]) if processes > 1 else "all"
        kill = kill_all if who == "all" else kill_one(int(who))
        kill_at_random(world, output, processes, seed, kill, told).communicate(timeout=120)
        steps.append(resumed_to_the_bit(world, output, processes, whole))
        killed.append(who)
    told(f"{len(steps)} kills of {processes} processes, resumed from the steps {steps}: the same weights to the bit")
    assert len(set(steps)) > 1
    assert processes == 1 or set(killed) == {"all", "0", "1"}


@pytest.mark.long
def test_a_training_killed_again_and_again(world: World, one: Path, told: Tally) -> None:
    output = world.run("again")
    for seed in (30, 31, 32):
        process = start(world, output, 1)
        wait_for_step(output, 4 * (seed - 29), process)
        kill_all(process)
        process.communicate()
        told.add("faults", "kills")
        told.add("faults", "kills that met a command alive")
    assert resumed_to_the_bit(world, output, 1, one) >= 11


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_leaves_a_checkpoint_even_where_none_is_asked_for(world: World, processes: int) -> None:
    never = ("training.save_every=null", "training.steps=1500", "training.log_every=1")
    whole = world.run(f"whole-{processes}")
    finish(start(world, whole, processes, *never))
    output = world.run(f"interrupted-{processes}")
    process = start(world, output, processes, *never)
    for line in iter(process.stderr.readline, ""):  # type: ignore[union-attr]
        if "/1500" in line:  # The first line of progress: it trains.
            break
    assert process.poll() is None
    assert processes == 1 or len(ranks(process.pid)) == processes
    process.send_signal(signal.SIGINT)  # A launcher hands it on to its ranks.
    _, err = process.communicate(timeout=120)
    assert process.returncode == (130 if processes == 1 else 1), err[-3000:]
    assert err.count("interrupted: what was finished is kept") == 1
    assert list(output.glob("work/*/checkpoint-*/manifest.json"))
    step = finish(start(world, output, processes, *never))["resumed_from"]
    assert 0 < step < 1500
    assert weights_of(output).read_bytes() == weights_of(whole).read_bytes()
