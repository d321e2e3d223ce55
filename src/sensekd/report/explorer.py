"""The sense explorer's data: for every chosen word its senses, and a map of its states with what is related to it.

All distances are squared, per dimension, in units of σ² (raw where the dictionary's units are).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from sensekd.report.projection import Plane, fit_plane, nearest
from sensekd.report.states import Placed, SampledStates, context_states, figures, place
from sensekd.report.text import flat, visible
from sensekd.report.words import LIMIT, RULE, Choice, choose_words
from sensekd.senses.flags import contexts_of, flags_of
from sensekd.senses.reading import Compose, related_rows, token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.linking import TokenRelations
    from sensekd.senses.dictionary import SenseDictionary

FORMAT: Final = 1
# A map of more points is no easier to read, and every point carries its context.
POINTS: Final = 48
# Contexts of a token that every model is run on.
CONTEXTS: Final = 12
# Words, the first of the page, whose contexts models are run on: 1,200 contexts are seconds on a CPU for a small model.
MODEL_WORDS: Final = 100
RELATIVES: Final = 6
_TOKENS: Final = 2
_NEAREST: Final = 3
_WIDTH: Final = 84
_POINT_WIDTH: Final = 60

# A model by name; it is loaded when its turn comes, and only one is held at a time.
LoadModel = Callable[[], Any]


@dataclass(frozen=True)
class Source:
    """What the explorer is made of.

    Attributes:
        dictionary: the senses.
        tokenizer: the teacher's.
        sample: the states that the senses were clustered from; without them maps show the senses alone.
        relations: the linked lexicon; without it no word has relatives.
        compose: senses of a span of several tokens; without it only relatives of one token are shown.
    """

    dictionary: SenseDictionary
    tokenizer: PreTrainedTokenizerBase
    sample: SampledStates | None = None
    relations: TokenRelations | None = None
    compose: Compose | None = None


@dataclass(frozen=True)
class _Token:
    """One token on its way: its entry, its plane and the contexts that models are run on."""

    entry: dict[str, Any]
    rows: Tensor
    plane: Plane
    contexts: Tensor


def explore(
    source: Source,
    asked: Iterable[str] = (),
    limit: int = LIMIT,
    models: Sequence[tuple[str, LoadModel]] = (),
) -> dict[str, Any]:
    """Everything that the explorer shows, as JSON.

    Args:
        source: where it is read from.
        asked: words that come first.
        limit: how many words at most.
        models: the teacher first, then students, by name. Each is run on the same contexts.

    Returns:
        `words` [{"word", "tokens"}], `rule`, `available`, `missing`, `units`, `sigma2`, `sample` (whether states are
        shown), `models` [{"name", "agrees", "to_sense", "to_teacher", "contexts"}] and `left_out` [{"name", "why"}].
    """
    choice: Choice = choose_words(source.dictionary, source.tokenizer, source.relations, asked, limit)
    found = [(word.text, [_token(source, token) for token in word.tokens[:_TOKENS]]) for word in choice.words]
    tokens = [token for _, listed in found[:MODEL_WORDS] for token in listed]
    ran, left_out = _run(models, tokens, source.dictionary.sigma2) if tokens and models else ([], [])
    raw = source.dictionary.settings.get("units", "sigma") != "sigma"
    return {
        "format": FORMAT,
        "units": "1 (raw)" if raw else "σ²",
        "sigma2": source.dictionary.sigma2,
        "rule": RULE,
        "available": choice.available,
        "missing": [visible(word) for word in choice.missing],
        "sample": source.sample is not None,
        "models": ran,
        "placed_words": min(MODEL_WORDS, len(found)),
        "left_out": left_out,
        "length": int(source.dictionary.context.shape[2]),
        "words": [{"word": visible(word), "tokens": [token.entry for token in listed]} for word, listed in found],
    }


def _token(source: Source, token: int) -> _Token:
    dictionary = source.dictionary
    rows, sigma2 = dictionary.rows(token), dictionary.sigma2
    start, stop = dictionary.span(token)
    sampled = None if source.sample is None else source.sample.of(token)
    plane = fit_plane(rows if sampled is None else sampled[0], sigma2)
    support = dictionary.support[start:stop].tolist()
    flags = flags_of(dictionary, token)
    related = _relatives(source, token, rows)
    senses = [
        {
            "n": support[row - start],
            "share": round(support[row - start] / sum(support), 4),
            "spread": round(float(dictionary.spread[row]) / sigma2, 3),
            "at": plane.place(rows[row - start][None])[0],
            "contexts": _texts(source.tokenizer, contexts_of(dictionary, row)[:3], _WIDTH),
            "flags": flags[row - start],
            "related": _nearest_relatives(rows[row - start], related, sigma2),
        }
        for row in range(start, stop)
    ]
    text = token_text(source.tokenizer, token)
    entry = {
        "text": visible(text),
        "id": token,
        "spaced": text[:1].isspace(),
        "samples": sum(support),
        "explained": round(plane.explained, 3),
        "senses": senses,
        "points": [] if sampled is None else _points(source, plane, rows, sampled),
        "relatives": _placed_relatives(plane, rows, related, sigma2),
    }
    return _Token(entry, rows, plane, _contexts(dictionary, token, sampled))


def _texts(tokenizer: PreTrainedTokenizerBase, contexts: Sequence[Sequence[int]], width: int) -> list[str]:
    return [flat(str(tokenizer.decode(ids, skip_special_tokens=True)), width) for ids in contexts]


def _known(contexts: Tensor) -> list[list[int]]:
    return [[token for token in ids if token >= 0] for ids in contexts.tolist()]


def _points(source: Source, plane: Plane, rows: Tensor, sampled: tuple[Tensor, Tensor]) -> list[list[Any]]:
    """[x, y, sense, context] of the states of smallest priority, a random sample of the sample."""
    states, contexts = (part[:POINTS] for part in sampled)
    sense, _ = nearest(states, rows, source.dictionary.sigma2)
    texts = _texts(source.tokenizer, _known(contexts), _POINT_WIDTH)
    return [[*at, own, text] for at, own, text in zip(plane.place(states), sense.tolist(), texts, strict=True)]


def _contexts(dictionary: SenseDictionary, token: int, sampled: tuple[Tensor, Tensor] | None) -> Tensor:
    """[n, L]: those of the first points; without a sample those on record with the senses, which lie near them."""
    found = sampled[1] if sampled is not None else dictionary.context[slice(*dictionary.span(token))].flatten(0, 1)
    return found[(found >= 0).any(1)][:CONTEXTS]


_Related = list[tuple[str, str, Tensor, float]]


def _relatives(source: Source, token: int, own: Tensor) -> _Related:
    """(text, kind, rows, d² of the two nearest senses) of a token's synonyms and antonyms, nearest first."""
    if source.relations is None or token >= source.relations.vocabulary:
        return []
    found: _Related = []
    for kind in ("synonym", "antonym"):
        listed = related_rows(source.dictionary, source.tokenizer, source.relations, kind, token, source.compose)
        near = [
            (visible(text.strip() or repr(text)), kind, rows, _closest(own, rows, source.dictionary.sigma2))
            for text, rows in listed
        ]
        # The same word may be several tokens; the nearest of them speaks for it.
        best: dict[str, tuple[str, str, Tensor, float]] = {}
        for each in sorted(near, key=lambda item: (item[3], item[0])):
            best.setdefault(each[0].casefold(), each)
        found += best.values()
    return found


def _closest(own: Tensor, rows: Tensor, sigma2: float) -> float:
    return float(nearest(own, rows, sigma2)[1].min())


def _nearest_relatives(row: Tensor, related: _Related, sigma2: float) -> list[list[Any]]:
    """[text, kind, d²] of the relatives that lie nearest to one sense, a few of each kind."""
    found = []
    for kind in ("synonym", "antonym"):
        near = [(round(_closest(row[None], rows, sigma2), 2), text) for text, own, rows, _ in related if own == kind]
        found += [[text, kind, distance] for distance, text in sorted(near)[:_NEAREST]]
    return found


def _placed_relatives(plane: Plane, own: Tensor, related: _Related, sigma2: float) -> list[dict[str, Any]]:
    """Relatives on the map, each at the one of its senses that is nearest to a sense of the word."""
    found: list[dict[str, Any]] = []
    for kind in ("synonym", "antonym"):
        for text, _, rows, distance in [each for each in related if each[1] == kind][:RELATIVES]:
            row = int(nearest(rows, own, sigma2)[1].argmin())
            at = plane.place(rows[row][None])[0]
            found.append({"text": text, "kind": kind, "at": at, "d": round(distance, 2)})
    return found


def _run(
    models: Sequence[tuple[str, LoadModel]], tokens: Sequence[_Token], sigma2: float
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Run every model on the contexts of all tokens, and write into the entries where its states lie."""
    contexts = torch.cat([token.contexts for token in tokens])
    if not len(contexts):
        return [], [{"name": name, "why": "no context is on record"} for name, _ in models]
    counts = [len(token.contexts) for token in tokens]
    teacher: Tensor | None = None
    ran: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    for name, load in models:
        states = context_states(load(), contexts)
        if states.shape[1] != tokens[0].rows.shape[1]:
            why = f"its states have {states.shape[1]} dimensions, the senses {tokens[0].rows.shape[1]}"
            left_out.append({"name": name, "why": why})
            continue
        teacher = states if teacher is None else teacher
        placed: dict[int, Placed] = {}
        for at, (token, own, of_teacher) in enumerate(
            zip(tokens, torch.split(states, counts), torch.split(teacher, counts), strict=True)
        ):
            if not len(own):
                continue
            placed[at] = place(own, of_teacher, token.rows, sigma2)
            points = [[*xy, sense] for xy, sense in zip(token.plane.place(own), placed[at].sense.tolist(), strict=True)]
            numbers = figures({0: placed[at]})
            token.entry.setdefault("placed", []).append({"name": name, "points": points, **numbers})
        ran.append({"name": name, **figures(placed)})
    return ran, left_out
