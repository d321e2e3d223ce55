"""The real command line in one process and in two: equal results, and resuming to the bit after SIGKILL."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from processes_world import World, finish, kill_all, kill_at_random, kill_one, make_world, ranks, start, wait_for_step
from processes_world import weights as weights_of
from safetensors.torch import load_file

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
def two(world: World) -> Path:
    """A training in two processes that was left alone."""
    output = world.run("two")
    assert finish(start(world, output, 2))["resumed_from"] == 0
    return output


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


def test_resume_after_a_rank_of_two_is_killed(world: World, two: Path, told: Tally) -> None:
    output = world.run("killed-two")
    survivors_say_it_once(kill_at_random(world, output, 2, 1, kill_one(1), told))
    assert resumed_to_the_bit(world, output, 2, two) > 0


def test_two_processes_equal_one(world: World, two: Path) -> None:
    """The same global batch: 2 x 2 sequences in two processes, 4 in one."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import distill_arm
    from sensekd.pipeline.stages import Silent

    output = world.run("one-of-four")
    recipe = load_recipe(world.recipe, [f"output={output}", "training.batch_size=4"])
    distill_arm(recipe, "dskd", Silent())
    single, double = load_file(weights_of(output)), load_file(weights_of(two))
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
        assert Job("pruned", 0).key(work).keys() == alone.keys()
    assert together == alone | {"processes": "2"}


# ---- long forms


def cases(count: int) -> list[tuple[int, int, str]]:
    """(seed, processes, who is killed)."""
    found = []
    for seed in range(10, 10 + count):
        processes = 1 + seed % 2
        found.append((seed, processes, "all" if processes == 1 else random.Random(seed).choice(["all", "0", "1"])))
    return found


@pytest.mark.long
def test_resume_after_six_kills(world: World, one: Path, two: Path, told: Tally) -> None:
    wholes, steps = {1: one, 2: two}, []
    for seed, processes, who in cases(6):
        output = world.run(f"killed-{seed}")
        kill = kill_all if who == "all" else kill_one(int(who))
        kill_at_random(world, output, processes, seed, kill, told).communicate(timeout=120)
        steps.append(resumed_to_the_bit(world, output, processes, wholes[processes]))
    assert len(set(steps)) > 1
    told(f"{len(steps)} kills, resumed from the steps {steps}: the weights of a training left alone, to the bit")


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
