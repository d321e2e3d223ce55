"""K-means for many small problems at once, on the distances between points alone.

Each token is a problem of its own: n points, k clusters. All that k-means++ and Lloyd need follows from the squared
distances s_ij = |x_i - x_j|², one matrix product a token: for a cluster C with the mean c,

    mean over j in C of s_ij = |x_i - c|² + v_C      v_C = mean over i in C of |x_i - c|², half the mean of s in C x C

So the wide states are read once, whatever the number of iterations, restarts and values of k. Where points far
outnumber dimensions, s would be the larger of the two, and the same steps run on X.

Shapes: b problems, n points, r restarts, k clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sensekd.senses.sample import hash_pair, uniform


class Geometry(Protocol):
    """What k-means asks of b problems of n points."""

    def between(self, index: Tensor) -> Tensor:
        """Squared distances of the points `index` [b, c] to all points: [b, c, n], none below 0."""

    def to_centroids(self, shares: Tensor) -> Tensor:
        """Squared distances of all points to the centroids `shares` X ([b, c, n], rows that sum to 1): [b, c, n]."""

    def take(self, chosen: Tensor) -> Geometry:
        """The problems `chosen` alone."""

    @property
    def noise_shape(self) -> tuple[int, int]:
        """What `gaussian` takes."""

    def gaussian(self, noise: Tensor, valid: Tensor) -> Geometry:
        """As many points of a Gaussian with each problem's covariance, made from standard normal `noise`."""


class Gram:
    """Geometry on the squared distances [b, n, n], made from X Xᵀ.

    Args:
        points: [b, n, D] float32; centred points lose least.
    """

    def __init__(self, points: Tensor) -> None:
        self._from_products(points @ points.mT)

    def _from_products(self, products: Tensor) -> None:
        norms = products.diagonal(dim1=1, dim2=2).clone()
        # In place: a second matrix of this size would cost more than the arithmetic.
        squared = torch.sub(norms[:, None], products, alpha=2, out=products)
        self.squared = squared.add_(norms[:, :, None]).clamp_min_(0)

    def between(self, index: Tensor) -> Tensor:
        """[b, c, n]."""
        count, size = len(self.squared), self.squared.shape[1]
        rows = index + size * torch.arange(count, device=index.device)[:, None]
        return self.squared.view(-1, size).index_select(0, rows.flatten()).view(count, -1, size)

    def to_centroids(self, shares: Tensor) -> Tensor:
        """[b, c, n]."""
        mean = shares @ self.squared
        return mean.sub_((shares * mean).sum(2, keepdim=True).mul_(0.5))

    def take(self, chosen: Tensor) -> Gram:
        """The problems `chosen` alone."""
        part = Gram.__new__(Gram)
        part.squared = self.squared[chosen]
        return part

    @property
    def noise_shape(self) -> tuple[int, int]:
        """[n, n]."""
        return self.squared.shape[1], self.squared.shape[2]

    def gaussian(self, noise: Tensor, valid: Tensor) -> Gram:
        """Points R X / sqrt(n), R the `noise`: their inner products are R X Xᵀ Rᵀ / n."""
        weights = valid / valid.sum(1, keepdim=True)
        mean = self.squared @ weights[..., None]
        # Classical scaling: centred inner products from distances.
        products = self.squared - mean - mean.mT + (weights[:, None] @ mean)
        real = valid.to(products.dtype)
        products.mul_(-0.5).mul_(real[:, None]).mul_(real[..., None])
        products = noise @ products @ noise.T
        other = Gram.__new__(Gram)
        other._from_products(products.mul_(weights.amax(1)[:, None, None]))
        return other


class Plain:
    """Geometry on X itself.

    Args:
        points: [b, n, D] float32.
    """

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.norms = torch.linalg.vector_norm(points, dim=-1).square_()

    def between(self, index: Tensor) -> Tensor:
        """[b, c, n]."""
        at = torch.arange(len(index), device=index.device)[:, None]
        squared = self.norms.gather(1, index)[..., None] + self.norms[:, None]
        return torch.baddbmm(squared, self.points[at, index], self.points.mT, alpha=-2).clamp_min_(0)

    def to_centroids(self, shares: Tensor) -> Tensor:
        """[b, c, n]."""
        centroids = shares @ self.points
        squared = (centroids * centroids).sum(-1, keepdim=True) + self.norms[:, None]
        return torch.baddbmm(squared, centroids, self.points.mT, alpha=-2)

    def take(self, chosen: Tensor) -> Plain:
        """The problems `chosen` alone."""
        part = Plain.__new__(Plain)
        part.points, part.norms = self.points[chosen], self.norms[chosen]
        return part

    @property
    def noise_shape(self) -> tuple[int, int]:
        """[n, D]."""
        return self.points.shape[1], self.points.shape[2]

    def gaussian(self, noise: Tensor, valid: Tensor) -> Plain:
        """Points Z C^½, Z the `noise` and C the covariance."""
        shares = (valid / valid.sum(1, keepdim=True))[..., None]
        centred = self.points - (shares * self.points).sum(1, keepdim=True)
        values, vectors = torch.linalg.eigh((shares * centred).mT @ centred)
        return Plain(noise @ (vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT))


@dataclass(frozen=True)
class Problems:
    """b problems padded to n points (with any of their own).

    Attributes:
        geometry: the distances.
        valid: [b, n] bool, the real points; they stand before the padding.
        clusters: k, the same for all.
        tokens: [b] int64, the token of each problem; random draws depend on it and not on the batch.
    """

    geometry: Geometry
    valid: Tensor
    clusters: int
    tokens: Tensor


@dataclass(frozen=True)
class Partition:
    """The answer: labels [b, n] (-1 on padding), distances [b, n] to the own centroid (squared), inertia [b]."""

    labels: Tensor
    distances: Tensor
    inertia: Tensor


def seed_centres(problems: Problems, seed: int, restarts: int) -> Tensor:
    """k-means++ with 2 + log k candidates for each centre, of which the best stays (greedy).

    Returns:
        [b, r, k] int64 indices of points.
    """
    geometry, valid, tokens, clusters = problems.geometry, problems.valid, problems.tokens, problems.clusters
    count, size = valid.shape
    last = (valid.sum(1) - 1)[:, None, None]
    trials = 2 + int(math.log(clusters))
    restart = torch.arange(restarts, device=tokens.device)[:, None] << 32
    counter = restart + torch.arange(1 + (clusters - 1) * trials, device=tokens.device)
    draws = uniform(hash_pair(seed, tokens[:, None, None], counter[None]))
    centre = (draws[..., :1] * (last + 1)).to(torch.int64)
    centres = [centre]
    closest = geometry.between(centre.flatten(1)).mul_(valid[:, None])
    offset = torch.arange(count * restarts, device=tokens.device) * trials
    for number in range(1, clusters):
        mass = closest.cumsum(2, dtype=torch.float64)
        target = draws[..., 1 + (number - 1) * trials : 1 + number * trials] * mass[..., -1:]
        candidates = torch.minimum(torch.searchsorted(mass, target, right=True), last)
        remaining = geometry.between(candidates.flatten(1)).view(count, restarts, trials, size)
        remaining = torch.minimum(remaining, closest[:, :, None], out=remaining)
        best = remaining.sum(3).argmin(2, keepdim=True)
        centres.append(candidates.gather(2, best))
        closest = remaining.view(-1, size).index_select(0, best.flatten() + offset).view(count, restarts, size)
    return torch.cat(centres, 2)


def _refill(labels: Tensor, empty: Tensor, distances: Tensor) -> Tensor:
    """Give the e-th empty cluster of a problem the point that is e-th farthest from its own centroid."""
    farthest = distances.argsort(dim=1, descending=True, stable=True)
    problem, cluster = empty.nonzero(as_tuple=True)
    rank = (empty.cumsum(1) - 1)[problem, cluster]
    labels = labels.clone()
    labels[problem, farthest[problem, rank]] = cluster
    return labels


class _Runs:
    """Lloyd's state for b problems x r restarts, flattened to b·r runs where a problem does not matter."""

    def __init__(self, geometry: Geometry, valid: Tensor, centres: Tensor) -> None:
        count, self.restarts, self.clusters = centres.shape
        self._geometry = geometry
        self._padding = ~valid.repeat_interleave(self.restarts, 0)
        self._numbers = torch.arange(self.clusters, device=valid.device)[:, None]
        self._refilled = torch.zeros(count * self.restarts, dtype=torch.bool, device=valid.device)
        self._distances = self._by_run(geometry.between(centres.flatten(1)))
        self.labels = self._nearest()

    def _by_run(self, distances: Tensor) -> Tensor:
        return distances.view(-1, self.clusters, distances.shape[-1])

    def _nearest(self) -> Tensor:
        # Clusters stand on the middle axis, where `min` is much faster than `argmin`.
        return self._distances.min(1).indices.masked_fill_(self._padding, -1)

    def _own(self) -> Tensor:
        own = self._distances.gather(1, self.labels.clamp_min(0)[:, None])[:, 0]
        return own.clamp_min_(0)

    def _shares(self) -> tuple[Tensor, Tensor]:
        members = (self.labels[:, None] == self._numbers).to(torch.float32)
        counts = members.sum(2, keepdim=True)
        return members.div_(counts.clamp_min(1)), counts[..., 0] == 0

    def measure(self) -> None:
        """Distances to the means of the present clusters; a cluster that is empty takes the farthest point first."""
        shares, empty = self._shares()
        self._refilled = empty.any(1)
        if bool(self._refilled.any()):
            self.labels = _refill(self.labels, empty, self._own().masked_fill(self._padding, -1))
            shares, empty = self._shares()
        size = shares.shape[-1]
        runs = shares.view(-1, self.restarts * self.clusters, size)
        self._distances = self._by_run(self._geometry.to_centroids(runs))
        if bool(self._refilled.any()):
            # Taking the farthest point can empty the cluster that it was alone in.
            self._distances.masked_fill_(empty[..., None], torch.inf)

    def move(self) -> Tensor:
        """Label by the distances measured; [b] whether any label of a problem changed, by a refill included."""
        moved = self._nearest()
        changed = (moved != self.labels).any(1) | self._refilled
        self.labels = moved
        return changed.view(-1, self.restarts).any(1)

    def take(self, chosen: Tensor) -> None:
        """Go on with the problems `chosen` alone."""
        runs = (chosen[:, None] * self.restarts + torch.arange(self.restarts, device=chosen.device)).flatten()
        self._geometry = self._geometry.take(chosen)
        self._padding, self.labels = self._padding[runs], self.labels[runs]

    def result(self) -> tuple[Tensor, Tensor]:
        """Labels and distances to the own centroids, [b, r, n]; of the clusters last measured."""
        own = self._own().masked_fill_(self._padding, 0)
        return self.labels.view(-1, self.restarts, own.shape[1]), own.view(-1, self.restarts, own.shape[1])


def lloyd(problems: Problems, centres: Tensor, iterations: int) -> Partition:
    """Lloyd's iterations from given centres, and the best of the restarts of every problem.

    Problems that have come to rest are set aside as soon as they are half of those at work.

    Args:
        problems: their `clusters` is not read: `centres` says how many there are.
        centres: [b, r, k] indices of points.
        iterations: at most so many.
    """
    runs = _Runs(problems.geometry, problems.valid, centres)
    count, size = problems.valid.shape
    labels = torch.empty(count, centres.shape[1], size, dtype=torch.int64, device=centres.device)
    distances = torch.empty(labels.shape, device=centres.device)
    at_work = torch.arange(count, device=centres.device)
    for iteration in range(iterations + 1):
        runs.measure()
        if iteration == iterations:
            break
        # The labels of a problem at rest do not change any more, so going on does no harm to it.
        changed = runs.move()
        moving = int(changed.sum())
        if moving <= len(at_work) // 2:
            found = runs.result()
            labels[at_work], distances[at_work] = found
            if not moving:
                at_work = at_work[:0]
                break
            chosen = changed.nonzero()[:, 0]
            at_work = at_work[chosen]
            runs.take(chosen)
    if len(at_work):
        labels[at_work], distances[at_work] = runs.result()
    inertia = distances.sum(2)
    best = inertia.argmin(1, keepdim=True)
    pick = best[..., None].expand(-1, -1, size)
    return Partition(labels.gather(1, pick)[:, 0], distances.gather(1, pick)[:, 0], inertia.gather(1, best)[:, 0])


def kmeans(problems: Problems, seed: int, restarts: int, iterations: int) -> Partition:
    """The best of `restarts` runs of k-means++ and Lloyd for every problem.

    A run ends when no label moves, or after `iterations`. A cluster that falls empty takes the farthest point. The
    answer for a token depends on (seed, token) and its points, never on the problems beside it.
    """
    return lloyd(problems, seed_centres(problems, seed, restarts), iterations)
