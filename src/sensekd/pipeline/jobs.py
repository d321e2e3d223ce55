"""One job is one arm with one seed: train a student, evaluate it, leave a record. The teacher is evaluated as a job."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import fingerprint, write_json
from sensekd.config import Recipe, arm_recipe
from sensekd.corpus import TokenDocuments
from sensekd.pipeline.memory import peak_memory
from sensekd.pipeline.prepare import sense_table
from sensekd.pipeline.workspace import Workspace, source_key

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from sensekd.config import LossConfig
    from sensekd.linking import TokenRelations
    from sensekd.pipeline.stages import Progress
    from sensekd.targets import SenseTable
    from sensekd.training.data import TokenBlocks
    from sensekd.training.distill import DistillResult

TEACHER: Final = "teacher"
_UPSTREAM: Final = ("tokens-train", "tokens-heldout", "senses", "relations")


@dataclass(frozen=True, order=True)
class Job:
    """An arm with a seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """`<arm>-<seed>`, the name of its folder and of its record."""
        return f"{self.arm}-{self.seed}"

    def outputs(self, output: Path) -> list[Path]:
        """What the job leaves: its record and, for a student, its Hugging Face folder."""
        record = output / "records" / f"{self.name}.json"
        return [record] if self.arm == TEACHER else [output / "students" / self.name, record]

    def key(self, work: Workspace) -> dict[str, Any]:
        """Everything the job's outputs are made from."""
        recipe, steps = (work.recipe, 0) if self.arm == TEACHER else arm_recipe(work.recipe, self.arm, self.seed)
        tree = recipe.model_dump(mode="json", by_alias=True)
        settings = {name: tree[name] for name in ("seed", "student", "loss", "training", "evaluation")}
        if self.arm == TEACHER:
            settings = {"evaluation": tree["evaluation"]}
        questions = {name: source_key(path) for name, path in recipe.evaluation.questions.items()}
        upstream = {name: work.artefact(name) for name in _UPSTREAM}
        return {"settings": settings, "steps": steps, "questions": questions, "teacher": work.teacher_key, **upstream}


class Bench:
    """What the jobs of one process share: the teacher, the token blocks, the sense tables.

    Args:
        work: the run whose preparing stages are done.
    """

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self._tables: dict[tuple[bool, bool, bool], SenseTable] = {}

    @cached_property
    def relations(self) -> TokenRelations | None:
        """The linked lexicon, if the recipe has one."""
        from sensekd.linking import TokenRelations

        return TokenRelations.load(self.work.path("relations")) if self.work.recipe.lexicon.sources else None

    @cached_property
    def edges(self) -> tuple[Tensor, Tensor] | None:
        """(starts_word, ends_word) of every token."""
        return None if self.relations is None else (self.relations.starts_word, self.relations.ends_word)

    @cached_property
    def antonyms(self) -> tuple[Tensor, Tensor] | None:
        """Single-token antonyms of every token."""
        from sensekd.linking import single_token_antonyms

        return None if self.relations is None else single_token_antonyms(self.relations)

    def table(self, loss: LossConfig) -> SenseTable:
        """The sense table that a loss asks for, with or without the two relations; made once."""
        kind = (loss.synonyms, loss.antonyms, loss.targets == "published")
        if kind not in self._tables:
            self._tables[kind] = sense_table(
                self.work, synonyms=loss.synonyms, antonyms=loss.antonyms, published=loss.targets == "published"
            )
        return self._tables[kind]

    def blocks(self, name: str, length: int) -> TokenBlocks:
        """Token blocks of `train` or `heldout`."""
        from sensekd.training.data import TokenBlocks

        return TokenBlocks(TokenDocuments.open(self.work.path(f"tokens-{name}")), length)

    def training_blocks(self, recipe: Recipe) -> TokenBlocks:
        """The training data as an arm's recipe packs and masks it."""
        from sensekd.training.packing import make_blocks

        return make_blocks(TokenDocuments.open(self.work.path("tokens-train")), recipe.training)

    def run(self, job: Job, progress: Progress) -> None:
        """Train (unless it is the teacher), evaluate, and write the record."""
        with peak_memory() as memory:
            record = self._record(job, progress)
        write_json(job.outputs(self.work.output)[-1], {**record, "memory": memory})

    def _record(self, job: Job, progress: Progress) -> dict[str, Any]:
        record: dict[str, Any] = {"arm": job.arm, "seed": job.seed, "tokens": 0, "history": []}
        training = 0.0
        if job.arm == TEACHER:
            model = self.work.teacher.model
        else:
            recipe, steps = arm_recipe(self.work.recipe, job.arm, job.seed)
            result = self.distil(recipe, steps, job, progress)
            record |= {
                "tokens": result.tokens,
                "history": list(result.history),
                "student": result.facts(),
                "resumed_from": result.resumed_from,
            }
            model, training = self.student(job), result.seconds
        start = time.perf_counter()
        record |= evaluate_model(self, model)
        record["seconds"] = {"train": training, "evaluate": time.perf_counter() - start}
        return record

    def distil(self, recipe: Recipe, steps: int, job: Job, progress: Progress) -> DistillResult:
        """Train one student into its folder."""
        from sensekd.training.distill import distill

        loss, teacher = recipe.loss, self.work.teacher
        needs_senses = loss.lam > 0 or loss.mu > 0
        table = self.table(loss) if needs_senses else None
        scratch = self.work.path("work", f"{job.name}-{fingerprint(job.key(self.work))}")
        return distill(
            teacher.model,
            teacher.tokenizer,
            recipe,
            steps,
            self.training_blocks(recipe),
            senses=None if table is None else (table, self.edges),
            folders=(job.outputs(self.work.output)[0], scratch),
            progress=progress,
        )

    def student(self, job: Job) -> PreTrainedModel:
        """The student as a user will load it: from its folder."""
        from sensekd.training.placement import student_device
        from sensekd.training.teacher import load_student

        device = student_device(self.work.recipe, self.work.teacher.model)
        return load_student(job.outputs(self.work.output)[0], device)


def evaluate_model(bench: Bench, model: PreTrainedModel) -> dict[str, Any]:
    """Every suite of the recipe on one model.

    Returns:
        `metrics` (name -> number), `items` (set -> 0/1 per item) and `chance` (set -> accuracy of guessing).
    """
    from sensekd.evaluation.intrinsic import intrinsic

    work, config = bench.work, bench.work.recipe.evaluation
    blocks = bench.blocks("heldout", config.sequence_length)
    metrics = dict(
        intrinsic(
            model, work.teacher.model, blocks, bench.antonyms,
            batch_size=config.batch_size, whole_word_edges=bench.edges, vocabulary=len(work.teacher.tokenizer),
        )
    )  # fmt: skip
    items: dict[str, list[int]] = {}
    chance: dict[str, float] = {}
    if config.questions:
        from sensekd.evaluation.suites import multiple_choice

        sets: Mapping[str, Path] = {name: Path(path) for name, path in config.questions.items()}
        for name, result in multiple_choice(model, work.teacher.tokenizer, sets, batch_size=config.batch_size).items():
            metrics[name], items[name], chance[name] = result.accuracy, list(result.correct), result.chance
    return {"metrics": metrics, "items": items, "chance": chance}
