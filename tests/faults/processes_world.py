"""A prepared run of seconds, and the real command line on it: in one process or in two, left alone or killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_run import write_inputs, write_recipe

from forked import unfollowed
from tally import Tally

STEPS = 40
_PATIENCE = 240.0


@dataclass(frozen=True)
class World:
    """A recipe whose stages before training stand in `folder/prepared`."""

    folder: Path
    recipe: Path

    def run(self, name: str) -> Path:
        """A run's folder with the stages before training done."""
        folder = self.folder / name
        shutil.copytree(self.folder / "prepared", folder)
        return folder


def make_world(folder: Path) -> World:
    """Write the recipe, prepare it in this process."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.prepare import prepare
    from sensekd.pipeline.run import open_workspace
    from sensekd.pipeline.stages import Silent

    tree = write_inputs(folder)
    tree["output"] = str(folder / "prepared")
    tree["training"] |= {"steps": STEPS, "save_every": 1, "batch_size": 2, "accumulation": 2}
    # 84 blocks: an epoch of two processes ends where an epoch of one does.
    tree["training"]["sequence_length"] = 15
    recipe = write_recipe(folder, tree)
    prepare(open_workspace(load_recipe(recipe), Silent()))
    return World(folder, recipe)


def launcher_of(processes: int) -> list[str]:
    """What comes before the name of a program; several processes by torchrun."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(several if processes > 1 else [])]


def start(world: World, output: Path, processes: int, *options: str) -> subprocess.Popen[str]:
    """`sensekd distill` as a user starts it; not measured, since most of what is started so is killed."""
    sets = ["--set", f"output={output}"]
    for option in options:
        sets += ["--set", option]
    command = [*launcher_of(processes), "-m", "sensekd.cli.main", "distill", str(world.recipe), "--json", *sets]
    return popen(command, unfollowed())


def popen(command: list[str], environment: Mapping[str, str] = os.environ) -> subprocess.Popen[str]:
    """A process of this machine's CPU, whose outputs are read."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for it to end well; its summary."""
    out, err = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 0, err[-4000:]
    (line,) = out.strip().splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def weights(output: Path) -> Path:
    """The student's weights."""
    return output / "students" / "dskd-0" / "model.safetensors"


def ranks(launcher: int) -> list[int]:
    """Process ids of what a launcher has started, in the order of their ranks."""
    return sorted(int(word) for word in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split())


def wait_for_step(output: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of this step, or of a later one, is begun."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            found = [int(path.name.rpartition("-")[2]) for path in output.glob("work/*/checkpoint-*")]
        except FileNotFoundError:  # One was removed meanwhile.
            continue
        if any(number >= step for number in found):
            return
        assert process.poll() is None, (process.communicate()[1] or "")[-4000:]
        time.sleep(0.002)
    raise AssertionError("no checkpoint")


def kill_at_random(
    world: World, output: Path, processes: int, seed: int, kill: Callable[[subprocess.Popen[str]], None], told: Tally
) -> subprocess.Popen[str]:
    """Start a training and call `kill` at a moment that follows from the seed."""
    generator = random.Random(seed)
    process = start(world, output, processes)
    wait_for_step(output, generator.randint(1, STEPS // 4), process)
    time.sleep(generator.uniform(0, 0.08))
    kill(process)
    told.add("faults", "kills")
    assert not weights(output).exists(), "the training had ended before the kill"
    told.add("faults", "kills that met a command alive")
    return process


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the command and to everything that it has started."""
    below = ranks(process.pid)
    for number in (process.pid, *below):
        os.kill(number, signal.SIGKILL)


def kill_one(rank: int) -> Callable[[subprocess.Popen[str]], None]:
    """SIGKILL to one of the ranks alone."""
    return lambda process: os.kill(ranks(process.pid)[rank], signal.SIGKILL)
