"""Everything `sensekd check` finds, as one record: sizes, hours, problems, warnings, and the plan of the stages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.config import Recipe
from sensekd.errors import InputError
from sensekd.pipeline.check.coverage import linked_coverage, standing_coverage
from sensekd.pipeline.check.memory import Certainty, Part, training_memory
from sensekd.pipeline.check.plan import Step, compare_jobs, foreign_dictionary, plan_of, run_jobs_of
from sensekd.pipeline.check.problems import problems
from sensekd.pipeline.check.shapes import Shapes, parameters_of, shapes_of, teacher_config
from sensekd.pipeline.check.unread import unread_keys
from sensekd.pipeline.check.volume import (
    Rows,
    Volume,
    disk_parts,
    expected_rows,
    most_senses,
    volume_of_corpus,
    volume_of_tokens,
)
from sensekd.pipeline.check.work import (
    Costs,
    Hours,
    Rate,
    Schedule,
    costs_of,
    counted_rate,
    hours_of,
    measured_rate,
    schedule_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BOUND: Final[Certainty] = "bound"
_EXACT: Final[Certainty] = "exact"
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Options:
    """What a user says beside the recipe.

    Attributes:
        memory: bytes of one device.
        rate: tokens a second of the teacher's forward, on one device.
        tflops: what a device computes, for hours counted from arithmetic.
        measure: time the teacher itself, which loads its weights.
        processes: that train side by side (DDP).
        coverage: build and link the lexicon in memory where no run says what it covers.
        files: look for problems and plan the stages; off where only sizes are asked for.
    """

    memory: int | None = None
    rate: float | None = None
    tflops: float | None = None
    measure: bool = False
    processes: int = 1
    coverage: bool = False
    files: bool = True


@dataclass(frozen=True)
class Sizes:
    """What a recipe costs; made without weights.

    Attributes:
        shapes: of its models.
        shape_source: whose configuration they follow from.
        memory: parts of one process at the peak of a training step.
        disk: parts of what a run leaves, as expected.
        worst: the most that sample and dictionary may take.
        texts: token sets by name.
        rows: of sample and dictionary; None where a dictionary is taken over.
        costs: operations for a token.
        schedule: of one training.
        hours: None where no rate is known.
    """

    shapes: Shapes
    shape_source: str
    memory: list[Part]
    disk: list[Part]
    worst: list[Part]
    texts: dict[str, Volume]
    rows: Rows | None
    costs: Costs
    schedule: Schedule
    hours: Hours | None


@dataclass(frozen=True)
class Report:
    """All that was found.

    Attributes:
        sizes: None where no configuration of the teacher is there.
        unsized: why not.
        problems: what stops a run.
        warnings: what does not, and should be known.
        plan: stages in order.
        compare: jobs of `sensekd compare` that stand, and all of them.
        coverage: of lexicon, tokens and training text; None where nobody has looked.
    """

    sizes: Sizes | None
    unsized: str | None
    problems: list[str]
    warnings: list[str]
    plan: list[Step] = field(default_factory=list)
    compare: tuple[int, int] = (0, 0)
    coverage: dict[str, Any] | None = None


def parse_bytes(text: str) -> int:
    """`80GB`, `80G` (decimal) or `80GiB` as a number of bytes.

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if match is None or (match[3] and not match[2]):
        raise InputError(f"--memory {text!r}", "a size such as 80GB or 80GiB", None)
    power = "kmgt".find(match[2]) + 1 if match[2] else 0
    return int(float(match[1]) * (1024**power if match[3] else _UNITS[match[2]]))


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase | None:
    from sensekd.training.teacher import load_tokenizer

    try:
        return load_tokenizer(recipe.teacher)
    except InputError:
        return None


def _texts(recipe: Recipe, vocabulary: int, tokenizer: PreTrainedTokenizerBase | None, plan: list[Step]) -> Any:
    """The volume of every token set: what stands is counted, the rest is read as far as it can be."""
    from sensekd.corpus import TokenDocuments

    reused = {step.stage for step in plan if step.action == "reuse"}
    corpora = {"train": recipe.corpus, "heldout": recipe.evaluation.corpus}
    if recipe.senses.corpus is not None and recipe.senses.dictionary is None:
        corpora["senses"] = recipe.senses.corpus
    found = {}
    for name, corpus in corpora.items():
        if f"tokens {name}" in reused:
            folder = Path(recipe.output) / f"tokens-{name}"
            found[name] = volume_of_tokens(TokenDocuments.open(folder), vocabulary)
        else:
            found[name] = volume_of_corpus(corpus, tokenizer, vocabulary)
    return found


def _named_rows(recipe: Recipe) -> int | None:
    """Rows of a dictionary that stands: the one that the recipe names, or the run's own."""
    from sensekd.senses.dictionary import SenseDictionary

    folder = Path(recipe.senses.dictionary or Path(recipe.output) / "senses")
    try:
        return len(SenseDictionary.load(folder))
    except (InputError, OSError):
        return None


def _standing(recipe: Recipe, plan: list[Step]) -> dict[str, int]:
    """Bytes of sample and dictionary where the run will reuse them."""
    reused = {step.stage for step in plan if step.action == "reuse"}
    folders = {name: Path(recipe.output) / name for name in ("sample", "senses") if name in reused}
    return {name: sum(file.stat().st_size for file in folder.iterdir()) for name, folder in folders.items()}


def _rate(recipe: Recipe, options: Options, costs: Costs) -> Rate | None:
    if options.measure:
        return measured_rate(recipe)
    if options.rate is not None:
        if options.rate <= 0:
            raise InputError(f"--rate {options.rate}", "tokens a second, above 0", None)
        return Rate(options.rate, "given")
    return None if options.tflops is None else counted_rate(costs, options.tflops)


def _sure(rows: Rows) -> Certainty:
    return "estimate" if rows.expected else "bound"


def sizes_of(recipe: Recipe, options: Options, plan: list[Step]) -> Sizes:
    """Count everything that shapes and files say.

    Raises:
        InputError: the teacher's configuration is not there, or the student does not fit it.
    """
    from sensekd.training.assembly import tokens_of

    tokenizer = _tokenizer(recipe)
    tokens = None if tokenizer is None else tokens_of(tokenizer)
    shapes = shapes_of(recipe, tokens)
    vocabulary = int(shapes.teacher.get_output_embeddings().weight.shape[0])
    texts = _texts(recipe, vocabulary, tokenizer, plan)
    source = texts.get("senses") or texts["train"]
    built = recipe.senses.dictionary is None
    rows = expected_rows(recipe, source, vocabulary) if built else None
    stand = _named_rows(recipe) if not built or any(s.stage == "senses" and s.action == "reuse" for s in plan) else None
    most = (vocabulary * most_senses(recipe), _BOUND) if rows is None else (rows.senses, _sure(rows))
    in_memory = most if stand is None else (stand, _EXACT)
    memory = training_memory(recipe, shapes, in_memory, processes=options.processes, memory=options.memory)
    nothing = Rows(0, 0, 0, 0, False)
    disk, worst = disk_parts(recipe, shapes, texts, rows or nothing, tokens, _standing(recipe, plan))
    costs, schedule = costs_of(recipe, shapes), schedule_of(recipe, texts["train"], options.processes)
    rate = _rate(recipe, options, costs)
    hours = None if rate is None else hours_of(rate, costs, schedule, source if built else None, options.processes)
    _, whose = teacher_config(recipe.teacher)
    return Sizes(shapes, whose, memory, disk, worst, texts, rows, costs, schedule, hours)


def _existing(path: Path) -> Path:
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir())


def _advice(recipe: Recipe, largest: str) -> str:
    half = "teacher.dtype: bfloat16, " if recipe.teacher.dtype == "float32" else ""
    advice = {
        "teacher, weights": f"{half}teacher.quantization, teacher.offload or another teacher.device",
        "logits": "a smaller training.batch_size with more training.accumulation, or loss.chunked",
        "activations": "training.trainer.gradient_checkpointing, or a smaller training.batch_size",
        "senses": "senses.residence: host",
    }
    return advice.get(largest, "a smaller student.train_top, or student.lora")


def _size_warnings(recipe: Recipe, options: Options, sizes: Sizes) -> Iterator[str]:
    total = sum(part.bytes for part in sizes.memory)
    if options.memory is not None and total > options.memory:
        largest = max(sizes.memory, key=lambda part: part.bytes)
        yield (
            f"a training step needs about {total / 1e9:.1f} GB, the device has {options.memory / 1e9:.1f} GB; largest: "
            f"{largest.name} with {largest.bytes / 1e9:.1f} GB: {_advice(recipe, largest.name)}"
        )
    free = shutil.disk_usage(_existing(Path(recipe.output))).free
    expected = sum(part.bytes for part in sizes.disk)
    worst = sum(part.bytes for part in sizes.worst)
    if max(expected, worst) > free:
        yield f"the run may need {max(expected, worst) / 1e9:.1f} GB on the disk, {free / 1e9:.1f} GB are free"
    epochs = sizes.schedule.epochs
    if epochs is not None and epochs > 20:
        yield f"training.steps reads the data {epochs:.0f} times"


def examine(recipe: Recipe, options: Options | None = None) -> Report:
    """Look at a recipe from all sides; loads no weights (except to time them, with `measure`).

    Raises:
        InputError: an option that makes no sense.
    """
    options = options or Options()
    found = problems(recipe) if options.files else []
    plan: list[Step] = []
    compare = (0, 0)
    if options.files:
        if (foreign := foreign_dictionary(recipe)) is not None:
            found.append(foreign)
        own, jobs = run_jobs_of(recipe), compare_jobs(recipe)
        every = plan_of(recipe, list(dict.fromkeys([*own, *jobs])))
        others = {job.name for job in jobs} - {job.name for job in own}
        plan = [step for step in every if step.stage not in others]
        stand = {step.stage for step in every if step.action == "reuse"}
        compare = (sum(job.name in stand for job in jobs), len(jobs))
    warnings = [f"not read: {line}" for line in unread_keys(recipe)]
    covered = standing_coverage(recipe, plan)
    if covered is None and options.coverage:
        try:
            covered = linked_coverage(recipe)
        except InputError as error:
            found.append(f"coverage: {error.found}")
    sizes, unsized = None, None
    try:
        sizes = sizes_of(recipe, options, plan)
        warnings += _size_warnings(recipe, options, sizes)
    except InputError as error:
        unsized = error.found
    return Report(sizes, unsized, found, warnings, plan, compare, covered)


def as_data(report: Report) -> dict[str, Any]:
    """The report as plain values, for `--json`; bytes and tokens as whole numbers."""
    data: dict[str, Any] = {
        "problems": report.problems,
        "warnings": report.warnings,
        "plan": [asdict(step) for step in report.plan],
        "compare": {"stand": report.compare[0], "jobs": report.compare[1]},
        "unsized": report.unsized,
        "coverage": report.coverage,
    }
    sizes = report.sizes
    if sizes is None:
        return data
    shapes = sizes.shapes
    parameters = {
        "teacher": parameters_of(shapes.teacher),
        "student": parameters_of(shapes.student),
        "trainable": shapes.trainable,
    }
    texts = {
        name: {"tokens": text.tokens, "documents": text.documents, "sureness": text.sureness}
        for name, text in sizes.texts.items()
    }
    return data | {
        "parameters": parameters,
        "shapes_from": sizes.shape_source,
        "shared_trunk": {"layers": shapes.trunk, "reason": shapes.trunk_reason},
        "memory": [asdict(part) for part in sizes.memory],
        "disk": [asdict(part) for part in sizes.disk],
        "disk_at_most": [asdict(part) for part in sizes.worst],
        "texts": texts,
        "rows": None if sizes.rows is None else asdict(sizes.rows),
        "operations": {**asdict(sizes.costs), "teacher": sizes.costs.teacher},
        "schedule": asdict(sizes.schedule),
        "hours": None if sizes.hours is None else asdict(sizes.hours),
    }
