"""What is wrong with a sense: nothing stands behind it, it stands twice, or it is one sentence and no meaning.

The limits were set by looking at two dictionaries (a miniature world made of templates, and children's stories): they
point at rows for a person to judge, and nothing is dropped because of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import combinations
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sensekd.senses.dictionary import SenseDictionary

DUPLICATE: Final = 0.5
TEMPLATE: Final = 0.75
LAST: Final = 12
_FEWEST: Final = 4


def dead(support: int, minimum: int, contexts: int) -> str | None:
    """Why a sense is dead, or None: fewer samples than the minimum support, or no nearest sample on record.

    Args:
        support: samples of the sense.
        minimum: minimum support of the build.
        contexts: how many of its nearest samples have a context on record.
    """
    if support < minimum:
        return f"{support} sample{'' if support == 1 else 's'}, the minimum is {minimum}"
    return None if contexts else "no sample lies near it"


def duplicates(rows: Tensor, spread: Tensor, support: Tensor) -> list[tuple[int, float] | None]:
    """For each sense the nearest other sense of its token, where the two are one by this rule.

    Two senses are duplicates if their centroids are nearer to each other than half (`DUPLICATE`) the mean squared
    distance of the samples of both to their own centroid: a sample then says little about which of the two it is of.

    Args:
        rows: [k, D] centroids of one token.
        spread: [k] mean squared distance of the samples per dimension.
        support: [k] numbers of samples.

    Returns:
        For each sense None, or the other's place and the distance as a share of that mean.
    """
    if len(rows) < 2:
        return [None] * len(rows)
    wide, weight = spread.double(), support.double()
    total = weight * wide
    # Not by inner products: what is looked for here is the smallest distances.
    exact = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distance = exact.square() / rows.shape[1]
    mean = (total[:, None] + total) / (weight[:, None] + weight)
    # Equal centroids are duplicates however narrow they are.
    share = torch.where(distance > 0, distance / mean, 0.0)
    share.fill_diagonal_(torch.inf)
    nearest = share.min(1)
    pairs = zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
    return [(place, value) if value < DUPLICATE else None for place, value in pairs]


def agreement(contexts: Sequence[Sequence[int]]) -> float | None:
    """How alike the contexts of a sense are, 0 to 1: the least alike pair, by matching runs of their last 12 tokens.

    None where fewer than two have at least four tokens. From `TEMPLATE` (0.75) on the sense is one of a template
    sentence: what its samples share is the wording, and not only what the word means.

    Args:
        contexts: token ids of the left contexts of the nearest samples.
    """
    ends = [list(ids[-LAST:]) for ids in contexts if len(ids) >= _FEWEST]
    if len(ends) < 2:
        return None
    return min(SequenceMatcher(None, one, other, autojunk=False).ratio() for one, other in combinations(ends, 2))


def contexts_of(dictionary: SenseDictionary, row: int) -> list[list[int]]:
    """Token ids of the left contexts of a row's nearest samples, without padding; none of them is empty."""
    found = [[token for token in ids if token >= 0] for ids in dictionary.context[row].tolist()]
    return [ids for ids in found if ids]


def flags_of(dictionary: SenseDictionary, token: int) -> list[dict[str, str]]:
    """Flags of every sense of a token, in the order of its rows: `dead`, `duplicate`, `template` -> why.

    Raises:
        InputError: no such token.
    """
    start, stop = dictionary.span(token)
    minimum = int(dictionary.settings.get("minimum_support", 1))
    twins = duplicates(dictionary.rows(token), dictionary.spread[start:stop], dictionary.support[start:stop])
    found = []
    for row, twin in zip(range(start, stop), twins, strict=True):
        contexts = contexts_of(dictionary, row)
        flags: dict[str, str] = {}
        if why := dead(int(dictionary.support[row]), minimum, len(contexts)):
            flags["dead"] = why
        if twin is not None:
            flags["duplicate"] = f"of sense {twin[0] + 1}, {twin[1]:.3f} of their spread away"
        alike = agreement(contexts)
        if alike is not None and alike >= TEMPLATE:
            flags["template"] = f"the contexts are alike to {alike:.0%}"
        found.append(flags)
    return found
