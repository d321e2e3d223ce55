"""Which words stand on the page: those asked for, then those that have most to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from sensekd.senses.reading import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary

LIMIT: Final = 300
RULE: Final = (
    "words that were asked for; then those of the gold senses; then, by the support of their senses, words with "
    "synonyms and antonyms, words with either, and other whole words with more than one sense"
)


def _related(indptr: Tensor, vocabulary: int) -> Tensor:
    found = torch.zeros(vocabulary, dtype=torch.bool)
    count = min(vocabulary, len(indptr) - 1)
    found[:count] = indptr.diff()[:count] > 0
    return found


class _Rank(Enum):
    RELATED = "the lexicon knows it"
    SEVERAL = "several senses"
    BARE = "one sense, unknown to the lexicon"


def _ranked(dictionary: SenseDictionary, relations: TokenRelations | None) -> list[tuple[int, _Rank]]:
    """All tokens with senses, the richest first."""
    vocabulary = dictionary.vocabulary
    support = torch.zeros(vocabulary, dtype=torch.int64)
    support.index_add_(0, dictionary.owner, dictionary.support.long())
    senses = dictionary.indptr.diff()
    kind = torch.zeros(vocabulary, dtype=torch.int64)
    if relations is not None:
        kind += _related(relations.synonym_indptr, vocabulary).long()
        kind += _related(relations.antonym_indptr, vocabulary).long()
    order = torch.arange(vocabulary)
    for key in (senses, support, kind):
        # Stable sorts, the least important key first; ties keep the order of the ids.
        order = order[key[order].argsort(descending=True, stable=True)]
    order = order[senses[order] > 0]
    ranks = [
        _Rank.RELATED if related else _Rank.SEVERAL if several else _Rank.BARE
        for related, several in zip((kind[order] > 0).tolist(), (senses[order] > 1).tolist(), strict=True)
    ]
    return list(zip(order.tolist(), ranks, strict=True))


def _spells_word(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare.replace("-", "").replace("'", "").isalpha()


@dataclass(frozen=True)
class Word:
    """A word and the tokens that spell it and have senses, the best supported first."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """The words of a page.

    Attributes:
        words: in the order of `RULE`.
        available: how many the rule would name without a limit.
        missing: words that were asked for and have no senses of their own.
    """

    words: tuple[Word, ...]
    available: int
    missing: tuple[str, ...]


def choose_words(
    dictionary: SenseDictionary,
    tokenizer: PreTrainedTokenizerBase,
    relations: TokenRelations | None = None,
    asked: Iterable[str] = (),
    limit: int = LIMIT,
) -> Choice:
    """Words by `RULE`, at most `limit`.

    Args:
        dictionary: the senses.
        tokenizer: the teacher's.
        relations: the linked lexicon, or None.
        asked: words that come first.
        limit: how many words at most.
    """
    order = _ranked(dictionary, relations)
    texts = {token: token_text(tokenizer, token) for token, _ in order}
    spelled: dict[str, list[int]] = {}
    for token, text in texts.items():
        spelled.setdefault(text.strip(), []).append(token)
    wanted = [word for each in asked if (word := each.strip())]
    chosen = {word: None for word in wanted if word in spelled}
    # What the lexicon knows is a word. Elsewhere, where tokens begin with a space, one without may be a word's inside.
    spaced = any(text[:1].isspace() for text in texts.values())
    for token, rank in order:
        text = texts[token]
        whole = _spells_word(text) and (not spaced or text[:1].isspace())
        if rank is _Rank.RELATED or (rank is _Rank.SEVERAL and whole):
            chosen.setdefault(text.strip(), None)
    kept = tuple(Word(word, tuple(spelled[word])) for word in list(chosen)[:limit])
    return Choice(kept, len(chosen), tuple(dict.fromkeys(word for word in wanted if word not in spelled)))
