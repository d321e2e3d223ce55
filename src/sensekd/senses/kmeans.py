"""K-means for many small problems at once, on inner products alone.

Each token is a problem of its own: n points, k clusters. With G = X Xᵀ everything that k-means++ and Lloyd need can
be had without X: |x_i - x_j|² = G_ii + G_jj - 2 G_ij, and a centroid's inner products are means of columns of G. So the
wide states are read once, whatever the number of iterations and restarts. Where points far outnumber dimensions,
G would be the larger of the two, and the same steps run on X.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from sensekd.senses.sample import hash_pair, uniform

# Two equal points are apart by rounding only; below this share of the largest squared norm a distance is 0.
_ZERO: Final = 1e-6


class Geometry(Protocol):
    """What k-means asks of b problems of n points (b, n, k, c as in the shapes below)."""

    norms: Tensor  # [b, n] squared norms

    def inner(self, index: Tensor) -> Tensor:
        """Inner products of the points `index` [b, c] with all points: [b, c, n]."""

    def project(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """For the centroids `shares` X ([b, k, n]): inner products with all points [b, k, n], squared norms [b, k]."""


class Gram:
    """Geometry on G = X Xᵀ."""

    def __init__(self, points: Tensor) -> None:
        self._gram = points @ points.mT
        self.norms = self._gram.diagonal(dim1=1, dim2=2).contiguous()

    def inner(self, index: Tensor) -> Tensor:
        """[b, c, n]."""
        return self._gram[torch.arange(len(index), device=index.device)[:, None], index]

    def project(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """[b, k, n] and [b, k]."""
        products = shares @ self._gram
        return products, (shares * products).sum(2)


class Plain:
    """Geometry on X itself."""

    def __init__(self, points: Tensor) -> None:
        self._points = points
        self.norms = (points * points).sum(-1)

    def inner(self, index: Tensor) -> Tensor:
        """[b, c, n]."""
        chosen = self._points[torch.arange(len(index), device=index.device)[:, None], index]
        return chosen @ self._points.mT

    def project(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """[b, k, n] and [b, k]."""
        centroids = shares @ self._points
        return centroids @ self._points.mT, (centroids * centroids).sum(-1)


@dataclass(frozen=True)
class Problems:
    """b problems padded to n points (with any of their own).

    Attributes:
        geometry: the inner products.
        valid: [b, n] bool, the real points.
        clusters: k, the same for all.
        tokens: [b] int64, the token of each problem; random draws depend on it and not on the batch.
    """

    geometry: Geometry
    valid: Tensor
    clusters: int
    tokens: Tensor


@dataclass(frozen=True)
class Partition:
    """The answer: labels [b, n] (0 on padding), distances [b, n] to the own centroid (squared), inertia [b]."""

    labels: Tensor
    distances: Tensor
    inertia: Tensor


def _seed_centres(problems: Problems, seed: int, restart: int) -> Tensor:
    """k-means++ with 2 + log k candidates for each centre, of which the best stays (greedy); [b, k] indices."""
    geometry, valid, tokens = problems.geometry, problems.valid, problems.tokens
    clusters, last = problems.clusters, valid.sum(1, keepdim=True) - 1
    trials = 2 + int(math.log(clusters))
    floor = _ZERO * geometry.norms.amax(1)[:, None, None]

    def squared(index: Tensor) -> Tensor:
        own = geometry.norms.gather(1, index)[..., None]
        distance = own + geometry.norms[:, None] - 2 * geometry.inner(index)
        return torch.where(valid[:, None] & (distance > floor), distance, 0.0)

    counter = (restart << 32) + torch.arange(1 + (clusters - 1) * trials, device=tokens.device)
    draws = uniform(hash_pair(seed, tokens[:, None], counter[None]))
    chosen = (draws[:, :1] * (last + 1)).to(torch.int64)
    centres = [chosen]
    closest = squared(chosen)[:, 0]
    for number in range(1, clusters):
        mass = closest.to(torch.float64).cumsum(1)
        target = draws[:, 1 + (number - 1) * trials : 1 + number * trials] * mass[:, -1:]
        candidates = torch.minimum(torch.searchsorted(mass, target, right=True), last)
        remaining = torch.minimum(closest[:, None], squared(candidates))
        best = remaining.sum(-1).argmin(1, keepdim=True)
        centres.append(candidates.gather(1, best))
        closest = remaining.gather(1, best[..., None].expand(-1, -1, remaining.shape[-1]))[:, 0]
    return torch.cat(centres, 1)


def _own_distance(norms: Tensor, products: Tensor, squares: Tensor, labels: Tensor) -> Tensor:
    own = products.gather(1, labels[:, None])[:, 0]
    return (norms - 2 * own + squares.gather(1, labels)).clamp_min(0)


def _members(labels: Tensor, valid: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """One-hot members [b, k, n] and their counts [b, k]."""
    members = torch.zeros(len(labels), clusters, labels.shape[1], device=labels.device)
    members.scatter_(1, labels[:, None], valid[:, None].to(members.dtype))
    return members, members.sum(2)


def _refill(labels: Tensor, empty: Tensor, distances: Tensor) -> Tensor:
    """Give the e-th empty cluster of a problem the point that is e-th farthest from its own centroid."""
    farthest = distances.argsort(dim=1, descending=True, stable=True)
    problem, cluster = empty.nonzero(as_tuple=True)
    rank = (empty.cumsum(1) - 1)[problem, cluster]
    labels = labels.clone()
    labels[problem, farthest[problem, rank]] = cluster
    return labels


def _lloyd(problems: Problems, centres: Tensor, iterations: int) -> Partition:
    geometry, valid = problems.geometry, problems.valid
    clusters = centres.shape[1]
    norms = geometry.norms

    def nearest(products: Tensor, squares: Tensor) -> Tensor:
        # Clusters stand on the middle axis, where `min` is much faster than `argmin`.
        return (squares[..., None] - 2 * products).min(1).indices.masked_fill_(~valid, 0)

    products, squares = geometry.inner(centres), norms.gather(1, centres)
    labels = nearest(products, squares)
    for _ in range(iterations):
        members, counts = _members(labels, valid, clusters)
        empty = counts == 0
        if bool(empty.any()):
            distances = _own_distance(norms, products, squares, labels).masked_fill(~valid, -1)
            labels = _refill(labels, empty, distances)
            members, counts = _members(labels, valid, clusters)
        products, squares = geometry.project(members / counts.clamp_min(1)[..., None])
        moved = nearest(products, squares)
        if torch.equal(moved, labels):
            break
        labels = moved
    else:
        members, counts = _members(labels, valid, clusters)
        products, squares = geometry.project(members / counts.clamp_min(1)[..., None])
    distances = _own_distance(norms, products, squares, labels).masked_fill(~valid, 0)
    return Partition(labels, distances, distances.sum(1))


def kmeans(problems: Problems, seed: int, restarts: int, iterations: int) -> Partition:
    """The best of `restarts` runs of k-means++ and Lloyd for every problem.

    A run ends when no label moves, or after `iterations`. A cluster that falls empty takes the farthest point. The
    answer for a token depends on (seed, token) and its points, never on the problems beside it.
    """
    best: Partition | None = None
    for restart in range(restarts):
        found = _lloyd(problems, _seed_centres(problems, seed, restart), iterations)
        if best is None:
            best = found
            continue
        better = found.inertia < best.inertia
        best = Partition(
            torch.where(better[:, None], found.labels, best.labels),
            torch.where(better[:, None], found.distances, best.distances),
            torch.where(better, found.inertia, best.inertia),
        )
    assert best is not None
    return best
