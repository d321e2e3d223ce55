"""The sample of the teacher's states, the dictionary, and the candidate rows of every token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.config import SensesConfig
from sensekd.corpus import TokenDocuments
from sensekd.pipeline.workspace import Workspace, pick_device
from sensekd.training.placement import teacher_device

if TYPE_CHECKING:
    from sensekd.pipeline.stages import Progress
    from sensekd.senses.shards import Shard
    from sensekd.targets import SenseTable

# What shapes the sample; everything else of the section shapes the clustering alone, and leaves the sample standing.
_SAMPLING: Final = {"assignment", "samples_per_token", "window", "batch_size", "dtype", "seed"}


def sampling_key(work: Workspace, documents: TokenDocuments) -> list[Any]:
    """What a sample is made from."""
    shape = work.recipe.senses.model_dump(mode="json")
    return [documents.manifest.id, work.teacher_key, {name: shape[name] for name in shape if name in _SAMPLING}]


def prepare_shard(work: Workspace, documents: TokenDocuments, shard: Shard) -> Path:
    """Sample one shard of the documents into `sample-<i>-of-<n>`, the folder that is returned."""
    from sensekd.senses.capture import CapturePlan, capture_into

    name = f"sample-{shard.name}"
    folder = work.path(name)

    def build(progress: Progress) -> None:
        teacher, plan = work.teacher, CapturePlan(work=work.path("work", name), shard=shard)
        capture_into(folder, teacher.model, documents, work.recipe.senses, teacher.identity, progress, plan)

    work.stages.run(name, [*sampling_key(work, documents), shard.name], [folder], build)
    return folder


def finished_shards(work: Workspace, key: list[Any]) -> list[Path]:
    """The folders of all shards, where a whole set of them stands that was made from `key`; else none."""
    from sensekd.senses.shards import Shard

    for first in sorted(work.output.glob("sample-1-of-*")):
        count = int(first.name.rpartition("-")[2])
        names = [Shard(index, count).name for index in range(1, count + 1)]
        folders = [work.path(f"sample-{name}") for name in names]
        pairs = zip(names, folders, strict=True)
        if all(work.stages.fresh(f"sample-{name}", [*key, name], [folder]) for name, folder in pairs):
            return folders
    return []


def prepare_senses(work: Workspace, documents: TokenDocuments) -> None:
    """Sample the teacher's states and cluster them into `sample` and `senses`."""
    from sensekd.senses.capture import CapturePlan, capture_into
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.shards import merge_into

    config: SensesConfig = work.recipe.senses
    if config.dictionary is not None:
        SenseDictionary.load(work.senses, work.identity, verify=True)
        work.stages.reporter.note(f"senses: {work.senses} is used as it is; its checksums hold")
        return
    sample_folder = work.path("sample")
    key = sampling_key(work, documents)

    def build_sample(progress: Progress) -> None:
        if shards := finished_shards(work, key):
            work.stages.reporter.note(f"sample: {len(shards)} shards are merged")
            merge_into(sample_folder, shards, progress)
            return
        teacher, plan = work.teacher, CapturePlan(work=work.path("work", "sample"))
        capture_into(sample_folder, teacher.model, documents, config, teacher.identity, progress, plan)

    # A sample may fill a disk: it is read whole only where it is about to be clustered.
    clustered = work.stages.fresh("senses", _clustering_key(work, config), [work.senses], verify=False)
    work.stages.run("sample", key, [sample_folder], build_sample, verify=not clustered)
    cluster_into(work, config)


def _clustering_key(work: Workspace, config: SensesConfig) -> list[Any]:
    """What a dictionary is clustered from."""
    shape = config.model_dump(mode="json")
    del shape["corpus"], shape["dictionary"], shape["residence"], shape["memory"]
    return [work.artefact("sample"), shape]


def cluster_into(work: Workspace, config: SensesConfig, name: str = "senses") -> None:
    """Cluster the run's sample into a folder of this name."""
    from sensekd.senses.cluster import cluster
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.sample import StateSample

    sample_folder, folder = work.path("sample"), work.path(name)

    def build(progress: Progress) -> None:
        device = pick_device(work.recipe.device)
        found = cluster(StateSample.load(sample_folder), config, device=str(device), progress=progress)
        found.stored_as(config.store).save(folder)

    if not work.stages.run(name, _clustering_key(work, config), [folder], build, verify=False):
        # Once a run, and not in every worker: a dictionary that was built in another one is read whole.
        SenseDictionary.load(folder, verify=True)


def sense_table(
    work: Workspace, *, synonyms: bool, antonyms: bool, published: bool = False, folder: Path | None = None
) -> SenseTable:
    """Candidate rows of every token, from the run's dictionary and relations; `published` as the published code's.

    `folder` names another dictionary than the run's.

    Raises:
        InputError: the dictionary was built from another teacher.
    """
    from sensekd.linking import TokenRelations
    from sensekd.published import build_published
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.residence import device_limit
    from sensekd.targets import build_table

    dictionary = SenseDictionary.load(folder or work.senses, work.identity)
    # Known without the teacher's weights: where a cache stands, nothing loads them.
    device = teacher_device(work.recipe.teacher, pick_device(work.recipe.device))
    limit = {"device": None, "host": 0, "auto": device_limit(device)}[work.recipe.senses.residence]
    linked = bool(work.recipe.lexicon.sources)
    relations = TokenRelations.load(work.path("relations")) if linked else None
    if published:
        return build_published(dictionary, relations, synonyms=synonyms, antonyms=antonyms).to(device)
    return build_table(dictionary, relations, synonyms=synonyms, antonyms=antonyms, limit=limit).to(device)
