"""What the senses reach of lexicon and training text, and how they agree with gold senses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensekd.artefacts import write_json
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.pipeline.prepare.senses import sense_table
from sensekd.pipeline.workspace import Workspace, source_key

if TYPE_CHECKING:
    from torch import Tensor

    from sensekd.linking import TokenRelations
    from sensekd.pipeline.stages import Progress
    from sensekd.targets import SenseTable
    from sensekd.training.data import TokenBlocks


def supervised_share(
    table: SenseTable, blocks: TokenBlocks, relations: TokenRelations | None, words: Tensor | None
) -> dict[str, int]:
    """How many labels of the training text have own senses, a synonym's, an antonym's.

    Relations count where the label is a whole word; without relations no label is taken for one.

    Args:
        table: candidate rows.
        blocks: the training text.
        relations: the linked lexicon, None without one.
        words: [V] bool, `linking.word_tokens`; needed with relations.

    Returns:
        Counts: `labels`, `whole` (whole words, neither punctuation nor special tokens), `own`, `own_words` (whole words
        with own senses), `synonym`, `antonym`. What the relations lose: `related` (labels whose token has a linked
        neighbour), of these `cut` (no whole words) and `without_senses` (no neighbour has senses, or, of antonyms,
        none that is not a positive row too).
    """
    import torch
    from torch.utils.data import DataLoader

    from sensekd.losses import IGNORE
    from sensekd.targets import whole_words

    names = ("labels", "whole", "own", "own_words", "synonym", "antonym", "related", "cut", "without_senses")
    totals = dict.fromkeys(names, 0)
    own = table.own.counts
    with_synonym = table.positive.counts[len(own) :] > own
    device = table.rows.device
    for batch in DataLoader(blocks, batch_size=256):
        ids = batch["input_ids"].to(device)
        labels, whole = ids[:, 1:], torch.zeros_like(ids[:, 1:], dtype=torch.bool)
        kept = batch["labels"][:, 1:].to(device) != IGNORE
        related = whole
        if relations is not None and words is not None:
            ends_word = relations.ends_word.to(device)
            apart = batch["position_ids"].to(device) if "position_ids" in batch else None
            whole = whole_words(ids, relations.starts_word.to(device), ends_word, apart) & words.to(device)[labels]
            linked = (relations.synonym_indptr.diff() > 0) | (relations.antonym_indptr.diff() > 0)
            related = linked.to(device)[labels]
        pushed = table.pushed(labels, whole)
        found = {
            "whole": whole,
            "own": (own > 0)[labels],
            "own_words": whole & (own > 0)[labels],
            "synonym": whole & with_synonym[labels],
            "antonym": pushed,
            "related": related,
            "cut": related & ~whole,
            "without_senses": related & whole & ~with_synonym[labels] & ~pushed,
        }
        totals["labels"] += int(kept.sum())
        for name, mask in found.items():
            totals[name] += int((mask & kept).sum())
    return totals


def prepare_coverage(work: Workspace, documents: TokenDocuments) -> dict[str, Any]:
    """Write and return `coverage.json`: what of lexicon and corpus the senses reach.

    Raises:
        InputError: not one position of the corpus has a sense.
    """
    import orjson

    from sensekd.lexicon import Lexicon
    from sensekd.linking import TokenRelations, word_tokens
    from sensekd.training.packing import make_blocks

    path = work.path("coverage.json")
    training = work.recipe.training
    shape = [training.sequence_length, training.packing, training.supervise]

    def build(_: Progress) -> None:
        table = sense_table(work, synonyms=True, antonyms=True)
        lexicon: Any = None
        linking: Any = None
        relations = words = None
        if work.recipe.lexicon.sources:
            relations = TokenRelations.load(work.path("relations"))
            words = word_tokens(work.tokenizer, work.vocabulary)
            lexicon = dict(Lexicon.load(work.path("lexicon")).facts)
            linking = {**relations.coverage.as_dict(), "spans_without_senses": table.dropped_spans}
            linking["positions"] = orjson.loads(work.path("positions.json").read_bytes())
        positions = supervised_share(table, make_blocks(documents, training), relations, words)
        # Special tokens have senses too; a corpus in which only these are known is of no use.
        if positions["own" if relations is None else "own_words"] == 0:
            raise InputError(
                f"not one word in {positions['labels']} positions of {work.recipe.corpus.name} has a sense",
                "a training corpus with words of the dictionary",
                "build the senses from text like the training corpus, or check its language",
            )
        write_json(path, {"lexicon": lexicon, "linking": linking, "positions": positions})

    key = [documents.manifest.id, work.artefact("senses"), work.artefact("relations"), work.artefact("lexicon"), shape]
    work.stages.run("coverage", key, [path], build)
    coverage: dict[str, Any] = orjson.loads(path.read_bytes())
    return coverage


def gold_quality(work: Workspace) -> dict[str, Any] | None:
    """Senses against the gold senses of held-out text; None where the recipe names none."""
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.quality import evaluate_gold, read_gold

    source = work.recipe.evaluation.gold_senses
    if source is None:
        return None
    path = work.path("quality.json")

    def build(_: Progress) -> None:
        teacher = work.teacher
        gold = read_gold(Path(source))
        dictionary = SenseDictionary.load(work.senses, teacher.identity)
        write_json(path, evaluate_gold(dictionary, teacher.model, teacher.tokenizer, gold))

    work.stages.run("gold senses", [work.artefact("senses"), source_key(source), work.teacher_key], [path], build)
    quality: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return quality
