"""Sampling in shards: by independent jobs, one a shard, or by the processes of `torchrun`."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sensekd.config import Recipe
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.pipeline.lock import exclusive, part_lock
from sensekd.pipeline.prepare import prepare_relations, prepare_senses, prepare_shard, sampling_key
from sensekd.pipeline.run import open_workspace
from sensekd.pipeline.single import sense_documents, senses_facts
from sensekd.pipeline.stages import Reporter, Silent
from sensekd.pipeline.workspace import Workspace

# Longer than any capture: who waits for the slowest shard must not give up.
_PATIENCE = timedelta(days=30)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time inside the block, of all that work in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _documents(work: Workspace) -> TokenDocuments:
    """Tokenised by the first process that comes; the others wait and find them."""
    with _alone(work.output):
        return sense_documents(work)


def build_shard_of(recipe: Recipe, text: str, reporter: Reporter) -> dict[str, Any]:
    """The stage `tokens`, and `sample` for one shard `i/n` of the documents.

    Raises:
        InputError: no such shard, or a recipe that names a dictionary.
    """
    from sensekd.artefacts import read_manifest
    from sensekd.senses.sample import FORMAT
    from sensekd.senses.shards import Shard

    shard = Shard.parse(text)
    if recipe.senses.dictionary is not None:
        raise InputError(
            f"the recipe takes its senses from {recipe.senses.dictionary}", "a recipe that samples", "leave out --shard"
        )
    with part_lock(Path(recipe.output), f"sample-{shard.name}"):
        work = open_workspace(recipe, reporter)
        folder = prepare_shard(work, _documents(work), shard)
        facts = read_manifest(folder, "sample", FORMAT).facts
    return {"sample": str(folder), "facts": {name: facts[name] for name in ("documents", "kept", "tokens")}}


def processes() -> int:
    """How many processes `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@exclusive
def build_together(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """`build_senses_of` by all processes of `torchrun`: each samples a shard, the first merges and clusters.

    Returns:
        The facts on the first process, nothing on the others.
    """
    import torch
    import torch.distributed as distributed

    from sensekd.senses.shards import Shard

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Meeting takes seconds, or fails; only what comes after may take days.
    distributed.init_process_group("gloo", timeout=timedelta(minutes=5))
    patient = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        rank, size = distributed.get_rank(), distributed.get_world_size()
        work = open_workspace(recipe, reporter if rank == 0 else Silent(), together=True)
        documents = _documents(work)
        if recipe.senses.dictionary is None:
            sampled = work.stages.fresh("sample", sampling_key(work, documents), [work.path("sample")])
            distributed.barrier(group=patient)
            if not sampled:
                prepare_shard(work, documents, Shard(rank + 1, size))
            distributed.barrier(group=patient)
        if rank == 0:
            prepare_relations(work)
            prepare_senses(work, documents)
            for index in range(1, size + 1):
                shutil.rmtree(work.path(f"sample-{Shard(index, size).name}"), ignore_errors=True)
        distributed.barrier(group=patient)
        return senses_facts(work.senses) if rank == 0 else {}
    finally:
        distributed.destroy_process_group()
