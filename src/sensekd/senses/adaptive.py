"""How many senses a token has: the number of clusters after which its states look no more clustered than a Gaussian.

k-means explains variance in any cloud of points. What speaks for senses is what it explains beyond a cloud without
any: for a Gaussian of the same covariance with the same number of points. This is a gap statistic (Tibshirani, Walther
and Hastie 2001) with a single Gaussian as its reference and explained variance, not its logarithm, as its measure, so
that the coarse division of a token counts most:

    gap(k) = (1 - W_k / W_1) - mean over references of (1 - W*_k / W*_1)      W_k: inertia with k clusters
    k_v    = the smallest k with gap(k) >= SHARE · max gap, if max gap > FLOOR, and 1 otherwise

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
SHARE: Final = 0.8
FLOOR: Final = 0.04
REFERENCES: Final = 2


@lru_cache(maxsize=4)
def _normal(seed: int, reference: int, rows: int, columns: int) -> Tensor:
    # The same for every token of this padded size: what is drawn must not depend on the batch.
    generator = torch.Generator().manual_seed((seed * 1_000_003 + reference) & ((1 << 63) - 1))
    return torch.randn(rows, columns, generator=generator)


def _path(problems: Problems, seed: int, restarts: int, iterations: int) -> tuple[Tensor, list[Partition]]:
    """Explained variance for 1 … k clusters, [b, k], and the partitions."""
    centres = seed_centres(problems, seed, restarts)
    counts = range(1, problems.clusters + 1)
    found = [lloyd(problems, centres[:, :, :count].contiguous(), iterations) for count in counts]
    inertia = torch.stack([partition.inertia for partition in found], 1)
    return 1 - inertia / inertia[:, :1].clamp_min(torch.finfo(inertia.dtype).tiny), found


def gap(problems: Problems, seed: int, restarts: int, iterations: int) -> tuple[Tensor, list[Partition]]:
    """Explained variance beyond that of Gaussians of the same covariance.

    Returns:
        [b, k] the gap for 1 … `problems.clusters` clusters, and the partitions of the points themselves.
    """
    explained, found = _path(problems, seed, restarts, iterations)
    for number in range(REFERENCES):
        geometry: Geometry = problems.geometry
        noise = _normal(seed, number, *geometry.noise_shape)
        reference = replace(problems, geometry=geometry.gaussian(noise.to(problems.valid.device), problems.valid))
        explained = explained - _path(reference, seed, restarts, iterations)[0] / REFERENCES
    return explained, found


def choose(gaps: Tensor) -> Tensor:
    """[b] the number of clusters by the gaps [b, k] for 1 … k."""
    best = gaps.amax(1, keepdim=True)
    first = (gaps >= SHARE * best).to(torch.int8).argmax(1) + 1
    return torch.where(best[:, 0] > FLOOR, first, 1)


def adaptive_kmeans(problems: Problems, seed: int, restarts: int, iterations: int) -> Partition:
    """Partitions of 1 to `problems.clusters` clusters each, as many as the points of a token speak for."""
    if problems.clusters == 1:
        return _path(problems, seed, 1, iterations)[1][0]
    gaps, found = gap(problems, seed, restarts, iterations)
    chosen = choose(gaps) - 1
    at = torch.arange(len(chosen), device=chosen.device)
    parts = [torch.stack([getattr(part, name) for part in found])[chosen, at] for name in ("labels", "distances")]
    return Partition(parts[0], parts[1], torch.stack([part.inertia for part in found])[chosen, at])
