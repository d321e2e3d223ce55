"""How many senses a token has: the number of clusters after which its states look no more clustered than a Gaussian.

k-means explains variance in any cloud of points. What speaks for senses is what it explains beyond a cloud without
any: for a Gaussian of the same covariance with the same number of points. This is a gap statistic (Tibshirani, Walther
and Hastie 2001) with a single Gaussian as its reference and explained variance, not its logarithm, as its measure, so
that the coarse division of a token counts most:

    gap(k) = (1 - W_k / W_1) - mean over references of (1 - W*_k / W*_1)      W_k: inertia with k clusters
    k_v    = the smallest k with gap(k) >= SHARE · max gap, if max gap > FLOOR / sqrt(n), and 1 otherwise

A reference R X / sqrt(n), R of independent normal numbers, has the covariance of X, and its distances follow from those
of X: no wide state is read again. The centres of k-means++ are nested, so one seeding serves every k.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from sensekd.senses.kmeans import Geometry, Partition, Problems, lloyd, seed_centres

# Chosen on the miniature world's gold senses and on blobs and Gaussians (docs/senses-clustering.md).
SHARE: Final = 0.85
FLOOR: Final = 0.6
REFERENCES: Final = 2
STEPS: Final = 3


@lru_cache(maxsize=4)
def _normal(seed: int, reference: int, rows: int, columns: int) -> Tensor:
    # The same for every token of this padded size: what is drawn must not depend on the batch.
    generator = torch.Generator().manual_seed((seed * 1_000_003 + reference) & ((1 << 63) - 1))
    return torch.randn(rows, columns, generator=generator)


def _explained(geometry: Geometry, valid: Tensor, centres: Tensor) -> Tensor:
    """Share of the variance that 1 … k clusters explain after a few steps of Lloyd, [b, k]; all k side by side.

    Args:
        geometry: b problems.
        valid: [b, n].
        centres: [b, k] indices of points; the first j of them start the run of j clusters.
    """
    most = centres.shape[1]
    runs = [slice(number * (number + 1) // 2, (number + 1) * (number + 2) // 2) for number in range(most)]
    first = torch.tensor([run.start for run in runs], device=valid.device)[:, None]
    seeds = torch.cat([centres[:, : number + 1] for number in range(most)], 1)
    distances = geometry.between(seeds)
    padding = ~valid[:, None]
    for _ in range(STEPS):
        label = torch.stack([distances[:, run].min(1).indices for run in runs], 1)
        members = torch.zeros_like(distances).scatter_(1, label + first, 1).masked_fill_(padding, 0)
        held = members.sum(2, keepdim=True)
        distances = geometry.to_centroids(members.div_(held.clamp_min(1)))
        distances.masked_fill_(held == 0, torch.inf)
    nearest = torch.stack([distances[:, run].amin(1) for run in runs], 1)
    inertia = nearest.clamp_min_(0).masked_fill_(padding, 0).sum(2)
    return 1 - inertia / inertia[:, :1].clamp_min(torch.finfo(inertia.dtype).tiny)


def gaps(problems: Problems, centres: Tensor, seed: int) -> Tensor:
    """Variance explained beyond that of Gaussians of the same covariance.

    Args:
        problems: b problems.
        centres: [b, k] their nested k-means++ centres.
        seed: of the references.

    Returns:
        [b, k] for 1 … k clusters.
    """
    explained = _explained(problems.geometry, problems.valid, centres)
    for number in range(REFERENCES):
        noise = _normal(seed, number, *problems.geometry.noise_shape).to(centres.device)
        reference = replace(problems, geometry=problems.geometry.gaussian(noise, problems.valid))
        starts = seed_centres(reference, seed, 1)[:, 0]
        explained = explained - _explained(reference.geometry, problems.valid, starts) / REFERENCES
    return explained


def choose(gap: Tensor, points: Tensor) -> Tensor:
    """[b] the number of clusters by the gaps [b, k] for 1 … k; `points` [b] says how many points stand behind them."""
    best = gap.amax(1, keepdim=True)
    first = (gap >= SHARE * best).to(torch.int8).argmax(1) + 1
    return torch.where(best[:, 0] > FLOOR / points.sqrt(), first, 1)


def adaptive_kmeans(problems: Problems, seed: int, restarts: int, iterations: int) -> Partition:
    """Partitions of 1 to `problems.clusters` clusters each, as many as the points of a token speak for.

    The number is chosen from the first restart; then Lloyd runs to its end from the first k_v centres of every restart.
    """
    centres = seed_centres(problems, seed, restarts)
    valid, chosen = problems.valid, torch.ones_like(problems.tokens)
    if problems.clusters > 1:
        chosen = choose(gaps(problems, centres[:, 0], seed), valid.sum(1))
    labels = torch.full(valid.shape, -1, device=valid.device)
    distances, inertia = torch.zeros(valid.shape, device=valid.device), torch.zeros(len(valid), device=valid.device)
    for count in sorted(set(chosen.tolist())):
        at = (chosen == count).nonzero()[:, 0]
        part = Problems(problems.geometry.take(at), valid[at], count, problems.tokens[at])
        found = lloyd(part, centres[at, :, :count], iterations)
        labels[at], distances[at], inertia[at] = found.labels, found.distances, found.inertia
    return Partition(labels, distances, inertia)
