"""A training may read the cache of one whose loss looks at more: row ids and distances are what it leaves unread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sensekd.errors import InputError
from sensekd.training.cache.identity import CacheRequest
from sensekd.training.cache.store import TeacherCache

if TYPE_CHECKING:
    from collections.abc import Mapping

# What of an identity only row ids follow from; all of it is None where there are none.
_ROW_IDS: Final = ("dictionary", "relations", "kappa", "push")
# Named only where distances are stored, which are never stored without row ids.
_DISTANCES: Final = "reach"


def _served(made_from: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a cache serves besides what it was made for: identities of those that read less of its records."""
    found = [{name: value for name, value in made_from.items() if name != _DISTANCES}]
    return [*found, found[0] | dict.fromkeys(_ROW_IDS)]


def serving(request: CacheRequest) -> CacheRequest:
    """A complete cache in the same folder of caches that holds what is asked for and more; else the request.

    More is distances, and row ids where none are asked for. One that was begun for the request itself comes first, so
    that a training that goes on reads what it read before. The records of both hold the same bytes but for what is
    left unread, and train the same weights.

    Args:
        request: by `request_cache`.
    """
    own = request.folder
    if own.exists() or not own.parent.is_dir() or _DISTANCES in request.made_from:
        return request
    for folder in sorted(path for path in own.parent.iterdir() if TeacherCache.is_complete(path)):
        try:
            made_from = TeacherCache.open(folder).made_from
        except InputError:
            continue  # Damaged: whoever it belongs to says so, or writes it again.
        if dict(request.made_from) in _served(made_from):
            return CacheRequest(folder, made_from)
    return request
