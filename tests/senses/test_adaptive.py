"""How many senses a token gets, on clouds whose number of parts is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from senses_fakes import sample_of, settings
from torch import Tensor

from sensekd.senses.adaptive import FLOOR, SHARE, adaptive_kmeans, choose, gaps
from sensekd.senses.cluster import cluster
from sensekd.senses.kmeans import Geometry, Gram, Plain, Problems, kmeans, seed_centres


def gaussian(seed: int, count: int, width: int, decay: float = 0.0) -> Tensor:
    """One Gaussian, whose standard deviations fall with a power of the dimension's number."""
    points = np.random.default_rng(seed).standard_normal((count, width)) * np.arange(1, width + 1.0) ** -decay
    return torch.from_numpy(points.astype(np.float32))


def parts(seed: int, sizes: list[int], width: int, apart: float = 2.0) -> Tensor:
    """Gaussians around centres whose distance to the origin is `apart` times the radius of each cloud."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((len(sizes), width))
    centres *= apart * np.sqrt(width) / np.linalg.norm(centres, axis=1, keepdims=True)
    points = np.repeat(centres, sizes, axis=0) + random.standard_normal((sum(sizes), width))
    return torch.from_numpy(random.permutation(points).astype(np.float32))


def chosen(groups: dict[int, Tensor], **changes: object) -> list[int]:
    dictionary = cluster(sample_of(groups, len(groups)), settings(k="adaptive", **changes))
    return [int(number) for number in dictionary.indptr.diff()]


def problems(points: Tensor, form: type[Gram] | type[Plain], clusters: int = 8) -> Problems:
    centred = points - points.mean(1, keepdim=True)
    geometry: Geometry = form(centred)
    return Problems(geometry, torch.ones(points.shape[:2], dtype=torch.bool), clusters, torch.arange(len(points)))


@pytest.mark.parametrize(
    ("width", "decay"), [(4, 0.0), (16, 0.0), (16, 0.5), (128, 0.0), (128, 0.5), (128, 1.0), (576, 0.5)]
)
def test_a_single_gaussian_is_one_sense(width: int, decay: float) -> None:
    found = chosen({token: gaussian(token, 100, width, decay) for token in range(20)})
    assert np.mean(np.asarray(found) == 1) >= 0.85


def test_duplicates_are_one_sense() -> None:
    groups = {0: torch.full((40, 3), 0.1), 1: gaussian(0, 1, 3).repeat(30, 1), 2: gaussian(1, 30, 3)[:1]}
    assert chosen({**groups, 3: gaussian(2, 60, 3)})[:3] == [1, 1, 1]


@pytest.mark.parametrize(
    "sizes", [[60, 60], [100, 20], [50, 50, 50], [90, 30, 20], [30, 30, 30, 30], [60, 30, 30, 20], [30] * 5]
)
@pytest.mark.parametrize("width", [48, 128])
def test_separated_parts_are_counted(sizes: list[int], width: int) -> None:
    found = chosen({token: parts(token, sizes, width, 3.0) for token in range(8)})
    assert np.mean(np.asarray(found) == len(sizes)) >= 0.75


def test_points_far_more_than_dimensions() -> None:
    # The plain form: one cloud and three.
    groups = {token: parts(token, [60, 60, 60], 8, 4.0) for token in range(6)}
    groups |= {token: gaussian(token, 180, 8) for token in range(6, 12)}
    found = chosen(groups)
    assert np.mean(np.asarray(found[:6]) == 3) >= 0.8
    assert np.mean(np.asarray(found[6:]) == 1) >= 0.8


def test_the_most_is_kept() -> None:
    groups = {token: parts(token, [20] * 8, 64, 4.0) for token in range(6)}
    assert max(chosen(groups, k_max=3)) <= 3
    assert set(chosen(groups, k_max=1)) == {1}
    few = {token: parts(token, [9, 9], 16, 9.0) for token in range(4)}
    assert chosen(few, minimum_support=9) == [2] * 4
    assert chosen(few, minimum_support=10) == [1] * 4


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_token_s_senses_do_not_depend_on_its_batch(restarts: int) -> None:
    random = np.random.default_rng(1)
    groups = {
        token: parts(token, random.integers(1, 30, 1 + token % 4).tolist(), 24)
        if token % 3
        else gaussian(token, 20, 24)
        for token in range(40)
    }
    config = settings(k="adaptive", restarts=restarts)
    whole = cluster(sample_of(groups, 40), config)
    small = cluster(sample_of(groups, 40), config.model_copy(update={"memory": 1}))
    for name in ("indptr", "centroids", "support", "spread", "context"):
        assert torch.equal(getattr(whole, name), getattr(small, name)), name
    odd = cluster(sample_of({token: groups[token] for token in range(1, 40, 2)}, 40), config)
    assert all(torch.equal(whole.rows(token), odd.rows(token)) for token in range(1, 40, 2))
    assert whole.settings["k"] == "adaptive"
    assert whole.settings["k_max"] == 16


def test_the_partition_is_that_of_k_means() -> None:
    points = torch.stack([parts(seed, [25, 25], 32, 3.0) for seed in range(5)])
    problem = problems(points, Gram)
    found, plain = adaptive_kmeans(problem, 0, 1, 50), kmeans(Problems(**{**vars(problem), "clusters": 2}), 0, 1, 50)
    torch.testing.assert_close(found.inertia, plain.inertia)


@pytest.mark.parametrize("form", [Gram, Plain])
def test_references_have_the_covariance_of_the_points(form: type[Gram] | type[Plain]) -> None:
    # Many draws: the mean squared distance between two points is twice the trace of the covariance.
    points = parts(0, [25, 15], 6, 3.0)[None] * torch.tensor([5.0, 1, 1, 1, 1, 1])
    problem = problems(points, form)
    trace = float(points[0].var(0, unbiased=False).sum())
    everyone, found = torch.arange(40)[None], []
    for seed in range(200):
        noise = torch.randn(problem.geometry.noise_shape, generator=torch.Generator().manual_seed(seed))
        found.append(problem.geometry.gaussian(noise, problem.valid).between(everyone))
    squared = torch.cat(found)
    apart = squared[:, ~torch.eye(40, dtype=torch.bool)]
    assert apart.mean().item() == pytest.approx(2 * trace, rel=0.05)


def test_gaps_by_hand() -> None:
    # Two points far apart, many times: two clusters explain everything, those of a Gaussian 2/pi of it at the best.
    points = torch.tensor([-1.0, 1.0]).repeat(200)[None, :, None]
    problem = problems(points, Plain, 2)
    found = gaps(problem, seed_centres(problem, 0, 1)[:, 0], 0)
    assert found[0, 0].item() == 0
    assert 1 - 2 / np.pi - 0.03 < found[0, 1].item() < 1 - 2 / np.pi + 0.1


def test_the_choice() -> None:
    # Of nine points; SHARE of the best is enough, and the best must be above a third of FLOOR.
    best, floor = FLOOR, FLOOR / 3
    shared = [0, best * SHARE * 0.99, best * SHARE * 1.01, best]
    rows = [shared, [0, best, 0, 0], [0, floor * 0.9, 0, 0], [0, -1, -1, -1]]
    assert choose(torch.tensor(rows), torch.full((4,), 9)).tolist() == [3, 2, 1, 1]
    assert choose(torch.tensor(rows), torch.full((4,), 16)).tolist() == [3, 2, 2, 1]
