"""A word's senses for a person to read: how often, where, and what lies near."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from sensekd.errors import InputError
from sensekd.senses.flags import contexts_of, flags_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary

# Senses [k, D] of a span of tokens; k is 0 where a piece of it has none.
Compose = Callable[[Sequence[int]], Tensor]

NEIGHBOURS: Final = 5
_WIDTH: Final = 76
_BAR: Final = 12


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
        synonyms, antonyms: related words, and the distance to the nearest of their senses; nearest first.
        flags: `dead`, `duplicate`, `template` -> why (the rules stand in `sensekd.senses.flags`).
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
    flags: dict[str, str] = field(default_factory=dict)


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The text of a token, with the space that it begins with."""
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
    """[k, n] squared distances per dimension."""
    return torch.cdist(rows, others).square() / rows.shape[1]


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
            return [(token_text(tokenizer, token), round(value, 4)) for token, value in nearest]
        wanted *= 2


def related_rows(
    dictionary: SenseDictionary,
    tokenizer: PreTrainedTokenizerBase,
    relations: TokenRelations,
    kind: str,
    token: int,
    compose: Compose | None,
) -> list[tuple[str, Tensor]]:
    """The neighbours of a token that have senses, with these: single tokens, and longer spans if they are composed."""
    indptr, spans = getattr(relations, f"{kind}_indptr"), getattr(relations, f"{kind}_spans")
    found = []
    for span in spans[int(indptr[token]) : int(indptr[token + 1])].tolist():
        first, last = int(relations.span_indptr[span]), int(relations.span_indptr[span + 1])
        pieces = relations.span_pieces[first:last].tolist()
        if len(pieces) == 1:
            rows = dictionary.rows(pieces[0])
        elif compose is not None:
            rows = compose(pieces)
        else:
            continue
        if len(rows):
            text = token_text(tokenizer, pieces[0]) if len(pieces) == 1 else str(tokenizer.decode(pieces))
            found.append((text, rows))
    return found


def _relatives(own: Tensor, related: Sequence[tuple[str, Tensor]], sigma2: float) -> list[tuple[str, float]]:
    """Distances of one row [D] to the nearest sense of each relative."""
    found = [(text, round(float(_squared(own[None], rows).min()) / sigma2, 4)) for text, rows in related]
    return sorted(found, key=lambda item: (item[1], item[0]))


def _contexts(dictionary: SenseDictionary, tokenizer: PreTrainedTokenizerBase, row: int) -> list[str]:
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in contexts_of(dictionary, row)]


def _refuse(dictionary: SenseDictionary, tokenizer: PreTrainedTokenizerBase, word: str, tokens: Sequence[int]) -> None:
    if tokens:
        names = ", ".join(repr(token_text(tokenizer, token)) for token in tokens)
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
    compose: Compose | None = None,
) -> list[SenseReading]:
    """Read the senses of a word: of its token with a leading space and of the one without.

    Args:
        dictionary: the senses.
        tokenizer: the teacher's.
        word: one word.
        relations: linked synonyms and antonyms; without them those fields stay empty.
        compose: senses of a span of tokens; without it only relatives that are one token are read.

    Raises:
        InputError: the word is no token (the message says how many pieces it has), or has no senses.
    """
    word = word.strip()
    spelled = [token for token in word_tokens(tokenizer, word) if token < dictionary.vocabulary]
    tokens = [token for token in spelled if bool(dictionary.has_senses[token])]
    if not tokens:
        _refuse(dictionary, tokenizer, word, spelled)
    readings: list[SenseReading] = []
    for token in tokens:
        related = {
            kind: [] if relations is None else related_rows(dictionary, tokenizer, relations, kind, token, compose)
            for kind in ("synonym", "antonym")
        }
        readings += _describe_token(dictionary, tokenizer, token, related, set(tokens))
    return readings


def _describe_token(
    dictionary: SenseDictionary,
    tokenizer: PreTrainedTokenizerBase,
    token: int,
    related: Mapping[str, list[tuple[str, Tensor]]],
    same: set[int],
) -> list[SenseReading]:
    start, stop = dictionary.span(token)
    own, flags = dictionary.rows(token), flags_of(dictionary, token)
    blocks = [_squared(own, rows) for _, rows in dictionary.stored.blocks()]
    distances = torch.cat(blocks, 1) / dictionary.sigma2
    total = int(dictionary.support[start:stop].sum())
    return [
        SenseReading(
            token=token,
            text=token_text(tokenizer, token),
            row=row,
            support=int(dictionary.support[row]),
            share=round(int(dictionary.support[row]) / total, 4),
            spread=round(float(dictionary.spread[row]) / dictionary.sigma2, 4),
            contexts=_contexts(dictionary, tokenizer, row),
            neighbours=_neighbours(dictionary, tokenizer, distances[row - start], same),
            synonyms=_relatives(own[row - start], related["synonym"], dictionary.sigma2),
            antonyms=_relatives(own[row - start], related["antonym"], dictionary.sigma2),
            flags=flags[row - start],
        )
        for row in range(start, stop)
    ]


def _bar(share: float) -> str:
    eighths = max(1, round(share * _BAR * 8))
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()).ljust(_BAR)


def _bracketed(text: str) -> str:
    return f"[{text}]"


def _in_context(context: str, text: str, emphasise: Callable[[str], str]) -> str:
    """The end of a context, and after it the token: joined to it where it begins without a space."""
    flat = " ".join(context.split())
    # White space is a token too, and would not be seen.
    target = emphasise(text.strip() or repr(text))
    gap = " " if text[:1].isspace() else ""
    return f"{'…' + flat[-_WIDTH:] if len(flat) > _WIDTH else flat}{gap}{target}"


def _listed(name: str, items: Sequence[tuple[str, float]]) -> list[str]:
    if not items:
        return []
    return [f"     {name:<10}" + " · ".join(f"{text.strip() or repr(text)} {distance:.2f}" for text, distance in items)]


def render(readings: Sequence[SenseReading], emphasise: Callable[[str], str] = _bracketed) -> str:
    """Readings as plain text, a block for each sense.

    Args:
        readings: of one word, token by token.
        emphasise: marks the word at the end of its contexts; brackets unless something else is given.
    """
    lines: list[str] = []
    token, number = None, 0
    for reading in readings:
        if reading.token != token:
            token, number = reading.token, 0
            alike = [other.support for other in readings if other.token == token]
            senses = f"{len(alike)} sense{'s' if len(alike) > 1 else ''}"
            lines += [*([""] if lines else []), f"{reading.text!r} (token {token}): {senses} of {sum(alike)} samples"]
        number += 1
        size = f"{reading.support} sample{'s' if reading.support > 1 else ''}"
        lines += ["", f" {number:>2}. {_bar(reading.share)} {reading.share:4.0%}  {size}, spread {reading.spread:.2f}"]
        lines += [f"     {_in_context(context, reading.text, emphasise)}" for context in reading.contexts]
        lines += _listed("near", reading.neighbours)
        lines += _listed("synonyms", reading.synonyms)
        lines += _listed("antonyms", reading.antonyms)
        lines += [f"   ! {name}: {why}" for name, why in reading.flags.items()]
    return "\n".join(lines)
