"""A few words whose senses are shown on the page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.errors import InputError
from sensekd.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary

WORDS: Final = 6
SENSES: Final = 4
CONTEXTS: Final = 2


def gold_words(path: str) -> list[str]:
    """The words of a file of gold senses, the most frequent first."""
    from sensekd.senses.quality import read_gold

    documents = read_gold(Path(path))
    counts = Counter(occurrence["word"] for entry in documents for occurrence in entry["occurrences"])
    return [word for word, _ in counts.most_common()]


def _related_words(work: Workspace, dictionary: SenseDictionary, relations: TokenRelations) -> list[str]:
    """Words with a synonym and an antonym, the best supported first."""
    import torch

    both = (relations.synonym_indptr.diff() > 0) & (relations.antonym_indptr.diff() > 0)
    support = torch.zeros(len(both), dtype=torch.int64)
    support.index_add_(0, dictionary.owner, dictionary.support.long())
    tokens = torch.where(both, support, 0).argsort(descending=True, stable=True)[: 4 * WORDS].tolist()
    return list(dict.fromkeys(work.tokenizer.decode([token]).strip().casefold() for token in tokens))


def example_senses(work: Workspace) -> list[dict[str, Any]]:
    """Up to six words with their best supported senses and the contexts nearest to each.

    Returns:
        [{"word", "senses": [{"support", "contexts"}]}]; words that the gold senses name first, where the recipe has
        such, otherwise words with relations.
    """
    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.reading import describe

    dictionary = SenseDictionary.load(work.senses)
    gold = work.recipe.evaluation.gold_senses
    if gold is not None:
        words = gold_words(gold)
    elif work.recipe.lexicon.sources:
        words = _related_words(work, dictionary, TokenRelations.load(work.path("relations")))
    else:
        return []
    found: list[dict[str, Any]] = []
    for word in words:
        try:
            readings = describe(dictionary, work.tokenizer, word)
        except InputError:  # Not a token of its own: another word serves as well.
            continue
        senses = sorted(readings, key=lambda reading: -reading.support)[:SENSES]
        found.append(
            {"word": word, "senses": [{"support": s.support, "contexts": s.contexts[:CONTEXTS]} for s in senses]}
        )
        if len(found) == WORDS:
            break
    return found
