"""How a tokenizer writes the words of the lexicon within a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import polars as pl

from sensekd.lexicon.relations import fold_word
from sensekd.linking.boundaries import unspaced
from sensekd.linking.texts import text_of, tokens_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Spelled = tuple[int, ...] | str

# What stands before a word when it is spelled: the next one is tried where the first grows together with it.
_CARRIERS: Final = ("a ", "the ", "1 ")
# Scripts without spaces: behind a line's end, else behind a full stop or a letter of another script.
_UNSPACED_CARRIERS: Final = ("a\n", "a。", "a.", "a")


def spell(backend: Tokenizer, words: Sequence[str], *, max_pieces: int, vocabulary: int) -> list[Spelled]:
    """The pieces of each word as it stands within a sentence, or the reason why there are none.

    That is behind a space, but behind none for words of a script without spaces.

    Args:
        backend: the tokenizer's engine.
        words: spellings of the lexicon.
        max_pieces: m; longer ones are `too_long`.
        vocabulary: V; with a piece beyond it a word is `outside_vocabulary`.
    """
    results: list[Spelled] = ["not_spelled"] * len(words)
    alone = unspaced(pl.Series(words, dtype=pl.String)).to_list()
    pending = [index for index in range(len(words)) if alone[index]]
    for carrier in _UNSPACED_CARRIERS:
        pending = _spell_behind(carrier, backend, words, pending, results, max_pieces)
    pending += [index for index in range(len(words)) if not alone[index]]
    for carrier in _CARRIERS:
        pending = _spell_behind(carrier, backend, words, pending, results, max_pieces)
    return [
        "outside_vocabulary" if not isinstance(found, str) and max(found) >= vocabulary else found for found in results
    ]


def _spell_behind(
    carrier: str, backend: Tokenizer, words: Sequence[str], pending: list[int], results: list[Spelled], most: int
) -> list[int]:
    """Fill in the results of the pending words behind one carrier; those that it does not suit are returned."""
    if not pending:
        return []
    before = backend.encode(carrier.rstrip(" "), add_special_tokens=False).ids
    batch = backend.encode_batch_fast([carrier + words[index] for index in pending], add_special_tokens=False)
    space = " " if carrier.endswith(" ") else ""
    rest = []
    for index, encoding in zip(pending, batch, strict=True):
        ids = encoding.ids
        pieces = tuple(ids[len(before) :])
        if ids[: len(before)] != before or not pieces:
            rest.append(index)
        elif len(pieces) > most:
            results[index] = "too_long"
        elif fold_word(text_of(backend, tokens_of(backend, pieces))) != fold_word(space + words[index]):
            rest.append(index)
        else:
            results[index] = pieces
    return rest
