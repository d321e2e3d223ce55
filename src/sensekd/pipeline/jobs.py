"""One job is one arm with one seed: what it trains and tests, what it writes, what it was made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.config import Recipe, arm_recipe
from sensekd.pipeline.stages import content_id
from sensekd.pipeline.workspace import WHOLE, Workspace, source_key
from sensekd.provenance import file_fingerprint
from sensekd.training import processes

if TYPE_CHECKING:
    from torch import Tensor

    from sensekd.config import LexicalConfig
    from sensekd.evaluation.paper import Choice

    Split = tuple[tuple[Tensor, Tensor], dict[str, tuple[Tensor, Tensor]]]

TEACHER: Final = "teacher"
HELDOUT: Final = "heldout"
DEVELOPMENT: Final = "development"
_UPSTREAM: Final = ("tokens-train", "tokens-heldout", "senses", "relations")


@dataclass(frozen=True, order=True)
class Job:
    """An arm with a seed; plain values, because it goes to a worker as JSON.

    Attributes:
        arm: its name.
        seed: its seed.
        variant: what else its name has to say; empty for the arm that is compared.
        settings: further keys and values of the recipe, as JSON; they win over the arm's.
        split: what it is evaluated on, `heldout` or `development`.
        senses: folder of its dictionary under the run's; empty for the recipe's.
        trial: it leaves a record alone, and a loss that is no number is a result and no error.
    """

    arm: str
    seed: int
    variant: str = ""
    settings: str = "{}"
    split: str = HELDOUT
    senses: str = ""
    trial: bool = False

    @property
    def name(self) -> str:
        """`<arm>-<seed>`, or `<arm>@<variant>-<seed>`: the name of its folder and of its record."""
        return f"{self.arm}@{self.variant}-{self.seed}" if self.variant else f"{self.arm}-{self.seed}"

    def recipe(self, recipe: Recipe) -> tuple[Recipe, int]:
        """The recipe of this job, and its number of training steps."""
        return arm_recipe(recipe, self.arm, self.seed, json.loads(self.settings))

    def student(self, output: Path) -> Path:
        """The folder of its student; a trial's does not stay."""
        return output / "work" / f"student-{self.name}" if self.trial else output / "students" / self.name

    def outputs(self, output: Path) -> list[Path]:
        """What the job leaves: its record and, for a student, its Hugging Face folder."""
        record = output / "records" / f"{self.name}.json"
        return [record] if self.arm == TEACHER or self.trial else [self.student(output), record]

    def key(self, work: Workspace) -> dict[str, Any]:
        """Everything the job's outputs are made from."""
        recipe, steps = (work.recipe, 0) if self.arm == TEACHER else self.recipe(work.recipe)
        tree = recipe.model_dump(mode="json", by_alias=True)
        settings = {name: tree[name] for name in ("seed", "student", "loss", "training", "evaluation")}
        if recipe.cached:
            settings["cache"] = tree["cache"]
        if self.arm == TEACHER:
            settings = {"evaluation": tree["evaluation"]}
        # Without senses or hidden states in the loss no dictionary is looked at: plain KD stands when it is made anew.
        sensed = steps > 0 and (recipe.loss.lam > 0 or recipe.loss.mu > 0)
        upstream: dict[str, Any] = {name: work.artefact(name) for name in _UPSTREAM if sensed or name != "senses"}
        if self.arm != TEACHER and steps and processes.count() > 1:
            # `batch_size` is that of a process: more of them read more.
            upstream["processes"] = str(processes.count())
        if self.split == HELDOUT and work.recipe.lexicon.withhold_antonyms:
            upstream[WHOLE] = work.artefact(WHOLE)
        if self.senses and sensed:
            upstream["senses"] = content_id(work.path(self.senses))
        if self.split != HELDOUT:
            settings["evaluation"] = {name: tree["evaluation"][name] for name in ("batch_size", "sequence_length")}
            upstream["tokens-heldout"] = work.artefact(f"tokens-{self.split}")
        if self.split == HELDOUT and work.recipe.evaluation.lexical is not None:
            upstream["lexical"] = lexical_key(work.recipe.evaluation.lexical)
        questions = {name: source_key(path) for name, path in question_sets(work, self.split).items()}
        return {"settings": settings, "steps": steps, "questions": questions, "teacher": work.teacher_key, **upstream}


def question_sets(work: Workspace, split: str) -> dict[str, str]:
    """The question sets of a split: name -> file."""
    development = work.recipe.compare.development
    if split == HELDOUT or development is None:
        return work.recipe.evaluation.questions
    return development.questions


def lexical_choice(config: LexicalConfig, batch_size: int = 16) -> Choice:
    """The lexical tests that a recipe asks for."""
    from sensekd.evaluation.paper import Choice

    limits = {str(name): limit for name, limit in config.limits.items()}
    return Choice(Path(config.data), config.tasks, limits, batch_size)


def lexical_key(config: LexicalConfig) -> dict[str, str]:
    """Fingerprints of the files of the lexical tests."""
    from sensekd.evaluation.lexical import lexical_files

    return {name: file_fingerprint(*files) for name, files in lexical_files(lexical_choice(config)).items()}
