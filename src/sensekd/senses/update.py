"""Growing a dictionary: which tokens a larger sample changes, a dictionary with only those clustered anew, and what
became of the senses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.senses.cluster import cluster, sigma2
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.sample import StateSample

if TYPE_CHECKING:
    from sensekd.config import SensesConfig

# In units of σ²: a sense further than this from where it was is another one; within this it has not moved.
SAME: Final = 1.0
STILL: Final = 0.1
_ELEMENTS: Final = 1 << 24


def changed_tokens(old: StateSample, new: StateSample) -> NDArray[np.bool_]:
    """[U] of the new sample: which tokens have other occurrences in it than in the old one."""
    place = np.searchsorted(old.tokens, new.tokens)
    known = place < len(old.tokens)
    known[known] = old.tokens[place[known]] == new.tokens[known]
    before = np.zeros(len(new.tokens), dtype=np.int64)
    before[known] = old.counts[place[known]]
    changed = np.asarray(before != new.counts, dtype=np.bool_)
    # Rows of the tokens that have as many as before, side by side.
    alike = np.flatnonzero(~changed)
    counts = new.counts[alike]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    ours = np.repeat(old.indptr[place[alike]], counts) + within
    theirs = np.repeat(new.indptr[alike], counts) + within
    other = (old.document[ours] != new.document[theirs]) | (old.position[ours] != new.position[theirs])
    changed[np.repeat(alike, counts)[other]] = True
    return changed


def only(sample: StateSample, chosen: NDArray[np.bool_]) -> StateSample:
    """The sample of some of its tokens, [U] bool; the states are copied."""
    rows = np.repeat(chosen, sample.counts)
    return replace(
        sample,
        tokens=sample.tokens[chosen],
        indptr=np.concatenate([[0], np.cumsum(sample.counts[chosen])]).astype(np.int64),
        states=sample.states.index_select(0, torch.from_numpy(np.flatnonzero(rows))),
        priority=sample.priority[rows],
        document=sample.document[rows],
        position=sample.position[rows],
        context=sample.context[rows],
    )


def recluster(
    old: SenseDictionary,
    sample: StateSample,
    changed: NDArray[np.bool_],
    config: SensesConfig,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> SenseDictionary:
    """`cluster(sample)`, with the rows of unchanged tokens copied: a token's senses depend on its own states alone.

    Args:
        old: clustered with the same settings from a sample that has the same rows for the unchanged tokens.
        sample: the new one.
        changed: [U] which tokens of the sample are clustered.
        config: as of `cluster`.
        device: as of `cluster`.
        progress: as of `cluster`.
    """
    if old.centroids.dtype != torch.float32 or not changed.any() or _nearly_all(sample, changed):
        # Rows of less precision than they were clustered in cannot stand for those that would be clustered now.
        return cluster(sample, config, device, progress)
    part = cluster(only(sample, changed), config, device, progress)
    fresh = torch.zeros(old.vocabulary, dtype=torch.bool)
    fresh[torch.from_numpy(sample.tokens[changed])] = True
    counts = torch.where(fresh, part.indptr.diff(), old.indptr.diff())
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    within = torch.arange(int(indptr[-1])) - torch.repeat_interleave(indptr[:-1], counts)
    first = torch.where(fresh, part.indptr[:-1] + len(old), old.indptr[:-1])
    rows = torch.repeat_interleave(first, counts) + within

    def spliced(name: str) -> Tensor:
        return torch.cat([getattr(old, name), getattr(part, name)])[rows]

    variance = sigma2(sample)
    measured = {
        "senses": len(rows),
        "sigma2_measured": variance.value,
        "sigma2_tokens": variance.tokens,
        "sigma2_samples": variance.minimum,
    }
    return replace(
        part,
        indptr=indptr,
        centroids=spliced("centroids"),
        support=spliced("support"),
        spread=spliced("spread"),
        context=spliced("context"),
        sigma2=variance.value if config.units == "sigma" else 1.0,
        corpus=sample.corpus,
        facts={**part.facts, **sample.facts, **measured},
    )


def _nearly_all(sample: StateSample, changed: NDArray[np.bool_]) -> bool:
    return bool(sample.counts[changed].sum() > 0.9 * len(sample))


@dataclass(frozen=True)
class TokenChange:
    """What became of the senses of one token; senses are numbered from 0 within their token.

    Attributes:
        token: its id.
        first: it had no senses before.
        new: senses (of the new dictionary) that no old one is near to.
        moved: [old, new, squared distance in σ²].
        split: [old, new]: a sense near to an old one that has a nearer successor.
        retired: old senses without a successor.
    """

    token: int
    first: bool
    new: list[int]
    moved: list[list[float]]
    split: list[list[int]]
    retired: list[int]

    def as_dict(self) -> dict[str, Any]:
        """The entry of the report."""
        return asdict(self)


def _padded(dictionary: SenseDictionary, tokens: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Centroids [n, size, D] of some tokens, and which of them are real [n, size]."""
    start, count = dictionary.indptr[tokens], dictionary.indptr[tokens + 1] - dictionary.indptr[tokens]
    place = torch.arange(size)
    rows = (start[:, None] + place).clamp_max(max(0, len(dictionary) - 1))
    wide = dictionary.centroids.shape[1]
    return dictionary.take(rows.flatten()).view(*rows.shape, wide), place < count[:, None]


def _distances(old: SenseDictionary, new: SenseDictionary, tokens: Tensor) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Each token with its squared distances per dimension, [k_old, k_new], in units of the new σ²."""
    width = new.centroids.shape[1]
    unit = width * float(new.facts.get("sigma2_measured", new.sigma2))
    sizes = [int(d.indptr.diff()[tokens].max()) if len(tokens) else 0 for d in (old, new)]
    step = max(1, _ELEMENTS // (width * max(1, sum(sizes))))
    for batch in torch.split(tokens, step):
        (ours, here), (theirs, there) = _padded(old, batch, sizes[0]), _padded(new, batch, sizes[1])
        mode = "donot_use_mm_for_euclid_dist"
        far = (torch.cdist(ours, theirs, compute_mode=mode).double().square() / unit).numpy()
        for token, each, k, m in zip(batch.tolist(), far, here.sum(1).tolist(), there.sum(1).tolist(), strict=True):
            yield token, each[:k, :m]


def _change(token: int, far: NDArray[np.float64]) -> TokenChange:
    old, new = far.shape
    if not old or not new:
        return TokenChange(token, not old, list(range(new)), [], [], list(range(old)))
    to_new, to_old = far.argmin(1), far.argmin(0)
    pairs = [(i, int(j)) for i, j in enumerate(to_new) if to_old[j] == i and far[i, j] <= SAME]
    heirs, taken = {i for i, _ in pairs}, {j for _, j in pairs}
    loose = [j for j in range(new) if j not in taken]
    split = [[int(to_old[j]), j] for j in loose if far[to_old[j], j] <= SAME and int(to_old[j]) in heirs]
    apart = {j for _, j in split}
    moved = [[i, j, round(float(far[i, j]), 4)] for i, j in pairs if far[i, j] > STILL]
    fresh = [j for j in loose if j not in apart]
    return TokenChange(token, False, fresh, moved, split, [i for i in range(old) if i not in heirs])


def changes(old: SenseDictionary, new: SenseDictionary) -> list[TokenChange]:
    """What became of every token's senses.

    An old and a new sense of a token are the same where each is the other's nearest, at no more than 1 σ² (squared
    distance per dimension); it has `moved` where they are more than 0.1 σ² apart. A new sense without a partner is a
    `split` where its nearest old sense has a partner and lies within 1 σ², and `new` otherwise. An old sense without
    a partner is `retired`.

    Args:
        old: before.
        new: after, of the same teacher.

    Returns:
        Tokens with any change, ascending.
    """
    before, after = old.indptr.diff(), new.indptr.diff()
    tokens = ((before > 0) | (after > 0)).nonzero()[:, 0]
    equal = before[tokens] == after[tokens]
    same = tokens[equal]
    # Rows that were copied need no matching.
    rows = torch.repeat_interleave(same, after[same])
    within = torch.arange(len(rows)) - torch.repeat_interleave(after[same].cumsum(0) - after[same], after[same])
    differs = torch.zeros(old.vocabulary, dtype=torch.bool)
    differs[tokens[~equal]] = True
    for piece in torch.split(torch.arange(len(rows)), max(1, _ELEMENTS // max(1, new.centroids.shape[1]))):
        ours = old.take(old.indptr[rows[piece]] + within[piece])
        theirs = new.take(new.indptr[rows[piece]] + within[piece])
        differs[rows[piece][(ours != theirs).any(1)]] = True
    found = (_change(token, far) for token, far in _distances(old, new, differs.nonzero()[:, 0]))
    return [change for change in found if change.new or change.moved or change.split or change.retired]
