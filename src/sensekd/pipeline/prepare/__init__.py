"""The stages before training: tokens, lexicon, linking, sample, senses, coverage."""

from __future__ import annotations

from typing import Any

from sensekd.errors import InputError
from sensekd.pipeline.prepare.corpora import corpus_key, prepare_responses, prepare_tokens
from sensekd.pipeline.prepare.coverage import gold_quality, prepare_coverage, supervised_share
from sensekd.pipeline.prepare.relations import prepare_lexicon, prepare_positions, prepare_relations
from sensekd.pipeline.prepare.senses import cluster_into, prepare_senses, prepare_shard, sampling_key, sense_table
from sensekd.pipeline.workspace import Workspace

__all__ = [
    "cluster_into", "corpus_key", "gold_quality", "prepare", "prepare_coverage", "prepare_lexicon",
    "prepare_positions", "prepare_relations", "prepare_responses", "prepare_senses", "prepare_shard", "prepare_tokens",
    "sampling_key", "sense_table", "supervised_share",
]  # fmt: skip


def prepare(work: Workspace) -> dict[str, Any]:
    """Run every stage before training, in order, and return the coverage.

    Raises:
        InputError: the tokenizer has more tokens than the teacher has rows, or any input of a stage is wrong.
    """
    if len(work.tokenizer) > work.vocabulary:
        raise InputError(
            f"vocabulary mismatch: the tokenizer has {len(work.tokenizer)} tokens, the teacher {work.vocabulary} rows",
            "a teacher with a row for every token",
            "use the tokenizer that the teacher was trained with",
        )
    documents = prepare_tokens(work, "train", work.recipe.corpus)
    prepare_tokens(work, "heldout", work.recipe.evaluation.corpus)
    prepare_positions(work, documents, prepare_relations(work))
    other = work.recipe.senses.corpus
    prepare_senses(work, documents if other is None else prepare_tokens(work, "senses", other))
    coverage = prepare_coverage(work, documents)
    # Judged before anything is trained: what is wrong with the dictionary shows in minutes, not after a night.
    gold_quality(work)
    return coverage
