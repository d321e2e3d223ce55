"""The suite `paper`: ARC, CommonsenseQA, PIQA, MMLU (5 shots) and SQuAD v2 (1 shot) through lm-eval."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import fingerprint
from sensekd.errors import InputError, require
from sensekd.evaluation.originals import Benchmark, read_originals
from sensekd.evaluation.parts import Parts
from sensekd.evaluation.quiet import Progress
from sensekd.evaluation.squad import Answered, judge
from sensekd.evaluation.suites import refuse_closing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sensekd.evaluation.harness import FittingTask, TaskRun

# Shots of each benchmark: the paper's tasks, in the order they are run.
SHOTS: Final = {"arc_challenge": 0, "arc_easy": 0, "commonsense_qa": 0, "piqa": 0, "mmlu": 5, "squad_v2": 1}
_MMLU: Final = "mmlu_"


@dataclass(frozen=True)
class Choice:
    """What of a suite is run.

    Attributes:
        data: folder of the original files, or None: the hub.
        names: benchmarks; all by default. With `data`, those without files are left out and named in the results.
        limits: items of a benchmark (of each subject for `mmlu`), from the start; `*` for those not named.
        batch_size: sequences of one forward.
    """

    data: Path | None = None
    names: tuple[str, ...] = ()
    limits: Mapping[str, int] | None = None
    batch_size: int = 16

    def limit(self, name: str) -> int | None:
        """How many items of a benchmark, or None for all."""
        limits = self.limits or {}
        return limits.get(name, limits.get("*"))


def chosen_names(choice: Choice, known: Sequence[str]) -> list[str]:
    """The benchmarks that are asked for, in the suite's order.

    Raises:
        InputError: an unknown one, in `names` or in `limits`, or a limit below one.
    """
    for name in (*choice.names, *(set(choice.limits or {}) - {"*"})):
        if name not in known:
            raise InputError(
                f"no benchmark {name!r} in this suite", f"one of {list(known)}", "correct --task or --limit"
            )
    for name, limit in (choice.limits or {}).items():
        if limit < 1:
            raise InputError(f"--limit {name}={limit}", "at least one item", "leave it out for all")
    return [name for name in known if not choice.names or name in choice.names]


def local_rows(choice: Choice, names: Sequence[str]) -> tuple[dict[str, dict[str, Benchmark]], list[str]]:
    """Benchmark -> task -> rows of the local files, and the benchmarks without files.

    Raises:
        InputError: a benchmark that was asked for by name has no files, or none has.
    """
    assert choice.data is not None
    found = read_originals(choice.data)
    benchmark = {task: "mmlu" if task.startswith(_MMLU) else task for task in found}
    grouped = {name: {task: rows for task, rows in found.items() if benchmark[task] == name} for name in names}
    missing = [name for name, tasks in grouped.items() if not tasks]
    if missing and (choice.names or len(missing) == len(names)):
        raise InputError(
            f"no files of {', '.join(missing)} under {choice.data}", "the original files of every --task",
            f"leave it out; there are {', '.join(sorted(name for name in grouped if grouped[name])) or 'none'}",
        )  # fmt: skip
    return {name: tasks for name, tasks in grouped.items() if tasks}, missing


def stderr(values: Sequence[float]) -> float:
    """Standard error of a mean; 0.0 of a single value."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1) / len(values))


def _items(run: TaskRun, metric: str) -> list[float]:
    return [float(sample[metric]) for sample in run.samples]


def _merged(runs: Sequence[TaskRun], metric: str) -> dict[str, Any]:
    """The figures of one benchmark over the items of its tasks; every item counts alike, as in lm-eval's groups."""
    names = sorted(runs[0].metrics)
    pooled = {name: [value for run in runs for value in _items(run, name)] for name in names}
    shots = [count for run in runs for count in run.shots]
    means = {name: math.fsum(values) / len(values) for name, values in pooled.items()}
    docs = [sample["doc"] for run in runs for sample in run.samples]
    return {
        "metrics": means,
        "stderr": {name: stderr(values) for name, values in pooled.items()},
        "items": len(docs),
        "correct": [int(value) if value in (0, 1) else value for value in pooled[metric]],
        "shots": {"asked": runs[0].asked, "mean": math.fsum(shots) / len(shots), "least": min(shots)},
        "truncated": sum(run.truncated for run in runs),
        "version": runs[0].version,
        "data": fingerprint(docs),
    }


def _choices(sample: Mapping[str, Any]) -> int:
    return len(sample["arguments"])


def _choice_figures(runs: Mapping[str, TaskRun]) -> dict[str, Any]:
    figures = _merged(list(runs.values()), "acc")
    counts = [_choices(sample) for run in runs.values() for sample in run.samples]
    figures["chance"] = math.fsum(1 / count for count in counts) / len(counts)
    if all(name.startswith(_MMLU) for name in runs):
        figures["subjects"] = {
            name.removeprefix(_MMLU): {
                "acc": run.metrics["acc"], "items": len(run.samples), "shots": math.fsum(run.shots) / len(run.shots),
            }
            for name, run in runs.items()
        }  # fmt: skip
    return figures


def _squad_figures(run: TaskRun) -> dict[str, Any]:
    from sensekd.evaluation.harness import answer_of

    figures = _merged([run], "exact")
    spoken, verbatim = [], []
    for sample in run.samples:
        (generated, (log_p, _)), golds = sample["filtered_resps"], tuple(sample["doc"]["answers"]["text"])
        spoken.append(Answered(answer_of(generated), golds, math.exp(log_p)))
        verbatim.append(Answered(generated, golds, math.exp(log_p)))
    literal = judge(verbatim)
    figures["metrics"] = judge(spoken) | {f"{name}_verbatim": literal[name] for name in ("exact", "f1")}
    return figures


def _progress(show: Callable[[str], Progress], name: str) -> Progress:
    return show(f"evaluate {name}")


def _sources(choice: Choice, names: Sequence[str]) -> tuple[dict[str, dict[str, Benchmark | None]], list[str]]:
    """Benchmark -> task -> rows (None: of the hub), and what has no files."""
    from sensekd.evaluation.harness import registered

    if choice.data is not None:
        local, missing = local_rows(choice, names)
        return {name: dict(tasks) for name, tasks in local.items()}, missing
    subjects = sorted(name for name in registered() if name.startswith(_MMLU))
    return {name: dict.fromkeys(subjects if name == "mmlu" else [name]) for name in names}, []


def _read_by(tasks: Mapping[str, FittingTask]) -> dict[str, str]:
    """What tasks read: their items and what their shots are drawn from."""
    return {name: fingerprint([list(task.eval_docs), task.shown()]) for name, task in tasks.items()}


def _refuse_subject(task: str, configs: Collection[str], benchmark: Benchmark | None) -> None:
    """Refuse a subject of MMLU that lm-eval does not know, or one with fewer questions to show than there are shots."""
    if task not in configs:
        known = sorted(key.removeprefix(_MMLU) for key in configs if key.startswith(_MMLU))
        raise InputError(f"no subject {task.removeprefix(_MMLU)!r} in MMLU", f"one of {known}", "rename the files")
    if benchmark is not None and (shown := len(benchmark.splits["dev"])) < SHOTS["mmlu"]:
        raise InputError(
            f"{benchmark.files[-1]}: {shown} questions", f"at least {SHOTS['mmlu']}: the shots of the subject",
            "take the original file",
        )  # fmt: skip


def _tasks(name: str, rows: Mapping[str, Benchmark | None], limit: int | None) -> Iterator[tuple[str, Any]]:
    from sensekd.evaluation.harness import make_task, registered

    configs = registered()
    for task, benchmark in rows.items():
        if name == "mmlu":
            _refuse_subject(task, configs, benchmark)
        splits = None if benchmark is None else benchmark.splits
        try:
            yield task, make_task(task, configs.get(task), splits, SHOTS[name], limit)
        except (OSError, ValueError) as error:
            if benchmark is not None:
                raise
            raise InputError(
                f"the dataset of {task} cannot be loaded: {str(error).splitlines()[0]}",
                "the hub, or what its cache holds",
                "give a folder of the original files with --data",
            ) from error


def paper(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    choice: Choice,
    show: Callable[[str], Progress],
    parts: Parts | None = None,
) -> dict[str, Any]:
    """Run the suite on one model, greedily, with the shots that lm-eval draws by its default seed.

    Args:
        model: a decoder, on the device it shall run on.
        tokenizer: its tokenizer.
        choice: which benchmarks, from where, and how much of them.
        show: gives what takes done and total, for a title.
        parts: keeps the result of each benchmark, for a run that is interrupted.

    Returns:
        `tasks`: by benchmark `metrics`, `stderr`, `items`, `correct` (per item), `shots` (asked, mean and least over
        the items), `truncated` (items too long without any shot), `version` and `data` (of lm-eval's task, of the
        items), `chance` for choices, `subjects` for MMLU. `metrics`: `<benchmark>/<metric>`. `missing`: benchmarks
        without files. `files`: task -> the files of its rows.

    Raises:
        InputError: data that is missing or malformed, or lm-eval is not installed.
    """
    require("lm_eval", "eval")
    names = chosen_names(choice, list(SHOTS))
    refuse_closing(tokenizer)
    from sensekd.evaluation.harness import make_lm, run_tasks

    sources, missing = _sources(choice, names)
    # All of them before the first is run: what cannot be loaded shows at once, not after hours.
    tasks = {name: dict(_tasks(name, rows, choice.limit(name))) for name, rows in sources.items()}
    lm = make_lm(model, tokenizer, choice.batch_size)
    parts = parts or Parts()

    def run(name: str, whole: Mapping[str, FittingTask]) -> dict[str, Any]:
        runs = run_tasks(lm, whole, _progress(show, name))
        return _squad_figures(runs[name]) if name == "squad_v2" else _choice_figures(runs)

    found: dict[str, Any] = {}
    for name in sources:
        # A task keeps all its requests; it goes when it has run.
        whole = tasks.pop(name)
        found[name] = parts.once(name, functools.partial(_read_by, whole), functools.partial(run, name, whole))
    files = {task: rows.files for group in sources.values() for task, rows in group.items() if rows is not None}
    return {"tasks": found, "metrics": flat(found), "missing": missing, "files": files}


def flat(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`<benchmark>/<metric>` -> value."""
    return {f"{task}/{name}": value for task, found in tasks.items() for name, value in found["metrics"].items()}
