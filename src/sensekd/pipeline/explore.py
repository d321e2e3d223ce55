"""The sense explorer of a run or of a dictionary: what it is made from, and what a run keeps of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import check_made_from, file_digest, read_manifest, readable, write_json
from sensekd.errors import InputError, SenseKDError
from sensekd.pipeline.examples import gold_words
from sensekd.pipeline.jobs import TEACHER, Job
from sensekd.pipeline.single import composer, dictionary_of, open_run
from sensekd.pipeline.workspace import RECIPE, Workspace

if TYPE_CHECKING:
    from sensekd.report.explorer import LoadModel, Source
    from sensekd.senses.dictionary import SenseDictionary

EXPLORER: Final = "explorer.json"
_STAGE: Final = "explorer"


def source_of(folder: Path, *, verify: bool = False) -> Source:
    """What the explorer reads, of a run or of a dictionary (the sample beside it is used where it fits).

    Raises:
        InputError: there is no dictionary, or its tokenizer is not at hand.
    """
    from sensekd.report.explorer import Source

    dictionary, tokenizer, relations = dictionary_of(folder, verify)
    senses = open_run(folder).senses if (folder / RECIPE).is_file() else folder
    sample = _sample_beside(senses, dictionary)
    return Source(dictionary, tokenizer, sample, relations, composer(dictionary))


def _sample_beside(senses: Path, dictionary: SenseDictionary) -> Any:
    """The sample that the dictionary was clustered from, if it still stands beside it."""
    from sensekd.report.states import SampledStates
    from sensekd.senses.sample import FORMAT

    folder = senses.parent / "sample"
    try:
        manifest = read_manifest(folder, "sample", FORMAT)
        made_from = {**dictionary.identity.compared(), "corpus": dictionary.corpus}
        check_made_from(manifest, made_from, command="sensekd senses build RECIPE")
    except InputError:  # Thrown away, or of another dictionary: the map shows the senses alone.
        return None
    return SampledStates(folder)


def _asked(work: Workspace) -> list[str]:
    gold = work.recipe.evaluation.gold_senses
    return gold_words(gold) if gold is not None and Path(gold).is_file() else []


def _students(work: Workspace) -> list[Job]:
    """One student of every arm, that of the first seed."""
    arms = [*work.recipe.compare.arms, *work.recipe.compare.custom]
    jobs = [Job(arm, min(work.recipe.compare.seeds)) for arm in arms]
    # `sensekd run` trains `dskd` and `pruned` alone, with the recipe's own seed.
    jobs += [Job(arm, work.recipe.seed) for arm in ("pruned", "dskd")]
    found = {job.arm: job for job in reversed(jobs) if (work.path("students", job.name) / "config.json").is_file()}
    return [found[arm] for arm in dict.fromkeys(job.arm for job in jobs) if arm in found]


def _loaders(work: Workspace) -> list[tuple[str, LoadModel]]:
    from sensekd.training.placement import student_device
    from sensekd.training.teacher import load_student

    def loader(job: Job) -> Callable[[], Any]:
        folder = work.path("students", job.name)
        return lambda: load_student(folder, student_device(work.recipe, work.teacher.model))

    jobs = _students(work)
    if not jobs:
        return []
    return [(TEACHER, lambda: work.teacher.model), *((job.arm, loader(job)) for job in jobs)]


def _key(work: Workspace, models: bool) -> dict[str, Any]:
    """Everything that the data is made from; a student is known by the stamp of its job, which outlives its folder.

    The sample is that of the dictionary. It may be thrown away, and its states are worth keeping on the page.
    """
    from sensekd.report.explorer import FORMAT

    stamps = [work.path("stages", f"{job.name}.json") for job in _students(work)] if models else []
    gold = work.recipe.evaluation.gold_senses
    return {
        "format": FORMAT,
        "senses": work.artefact("senses"),
        "relations": work.artefact("relations"),
        "gold": file_digest(Path(gold)) if gold is not None and Path(gold).is_file() else None,
        "students": {stamp.stem: file_digest(stamp) for stamp in stamps if stamp.is_file()},
    }


def explorer_of_run(work: Workspace, *, models: bool = True) -> dict[str, Any]:
    """The explorer of a run; taken from its folder where nothing that it is made from has changed.

    Args:
        work: a run whose dictionary stands.
        models: run the teacher and one student of every arm on contexts of the words. Without, what the run kept of
            such placements is used all the same.

    Raises:
        InputError: a dictionary, tokenizer or model is missing or foreign.
    """
    path = work.path(EXPLORER)
    kept = _kept(work, path)
    if kept is not None:
        return kept
    from sensekd.report.explorer import explore

    if not models:
        return explore(source_of(work.output), _asked(work))
    start = time.perf_counter()
    found = explore(source_of(work.output), _asked(work), models=_loaders(work))
    # The folder of a finished run may be read-only; a page can still be drawn from it.
    with suppress(OSError):
        write_json(path, found)
        work.stages.done(_STAGE, _key(work, True), [path], time.perf_counter() - start)
    return found


def _kept(work: Workspace, path: Path) -> dict[str, Any] | None:
    if not work.stages.fresh(_STAGE, _key(work, True), [path]):
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def try_explorer(work: Workspace, *, models: bool = True) -> tuple[dict[str, Any] | None, str]:
    """The explorer, or None and why there is none: a page is drawn without it sooner than not at all."""
    try:
        return explorer_of_run(work, models=models), ""
    except (SenseKDError, OSError) as error:
        return None, str(error).partition("\n")[0]


def draw_report(folders: Sequence[Path], page: Path, *, models: bool = True) -> list[str]:
    """The page of one run, or of several side by side.

    Args:
        folders: of finished runs.
        page: where the page goes.
        models: load teacher and students for an explorer that a run has not kept.

    Returns:
        Why a run has no explorer, a line for each.

    Raises:
        InputError: no results in a folder, or a missing extra.
    """
    from sensekd.pipeline.results import read_results
    from sensekd.report.page import RunData, render_runs, write_runs

    read = [(folder, *read_results(folder)) for folder in folders]
    runs, notes = [], []
    for folder, results, curves in read:
        try:
            explorer, why = try_explorer(open_run(folder), models=models)
        except InputError as error:
            explorer, why = None, str(error).partition("\n")[0]
        if why:
            notes.append(f"{folder}: no sense explorer: {why}")
        runs.append(RunData(results, curves, explorer, folder.resolve().name if len(folders) > 1 else ""))
    try:
        write_runs(runs, page)
    except Exception:  # What results of another form make of a page is anything; the run that is to blame is named.
        for folder, run in zip(folders, runs, strict=True):
            with readable(folder / "results.json"):
                render_runs([run])
        raise
    return notes


def write_senses_page(
    folder: Path, output: Path, *, words: Sequence[str] = (), limit: int | None = None, models: bool = True
) -> dict[str, Any]:
    """The explorer alone, as a page.

    Args:
        folder: a run, or a dictionary.
        output: the HTML file.
        words: they come first.
        limit: how many words at most.
        models: with a run's students, show where they put the contexts.

    Returns:
        `page`, `words` (how many stand on it), `available`, `missing`, `bytes`.

    Raises:
        InputError: nothing to show, a word asked for that has no senses of its own, or a missing extra.
    """
    from sensekd.report.explorer import explore
    from sensekd.report.page import write_explorer
    from sensekd.report.words import LIMIT

    run = (folder / RECIPE).is_file()
    plain = run and not words and limit is None
    if plain:
        tree = explorer_of_run(open_run(folder), models=models)
    else:
        work = open_run(folder) if run else None
        asked = [*words, *(_asked(work) if work is not None else ())]
        loaders = _loaders(work) if work is not None and models else ()
        tree = explore(source_of(folder), asked, LIMIT if limit is None else limit, loaders)
    lost = [word for word in tree["missing"] if word in words]
    if lost:
        raise InputError(
            f"no senses of its own: {', '.join(map(repr, lost))}", "words that are one token and occur in the corpus",
            "leave them out, or see `sensekd senses show` for why",
        )  # fmt: skip
    if not tree["words"]:
        raise InputError(f"{folder} has no word to show", "a dictionary with senses of words", "name some with --word")
    name = str(folder)
    shown = write_explorer(tree, name, output)
    size = output.stat().st_size
    return {"page": str(output), "words": shown, "available": tree["available"], "bytes": size}
