"""What linking kept of a lexicon and what it lost, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sensekd.errors import InputError


@dataclass(frozen=True)
class Coverage:
    """How much of the lexicon reached the tokens.

    Attributes:
        words: words (in any case one) of the lexicon with a synonym or antonym.
        words_linked: of these, those with a linked head.
        candidates: token ids that spell such a word: the denominator of `floor`.
        heads: of these, those with at least one neighbour span.
        synonym_heads, antonym_heads: heads with a span of that relation.
        relations: (head, relation, neighbour) triples before anything was dropped.
        synonyms_by_pieces, antonyms_by_pieces: (head, span) pairs kept; entry i counts spans of i + 1 pieces.
        spans_by_pieces: different spans, likewise.
        dropped: triples by reason: `too_long` (more than `max_pieces`), `not_spelled` (the tokenizer cannot write the
            neighbour), `outside_vocabulary` (a piece beyond V), `same_token` (the span is the head), `same_span` (the
            head has that span already, from another spelling), and `withheld` where antonym pairs are. All of them and
            the kept pairs add up to `relations`.
        floor: the smallest heads / candidates that was accepted.
        no_head: related words without a candidate, by reason: `several_pieces` (the tokenizer has no single token for
            the word in any case) and `other_case` (it has one, in a case that would make it another word).
    """

    words: int
    words_linked: int
    candidates: int
    heads: int
    synonym_heads: int
    antonym_heads: int
    relations: int
    synonyms_by_pieces: tuple[int, ...]
    antonyms_by_pieces: tuple[int, ...]
    spans_by_pieces: tuple[int, ...]
    dropped: Mapping[str, int]
    floor: float = 0.0
    no_head: Mapping[str, int] | None = None

    @property
    def share(self) -> float:
        """Heads of the candidates, 0 where there is none."""
        return self.heads / self.candidates if self.candidates else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Coverage:
        """The inverse of `as_dict`."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)

    def refuse_below_floor(self) -> None:
        """Stop where less is linked than the floor, or nothing at all.

        Raises:
            InputError: with every number that tells what to change.
        """
        if self.heads and self.share >= self.floor:
            return
        raise InputError(
            f"{self.heads} of {self.candidates} tokens that spell one of the {self.words} related words have a "
            f"neighbour ({self.share:.1%}); of {self.relations} relations were dropped: {dict(self.dropped)}",
            f"at least {self.floor:.1%}, and not nothing",
            "check the lexicon's language against the tokenizer's, raise linking.max_pieces, or lower linking.floor",
        )
