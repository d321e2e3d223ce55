"""What a cache belongs to: everything that its bytes follow from, known without the teacher's weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from sensekd.artefacts import fingerprint
from sensekd.errors import InputError
from sensekd.training.cache.layout import Layout
from sensekd.training.cache.observe import forward_rows
from sensekd.training.cache.residual import SAMPLE
from sensekd.training.cache.store import TeacherCache
from sensekd.training.digests import digest
from sensekd.training.placement import variant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sensekd.config import Recipe
    from sensekd.provenance import TeacherIdentity
    from sensekd.training.assembly import Cut
    from sensekd.training.data import TokenBlocks
    from sensekd.training.supervision import SenseSupervision
    from sensekd.training.trunk import Trunk


@dataclass(frozen=True)
class CacheRequest:
    """One cache: where it stands or is to stand, and what it belongs to.

    Attributes:
        folder: its own, named by what it was made from.
        made_from: everything that its bytes follow from.
    """

    folder: Path
    made_from: Mapping[str, Any]

    @property
    def complete(self) -> bool:
        """Whether it was written to its end."""
        return TeacherCache.is_complete(self.folder)


def request_cache(
    root: Path,
    teacher: tuple[TeacherIdentity, str],
    recipe: Recipe,
    blocks: TokenBlocks,
    senses: SenseSupervision | None,
) -> CacheRequest:
    """The cache that a training of this recipe reads.

    Args:
        root: a folder of caches.
        teacher: its identity, and the kind of device that it computes on.
        recipe: of this arm.
        blocks: training data.
        senses: table and word edges, where the loss has senses.
    """
    cache, loss, student, training = recipe.cache, recipe.loss, recipe.student, recipe.training
    stored = {"top": cache.top, "codec": cache.codec, "log_probs": cache.log_probs}
    # Where nothing of the student stands in the cache, students of any shape share it.
    shaped = cache.trunk or student.selection == "importance"
    made_from: dict[str, Any] = {
        "teacher": teacher[0].compared(),
        "computed": {"dtype": recipe.teacher.dtype + variant(recipe.teacher), "device": teacher[1]},
        "tokens": blocks.documents.manifest.id,
        "block_length": blocks.length,
        "packing": blocks.packing,
        "supervise": blocks.supervise,
        "tau": loss.tau if loss.alpha > 0 else None,
        "stored": stored if loss.alpha > 0 else None,
        "states": {"residual": cache.residual, "sample": SAMPLE} if _coded(recipe) else loss.mu > 0,
        "rows": forward_rows(cache.batch_size or training.batch_size, blocks.length),
        "threads": training.threads,
        "chunked": loss.chunked,
        "vocabulary": student.vocabulary,
        "student": student.model_dump(mode="json") if shaped else None,
        **_senses_of(recipe, senses),
    }
    if unit := _reach_unit(recipe, senses):
        made_from["reach"] = {"unit": unit, "codec": cache.codec, "log_probs": cache.log_probs}
    return CacheRequest(root / fingerprint(made_from), made_from)


def _coded(recipe: Recipe) -> bool:
    """Whether last states are stored as a sense and a code."""
    return recipe.loss.mu > 0 and recipe.cache.residual is not None


def _reach_unit(recipe: Recipe, senses: SenseSupervision | None) -> float:
    """What stored distances are divided by; 0 where the loss does not look at them.

    The power of two next to σ²: numbers about 1, which suit half precision, and no rounding in single precision.
    """
    if senses is None or recipe.loss.lam == 0 or recipe.loss.pull != "teacher":
        return 0.0
    return 2.0 ** round(math.log2(senses.table.sigma2))


def _senses_of(recipe: Recipe, senses: SenseSupervision | None) -> dict[str, Any]:
    names = ("dictionary", "relations", "kappa", "push")
    if senses is None or not (recipe.loss.lam or _coded(recipe)):
        return dict.fromkeys(names)
    table = senses.table
    if not recipe.loss.lam:
        # Codes look at own senses alone.
        return dict.fromkeys(names) | {
            "dictionary": digest(table.row_blocks()),
            "relations": digest([table.own.indptr, table.own.ids]),
        }
    lists = (tensor for each in (table.own, table.positive, table.negative) for tensor in (each.indptr, each.ids))
    relations = digest(chain(lists, (senses.starts_word, senses.ends_word)))
    return dict(zip(names, (digest(table.row_blocks()), relations, recipe.loss.kappa, recipe.loss.push), strict=True))


def layout_of(recipe: Recipe, cut: Cut, trunk: Trunk, senses: SenseSupervision | None, length: int) -> Layout:
    """How a cache lays out its records.

    Args:
        recipe: of this arm.
        cut: the student, whose source is the teacher's weights.
        trunk: what is run of it.
        senses: table and word edges.
        length: T.

    Raises:
        InputError: more bytes for a state than it has dimensions.
    """
    cache, loss = recipe.cache, recipe.loss
    vocabulary = cut.vocabulary or int(cut.source.get_output_embeddings().weight.shape[0])
    width = int(cut.source.config.hidden_size)
    kappa = longest = 0
    if senses is not None and loss.lam > 0:
        table, kappa = senses.table, loss.kappa
        longest = max(int(lists.counts.max()) for lists in (table.own, table.positive, table.negative))
    residual = own = 0
    if senses is not None and _coded(recipe):
        residual, own = cache.residual or 0, int(senses.table.own.counts.max())
    if residual > width:
        raise InputError(
            f"cache.residual is {residual}, but the teacher's states have {width} dimensions",
            f"1 to {width} bytes", "lower cache.residual",
        )  # fmt: skip
    top = vocabulary if cache.top == "all" else min(cache.top, vocabulary)
    return Layout(
        vocabulary=vocabulary,
        top=top if loss.alpha > 0 else 0,
        codec=cache.codec,
        logs=cache.log_probs,
        kappa=kappa,
        longest=longest,
        relative=kappa > 0 and loss.compares_own,
        width=width if loss.mu > 0 else 0,
        trunk=(length, width) if cache.trunk and trunk.layers else None,
        dtype=str(cut.source.dtype).removeprefix("torch."),
        residual=residual,
        own=own,
        reach=_reach_unit(recipe, senses),
    )
