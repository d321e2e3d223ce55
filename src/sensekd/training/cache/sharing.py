"""A training whose loss has no senses may read the cache of one that has: row ids are all that it leaves unread."""

from __future__ import annotations

from typing import Final

from sensekd.errors import InputError
from sensekd.training.cache.identity import CacheRequest
from sensekd.training.cache.store import TeacherCache

# What of an identity only row ids follow from; all of it is None where there are none.
_ROW_IDS: Final = ("dictionary", "relations", "kappa", "push")


def serving(request: CacheRequest) -> CacheRequest:
    """A complete cache in the same folder of caches that holds what is asked for and row ids besides; else the request.

    One that was begun for the request itself comes first, so that a training that goes on reads what it read before.
    The records of both hold the same bytes but for the row ids, and train the same weights.

    Args:
        request: by `request_cache`.
    """
    own = request.folder
    if own.exists() or not own.parent.is_dir() or any(request.made_from[name] is not None for name in _ROW_IDS):
        return request
    for folder in sorted(path for path in own.parent.iterdir() if TeacherCache.is_complete(path)):
        try:
            made_from = TeacherCache.open(folder).made_from
        except InputError:
            continue  # Damaged: whoever it belongs to says so, or writes it again.
        if {**made_from, **dict.fromkeys(_ROW_IDS)} == request.made_from:
            return CacheRequest(folder, made_from)
    return request
