"""A word's states in two dimensions: the plane of its own states, into which everything else is placed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Plane:
    """Two axes fitted on the states of one token (the view of figure 1 in DSKD, arXiv 2602.22351).

    Attributes:
        origin: [D] float64, the mean of what it was fitted on.
        axes: [2, D] float64, orthonormal; a row of zeros where the states have fewer dimensions.
        unit: length of one unit, sqrt(D σ²): squared distances on the map are shares of d² in units of σ².
        explained: share of the variance of the fitted states that the plane shows, 0 to 1.
    """

    origin: Tensor
    axes: Tensor
    unit: float
    explained: float

    def place(self, rows: Tensor) -> list[list[float]]:
        """Coordinates of rows [n, D], rounded to thousandths of a unit."""
        at = (rows.double() - self.origin) @ self.axes.T / self.unit
        # Adding 0.0 turns -0.0 into 0.0.
        return [[round(x, 3) + 0.0, round(y, 3) + 0.0] for x, y in at.tolist()]


def fit_plane(states: Tensor, sigma2: float) -> Plane:
    """Principal plane of states, by the eigenvectors of their inner products.

    Args:
        states: [n, D], n at least 1.
        sigma2: σ², the unit of squared distance per dimension.

    Returns:
        The plane. Its signs are fixed: the component of each axis with the largest magnitude is positive.
    """
    rows = states.double()
    origin = rows.mean(0)
    centred = rows - origin
    count, width = rows.shape
    wide = count < width
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    axes = torch.zeros(2, width, dtype=torch.float64)
    # Below this a direction is rounding and no variance.
    least = float(values[-1].clamp(min=0)) * 1e-10
    for place, column in enumerate(range(len(values) - 1, max(len(values) - 3, -1), -1)):
        if float(values[column]) <= least:
            continue
        axis = centred.T @ vectors[:, column] if wide else vectors[:, column]
        axis = axis / axis.norm()
        axes[place] = axis * axis[axis.abs().argmax()].sign()
    total = float(values.clamp(min=0).sum())
    seen = float((centred @ axes.T).square().sum())
    return Plane(origin, axes, (width * sigma2) ** 0.5, min(1.0, seen / total) if total > 0 else 1.0)


def nearest(states: Tensor, rows: Tensor, sigma2: float) -> tuple[Tensor, Tensor]:
    """The nearest row to each state and its d², ties by row.

    Args:
        states: [n, D].
        rows: [k, D].
        sigma2: σ².

    Returns:
        [n] int64 and [n] float64.
    """
    distance = torch.cdist(states.double(), rows.double()).square() / (rows.shape[1] * sigma2)
    found = distance.min(1)
    return found.indices, found.values
