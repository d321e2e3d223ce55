"""Merging samples and dictionaries, and updating a dictionary from a further corpus."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import MANIFEST, check_made_from, read_manifest
from sensekd.config import CorpusConfig, SensesConfig, TeacherConfig, load_recipe
from sensekd.corpus import TokenDocuments, tokenise
from sensekd.errors import InputError
from sensekd.pipeline.lock import run_lock
from sensekd.pipeline.single import senses_facts
from sensekd.pipeline.stages import Reporter, Stages
from sensekd.pipeline.workspace import RECIPE, pick_device, source_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.pipeline.stages import Progress
    from sensekd.provenance import TeacherIdentity
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.sample import StateSample
    from sensekd.senses.update import TokenChange

_REBUILD: Final = "sensekd senses build RECIPE"


@dataclass(frozen=True)
class Source:
    """A sample, and the dictionary beside it where there is one."""

    sample: Path
    dictionary: Path | None

    @property
    def recipe(self) -> Path | None:
        """The recipe of the run that the sample stands in."""
        path = self.sample.parent / RECIPE
        return path if path.is_file() else None


def _kind(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_source(folder: Path) -> Source:
    """The sample that a folder is, stands beside (a dictionary) or holds (a run).

    Raises:
        InputError: none of these, or a dictionary whose sample is gone or is another's.
    """
    if _kind(folder) == "sample":
        return Source(folder, None)
    dictionary = folder if _kind(folder) == "senses" else folder / "senses"
    if _kind(dictionary) != "senses":
        raise InputError(
            f"{folder} holds neither a sample nor a dictionary",
            "the folder of a sample, of a dictionary with its sample beside it, or of a run",
            _REBUILD,
        )
    sample = dictionary.parent / "sample"
    if _kind(sample) != "sample":
        raise InputError(
            f"the sample of the dictionary {dictionary} is gone (looked for it at {sample})",
            "the sample that it was clustered from: without it nothing can be merged into a dictionary",
            f"build it again: {_REBUILD}",
        )
    from sensekd.senses import dictionary as dictionaries
    from sensekd.senses import sample as samples

    made = read_manifest(dictionary, "senses", dictionaries.FORMAT).made_from
    teacher = {key: value for key, value in made.items() if key != "corpus"}
    check_made_from(read_manifest(sample, "sample", samples.FORMAT), teacher, command=_REBUILD)
    return Source(sample, dictionary)


def _clustering(source: Source) -> SensesConfig | None:
    """The settings that a source's dictionary was clustered with, or that its recipe names."""
    if source.dictionary is not None:
        from sensekd.senses.dictionary import SenseDictionary

        dictionary = SenseDictionary.load(source.dictionary)
        settings = {**dictionary.settings, "store": dictionary.stored.name}
    elif source.recipe is not None:
        settings = load_recipe(source.recipe).senses.model_dump(exclude={"corpus", "dictionary"})
    else:
        return None
    known = {name: settings[name] for name in SensesConfig.model_fields if name in settings}
    return SensesConfig.model_validate(known)


def _settings_of(sources: Sequence[Source], recipe: Path | None) -> SensesConfig:
    if recipe is not None:
        return load_recipe(recipe).senses
    found = {str(source.sample): settings for source in sources if (settings := _clustering(source)) is not None}
    sides = list(found.items())
    for where, settings in sides[1:]:
        first, ours, theirs = sides[0][0], sides[0][1].model_dump(), settings.model_dump()
        different = "; ".join(f"{key}: {ours[key]} and {theirs[key]}" for key in ours if ours[key] != theirs[key])
        if different:
            raise InputError(
                f"{first} and {where} are clustered differently: {different}",
                "dictionaries of the same settings",
                "say which settings hold with --recipe RECIPE",
            )
    return sides[0][1] if sides else SensesConfig()


def merge_senses(
    folders: Sequence[Path], output: Path, reporter: Reporter, *, recipe: Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Write `sample` and `senses` of all documents of several samples together under `output`.

    Args:
        folders: samples, dictionaries with their sample beside them, or runs.
        output: where the result goes.
        reporter: where to say how it goes.
        recipe: whose `senses` section says how to cluster; default: as the dictionaries, or the runs that the samples
            stand in, were clustered.
        device: where the clustering happens.

    Raises:
        InputError: a folder without a sample, or samples of different teachers or settings.
    """
    from sensekd.senses.cluster import cluster
    from sensekd.senses.sample import FORMAT, StateSample
    from sensekd.senses.shards import merge_into

    sources = [find_source(folder) for folder in folders]
    for source in sources:
        # Every row is read anyway; a flipped bit must not pass into a dictionary that outlives its sources.
        read_manifest(source.sample, "sample", FORMAT, verify=True)
    config = _settings_of(sources, recipe)
    sample = output / "sample"
    with run_lock(output):
        merge_into(sample, [source.sample for source in sources], reporter.progress("merging"))
        place = str(pick_device(device))
        found = cluster(StateSample.load(sample), config, place, reporter.progress("senses"))
        found.stored_as(config.store).save(output / "senses")
    return {**senses_facts(output / "senses"), "sample": str(sample), "merged": len(sources)}


def _teacher_config(source: Source, dictionary: SenseDictionary) -> TeacherConfig:
    """The recipe's teacher, or the one that the dictionary names."""
    if source.recipe is not None:
        return load_recipe(source.recipe).teacher
    identity = dictionary.identity
    revision = identity.weights.removeprefix(f"{identity.model}@") if "@" in identity.weights else None
    return TeacherConfig.model_validate(
        {"model": identity.model, "revision": revision, "dtype": identity.dtype or "float32"}
    )


def update_senses(
    folder: Path, corpus: CorpusConfig, reporter: Reporter, *, output: Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Capture the documents of `corpus` that a dictionary has not seen, and write the dictionary of all of them.

    Killed, it goes on where it was: tokens and states so far stand under `work/update` beside the dictionary.

    Args:
        folder: the dictionary with its sample beside it, or the run that holds both.
        corpus: what it is to learn from.
        reporter: where to say how it goes.
        output: where `sample` and `senses` go; default: in the place of the old ones.
        device: of teacher and clustering.

    Returns:
        Facts of the new dictionary, `documents` (new ones) and `changes`.

    Raises:
        InputError: no dictionary with its sample, or a teacher that is not the dictionary's.
    """
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.sample import StateSample
    from sensekd.senses.shards import merge_into
    from sensekd.senses.update import changed_tokens, changes, recluster

    source = find_source(folder)
    if source.dictionary is None:
        raise InputError(f"{folder} is a sample", "a dictionary with its sample beside it", _REBUILD)
    old, before = SenseDictionary.load(source.dictionary), StateSample.load(source.sample)
    config = _clustering(source) or SensesConfig()
    target = output or source.dictionary.parent
    senses = source.dictionary if output is None else output / "senses"
    work = target / "work" / "update"
    with run_lock(target):
        tokenizer = _capture_new(_teacher_config(source, old), before, corpus, Stages(work, reporter), device)
        added = len(StateSample.load(work / "sample").seen)
        merge_into(target / "sample", [source.sample, work / "sample"], reporter.progress("merging"))
        sample = StateSample.load(target / "sample")
        changed = changed_tokens(before, sample)
        if old.corpus != before.corpus:
            # An update was cut off between its sample and its dictionary.
            changed[:] = True
        place = str(pick_device(device))
        new = recluster(old, sample, changed, config, place, reporter.progress("senses")).stored_as(config.store)
        new.save(senses)
        shutil.rmtree(work)
    listed = changes(old, new)
    counts = {"documents": added, "changed_tokens": int(changed.sum()), **_counted(listed)}
    told = [{**change.as_dict(), "text": tokenizer.decode([change.token])} for change in listed]
    return {**senses_facts(senses), "new": counts, "changes": told}


def _counted(listed: Sequence[TokenChange]) -> dict[str, int]:
    return {
        "first_senses": sum(change.first for change in listed),
        **{name: sum(len(getattr(change, name)) for change in listed) for name in ("new", "moved", "split", "retired")},
    }


def _capture_new(
    named: TeacherConfig, before: StateSample, corpus: CorpusConfig, stages: Stages, device: str
) -> PreTrainedTokenizerBase:
    """Leave the sample of the documents that `before` has not seen at `sample` in the stages' folder."""
    from sensekd.senses.capture import CapturePlan, capture_into, teacher_dtype
    from sensekd.training.teacher import load_teacher

    model, tokenizer, identity = load_teacher(named, pick_device(device))
    identity = replace(identity, dtype=teacher_dtype(model))
    refuse_other_teacher(before.identity, identity)
    tokens, folder = stages.output / "tokens", stages.output / "sample"
    key = [corpus.model_dump(mode="json"), source_key(corpus.path), identity.tokenizer]
    stages.run("tokens", key, [tokens], lambda _: tokenise(corpus, tokenizer, tokens))
    documents = TokenDocuments.open(tokens)
    shape = {name: value for name, value in before.settings.items() if name in SensesConfig.model_fields}
    sampling = SensesConfig.model_validate(shape)
    plan = CapturePlan(work=stages.output / "capture", known=before.seen)

    def build(progress: Progress) -> None:
        capture_into(folder, model, documents, sampling, identity, progress, plan)

    stages.run("sample", [documents.manifest.id, before.corpus, shape], [folder], build)
    return tokenizer


def refuse_other_teacher(ours: TeacherIdentity, theirs: TeacherIdentity) -> None:
    """Refuse to add states of one teacher to those of another.

    Raises:
        InputError: the identities differ; names both sides.
    """
    left, right = ours.compared(), theirs.compared()
    keys = sorted(key for key in {*left, *right} if left.get(key) != right.get(key))
    if keys:
        sides = "; ".join(f"{key}: {left.get(key)} and {right.get(key)}" for key in keys)
        raise InputError(
            f"the dictionary's teacher ({ours.model}) is not the one that loads ({theirs.model}): {sides}",
            "the teacher that the dictionary was built from",
            f"name that one in the recipe, or build the dictionary again: {_REBUILD}",
        )


def change_lines(changed: Sequence[dict[str, Any]], limit: int = 20) -> list[str]:
    """The report of an update for a person, tokens with the most changes first."""
    kinds = ("new", "moved", "split", "retired")
    lines = []
    for change in sorted(changed, key=lambda change: -sum(len(change[kind]) for kind in kinds))[:limit]:
        told = ", ".join(f"{len(change[kind])} {kind}" for kind in kinds if change[kind])
        lines.append(f"  {change['text']!r}{' (first senses)' if change['first'] else ''}: {told}")
    more = len(changed) - len(lines)
    return [*lines, *([f"  and {more} further tokens; --json lists all"] if more else [])]
