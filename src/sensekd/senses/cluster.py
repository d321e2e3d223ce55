"""From a sample of states to senses: σ², the number of clusters of each token, and the dictionary's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.errors import InputError
from sensekd.senses.adaptive import adaptive_kmeans
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.kmeans import Gram, Partition, Plain, Problems, kmeans
from sensekd.senses.sample import StateSample

if TYPE_CHECKING:
    from sensekd.config import SensesConfig

NEAREST: Final = 3
VARIANCE_SAMPLES: Final = 20
# Bytes of temporaries: on a CPU a batch should stay in the processor's cache, on a GPU it should fill the device.
MEMORY: Final = {"cpu": 16 << 20, "cuda": 1 << 30}
# Elements of a run of rows that is hashed at once.
_RUN: Final = 1 << 17
_PADDING: Final = 16
_LANES: Final = 8
_ODD: Final = 0x2545F4914F6CDD1D


@dataclass(frozen=True)
class Variance:
    """σ², over how many tokens, and how many samples each of them had at least."""

    value: float
    tokens: int
    minimum: int


@dataclass(frozen=True)
class _Batch:
    """The states of b tokens, each padded to n by its last sample.

    Attributes:
        index: [b] the places of the tokens in `sample.tokens`.
        rows: [b, n] int64 the sample's rows, on the CPU.
        real: [b, n] bool, on the CPU; `valid` is the same on the device.
        valid: [b, n] bool.
        points: [b, n, D] float32, less `mean`.
        mean: [b, D] float32, of the token's states (to rounding; what is exact is that it was taken from the points).
    """

    index: NDArray[np.int64]
    rows: Tensor
    real: Tensor
    valid: Tensor
    points: Tensor
    mean: Tensor

    def deviation(self) -> NDArray[np.float64]:
        """[b] Σ_i |h_i - mean|² of each token, summed in float64."""
        norms = torch.linalg.vector_norm(self.points, dim=-1).to(torch.float64).square_().mul_(self.valid)
        found = norms.sum(1)
        # States that differ by rounding alone do not differ.
        level = self.valid.sum(1) * torch.linalg.vector_norm(self.mean, dim=-1).to(torch.float64).square_() + found
        return np.asarray(found.mul_(found > 1e-12 * level).cpu())


def _batch(sample: StateSample, index: NDArray[np.int64], size: int, device: str) -> _Batch:
    counts = torch.from_numpy(sample.counts[index])
    place = torch.arange(size)
    rows = torch.from_numpy(sample.indptr[index])[:, None] + torch.minimum(place, counts[:, None] - 1)
    points = sample.states.index_select(0, rows.flatten()).view(len(index), size, -1)
    points = points.to(device=device, dtype=torch.float32)
    real = place < counts[:, None]
    valid = real.to(device)
    # Distances do not change, but about the mean their differences of inner products lose least.
    mean = (valid / counts.to(device)[:, None])[:, None] @ points
    return _Batch(index, rows, real, valid, points.sub_(mean), mean[:, 0])


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


def sigma2(sample: StateSample) -> Variance:
    """The unit of squared distance: pooled within-token variance of the states, per dimension.

    Σ_v Σ_i |h_i - mean_v|² / (D · Σ_v (n_v - 1)) over the tokens with n_v >= 20; the distances in float32 about each
    token's mean, their sums in float64. Where no token has 20 samples, over those with two, and `minimum` says so.

    Raises:
        InputError: no token has two samples, or all states of each token are equal.
    """
    counts, width = sample.counts, sample.states.shape[1]
    deviation = np.zeros(len(counts))
    with torch.no_grad():
        for index, size in _batches(counts, np.ones_like(counts), MEMORY["cpu"], lambda size, _: 8 * size * width):
            deviation[index] = _batch(sample, index, size, "cpu").deviation()
    return _pooled(counts, deviation, width)


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
    # Equal (group, lanes) give equal keys; a collision of others costs one comparison more.
    key = _row_hash(sample.states, min(_LANES, sample.states.shape[1])).numpy() ^ (group * _ODD)
    order = np.argsort(key)
    same = key[order][1:] == key[order][:-1]
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
    counts: NDArray[np.int64], clusters: NDArray[np.int64], memory: int, need: Callable[[int, int], int]
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Tokens with equal k_v and about the same number of samples, and the number of samples they are padded to.

    Both follow from the token itself, so its inner products have the same shape, and the same bits, in any batch. As
    many tokens go into a batch as `memory` bytes hold of what one of them needs, and one at least.

    Args:
        counts, clusters: [U].
        memory: bytes.
        need: bytes of temporaries of a token, from its padded number of samples and its k_v.
    """
    padded = -(-counts // _PADDING) * _PADDING
    kinds, kind = np.unique(np.stack([padded, clusters]), axis=1, return_inverse=True)
    order = np.argsort(kind, kind="stable")
    for (size, k), alike in zip(kinds.T.tolist(), np.split(order, np.cumsum(np.bincount(kind))[:-1]), strict=True):
        step = max(1, memory // need(size, k))
        for start in range(0, len(alike), step):
            yield alike[start : start + step], size


def _need(config: SensesConfig, width: int, size: int, clusters: int) -> int:
    """Bytes of temporaries of one token: points as stored and centred, distances, one-hot clusters and the like."""
    square = size * size if size <= 2 * width else 0
    rows, squares = clusters * config.restarts, 5
    if config.k == "adaptive":
        rows, squares = max(rows, clusters * (clusters + 1) // 2), 20
    return 8 * size * width + squares * square + 16 * rows * size + 4 * clusters * width


class _Found:
    """What clustering finds, batch by batch.

    Attributes:
        label: [N] the sense of each sample, counted within its token: by support descending, then by the first member.
        distances: [N] float32, squared, to the centroid.
        senses: [U] k_v.
        deviation: [U].
    """

    def __init__(self, sample: StateSample) -> None:
        self.label = np.zeros(len(sample), dtype=np.int64)
        self.distances = np.zeros(len(sample), dtype=np.float32)
        self.senses = np.zeros(len(sample.tokens), dtype=np.int64)
        self.deviation = np.zeros(len(sample.tokens))
        self._blocks: list[tuple[NDArray[np.int64], Tensor]] = []

    def put(self, batch: _Batch, partition: Partition, clusters: int) -> None:
        """Number the clusters of every token of a batch, and keep its centroids: the mean, and the mean offset."""
        members = partition.labels[:, None] == torch.arange(clusters, device=batch.valid.device)[:, None]
        support = members.sum(2)
        size = members.shape[2]
        first = torch.where(members, torch.arange(size, device=members.device), size).amin(2)
        # A cluster without members, where there are fewer places than clusters, comes last and is left out.
        order = (support * (size + 1) - first).argsort(dim=1, descending=True, stable=True)
        shares = members.to(torch.float32).div_(support.clamp_min(1)[..., None])
        shares = shares.gather(1, order[..., None].expand_as(shares))
        centroids = (shares @ batch.points).add_(batch.mean[:, None])
        used = support.gather(1, order) > 0
        rows = batch.rows[batch.real].numpy()
        label = order.argsort(1).gather(1, partition.labels.clamp_min(0)).cpu()
        self.label[rows] = label[batch.real].numpy()
        self.distances[rows] = partition.distances.cpu()[batch.real].numpy()
        self.senses[batch.index] = used.sum(1).cpu().numpy()
        self.deviation[batch.index] = batch.deviation()
        self._blocks.append((batch.index, centroids[used].cpu()))

    def centroids(self) -> Tensor:
        """[R, D] all centroids, token by token; can be had once, so that they are never held twice."""
        base = np.cumsum(self.senses) - self.senses
        out = torch.empty(int(self.senses.sum()), self._blocks[0][1].shape[1])
        while self._blocks:
            index, block = self._blocks.pop()
            counts = self.senses[index]
            within = np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)
            out[torch.from_numpy(np.repeat(base[index], counts) + within)] = block
        return out


def _nearest(row: NDArray[np.int64], distances: NDArray[np.float32], support: NDArray[np.int64]) -> NDArray[np.int64]:
    """[R, 3] the samples nearest to each centroid, -1 where there are fewer."""
    # Bits of floats that are not negative stand in the order of their values.
    key = (row << 32) | np.abs(distances).view(np.int32)
    by_distance = np.argsort(key, kind="stable")
    at = (np.cumsum(support) - support)[:, None] + np.arange(NEAREST)
    nearest = by_distance[np.minimum(at, len(by_distance) - 1)]
    return np.where(np.arange(NEAREST) < support[:, None], nearest, -1)


def _assemble(sample: StateSample, found: _Found, config: SensesConfig) -> SenseDictionary:
    width = sample.states.shape[1]
    variance = _pooled(sample.counts, found.deviation, width)
    row = found.label + np.repeat(np.cumsum(found.senses) - found.senses, sample.counts)
    support = np.bincount(row, minlength=int(found.senses.sum()))
    spread = np.bincount(row, weights=found.distances) / (support * width)
    per_token = np.zeros(sample.identity.vocabulary, dtype=np.int64)
    per_token[sample.tokens] = found.senses
    nearest = _nearest(row, found.distances, support)
    context = sample.context[np.maximum(nearest, 0)]
    names = ["k", "minimum_support", "restarts", "iterations", "units"]
    names += ["k_max"] if config.k == "adaptive" else []
    settings: dict[str, Any] = {**sample.settings, **{name: getattr(config, name) for name in names}}
    settings["cluster_seed"] = config.seed
    centroids = found.centroids()
    return SenseDictionary(
        indptr=torch.from_numpy(np.concatenate([[0], np.cumsum(per_token)])),
        centroids=centroids,
        support=torch.from_numpy(support.astype(np.int32)),
        spread=torch.from_numpy(spread.astype(np.float32)),
        context=torch.from_numpy(np.where(nearest[..., None] >= 0, context, np.int32(-1))),
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


def _partition(batch: _Batch, tokens: NDArray[np.int64], clusters: int, config: SensesConfig) -> Partition:
    size, width = batch.points.shape[1:]
    geometry = Gram(batch.points) if size <= 2 * width else Plain(batch.points)
    owners = torch.from_numpy(tokens[batch.index]).to(batch.valid.device)
    run = adaptive_kmeans if config.k == "adaptive" else kmeans
    return run(Problems(geometry, batch.valid, clusters, owners), config.seed, config.restarts, config.iterations)


def cluster(
    sample: StateSample,
    config: SensesConfig,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> SenseDictionary:
    """K-means over each token's states; the centroids are its senses (DSKD, arXiv 2602.22351, sense inventory).

    k_v = min(K, distinct states / minimum support), at least 1; with `k: adaptive` that is the most, K being `k_max`,
    and the states of each token decide (`sensekd.senses.adaptive`). The rows of a token are sorted by support, largest
    first, then by their first member. All is done in float32 about each token's mean; a centroid is that mean and the
    mean offset of its members. Batches hold tokens of about the same number of samples; `config.memory` bounds the
    bytes of their temporaries (one token may need more) and changes time, not results.

    Args:
        sample: the states.
        config: K, minimum support, restarts, iterations, units, seed, memory.
        device: where the clustering happens; the dictionary is on the CPU.
        progress: called with (tokens done, tokens in all).

    Raises:
        InputError: an empty sample, or one without any variance.
    """
    if not len(sample):
        raise InputError("the sample holds no state", "at least one", "build it from a larger corpus")
    most = config.k_max if config.k == "adaptive" else config.k
    clusters = np.minimum(most, np.maximum(1, distinct_states(sample) // config.minimum_support))
    found = _Found(sample)
    memory = config.memory or MEMORY["cuda" if device.startswith("cuda") else "cpu"]
    done = 0
    with torch.no_grad():
        for index, size in _batches(sample.counts, clusters, memory, partial(_need, config, sample.states.shape[1])):
            batch = _batch(sample, index, size, device)
            k = int(clusters[index[0]])
            found.put(batch, _partition(batch, sample.tokens, k, config), k)
            done += len(index)
            if progress is not None:
                progress(done, len(sample.tokens))
        return _assemble(sample, found, config)
