"""What linking is measured against: all tokens that could be heads, and those that the published rule finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sensekd.lexicon.relations import LINKED, Lexicon, fold_word
from sensekd.linking.relations import TokenRelations
from sensekd.linking.texts import engine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class HeadShare:
    """Heads beside the tokens that decode to a related word in any case.

    Attributes:
        spelling: tokens, special ones apart, whose decoded text is a related word: stripped and case-folded.
        heads: of these, heads of the linked lexicon.
        published: of these, what one look-up a word finds: the encoding of " word", where that is a single token (the
            rule of the code of DSKD, arXiv 2602.22351). Nothing, where the tokenizer puts a marker of its own first.
    """

    spelling: int
    heads: int
    published: int

    def as_dict(self) -> dict[str, float]:
        """Counts and shares, ready for JSON."""
        total = max(self.spelling, 1)
        shares = {"head_share": self.heads / total, "published_share": self.published / total}
        return {"spelling": self.spelling, "heads": self.heads, "published": self.published, **shares}


def head_share(lexicon: Lexicon, tokenizer: PreTrainedTokenizerBase, relations: TokenRelations) -> HeadShare:
    """Count the heads of a linked lexicon against a denominator that knows nothing of linking.

    Args:
        lexicon: what was linked.
        tokenizer: to what.
        relations: the result.
    """
    words = lexicon.relations.filter(lexicon.relations["relation"].is_in(LINKED))["head"].unique().to_list()
    folded = {fold_word(word) for word in words}
    special = set(tokenizer.all_special_ids)
    spelling = {
        index
        for index in range(min(len(tokenizer), relations.vocabulary))
        if index not in special and fold_word(str(tokenizer.decode([index])).strip()) in folded
    }
    batch = engine(tokenizer).encode_batch_fast([f" {word}" for word in words], add_special_tokens=False)
    published = {encoding.ids[0] for encoding in batch if len(encoding.ids) == 1}
    linked = (relations.synonym_indptr.diff() > 0) | (relations.antonym_indptr.diff() > 0)
    heads = set(torch.nonzero(linked).flatten().tolist())
    return HeadShare(len(spelling), len(spelling & heads), len(spelling & published))
