"""The demo: a miniature world, a teacher trained on it, and the comparison of a recipe on both."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from sensekd.artefacts import Manifest, atomic_directory, fingerprint, write_manifest
from sensekd.config import Recipe, recipe_from_tree
from sensekd.demo.grammar import LANGUAGES
from sensekd.errors import InputError
from sensekd.pipeline.lock import run_lock
from sensekd.pipeline.run import compare
from sensekd.pipeline.stages import Progress, Reporter, Stages

FORMAT: Final = 1
# Fixed, because sums over threads shape the last bits: the same demo on any machine with the same libraries.
THREADS: Final = 2


class WorldSettings(BaseModel):
    """Language, size and seed of the miniature world."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    documents: int
    heldout: int
    language: Literal["english", "german"] = "english"


class TeacherSettings(BaseModel):
    """Budget of the demo's teacher; passed on to `demo.teacher.train_teacher`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    steps: int


class DemoRecipe(Recipe):
    """An ordinary recipe, with what its world and its teacher are made from."""

    world: WorldSettings
    demo_teacher: TeacherSettings


def _code_fingerprint() -> str:
    """The world follows from its seed and from the files that describe it."""
    folder = files("sensekd.demo")
    texts = sorted(
        (path.name, path.read_text(encoding="utf-8"))
        for part in (folder, *(folder / name for name in LANGUAGES.values()))
        for path in part.iterdir()
        if path.name.endswith((".py", ".txt"))
    )
    return fingerprint(texts)


def demo_recipe(output: Path, overrides: Sequence[str] = (), language: str = "en") -> DemoRecipe:
    """The embedded recipe of a language with its paths under `output`.

    Raises:
        InputError: a language that the demo does not speak, or an override that does not fit.
    """
    if language not in LANGUAGES:
        raise InputError(
            f"no miniature world in {language!r}", f"one of {list(LANGUAGES)}", "choose it with --language"
        )
    name = "recipe.yaml" if language == "en" else f"{LANGUAGES[language]}/recipe.yaml"
    text = (files("sensekd.demo") / name).read_text(encoding="utf-8")
    tree = yaml.safe_load(text.replace("@OUTPUT@", output.as_posix()))
    return recipe_from_tree(tree, "the demo's recipe", overrides, kind=DemoRecipe)


def build_demo_world(stages: Stages, settings: WorldSettings) -> Path:
    """Generate the world into `world/`."""
    from sensekd.demo.world import build_world, write_world

    folder = stages.output / "world"

    def build(_: Progress) -> None:
        world = build_world(settings.seed, settings.documents, settings.heldout, settings.language)
        with atomic_directory(folder) as temporary:
            write_world(world, temporary)
            write_manifest(temporary, Manifest("world", FORMAT, {}, settings.model_dump()))

    stages.run("world", [settings.model_dump(), _code_fingerprint()], [folder], build)
    return folder


def build_demo_teacher(stages: Stages, world: Path, settings: TeacherSettings) -> Path:
    """Train the teacher on the world's training text into `teacher/`."""
    from sensekd.demo.teacher import train_teacher
    from sensekd.pipeline.stages import content_id

    folder = stages.output / "teacher"
    key = [settings.model_dump(), content_id(world), _code_fingerprint()]
    stages.run(
        "teacher",
        key,
        [folder],
        lambda progress: train_teacher(world / "train.jsonl", folder, progress=progress, **settings.model_dump()),
    )
    return folder


def run_demo(
    output: Path, overrides: Sequence[str], reporter: Reporter, command: str, language: str = "en"
) -> dict[str, Any]:
    """World, teacher, comparison.

    Args:
        output: everything the demo leaves stands here.
        overrides: `a.b=value` texts for the demo's recipe, `world.*` and `demo_teacher.*` included.
        reporter: where to say how it goes.
        command: what a user types to get the same results.
        language: of the world, `en` or `de`.

    Returns:
        The results of the comparison.
    """
    import torch

    torch.set_num_threads(THREADS)
    demo = demo_recipe(output, overrides, language)
    recipe = Recipe.model_validate(demo.model_dump(by_alias=True, exclude={"world", "demo_teacher"}))
    stages = Stages(output, reporter)
    with run_lock(output):
        world = build_demo_world(stages, demo.world)
        build_demo_teacher(stages, world, demo.demo_teacher)
        return compare(recipe, reporter, command, stages=stages)
