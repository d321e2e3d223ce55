"""What a cache belongs to: everything that its bytes follow from, known without the teacher's weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensekd.artefacts import fingerprint
from sensekd.training.cache.layout import Layout
from sensekd.training.cache.observe import forward_rows
from sensekd.training.digests import digest
from sensekd.training.placement import variant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sensekd.config import Recipe
    from sensekd.provenance import TeacherIdentity
    from sensekd.training.assembly import Cut
    from sensekd.training.data import TokenBlocks
    from sensekd.training.supervision import SenseSupervision
    from sensekd.training.trunk import Trunk


@dataclass(frozen=True)
class CacheRequest:
    """Where caches stand and whose they are.

    Attributes:
        root: a folder; every cache has one of its own in it, by what it was made from.
        identity: of the teacher.
        device: kind of device that the teacher computes on.
    """

    root: Path
    identity: TeacherIdentity
    device: str

    def made_from(self, recipe: Recipe, blocks: TokenBlocks, senses: SenseSupervision | None) -> dict[str, Any]:
        """Everything that the bytes of a cache follow from."""
        cache, loss, student, training = recipe.cache, recipe.loss, recipe.student, recipe.training
        found: dict[str, Any] = {
            "teacher": self.identity.compared(),
            "computed": {"dtype": recipe.teacher.dtype + variant(recipe.teacher), "device": self.device},
            "tokens": blocks.documents.manifest.id,
            "block_length": blocks.length,
            "packing": blocks.packing,
            "supervise": blocks.supervise,
            "tau": loss.tau if loss.alpha > 0 else None,
            "stored": {"top": cache.top, "codec": cache.codec, "log_probs": cache.log_probs}
            if loss.alpha > 0
            else None,
            "states": loss.mu > 0,
            "rows": forward_rows(cache.batch_size or training.batch_size, blocks.length),
            "threads": training.threads,
            "chunked": loss.chunked,
            "vocabulary": student.vocabulary,
            # Where nothing of the student stands in the cache, students of any shape may share it.
            "student": None,
        }
        if cache.trunk or student.selection == "importance":
            found["student"] = student.model_dump(mode="json")
        sense = dict.fromkeys(("dictionary", "relations", "kappa", "push"))
        if senses is not None and loss.lam > 0:
            table = senses.table
            lists = (
                tensor for each in (table.own, table.positive, table.negative) for tensor in (each.indptr, each.ids)
            )
            sense = {
                "dictionary": digest(table.row_blocks()),
                "relations": digest(chain(lists, (senses.starts_word, senses.ends_word))),
                "kappa": loss.kappa,
                "push": loss.push,
            }
        return found | sense

    def folder(self, made_from: Mapping[str, Any]) -> Path:
        """Where the cache of this making stands."""
        return self.root / fingerprint(made_from)


def layout_of(recipe: Recipe, cut: Cut, trunk: Trunk, senses: SenseSupervision | None, length: int) -> Layout:
    """How a cache lays out its records.

    Args:
        recipe: of this arm.
        cut: the student, whose source is the teacher's weights.
        trunk: what is run of it.
        senses: table and word edges.
        length: T.
    """
    cache, loss = recipe.cache, recipe.loss
    vocabulary = cut.vocabulary or int(cut.source.get_output_embeddings().weight.shape[0])
    width = int(cut.source.config.hidden_size)
    kappa = longest = 0
    if senses is not None and loss.lam > 0:
        table, kappa = senses.table, loss.kappa
        longest = max(int(lists.counts.max()) for lists in (table.own, table.positive, table.negative))
    top = vocabulary if cache.top == "all" else min(cache.top, vocabulary)
    return Layout(
        vocabulary=vocabulary,
        top=top if loss.alpha > 0 else 0,
        codec=cache.codec,
        logs=cache.log_probs,
        kappa=kappa,
        longest=longest,
        relative=kappa > 0 and loss.push == "relative",
        width=width if loss.mu > 0 else 0,
        trunk=(length, width) if cache.trunk and trunk.layers else None,
        dtype=str(cut.source.dtype).removeprefix("torch."),
    )
