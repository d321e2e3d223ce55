"""A word's senses for a person to read: how often, where, and what lies near."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from sensekd.errors import InputError
from sensekd.linking import single_token_neighbours

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary

NEIGHBOURS: Final = 5
_CHUNK: Final = 1 << 25
_WIDTH: Final = 72


@dataclass(frozen=True)
class SenseReading:
    """One sense of a word. Distances are squared, per dimension, in units of σ² (raw where the dictionary's units are).

    Attributes:
        token: id of the token that the row belongs to.
        text: the token's text, white space included.
        row: row of the dictionary.
        support: sampled states it stands for.
        share: of the token's sampled states.
        spread: mean squared distance of these to the centroid.
        contexts: left contexts of the nearest samples. The word comes next in the teacher's prediction (assignment
            `predicted`), in the text (`next`), or in both (`agree`).
        neighbours: other tokens with the nearest senses, and their distances.
        synonyms, antonyms: related single tokens, and the distance to the nearest of their senses.
    """

    token: int
    text: str
    row: int
    support: int
    share: float
    spread: float
    contexts: list[str]
    neighbours: list[tuple[str, float]]
    synonyms: list[tuple[str, float]] = field(default_factory=list)
    antonyms: list[tuple[str, float]] = field(default_factory=list)


def _token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    # Metaspace decoders drop a leading space; the piece itself still has the marker.
    text = str(tokenizer.decode([token]))
    piece = tokenizer.convert_ids_to_tokens(token)
    marked = isinstance(piece, str) and piece.startswith("▁")
    return f" {text}" if marked and not text.startswith(" ") else text


def word_tokens(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """Ids of the tokens that spell the whole word, with a space before it and without."""
    encoded = [tokenizer.encode(form, add_special_tokens=False) for form in (word, f" {word}")]
    single = [ids[0] for ids in encoded if len(ids) == 1]
    vocabulary = tokenizer.get_vocab()
    single += [vocabulary[piece] for piece in (f"▁{word}", f"Ġ{word}", word) if piece in vocabulary]
    # An unknown word is one token too: the one for unknown words.
    return sorted({int(token) for token in single} - set(tokenizer.all_special_ids))


def _squared(rows: Tensor, others: Tensor) -> Tensor:
    """[k, R] squared distances per dimension, `others` in pieces."""
    step = max(1, _CHUNK // rows.shape[1])
    pieces = [torch.cdist(rows, piece).square() for piece in torch.split(others, step)]
    return torch.cat(pieces, 1) / rows.shape[1]


def _neighbours(
    dictionary: SenseDictionary, tokenizer: PreTrainedTokenizerBase, distances: Tensor, own: set[int]
) -> list[tuple[str, float]]:
    """The tokens with the nearest senses; `distances` [R] are from one row."""
    found: dict[int, float] = {}
    # A token has several rows, so a few more than wanted are looked at; doubling ends at the latest with all rows.
    wanted = NEIGHBOURS * 8
    while True:
        values, rows = distances.topk(min(wanted, len(distances)), largest=False)
        for token, value in zip(dictionary.owner[rows].tolist(), values.tolist(), strict=True):
            if token not in own:
                found.setdefault(token, value)
        if len(found) >= NEIGHBOURS or wanted >= len(distances):
            nearest = list(found.items())[:NEIGHBOURS]
            return [(_token_text(tokenizer, token), round(value, 4)) for token, value in nearest]
        wanted *= 2


def _related(relations: TokenRelations, kind: str, token: int) -> list[int]:
    """Neighbours of a token that are single tokens; senses of longer spans are composed elsewhere."""
    indptr, tokens = single_token_neighbours(relations, kind)
    found: list[int] = tokens[int(indptr[token]) : int(indptr[token + 1])].tolist()
    return found


def _relatives(
    dictionary: SenseDictionary, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], distances: Tensor
) -> list[tuple[str, float]]:
    found = []
    for token in tokens:
        start, stop = dictionary.span(token)
        if stop > start:
            found.append((_token_text(tokenizer, token), round(float(distances[start:stop].min()), 4)))
    return sorted(found, key=lambda item: (item[1], item[0]))


def _contexts(dictionary: SenseDictionary, tokenizer: PreTrainedTokenizerBase, row: int) -> list[str]:
    texts = []
    for ids in dictionary.context[row]:
        kept = ids[ids >= 0].tolist()
        if kept:
            texts.append(str(tokenizer.decode(kept, skip_special_tokens=True)))
    return texts


def _refuse(dictionary: SenseDictionary, tokenizer: PreTrainedTokenizerBase, word: str, tokens: Sequence[int]) -> None:
    if tokens:
        names = ", ".join(repr(_token_text(tokenizer, token)) for token in tokens)
        raise InputError(
            f"{word!r} is a token ({names}), but no state of the sample was filed under it",
            "a word that occurs in the corpus",
            "try another word, or build the dictionary from a larger corpus",
        )
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(tokenizer.encode(word, add_special_tokens=False))]
    raise InputError(
        f"{word!r} has no senses of its own: the tokenizer makes {len(pieces)} pieces of it ({' '.join(pieces)})",
        "a word that is one token",
        "try a more frequent word, or one of its pieces",
    )


def describe(
    dictionary: SenseDictionary,
    tokenizer: PreTrainedTokenizerBase,
    word: str,
    relations: TokenRelations | None = None,
) -> list[SenseReading]:
    """Read the senses of a word: of its token with a leading space and of the one without.

    Args:
        dictionary: the senses.
        tokenizer: the teacher's.
        word: one word.
        relations: linked synonyms and antonyms; without them those fields stay empty.

    Raises:
        InputError: the word is no token (the message says how many pieces it has), or has no senses.
    """
    word = word.strip()
    spelled = [token for token in word_tokens(tokenizer, word) if token < dictionary.vocabulary]
    tokens = [token for token in spelled if bool(dictionary.has_senses[token])]
    if not tokens:
        _refuse(dictionary, tokenizer, word, spelled)
    readings = []
    for token in tokens:
        start, stop = dictionary.span(token)
        distances = _squared(dictionary.rows(token), dictionary.centroids) / dictionary.sigma2
        total = int(dictionary.support[start:stop].sum())
        related: Mapping[str, list[int]] = {
            kind: _related(relations, kind, token) if relations is not None else [] for kind in ("synonym", "antonym")
        }
        for row in range(start, stop):
            here = distances[row - start]
            support = int(dictionary.support[row])
            readings.append(
                SenseReading(
                    token=token,
                    text=_token_text(tokenizer, token),
                    row=row,
                    support=support,
                    share=round(support / total, 4),
                    spread=round(float(dictionary.spread[row]) / dictionary.sigma2, 4),
                    contexts=_contexts(dictionary, tokenizer, row),
                    neighbours=_neighbours(dictionary, tokenizer, here, set(tokens)),
                    synonyms=_relatives(dictionary, tokenizer, related["synonym"], here),
                    antonyms=_relatives(dictionary, tokenizer, related["antonym"], here),
                )
            )
    return readings


def _listed(name: str, items: Sequence[tuple[str, float]]) -> list[str]:
    if not items:
        return []
    return [f"    {name:<11}" + ", ".join(f"{text.strip() or repr(text)} {distance:.2f}" for text, distance in items)]


def render(readings: Sequence[SenseReading]) -> str:
    """Readings as plain text, a block for each sense; the place of the word is marked ``___``."""
    lines: list[str] = []
    token = None
    for number, reading in enumerate(readings, 1):
        if reading.token != token:
            token = reading.token
            count = sum(other.token == token for other in readings)
            plural = "s" if count > 1 else ""
            lines.append(f"token {reading.text!r} (id {token}): {count} sense{plural}")
        lines.append(f"  {number}. {reading.share:.0%} of the samples ({reading.support}), spread {reading.spread:.2f}")
        for context in reading.contexts:
            flat = " ".join(context.split())
            lines.append(f"    {'…' + flat[-_WIDTH:] if len(flat) > _WIDTH else flat} ___")
        lines += _listed("near:", reading.neighbours)
        lines += _listed("synonyms:", reading.synonyms)
        lines += _listed("antonyms:", reading.antonyms)
    return "\n".join(lines)
