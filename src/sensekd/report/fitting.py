"""How much of an explorer fits on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sensekd.report.text import data_json, shown

# A page stays below 6 MB, markup around the explorer included.
LIMIT: Final = 5_900_000
# Markup of the explorer around its data: the list of models, notes, the field for the word.
_AROUND: Final = 20_000


def fit(tree: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """The explorer with its first words alone, as many as fit.

    Args:
        tree: what `sensekd.report.explorer.explore` found.
        budget: bytes that it may take on the page.
    """
    left = budget - _AROUND - _size({**tree, "words": []})
    kept = []
    for word in tree["words"]:
        left -= _size(word) + 1
        if left < 0:
            break
        kept.append(word)
    return {**tree, "words": kept}


def _size(tree: Mapping[str, Any]) -> int:
    return len(data_json(shown(tree)).encode())


def explorer_part(tree: Mapping[str, Any], name: str, left_out: int) -> dict[str, Any]:
    """What the markup around an explorer says.

    Args:
        tree: the explorer as it stands on the page.
        name: the id of its data.
        left_out: words that did not fit.
    """
    return {
        "id": name,
        "words": len(tree["words"]),
        "available": tree["available"],
        "cut": left_out,
        "rule": tree["rule"],
        "units": tree["units"],
        "sample": tree["sample"],
        "models": tree["models"],
        "left_out": tree["left_out"],
        "contexts": max((model["contexts"] for model in tree["models"]), default=0),
        "length": tree["length"],
        "placed_words": tree["placed_words"],
    }
