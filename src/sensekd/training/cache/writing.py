"""From a teacher and a recipe to a feed: a cache that is complete, is written now, or fills while a student trains."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sensekd.training.assembly import cut_student, make_apprentice
from sensekd.training.cache.feed import TeacherFeed
from sensekd.training.cache.identity import CacheRequest, layout_of
from sensekd.training.cache.observe import Observer
from sensekd.training.cache.store import TeacherCache
from sensekd.training.data import collate
from sensekd.training.heads import plan_heads
from sensekd.training.packing import refuse_mixing
from sensekd.training.threads import threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sensekd.config import Recipe
    from sensekd.training.assembly import Cut
    from sensekd.training.data import TokenBlocks
    from sensekd.training.supervision import SenseSupervision
    from sensekd.training.trunk import Trunk

Progress = Callable[[int, int], None]

# Seconds between two looks at what other processes have written.
_PATIENCE: Final = 0.2


def _processes() -> tuple[int, int]:
    """This process among those that a launcher has started together: (number, count)."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _facts(recipe: Recipe, cut: Cut, trunk: Trunk) -> dict[str, Any]:
    """What a training without the teacher cannot find out by itself."""
    found: dict[str, Any] = {}
    if recipe.cache.trunk or recipe.student.selection == "importance":
        found = {"layers": list(cut.layers), "shared_layers": trunk.layers, "trunk_reason": trunk.reason}
    if cut.importance is not None:
        found |= {"importance": list(cut.importance), "importance_tokens": cut.importance_tokens}
    return found


def make_feed(
    teacher: PreTrainedModel,
    cut: Cut,
    trunk: Trunk,
    recipe: Recipe,
    blocks: TokenBlocks,
    senses: SenseSupervision | None,
    request: CacheRequest,
) -> TeacherFeed:
    """The feed of a training that has its teacher at hand; nothing is written yet.

    Args:
        teacher: as `load_teacher` gives it.
        cut: the student.
        trunk: what is run of it.
        recipe: of this arm.
        blocks: training data, numbered.
        senses: table and word edges, where the loss has senses.
        request: by `request_cache`.

    Raises:
        InputError: a cache that belongs to something else stands in the way.
    """
    folder, made_from = request.folder, request.made_from
    layout = layout_of(recipe, cut, trunk, senses, blocks.length)
    cache = TeacherCache.begin(folder, layout, made_from, _facts(recipe, cut, trunk), blocks)
    if TeacherCache.is_complete(folder):
        return TeacherFeed(TeacherCache.open(folder, made_from), blocks)
    heads, _ = plan_heads(teacher, None, recipe.loss, cut.vocabulary)
    observer = Observer(
        teacher=teacher,
        layout=layout,
        tau=recipe.loss.tau,
        rows=made_from["rows"],
        head=None if heads is None else heads.student,
        trunk=trunk.layers if layout.trunk else 0,
        senses=None if senses is None else senses.to(teacher.device),
        elements=recipe.loss.chunk_elements,
    )
    return TeacherFeed(cache, blocks, _with_code(observer, cache, blocks))


def _with_code(observer: Observer, cache: TeacherCache, blocks: TokenBlocks) -> Observer:
    """The observer with codebooks, where the cache has codes: the first process makes them, the others wait."""
    if not cache.layout.residual:
        return observer
    if not cache.codebooks.is_file() and _processes()[0] == 0:
        observer.fit_code(blocks, int(cache.starts[-1])).save(cache.codebooks)
    while not cache.codebooks.is_file():
        time.sleep(_PATIENCE)
    return replace(observer, code=cache.code.to(observer.teacher.device))


def complete(feed: TeacherFeed, progress: Progress | None = None) -> TeacherFeed:
    """Write every block that is missing, this process its share of them, and wait for the others' shares.

    Args:
        feed: by `make_feed`.
        progress: called with (blocks that stand, blocks).

    Raises:
        SenseKDError: a state of the teacher is not finite.
    """
    observer, cache, blocks = feed.observer, feed.cache, feed.blocks
    if observer is None:
        return feed
    rank, world = _processes()
    mine = [block for block in cache.missing() if block // observer.rows % world == rank]
    for low in range(0, len(mine), observer.rows):
        numbers = mine[low : low + observer.rows]
        cache.write(numbers, *observer.observe(collate([blocks[number] for number in numbers]), blocks, numbers))
        if progress is not None:
            progress(cache.done, len(cache))
    while cache.done < len(cache):
        time.sleep(_PATIENCE)
    return seal(feed)


def seal(feed: TeacherFeed) -> TeacherFeed:
    """The feed of a cache that was written to its end: its manifest stands, and no teacher is needed any more."""
    if feed.observer is None or feed.cache.done < len(feed.cache):
        return feed
    if _processes()[0] == 0 and not TeacherCache.is_complete(feed.cache.folder):
        feed.cache.seal()
    while not TeacherCache.is_complete(feed.cache.folder):
        time.sleep(_PATIENCE)
    return replace(feed, cache=TeacherCache.open(feed.cache.folder, feed.cache.made_from), observer=None)


def write_cache(
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    blocks: TokenBlocks,
    senses: SenseSupervision | None,
    request: CacheRequest,
    progress: Progress | None = None,
) -> TeacherCache:
    """Write a cache in one pass, or go on with one that was begun; the arguments are those of `make_feed`.

    Raises:
        InputError: the recipe does not fit the teacher or the data.
        SenseKDError: a state of the teacher is not finite.
    """
    cut = cut_student(teacher, tokenizer, recipe, blocks)
    refuse_mixing(blocks, teacher, cut.student)
    apprentice = make_apprentice(cut, teacher, recipe)
    feed = make_feed(teacher, cut, apprentice.trunk, recipe, blocks, senses, request)
    with threads(recipe.training.threads):
        return complete(feed, progress).cache
