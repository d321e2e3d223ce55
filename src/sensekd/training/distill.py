"""One training from beginning to end: cut the student, train it, leave it as a Hugging Face folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sensekd.artefacts import fingerprint
from sensekd.training import processes
from sensekd.training.arguments import training_arguments
from sensekd.training.checkpoints import clear, newest_checkpoint, step_of
from sensekd.training.data import TokenBlocks, collate
from sensekd.training.digests import digest
from sensekd.training.export import export_student
from sensekd.training.failures import explained
from sensekd.training.packing import refuse_mixing
from sensekd.training.sharding import Originals
from sensekd.training.supervision import SenseSupervision
from sensekd.training.threads import threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sensekd.config import Recipe
    from sensekd.targets import SenseTable
    from sensekd.training.assembly import Apprentice, Cut
    from sensekd.training.cache.feed import TeacherFeed
    from sensekd.training.cache.identity import CacheRequest
    from sensekd.training.trainer import Distillation, SenseDistillationTrainer

Progress = Callable[[int, int], None]
WordEdges = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class DistillResult:
    """What a training did.

    Attributes:
        history: one record per logging: step, loss, every term as it was differentiated, counts, tokens per second.
        tokens: tokens read in training, over all processes.
        steps: optimiser steps, those before a resume included.
        shared_layers: n of the shared trunk.
        trunk_reason: why n is not larger.
        trainable: number of trained parameters.
        parameters: number of the student's parameters.
        resumed_from: step of the checkpoint that was resumed from, 0 for none.
        seconds: wall time of the training alone (of this process, since the resume).
        layers: the teacher's layers that the student keeps.
        importance: score of each of the teacher's layers, where they were chosen by it.
        importance_tokens: positions that the scores were measured over.
        logits: how CE and KL were computed, and why.
    """

    history: tuple[Mapping[str, float], ...]
    tokens: int
    steps: int
    shared_layers: int
    trunk_reason: str
    trainable: int
    parameters: int
    resumed_from: int
    seconds: float
    layers: tuple[int, ...] = ()
    importance: tuple[float, ...] | None = None
    importance_tokens: int = 0
    logits: str = "not trained"

    def facts(self) -> dict[str, Any]:
        """What two equal trainings have in common, as plain values, without the history."""
        names = ["tokens", "steps", "shared_layers", "trunk_reason", "trainable", "parameters", "layers", "logits"]
        names += ["importance", "importance_tokens"] if self.importance is not None else []
        found = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _made_from(
    recipe: Recipe, steps: int, blocks: TokenBlocks, senses: SenseSupervision | None, apprentice: Apprentice
) -> dict[str, Any]:
    """What must be equal for a checkpoint to be one of this very training."""
    training = recipe.training.model_dump(mode="json", exclude={"save_every", "log_every", "threads"})
    made_from: dict[str, Any] = {
        "recipe": fingerprint([
            steps, recipe.seed, training,
            recipe.student.model_dump(mode="json"), recipe.loss.model_dump(mode="json"),
        ]),
        "data": blocks.identity,
        "shared_layers": apprentice.trunk.layers,
        # Before training the student is the teacher's own layers, and what was drawn with the seed.
        "student": digest(apprentice.trained.state_dict().values()),
    }  # fmt: skip
    if processes.count() > 1:
        made_from["processes"] = processes.count()
    if senses is not None:
        table = senses.table
        lists = (tensor for each in (table.own, table.positive, table.negative) for tensor in (each.indptr, each.ids))
        made_from["senses"] = digest(chain(table.row_blocks(), lists, (senses.starts_word, senses.ends_word)))
        made_from["sigma2"] = table.sigma2
    return made_from


def supervision_of(senses: tuple[SenseTable, WordEdges | None] | None) -> SenseSupervision | None:
    """Table and word edges as a record; without edges every label counts as a whole word."""
    if senses is None:
        return None
    table, edges = senses
    nowhere = torch.zeros(len(table.own.indptr) - 1, dtype=torch.bool)
    return SenseSupervision(table, *(edges or (nowhere, nowhere)))


def _trainer(
    model: torch.nn.Module, distillation: Distillation, args: Any, blocks: TokenBlocks, progress: Progress | None
) -> SenseDistillationTrainer:
    from transformers import PrinterCallback, TrainerCallback

    from sensekd.training.trainer import SenseDistillationTrainer

    class Report(TrainerCallback):  # type: ignore[misc]
        """Say how far it is; where the training is interrupted, end it with a checkpoint.

        A checkpoint does not hold the sums since the last record, so `save_every` writes a record too: one that is
        averaged over the steps since a resume would not be that of a training left alone.
        """

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress is not None and state.is_world_process_zero:
                progress(state.global_step, state.max_steps)
            control.should_log |= control.should_save
            if trainer.interrupted():
                control.should_save = control.should_training_stop = True

    trainer = SenseDistillationTrainer(
        model, distillation, args=args, train_dataset=blocks,
        data_collator=collate if distillation.feed is None else distillation.feed.collate, callbacks=[Report()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def _start_of(trainer: SenseDistillationTrainer, work: Path, made_from: Mapping[str, Any]) -> Path | None:
    """Where to resume from; what was cut short before is cleared away."""
    newest = newest_checkpoint(work, made_from)
    if trainer.is_world_process_zero():
        clear(work, above=-1 if newest is None else step_of(newest))
    trainer.accelerator.wait_for_everyone()
    return newest


def _train(
    apprentice: Apprentice,
    distillation: Distillation,
    recipe: Recipe,
    steps: int,
    blocks: TokenBlocks,
    work: Path,
    progress: Progress | None,
) -> tuple[SenseDistillationTrainer, int, float]:
    """Train the apprentice in place; (trainer, step that was resumed from, seconds)."""
    trunk = apprentice.trunk
    use_cache = trunk.model.config.use_cache
    args = training_arguments(recipe, steps, work, apprentice.device)
    originals = Originals.of(apprentice.trained)
    trainer = _trainer(apprentice.trained, distillation, args, blocks, progress)
    start = _start_of(trainer, work, distillation.made_from or {})
    began = time.perf_counter()
    try:
        with trainer.interruption:
            if start is not None and step_of(start) >= steps:
                trainer.load_finished(start)  # All that was missing is the student's folder.
            else:
                trainer.train(resume_from_checkpoint=None if start is None else str(start))
            trainer.refuse_non_finite()
            if trainer.interrupted():
                trainer.keep()
                raise KeyboardInterrupt
            originals.restore(trainer.model)
    finally:
        # The Trainer switches the cache off in the configuration; where no trunk is shared that is the student's own.
        trunk.model.config.use_cache = use_cache
    return trainer, 0 if start is None else step_of(start), time.perf_counter() - began


def _feed(
    teacher: PreTrainedModel | None,
    apprentice: Apprentice,
    recipe: Recipe,
    blocks: TokenBlocks,
    senses: SenseSupervision | None,
    cache: CacheRequest | None,
) -> TeacherFeed | None:
    """What stands in the place of the teacher's forward, or None where the teacher is run at every step."""
    from sensekd.training.cache.feed import TeacherFeed
    from sensekd.training.cache.refine import make_refiner
    from sensekd.training.cache.store import TeacherCache
    from sensekd.training.cache.writing import complete, make_feed

    if cache is None or not recipe.cached:
        return None
    refiner = make_refiner(apprentice.trunk.model, recipe.loss.tau) if recipe.cache.refine and recipe.loss.mu else None
    if teacher is None:
        return TeacherFeed(TeacherCache.open(cache.folder, cache.made_from), blocks, refiner=refiner)
    feed = make_feed(teacher, apprentice.cut, apprentice.trunk, recipe, blocks, senses, cache)
    feed = replace(feed, refiner=refiner)
    with threads(recipe.training.threads):
        return complete(feed) if recipe.cache.mode == "before" else feed


def _cut(
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    blocks: TokenBlocks,
    cache: CacheRequest | None,
) -> tuple[Cut, Callable[[], Apprentice]]:
    """The student, and what makes an apprentice of it; without a teacher, from what a complete cache knows of it."""
    from sensekd.training.assembly import cut_student, make_apprentice

    if teacher is not None:
        cut = cut_student(teacher, tokenizer, recipe, blocks)

        def begin() -> Apprentice:
            refuse_mixing(blocks, teacher, cut.student)
            return make_apprentice(cut, teacher, recipe)

        return cut, begin
    from sensekd.training.cache.hollow import apprentice_without_teacher, cut_without_teacher
    from sensekd.training.cache.store import TeacherCache
    from sensekd.training.placement import pick_device

    if cache is None:
        raise ValueError("distill needs a teacher, or a cache")
    facts = TeacherCache.open(cache.folder, cache.made_from).facts
    cut = cut_without_teacher(recipe, tokenizer, facts)
    return cut, lambda: apprentice_without_teacher(cut, recipe, facts, pick_device(recipe.device))


def _make_whole(cut: Cut, recipe: Recipe, teacher: PreTrainedModel | None, shared: int) -> None:
    """Read the layers that a training without a teacher had no need of."""
    if teacher is None:
        from sensekd.training.cache.hollow import fill

        fill(cut, recipe, shared)


def distill(
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    steps: int,
    blocks: TokenBlocks,
    *,
    senses: tuple[SenseTable, WordEdges | None] | None = None,
    folders: tuple[Path, Path],
    progress: Progress | None = None,
    cache: CacheRequest | None = None,
) -> DistillResult:
    """Cut a student from the teacher, train it for `steps` and export it to `folder`.

    The order of the data follows from the recipe's seed alone: arms of the same seed read the same batches. An
    interrupted training goes on from the newest complete checkpoint in `work`, bit for bit as if never interrupted.

    Args:
        teacher: as `load_teacher` gives it, on the device of the training; None where `cache` is complete: then the
            student's layers are read from the checkpoint, and nothing else of the teacher.
        tokenizer: saved beside the student.
        recipe: of this arm, with its seed.
        steps: optimiser steps; 0 leaves the cut student untrained.
        blocks: training data.
        senses: candidate sense rows, needed where λ > 0 or μ > 0, and (starts_word, ends_word), each [V] bool; without
            these every label counts as a whole word.
        folders: the Hugging Face folder that is written, and a folder for checkpoints, emptied of them at the end.
        progress: called after every step with (step, steps).
        cache: the recipe's teacher cache, by `request_cache`; None runs the teacher at every step.

    Raises:
        InputError: the recipe does not fit the teacher or the data.
        NonFiniteError: the loss or a state of the teacher became NaN or infinite.
        OutOfMemoryError: the training does not fit into memory.
        PeerError: another process of this training died.
        KeyboardInterrupt: after SIGINT or SIGTERM, with a checkpoint of the step that was under way.
    """
    from sensekd.training.cache.writing import seal
    from sensekd.training.trainer import Distillation

    folder, work = folders
    supervision = supervision_of(senses)
    cut, begin = _cut(teacher, tokenizer, recipe, blocks, cache)
    chosen = (cut.layers, cut.importance, cut.importance_tokens)
    total, trainable = (sum(value.numel() for value in each) for each in (cut.student.parameters(), cut.trained()))
    if steps == 0:
        export_student(cut.exported(recipe.student), tokenizer, folder)
        return DistillResult((), 0, 0, 0, "not trained", trainable, total, 0, 0.0, *chosen)
    apprentice = begin()
    trunk, trainable = apprentice.trunk, apprentice.trainable
    feed = _feed(teacher, apprentice, recipe, blocks, supervision, cache)
    made_from = _made_from(recipe, steps, blocks, supervision, apprentice)
    if feed is not None:
        made_from["cache"] = feed.cache.folder.name + ("+refined" if feed.refiner is not None else "")
    distillation = Distillation(teacher, recipe.loss, supervision, trunk.layers, made_from, cut.vocabulary, feed)
    with threads(recipe.training.threads), explained(recipe):
        trainer, start, seconds = _train(apprentice, distillation, recipe, steps, blocks, work, progress)
    if trainer.is_world_process_zero():
        apprentice.finish()
        _make_whole(cut, recipe, teacher, trunk.layers)
        export_student(cut.exported(recipe.student), tokenizer, folder)
        clear(work)
    if feed is not None:
        seal(feed)
    trainer.accelerator.wait_for_everyone()
    state, history = trainer.state, tuple(record for record in trainer.state.log_history if "loss" in record)
    return DistillResult(
        history, state.num_input_tokens_seen, state.global_step, trunk.layers, trunk.reason, trainable, total,
        start, seconds, *chosen, trainer.logits_path,
    )  # fmt: skip
