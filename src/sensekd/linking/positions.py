"""How much of a text the relations reach, known from its tokens alone: before a teacher has been run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from sensekd.errors import InputError
from sensekd.linking.boundaries import wordlike
from sensekd.linking.texts import engine, token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.linking.relations import TokenRelations

# Ids that are looked at together.
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Positions:
    """Labels of a text (every token behind another) and what the lexicon says of them.

    Attributes:
        labels: all of them.
        whole: whole words: a boundary on both sides, and a letter or digit at the end.
        own: labels whose token stands at least twice in the text: what this text alone gives own senses to, with
            `senses.assignment: next` and a minimum support of 2.
        synonym, antonym: whole words with a linked synonym, antonym.
        either: whole words with one of the two.
        related: labels whose token is a linked head, whole or not.
        cut: of these, those inside a longer word, or at the end of a text, where what follows is unknown. Relations do
            not apply there: `related` is `either` + `cut`.
    """

    labels: int
    whole: int
    own: int
    synonym: int
    antonym: int
    either: int
    related: int
    cut: int

    def as_dict(self) -> dict[str, int]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @property
    def share(self) -> float:
        """Whole words with a synonym or antonym, of all whole words; 0 where there is none."""
        return self.either / self.whole if self.whole else 0.0

    def refuse_below_floor(self, floor: float) -> None:
        """Stop where the lexicon says too little of the text.

        Raises:
            InputError: with the numbers that tell what to change.
        """
        if self.whole and self.share >= floor:
            return
        raise InputError(
            f"of {self.whole} whole words in {self.labels} labels of the training text {self.either} have a linked "
            f"synonym or antonym ({self.share:.1%}; {self.cut} more stand inside longer words)",
            f"at least {floor:.1%} of the whole words",
            "use a lexicon of the text's language, or a larger one, or lower linking.position_floor",
        )


def count_positions(
    relations: TokenRelations, words: torch.Tensor, tokens: np.ndarray[Any, Any], indptr: np.ndarray[Any, Any]
) -> Positions:
    """Count what the relations reach.

    Args:
        relations: the linked lexicon.
        words: [V] bool, from `word_tokens`.
        tokens: [N] ids of all documents one after the other; may be memory-mapped.
        indptr: [documents + 1] int64, where each document begins in `tokens`. Its first token is no label.
    """
    synonym, antonym = relations.synonym_indptr.diff() > 0, relations.antonym_indptr.diff() > 0
    seen = torch.zeros(relations.vocabulary, dtype=torch.int64)
    counts = dict.fromkeys(("labels", "whole", "synonym", "antonym", "either", "related", "cut"), 0)
    for start in range(0, len(tokens), _CHUNK):
        ids, label, whole = _chunk(relations, tokens, indptr, start)
        seen += torch.bincount(ids[label], minlength=relations.vocabulary)
        related = label & (synonym | antonym)[ids]
        found = {
            "labels": label, "whole": whole & words[ids], "synonym": whole & synonym[ids],
            "antonym": whole & antonym[ids], "either": whole & related, "related": related, "cut": related & ~whole,
        }  # fmt: skip
        for name, mask in found.items():
            counts[name] += int(mask.sum())
    return Positions(own=int(seen[seen >= 2].sum()), **counts)


def _chunk(
    relations: TokenRelations, tokens: np.ndarray[Any, Any], indptr: np.ndarray[Any, Any], start: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids from `start` on, which of them are labels, and which of these are whole words; [C] each."""
    low, high = max(start - 1, 0), min(start + _CHUNK + 1, len(tokens))
    ids = torch.from_numpy(np.asarray(tokens[low:high], dtype=np.int64))
    first = torch.zeros(len(ids) + 1, dtype=torch.bool)
    begins = indptr[np.searchsorted(indptr, low) : np.searchsorted(indptr, high, side="right")] - low
    first[torch.from_numpy(begins)] = True
    # What follows the last token of a document is unknown: that one counts as cut.
    after = torch.ones(len(ids), dtype=torch.bool)
    before = torch.zeros(len(ids), dtype=torch.bool)
    before[1:] = relations.ends_word[ids[:-1]] & relations.starts_word[ids[1:]]
    after[:-1] = before[1:] | first[1:-1]
    part = slice(start - low, start - low + _CHUNK)
    label = ~first[:-1]
    return ids[part], label[part], (label & ~before & ~after)[part]


def word_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> torch.Tensor:
    """[V] bool: tokens that end with a letter, mark, digit or part of a character, in any script.

    Raises:
        InputError: no fast backend, or one that cannot decode.
    """
    return wordlike(token_texts(tokenizer, engine(tokenizer), vocabulary), vocabulary)
