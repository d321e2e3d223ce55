"""What the jobs of one process share, and how one is done: train a student, evaluate it, leave a record."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import fingerprint, write_json
from sensekd.config import Recipe
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError, SenseKDError
from sensekd.pipeline.jobs import HELDOUT, TEACHER, Job, lexical_choice, question_sets
from sensekd.pipeline.memory import peak_memory
from sensekd.pipeline.prepare import sense_table
from sensekd.pipeline.workspace import WHOLE, Workspace

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from sensekd.config import LossConfig
    from sensekd.evaluation.intrinsic import TeacherStates
    from sensekd.linking import TokenRelations
    from sensekd.pipeline.stages import Progress
    from sensekd.targets import SenseTable
    from sensekd.training.cache.identity import CacheRequest
    from sensekd.training.data import TokenBlocks
    from sensekd.training.distill import DistillResult
    from sensekd.training.supervision import SenseSupervision

    Split = tuple[tuple[Tensor, Tensor], dict[str, tuple[Tensor, Tensor]]]

TRAINED: Final = "antonyms_trained"
WITHHELD: Final = "antonyms_withheld"


class Bench:
    """What the jobs of one process share: the teacher, the token blocks, the sense tables.

    Args:
        work: the run whose preparing stages are done.
    """

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self._tables: dict[tuple[bool, bool, bool, str], SenseTable] = {}
        self._kept: dict[str, TeacherStates] = {}

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
        """Single-token antonyms of every token, as training has them."""
        from sensekd.linking import single_token_antonyms

        return None if self.relations is None else single_token_antonyms(self.relations)

    @cached_property
    def withheld(self) -> Split | None:
        """All single-token antonyms, those of training and those that it does not have; None where it has all."""
        from sensekd.linking import TokenRelations, single_token_antonyms, without_neighbours

        if self.antonyms is None or not self.work.recipe.lexicon.withhold_antonyms:
            return None
        whole = single_token_antonyms(TokenRelations.load(self.work.path(WHOLE)))
        return whole, {TRAINED: self.antonyms, WITHHELD: without_neighbours(whole, self.antonyms)}

    def judged(self, split: str) -> Split | None:
        """The antonyms that a model is judged by on a split, and named parts of them.

        What settings are chosen by (`development`) knows nothing of the withheld pairs.
        """
        if split == HELDOUT and self.withheld is not None:
            return self.withheld
        return None if self.antonyms is None else (self.antonyms, {})

    def table(self, loss: LossConfig, senses: str = "") -> SenseTable:
        """The sense table that a loss asks for, with or without the two relations; made once.

        `senses` is the folder of another dictionary than the recipe's.
        """
        kind = (loss.synonyms, loss.antonyms, loss.targets == "published", senses)
        if kind not in self._tables:
            self._tables[kind] = sense_table(
                self.work, synonyms=loss.synonyms, antonyms=loss.antonyms, published=loss.targets == "published",
                folder=self.work.path(senses) if senses else None,
            )  # fmt: skip
        return self._tables[kind]

    def blocks(self, name: str, length: int) -> TokenBlocks:
        """Token blocks of `train` or `heldout`."""
        from sensekd.training.data import TokenBlocks

        return TokenBlocks(TokenDocuments.open(self.work.path(f"tokens-{name}")), length)

    def training_blocks(self, recipe: Recipe) -> TokenBlocks:
        """The training data as an arm's recipe packs and masks it."""
        from sensekd.training.packing import make_blocks

        return make_blocks(TokenDocuments.open(self.work.path("tokens-train")), recipe.training)

    def kept(self, split: str) -> TeacherStates:
        """The teacher's states on the held-out text of a split: it is run there once for all students."""
        from sensekd.evaluation.intrinsic import TeacherStates

        return self._kept.setdefault(split, TeacherStates())

    def run(self, job: Job, progress: Progress) -> None:
        """Train (unless it is the teacher), evaluate, and write the record."""
        if not job.trial:
            self._train_and_evaluate(job, progress)
            return
        try:
            self._train_and_evaluate(job, progress)
        except InputError:
            raise
        except SenseKDError as error:
            # A learning rate that is too high is an answer: this setting is the worst there is.
            record = {"arm": job.arm, "seed": job.seed, "tokens": 0, "history": [], "metrics": {}, "items": {}}
            times = {"chance": {}, "seconds": {"train": 0.0, "evaluate": 0.0}, "failed": str(error).splitlines()[0]}
            write_json(job.outputs(self.work.output)[-1], {**record, **times})
            shutil.rmtree(self._scratch(job), ignore_errors=True)
        finally:  # Its checkpoints stay where it was interrupted: it goes on from there.
            shutil.rmtree(job.student(self.work.output), ignore_errors=True)

    def _train_and_evaluate(self, job: Job, progress: Progress) -> None:
        with peak_memory() as memory:
            record = self.evaluate(job, self.train(job, progress))
        write_json(job.outputs(self.work.output)[-1], {**record, "memory": memory})

    def _scratch(self, job: Job) -> Path:
        return self.work.path("work", f"{job.name}-{fingerprint(job.key(self.work))}")

    def train(self, job: Job, progress: Progress) -> DistillResult | None:
        """Train the job's student into its folder; None for the teacher."""
        if job.arm == TEACHER:
            return None
        return self.distil(*job.recipe(self.work.recipe), job, progress)

    def evaluate(self, job: Job, result: DistillResult | None) -> dict[str, Any]:
        """Evaluate what was trained, or the teacher; the record, but for the peak memory.

        Raises:
            SenseKDError: a metric is no finite number.
        """
        record: dict[str, Any] = {"arm": job.arm, "seed": job.seed, "tokens": 0, "history": []}
        training = 0.0
        if result is None:
            model = self.work.teacher.model
        else:
            record |= {
                "tokens": result.tokens,
                "history": list(result.history),
                "student": result.facts(),
                "resumed_from": result.resumed_from,
            }
            model, training = self.student(job), result.seconds
        start = time.perf_counter()
        record |= evaluate_model(self, model, job.split)
        refuse_non_finite(record["metrics"], "a trial" if job.trial else f"the {job.arm}")
        record["seconds"] = {"train": training, "evaluate": time.perf_counter() - start}
        return record

    def distil(self, recipe: Recipe, steps: int, job: Job, progress: Progress) -> DistillResult:
        """Train one student into its folder."""
        from sensekd.training.distill import distill

        senses, blocks = self.senses(recipe, job.senses), self.training_blocks(recipe)
        cache = self.cache(recipe, blocks, job.senses) if steps and recipe.cached else None
        # Reading the layers of the student alone spares the memory of the teacher's.
        bare = cache is not None and cache.complete
        return distill(
            None if bare else self.work.teacher.model,
            self.work.tokenizer,
            recipe,
            steps,
            blocks,
            senses=senses,
            folders=(job.student(self.work.output), self._scratch(job)),
            progress=progress,
            cache=cache,
        )

    def senses(self, recipe: Recipe, folder: str = "") -> tuple[SenseTable, tuple[Tensor, Tensor] | None] | None:
        """What an arm's senses are: the table and the word edges, or None where its loss has none.

        `folder` is that of another dictionary than the recipe's.
        """
        needed = recipe.loss.lam > 0 or recipe.loss.mu > 0
        return (self.table(recipe.loss, folder), self.edges) if needed else None

    def cache(self, recipe: Recipe, blocks: TokenBlocks, folder: str = "") -> CacheRequest:
        """The teacher cache that an arm's training reads, its own or a shared one; `folder` as of `senses`."""
        from sensekd.training.cache.sharing import serving

        return serving(self._own_cache(recipe, blocks, folder))

    def _own_cache(self, recipe: Recipe, blocks: TokenBlocks, folder: str) -> CacheRequest:
        from sensekd.training.cache.identity import request_cache
        from sensekd.training.distill import supervision_of

        teacher = (self.work.identity, self.work.teacher_key["device"])
        senses = supervision_of(self.senses(recipe, folder))
        return request_cache(self.work.path("cache"), teacher, recipe, blocks, senses)

    def write_caches(self, jobs: Sequence[Job]) -> None:
        """A stage for every cache that is to stand before the training of these jobs; arms share what they can."""
        from sensekd.training.cache.sharing import serving
        from sensekd.training.distill import supervision_of

        found = [(job, *job.recipe(self.work.recipe)) for job in jobs if job.arm != TEACHER]
        # Those that store most first: arms without distances, and those without senses, can read them too.
        found.sort(key=lambda each: (not each[1].loss.lam, each[1].loss.pull != "teacher"))
        for job, recipe, steps in found:
            if not (steps and recipe.cached and recipe.cache.mode == "before"):
                continue
            blocks = self.training_blocks(recipe)
            request = self._own_cache(recipe, blocks, job.senses)
            if (shared := serving(request)) != request and self._stands(shared):
                continue
            senses = supervision_of(self.senses(recipe, job.senses))
            build = partial(self._write_cache, recipe, blocks, senses, request)
            self.work.stages.run(f"cache {request.folder.name}", dict(request.made_from), [request.folder], build)

    def _stands(self, request: CacheRequest) -> bool:
        """Whether the stage that wrote a cache is fresh."""
        return self.work.stages.fresh(f"cache {request.folder.name}", dict(request.made_from), [request.folder])

    def _write_cache(
        self,
        recipe: Recipe,
        blocks: TokenBlocks,
        senses: SenseSupervision | None,
        request: CacheRequest,
        progress: Progress,
    ) -> None:
        from sensekd.training.cache.store import discard_damaged
        from sensekd.training.cache.writing import write_cache

        discard_damaged(request.folder)
        teacher = self.work.teacher
        write_cache(teacher.model, teacher.tokenizer, recipe, blocks, senses, request, progress)

    def student(self, job: Job) -> PreTrainedModel:
        """The student as a user will load it: from its folder."""
        from sensekd.training.placement import student_device
        from sensekd.training.teacher import load_student

        device = student_device(self.work.recipe, self.work.teacher.model)
        return load_student(job.student(self.work.output), device)


def refuse_non_finite(metrics: Mapping[str, float], of: str) -> None:
    """Refuse metrics that nothing can be compared with, and that JSON knows no word for.

    Args:
        metrics: name -> number.
        of: what was evaluated.

    Raises:
        SenseKDError: one is NaN or infinite.
    """
    if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise SenseKDError(
            f"{', '.join(bad)} of {of} not finite on held-out text\n"
            "  do:       use float32 or bfloat16 (teacher.dtype), or look for the documents where a model returns NaN"
        )


def evaluate_model(bench: Bench, model: PreTrainedModel, split: str = HELDOUT) -> dict[str, Any]:
    """Every suite of the recipe on one model, over the text and the questions of a split.

    Returns:
        `metrics` (name -> number), `items` (set -> 0/1 per item) and `chance` (set -> accuracy of guessing); with
        lexical tests also `lexical`, what belongs to their figures.
    """
    from sensekd.evaluation.intrinsic import intrinsic

    work, config = bench.work, bench.work.recipe.evaluation
    blocks = bench.blocks(split, config.sequence_length)
    antonyms, parts = bench.judged(split) or (None, None)
    metrics = dict(
        intrinsic(
            model, work.teacher.model, blocks, antonyms, parts=parts, kept=bench.kept(split),
            batch_size=config.batch_size, whole_word_edges=bench.edges, vocabulary=len(work.teacher.tokenizer),
        )
    )  # fmt: skip
    items: dict[str, list[int]] = {}
    chance: dict[str, float] = {}
    if asked := question_sets(work, split):
        from sensekd.evaluation.suites import multiple_choice

        sets: Mapping[str, Path] = {name: Path(path) for name, path in asked.items()}
        for name, result in multiple_choice(model, work.teacher.tokenizer, sets, batch_size=config.batch_size).items():
            metrics[name], items[name], chance[name] = result.accuracy, list(result.correct), result.chance
    found: dict[str, Any] = {"metrics": metrics, "items": items, "chance": chance}
    if config.lexical is not None and split == HELDOUT:
        found["lexical"] = _lexical_tests(bench, model, metrics, items)
    return found


def _lexical_tests(
    bench: Bench, model: PreTrainedModel, metrics: dict[str, float], items: dict[str, list[int]]
) -> dict[str, Any]:
    """Add the figures of the lexical tests to `metrics` and `items`; what stands beside them is returned."""
    from sensekd.evaluation.lexical import lexical

    config = bench.work.recipe.evaluation
    assert config.lexical is not None
    choice = lexical_choice(config.lexical, config.batch_size)
    tasks = lexical(model, bench.work.teacher.tokenizer, choice, lambda _: lambda done, total: None)["tasks"]
    beside: dict[str, Any] = {name: {"items": task["items"]} for name, task in tasks.items()}
    if (coarse := tasks.get("coarsewsd20")) is not None:
        figures, items["coarsewsd20"] = coarse["metrics"], coarse["correct"]
        metrics |= {"coarsewsd20": figures["accuracy_micro"], "coarsewsd20_words": figures["accuracy"]}
        beside["coarsewsd20"] |= {"most_frequent": figures["most_frequent"], "fallbacks": coarse["fallbacks"]}
    if (simlex := tasks.get("simlex999")) is not None:
        figures = simlex["metrics"]
        metrics |= {"simlex999": figures["spearman"], "simlex999_centred": figures["spearman_centred"]}
    return beside
