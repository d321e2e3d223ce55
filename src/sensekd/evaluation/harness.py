"""The paper's tasks on lm-eval: its own prompts and scoring, our rows, and as many shots as a context has room for.

Imports lm-eval, hence is imported where a suite runs only. Prompts and metrics of the choice tasks are those that the
installed lm-eval registers; `squad_v2` is its `squadv2` with the official rules of `squad.py` in place of a metric that
it would download, and with shots, at which its own (0.4.13) fails.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import lm_eval
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.squadv2.task import SQuAD2
from lm_eval.utils import env as environment

from sensekd.evaluation.quiet import Progress, bars, errors_only
from sensekd.evaluation.squad import exact, f1

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# lm-eval's own default seed of the shots.
SHOT_SEED: Final = 1234
UNANSWERABLE: Final = "unanswerable"
_FOLDERS: Final = ("arc", "commonsense_qa", "piqa", "mmlu/default")
_DRAWS: Final = 100
_LONGEST_ANSWER: Final = 256


def squad_dataset() -> tuple[str, str | None]:
    """Path and subset of SQuAD v2 on the hub."""
    return SQuAD2.DATASET_PATH, SQuAD2.DATASET_NAME


def registered() -> dict[str, dict[str, Any]]:
    """The configurations of ARC, CommonsenseQA, PIQA and MMLU's subjects as lm-eval registers them, by task."""
    root = Path(lm_eval.__file__).parent / "tasks"
    with errors_only("lm_eval"):
        manager = TaskManager(include_path=[str(root / name) for name in _FOLDERS], include_defaults=False)
    return {
        name: copy.deepcopy(entry.cfg)
        for name, entry in manager.task_index.items()
        if entry.cfg and entry.cfg.get("dataset_path") and entry.cfg.get("output_type", "") in ("multiple_choice",)
    }


class _Chosen:
    """A sampler of shots that were drawn before."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = list(rows)

    def sample(self, n: int, **_: object) -> list[Any]:
        return self._rows[:n]


class FittingTask(ConfigurableTask):  # type: ignore[misc]
    """A task of lm-eval that leaves out the last shots where the context has no room for them.

    The shots of an item are drawn once, so that an item with room for all of them has lm-eval's own prompt, whatever
    the others have.

    Args:
        config: of the task.
        splits: rows by split in the place of the dataset, or None: load that one.
        limit: how many items, from the start.

    Attributes:
        shots: how many shots each item got, in the order of the items.
        truncated: how many items are too long even without a shot; lm-eval cuts them from the left.
    """

    def __init__(self, config: dict[str, Any], splits: Mapping[str, Dataset] | None, limit: int | None) -> None:
        self._splits, self._limit = splits, limit
        self.lm: HFLM | None = None
        self.sampler: Any = None
        self.shots: list[int] = []
        self.truncated = 0
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **keywords: Any) -> None:
        """Take the rows given, or load the dataset."""
        if self._splits is None:
            super().download(dataset_kwargs, **keywords)
        else:
            self.dataset = dict(self._splits)

    @property
    def eval_docs(self) -> Any:
        """The items."""
        docs = super().eval_docs
        return docs if self._limit is None else docs.select(range(min(self._limit, len(docs))))

    def shown(self) -> list[Any]:
        """The rows that shots are drawn from; none where there are no shots."""
        with errors_only("lm_eval"):
            return list(self.fewshot_docs()) if self.config.num_fewshot else []

    def draw(self, doc: Any, count: int) -> list[Any]:
        """The shots of an item."""
        same = self.fewshot_cfg.split == self.config.test_split
        return list(self.sampler.sample(n=count, eval_doc=doc if same else None))

    def longest(self, doc: Any) -> tuple[str, int]:
        """What the model has to have room for after the prompt: a text, and tokens that are to be generated."""
        assert self.lm is not None
        encode, delimiter = self.lm.tok_encode, self.config.target_delimiter
        texts = [f"{delimiter}{choice}" for choice in self.doc_to_choice(doc)]
        return max(texts, key=lambda text: len(encode(text, add_special_tokens=False))), 0

    def fewshot_context(self, doc: Any, num_fewshot: int, **keywords: Any) -> Any:
        """The prompt with as many of the shots as there is room for."""
        assert self.lm is not None
        drawn = self.draw(doc, num_fewshot) if num_fewshot else []
        text, generated = self.longest(doc)
        # The last token of a choice is scored, not read.
        room = self.lm.max_length - generated + (0 if generated else 1)
        sampler: Any = self.sampler
        try:
            for count in range(len(drawn), -1, -1):
                self.sampler = _Chosen(drawn)
                prompt = super().fewshot_context(doc, count, **keywords)
                fits = len(self.lm.tok_encode(prompt + text)) <= room
                if fits:
                    break
        finally:
            self.sampler = sampler
        self.shots.append(count)
        self.truncated += not fits
        return prompt


class SquadTask(FittingTask, SQuAD2):  # type: ignore[misc]
    """lm-eval's `squadv2`, judged without a download.

    Where there is no training split, the shots come from other articles of the split that is evaluated.
    """

    def has_training_docs(self) -> bool:
        """Whether there is a training split."""
        return self._splits is None or "train" in self._splits

    def draw(self, doc: Any, count: int) -> list[Any]:
        """The shots of an item; none shows its own passage."""
        if len(self.sampler.df) <= count:
            return []
        found = list(self.sampler.sample(n=count, eval_doc=doc))
        if self.has_training_docs():
            return found
        for _ in range(_DRAWS):
            if all(shot["title"] != doc["title"] for shot in found):
                break
            found = list(self.sampler.sample(n=count, eval_doc=doc))
        return [shot for shot in found if shot["context"] != doc["context"]]

    def doc_to_text(self, doc: Any, doc_to_text: Any = None) -> str:
        """lm-eval's prompt; its own method does not take the argument that lm-eval passes for shots."""
        return str(SQuAD2.doc_to_text(self, doc))

    def doc_to_target(self, doc: Any, doc_to_target: Any = None) -> str:
        """The first gold answer, or the word for none; the space before it is the delimiter's."""
        return str(SQuAD2.doc_to_target(self, doc)).strip()

    def answer_tokens(self) -> int:
        """How many tokens an answer may have: lm-eval's 256, in a short context an eighth of it."""
        assert self.lm is not None
        return max(1, min(_LONGEST_ANSWER, int(self.lm.max_length) // 8))

    def longest(self, doc: Any) -> tuple[str, int]:
        """See `FittingTask`."""
        return "", self.answer_tokens()

    def construct_requests(self, doc: Any, ctx: str, **keywords: Any) -> Any:
        """An answer up to the end of the line, and how probable it is that there is none."""
        generation, scored = super().construct_requests(doc, ctx, **keywords)
        generation.arguments = (ctx, {"until": ["\n"], "max_gen_toks": self.answer_tokens()})
        return [generation, scored]

    def process_results(self, doc: Any, results: Any) -> dict[str, float]:
        """Scores of one item; the figures of the whole are made from the samples."""
        text, golds = answer_of(results[0]), doc["answers"]["text"]
        return {"exact": exact(text, golds), "f1": f1(text, golds)}

    def aggregation(self) -> dict[str, Any]:
        """Means."""
        return dict.fromkeys(("exact", "f1"), _mean)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def answer_of(generated: str) -> str:
    """The prediction in a generated line; the word that the prompt teaches for "no answer" is the empty one."""
    text = generated.strip()
    return "" if text.lower().rstrip(".") == UNANSWERABLE else text


@dataclass(frozen=True)
class TaskRun:
    """What lm-eval says of one task.

    Attributes:
        metrics: name -> mean, as lm-eval aggregates it.
        samples: one a row, ordered.
        shots: of each item.
        asked: how many shots were asked for.
        truncated: items that are too long without any.
        version: of the task's configuration; None where lm-eval gives it none.
    """

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    shots: list[int]
    asked: int
    truncated: int
    version: str | None


def make_task(
    name: str,
    config: dict[str, Any] | None,
    splits: Mapping[str, Sequence[dict[str, Any]]] | None,
    shots: int,
    limit: int | None,
) -> FittingTask:
    """One task, ready to run.

    Args:
        name: of the task.
        config: as registered; None for `squad_v2`.
        splits: rows by split, or None: those of the dataset on the hub.
        shots: how many.
        limit: how many items, from the start.
    """
    rows = None if splits is None else {key: Dataset.from_list(list(value)) for key, value in splits.items()}
    if config is None:
        with errors_only("lm_eval"):
            task: FittingTask = SquadTask({}, rows, limit)
        task.set_config("task", name)
    else:
        config = {key: value for key, value in config.items() if key not in ("tag", "group")}
        # Only the splits that are there: lm-eval would look for shots in the others, even for none.
        absent = {
            key: None
            for key in ("training_split", "validation_split", "test_split")
            if rows is not None and config.get(key) not in rows
        }
        with errors_only("lm_eval"):
            task = FittingTask({**config, **absent}, rows, limit)
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(seed=SHOT_SEED)
    return task


@contextmanager
def compiled_once() -> Iterator[None]:
    """Let lm-eval's templates be compiled once, not for every question and shot (the dearest part of a long prompt)."""
    kept = environment.from_string
    environment.from_string = functools.cache(kept)
    try:
        yield
    finally:
        environment.from_string = kept


@contextmanager
def greedy(model: PreTrainedModel) -> Iterator[None]:
    """Drop what a checkpoint says about sampling, beams and penalties; its end tokens stay."""
    from transformers import GenerationConfig

    kept = model.generation_config
    ids = {name: getattr(kept, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids, do_sample=False)
    generator, training = random.getstate(), model.training
    try:
        yield
    finally:
        model.generation_config = kept
        model.train(training)
        random.setstate(generator)


def make_lm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> HFLM:
    """The model as lm-eval takes it."""
    if tokenizer.pad_token_id is None:
        tokenizer = copy.deepcopy(tokenizer)  # HFLM would set one on the caller's.
    with errors_only("lm_eval"):
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def run_tasks(lm: HFLM, tasks: Mapping[str, FittingTask], show: Progress) -> dict[str, TaskRun]:
    """Run tasks together, greedily.

    Args:
        lm: the model.
        tasks: by name.
        show: gets done and total requests.
    """
    for task in tasks.values():
        task.lm, task.shots, task.truncated = lm, [], 0
    whole = {"tasks": dict(tasks), "groups": {}, "group_map": {}}
    with errors_only("lm_eval"), bars(show), compiled_once(), greedy(lm.model):
        found = evaluate(lm=lm, task_dict=whole, bootstrap_iters=0, log_samples=True)
    runs = {}
    for name, task in tasks.items():
        metrics = {
            key.split(",")[0]: float(value)
            for key, value in found["results"][name].items()
            if "," in key and "stderr" not in key and isinstance(value, int | float)
        }
        samples = sorted(found["samples"][name], key=lambda sample: int(sample["doc_id"]))
        asked = int(task.config.num_fewshot or 0)
        version = (task.config.metadata or {}).get("version")
        known = None if version is None else str(version)
        runs[name] = TaskRun(metrics, samples, task.shots, asked, task.truncated, known)
    return runs
