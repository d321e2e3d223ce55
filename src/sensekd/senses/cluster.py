"""From a sample of states to senses: σ², the number of clusters of each token, and the dictionary's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.errors import InputError
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.kmeans import Gram, Plain, Problems, kmeans
from sensekd.senses.sample import StateSample

if TYPE_CHECKING:
    from sensekd.config import SensesConfig

NEAREST: Final = 3
VARIANCE_SAMPLES: Final = 20
# Elements of the inner products (or of the points) of one batch, and of a run of states in float64: both should stay
# in the processor's cache.
_BUDGET: Final = 650_000
_RUN: Final = 1 << 17
_PADDING: Final = 8
_LANES: Final = 8


@dataclass(frozen=True)
class Variance:
    """σ², over how many tokens, and how many samples each of them had at least."""

    value: float
    tokens: int
    minimum: int


@dataclass(frozen=True)
class _Moments:
    """Float64 sums over a run of tokens: `tokens` and `groups` say which; sums [groups, D], Σ|h|² per token."""

    tokens: slice
    groups: slice
    sums: Tensor
    squares: NDArray[np.float64]


def _moments(sample: StateSample, group: NDArray[np.int64], groups: NDArray[np.int64]) -> Iterator[_Moments]:
    """Sum the states of every group, a run of tokens at a time.

    Args:
        sample: the states.
        group: [N] the group of each state; groups are numbered token by token.
        groups: [U + 1]; the groups of token u are `groups[u]:groups[u + 1]`.
    """
    starts = sample.indptr
    rows = max(1, _RUN // sample.states.shape[1])
    first = 0
    while first < len(sample.tokens):
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + rows, side="right")) - 1)
        here = slice(int(starts[first]), int(starts[last]))
        exact = sample.states[here].to(torch.float64)
        index = torch.from_numpy(group[here] - groups[first])
        members = torch.zeros(int(groups[last] - groups[first]), len(exact), dtype=torch.float64)
        members[index, torch.arange(len(exact))] = 1
        sums = members @ exact
        squares = np.add.reduceat(exact.square_().sum(1).numpy(), starts[first:last] - starts[first])
        yield _Moments(slice(first, last), slice(int(groups[first]), int(groups[last])), sums, squares)
        first = last


def _pooled(counts: NDArray[np.int64], deviation: NDArray[np.float64], width: int) -> Variance:
    """σ² from each token's Σ_i |h_i - mean_v|²."""
    minimum = VARIANCE_SAMPLES if (counts >= VARIANCE_SAMPLES).any() else 2
    chosen = counts >= minimum
    degrees = int((counts[chosen] - 1).sum())
    value = float(deviation[chosen].sum()) / (width * degrees) if degrees else 0.0
    if not value > 0:
        raise InputError(
            f"σ² cannot be had: {int(counts.sum())} samples of {len(counts)} tokens, "
            f"{int((counts >= 2).sum())} tokens with two or more, variance {value}",
            "tokens with several different states",
            "build the sample from a larger corpus",
        )
    return Variance(value, int(chosen.sum()), minimum)


def _deviation(squares: NDArray[np.float64], sums: Tensor, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    # A difference of squares is safe: float64 has nine digits more than the states. What is below them is rounding.
    result = squares - sums.square().sum(1).numpy() / counts
    return np.where(result > 1e-12 * squares, result, 0.0)


def sigma2(sample: StateSample) -> Variance:
    """The unit of squared distance: pooled within-token variance of the states, per dimension.

    Σ_v Σ_i |h_i - mean_v|² / (D · Σ_v (n_v - 1)) over the tokens with n_v >= 20, in float64. Where no token has 20
    samples, over those with two, and `minimum` says so.

    Raises:
        InputError: no token has two samples, or all states of each token are equal.
    """
    counts, number = sample.counts, np.arange(len(sample.tokens) + 1)
    deviation = np.zeros(len(counts))
    for part in _moments(sample, np.repeat(number[:-1], counts), number):
        deviation[part.tokens] = _deviation(part.squares, part.sums, counts[part.tokens])
    return _pooled(counts, deviation, sample.states.shape[1])


def _row_hash(states: Tensor, columns: int) -> Tensor:
    wide = {4: torch.int32, 2: torch.int16}[states.element_size()]
    lanes = states[:, :columns].contiguous().view(wide).to(torch.int64)
    weights = torch.from_numpy(np.random.default_rng(0).integers(-(1 << 62), 1 << 62, columns)) * 2 + 1
    return (lanes * weights).sum(1)


def distinct_states(sample: StateSample) -> NDArray[np.int64]:
    """[U] how many different states each token has, bit by bit.

    A few leading dimensions tell nearly all states apart; only where those agree is the whole row compared (by hash).
    """
    if not len(sample):
        return np.zeros(0, dtype=np.int64)
    group = np.repeat(np.arange(len(sample.tokens)), sample.counts)
    leading = _row_hash(sample.states, min(_LANES, sample.states.shape[1])).numpy()
    order = np.lexsort((leading, group))
    same = (group[order][1:] == group[order][:-1]) & (leading[order][1:] == leading[order][:-1])
    suspect = np.zeros(len(sample), dtype=bool)
    suspect[order[1:][same]] = suspect[order[:-1][same]] = True
    at = np.flatnonzero(suspect)
    repeated = np.zeros(len(sample.tokens), dtype=np.int64)
    if len(at):
        # Whole tokens do not matter here: equal rows have equal leading dimensions, so all candidates are in `at`.
        pieces = torch.split(torch.from_numpy(at), max(1, _RUN // sample.states.shape[1]))
        whole = torch.cat([_row_hash(sample.states[piece], sample.states.shape[1]) for piece in pieces]).numpy()
        pairs = np.unique(np.stack([group[at], whole]), axis=1)
        repeated = np.bincount(group[at], minlength=len(repeated)) - np.bincount(pairs[0], minlength=len(repeated))
    return np.asarray(sample.counts - repeated, dtype=np.int64)


def _batches(
    counts: NDArray[np.int64], clusters: NDArray[np.int64], width: int, budget: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Tokens with equal k_v and about the same number of samples, and the number of samples they are padded to.

    Both follow from the token itself, so its inner products have the same shape, and the same bits, in any batch.
    """
    padded = -(-counts // _PADDING) * _PADDING
    kinds, kind = np.unique(np.stack([padded, clusters]), axis=1, return_inverse=True)
    order = np.argsort(kind, kind="stable")
    for size, alike in zip(kinds[0], np.split(order, np.cumsum(np.bincount(kind))[:-1]), strict=True):
        step = max(1, budget // int(size * min(size, width)))
        for start in range(0, len(alike), step):
            yield alike[start : start + step], int(size)


def _label_batch(
    sample: StateSample,
    index: NDArray[np.int64],
    size: int,
    clusters: int,
    config: SensesConfig,
    device: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Cluster the tokens `index` of one batch (places in `sample.tokens`), each padded to `size` by its last sample.

    Returns:
        For every sample of these tokens: its row in the sample, its label, its squared distance to the centroid.
    """
    counts = torch.from_numpy(sample.counts[index])
    place = torch.arange(size)
    rows = torch.from_numpy(sample.indptr[index])[:, None] + torch.minimum(place, counts[:, None] - 1)
    points = sample.states.index_select(0, rows.flatten()).view(len(index), size, -1)
    points = points.to(device=device, dtype=torch.float32)
    real = place < counts[:, None]
    valid = real.to(device)
    # Distances do not change, but about the mean their differences of inner products lose least.
    points.sub_((valid / counts.to(device)[:, None])[:, None] @ points)
    geometry = Gram(points) if size <= 2 * points.shape[-1] else Plain(points)
    problems = Problems(geometry, valid, clusters, torch.from_numpy(sample.tokens[index]).to(device))
    found = kmeans(problems, config.seed, config.restarts, config.iterations)
    return rows[real].numpy(), found.labels.cpu()[real].numpy(), found.distances.cpu()[real].numpy()


@dataclass(frozen=True)
class _Senses:
    """Which sample belongs to which row of the dictionary.

    Attributes:
        row: [N] the row of each sample; rows are numbered token by token, by support descending.
        owner: [R] the place of each row's token in `sample.tokens`.
        support: [R].
        nearest: [R, 3] the samples nearest to the centroid, -1 where there are fewer.
    """

    row: NDArray[np.int64]
    owner: NDArray[np.int64]
    support: NDArray[np.int64]
    nearest: NDArray[np.int64]


def _number_rows(sample: StateSample, labels: NDArray[np.int64], distances: NDArray[np.float32]) -> _Senses:
    token = np.repeat(np.arange(len(sample.tokens)), sample.counts)
    # Samples stand by ascending priority, so the first index of a cluster is its member of the smallest priority.
    _, first, cluster, support = np.unique(
        token * (labels.max() + 1) + labels, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -support, token[first]))
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    row = number[cluster]
    by_distance = np.lexsort((distances, row))
    support = support[order]
    at = (np.cumsum(support) - support)[:, None] + np.arange(NEAREST)
    nearest = by_distance[np.minimum(at, len(row) - 1)]
    nearest = np.where(np.arange(NEAREST) < support[:, None], nearest, -1)
    return _Senses(row, token[first][order], support, nearest)


def _assemble(
    sample: StateSample, senses: _Senses, distances: NDArray[np.float32], config: SensesConfig
) -> SenseDictionary:
    counts, width = sample.counts, sample.states.shape[1]
    groups = np.concatenate([[0], np.cumsum(np.bincount(senses.owner, minlength=len(counts)))])
    centroids = torch.empty(len(senses.owner), width)
    for part in _moments(sample, senses.row, groups):
        centroids[part.groups] = (part.sums / torch.from_numpy(senses.support[part.groups])[:, None]).to(torch.float32)
    # Of the sample alone, to the last bit: a dictionary that was updated has clustered only a part of it.
    variance = sigma2(sample)
    per_token = np.zeros(sample.identity.vocabulary, dtype=np.int64)
    per_token[sample.tokens] = np.diff(groups)
    context = sample.context[np.maximum(senses.nearest, 0)]
    spread = np.bincount(senses.row, weights=distances) / (senses.support * width)
    names = ("k", "minimum_support", "restarts", "iterations", "units")
    settings: dict[str, Any] = {**sample.settings, **{name: getattr(config, name) for name in names}}
    settings["cluster_seed"] = config.seed
    return SenseDictionary(
        indptr=torch.from_numpy(np.concatenate([[0], np.cumsum(per_token)])),
        centroids=centroids,
        support=torch.from_numpy(senses.support.astype(np.int32)),
        spread=torch.from_numpy(spread.astype(np.float32)),
        context=torch.from_numpy(np.where(senses.nearest[..., None] >= 0, context, np.int32(-1))),
        sigma2=variance.value if config.units == "sigma" else 1.0,
        identity=sample.identity,
        corpus=sample.corpus,
        settings=settings,
        facts={
            **sample.facts,
            "senses": len(centroids),
            "sigma2_measured": variance.value,
            "sigma2_tokens": variance.tokens,
            "sigma2_samples": variance.minimum,
        },
    )


def cluster(
    sample: StateSample,
    config: SensesConfig,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    *,
    budget: int = _BUDGET,
) -> SenseDictionary:
    """K-means over each token's states; the centroids are its senses (DSKD, arXiv 2602.22351, sense inventory).

    k_v = min(K, distinct states / minimum support), at least 1. The rows of a token are sorted by support, largest
    first, then by their first member. Clustering is done in float32 about each token's mean, centroids are summed in
    float64. Batches hold tokens of about the same number of samples; `budget` bounds their size (elements of the inner
    products) and changes time, not results.

    Args:
        sample: the states.
        config: K, minimum support, restarts, iterations, units, seed.
        device: where the clustering happens; the dictionary is on the CPU.
        progress: called with (tokens done, tokens in all).
        budget: see above.

    Raises:
        InputError: an empty sample, or one without any variance.
    """
    if not len(sample):
        raise InputError("the sample holds no state", "at least one", "build it from a larger corpus")
    clusters = np.minimum(config.k, np.maximum(1, distinct_states(sample) // config.minimum_support))
    labels, distances = np.zeros(len(sample), dtype=np.int64), np.zeros(len(sample), dtype=np.float32)
    done = 0
    with torch.no_grad():
        for index, size in _batches(sample.counts, clusters, sample.states.shape[1], budget):
            rows, found, far = _label_batch(sample, index, size, int(clusters[index[0]]), config, device)
            labels[rows], distances[rows] = found, far
            done += len(index)
            if progress is not None:
                progress(done, len(sample.tokens))
        return _assemble(sample, _number_rows(sample, labels, distances), distances, config)
