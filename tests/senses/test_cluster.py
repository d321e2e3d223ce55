"""σ², the number of clusters and k-means, against scikit-learn, hand values and a reference written apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from senses_fakes import sample_of, settings
from torch import Tensor

from sensekd.errors import InputError
from sensekd.senses.cluster import cluster, distinct_states, sigma2
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.kmeans import Gram, Plain, Problems, _refill, kmeans, lloyd


def blobs(seed: int, count: int, width: int, centres: int = 4, noise: float = 0.3) -> Tensor:
    random = np.random.default_rng(seed)
    middle = random.standard_normal((centres, width)) * 2 + 5
    points = middle[random.integers(0, centres, count)] + noise * random.standard_normal((count, width))
    return torch.from_numpy(points.astype(np.float32))


def inertia(dictionary: SenseDictionary, token: int) -> float:
    start, stop = dictionary.span(token)
    per_row = dictionary.support[start:stop].double() * dictionary.spread[start:stop].double()
    return float(per_row.sum()) * dictionary.centroids.shape[1]


def test_sigma2_by_hand() -> None:
    # Token 3: deviations 1, 1 about the mean in one of two dimensions, twenty samples; token 4 is too small to count.
    states = torch.tensor([[1.0, 5.0], [3.0, 5.0]]).repeat(10, 1)
    found = sigma2(sample_of({3: states, 4: torch.tensor([[0.0, 0.0], [99.0, 0.0]])}))
    assert found.value == pytest.approx(20 / (2 * 19), rel=1e-12)
    assert (found.tokens, found.minimum) == (1, 20)


def test_sigma2_is_the_definition_far_from_the_origin() -> None:
    groups = {token: blobs(token, 15 + token, 7) + 1000 for token in range(12)}
    chosen = [states.double() for states in groups.values() if len(states) >= 20]
    total = sum(float((states - states.mean(0)).square().sum()) for states in chosen)
    expected = total / (7 * sum(len(states) - 1 for states in chosen))
    sample = sample_of(groups)
    assert sigma2(sample).value == pytest.approx(expected, rel=1e-6)
    assert cluster(sample, settings(k=3)).sigma2 == pytest.approx(expected, rel=1e-6)
    assert cluster(sample, settings(k=3, units="raw")).sigma2 == 1.0


def test_sigma2_falls_back_to_pairs_and_says_so() -> None:
    found = sigma2(sample_of({1: torch.tensor([[0.0], [2.0]]), 2: torch.tensor([[5.0]])}))
    assert found.value == pytest.approx(2.0)
    assert (found.tokens, found.minimum) == (1, 2)


@pytest.mark.parametrize("states", [torch.tensor([[1.0, 2.0]]), torch.full((30, 2), 0.1)])
def test_no_variance_is_refused(states: Tensor) -> None:
    for attempt in (sigma2, lambda sample: cluster(sample, settings())):
        with pytest.raises(InputError, match="σ² cannot be had"):
            attempt(sample_of({1: states}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_distinct_states_are_counted(dtype: torch.dtype) -> None:
    states = blobs(0, 30, 11).to(dtype)
    repeated = torch.cat([states, states[:7], states[:3]])
    # Equal in the leading dimensions only: these are different.
    near = states[:5].clone()
    near[:, -1] += 1
    found = distinct_states(sample_of({0: repeated, 1: torch.cat([states[:5], near]), 2: states[:1], 3: states[:4]}))
    assert found.tolist() == [30, 10, 1, 4]


@pytest.mark.parametrize(
    ("count", "distinct", "support", "expected"),
    [(40, 40, 2, 6), (9, 9, 2, 4), (9, 5, 2, 2), (9, 9, 4, 2), (3, 3, 4, 1), (1, 1, 2, 1)],
)
def test_number_of_clusters(count: int, distinct: int, support: int, expected: int) -> None:
    states = blobs(1, distinct, 5, noise=1.0)
    states = states[torch.arange(count) % distinct]
    dictionary = cluster(sample_of({2: states, 5: blobs(2, 30, 5)}), settings(k=6, minimum_support=support))
    assert len(dictionary.rows(2)) == expected
    assert int(dictionary.support[slice(*dictionary.span(2))].sum()) == count


def test_rows_of_one_token_by_hand() -> None:
    states = torch.tensor([[10.0, 0.0], [0.0, 1.0], [0.0, 6.0], [12.0, 0.0], [13.0, 0.0], [0.0, 2.0], [0.0, 3.0]])
    dictionary = cluster(sample_of({4: states}), settings(k=2, minimum_support=3))
    torch.testing.assert_close(dictionary.rows(4), torch.tensor([[0, 3], [35 / 3, 0]]))
    assert dictionary.support.tolist() == [4, 3]
    # Σ (4, 9, 1, 0) over four members and two dimensions; Σ (25, 1, 16) / 9 over three and two.
    assert dictionary.spread.tolist() == pytest.approx([14 / 8, 42 / 9 / 6], abs=1e-5)
    # The context of sample n holds n.
    assert dictionary.context[..., -1].tolist() == [[6, 5, 1], [3, 4, 0]]
    assert dictionary.indptr.tolist() == [0] * 5 + [2] * 8
    assert dictionary.has_senses.tolist() == [token == 4 for token in range(12)]
    assert dictionary.owner.tolist() == [4, 4]


def test_few_members_leave_empty_contexts() -> None:
    dictionary = cluster(sample_of({4: torch.tensor([[0.0], [9.0], [10.0]])}), settings(k=2, minimum_support=1))
    assert dictionary.support.tolist() == [2, 1]
    assert (dictionary.context[..., -1] < 0).tolist() == [[False, False, True], [False, True, True]]


def test_equal_support_goes_by_the_first_member() -> None:
    states = torch.tensor([[9.0], [0.0], [9.5], [0.5]])
    assert cluster(sample_of({1: states}), settings(k=2)).centroids.tolist() == [[9.25], [0.25]]


def test_identical_points_make_one_sense_of_no_spread() -> None:
    same = torch.full((25, 3), 0.1)
    dictionary = cluster(sample_of({1: same, 2: blobs(0, 40, 3)}), settings(k=5))
    assert torch.equal(dictionary.rows(1), same[:1])
    assert dictionary.spread[0] < 1e-12
    assert dictionary.support[0] == 25


@pytest.mark.parametrize("kind", ["blobs", "noise", "many points"])
def test_inertia_is_as_good_as_scikit_learn(kind: str) -> None:
    from sklearn.cluster import KMeans

    random = np.random.default_rng(5)
    most, width, centres = {"blobs": (60, 24, 8), "noise": (60, 24, 1), "many points": (150, 6, 8)}[kind]
    groups = {token: blobs(token, int(random.integers(20, most)), width, centres, 1.5) for token in range(60)}
    sample, seeds = sample_of(groups, 60), range(3)
    dictionaries = [cluster(sample, settings(k=6, seed=seed)) for seed in seeds]
    ours = [[inertia(dictionary, token) for token in groups] for dictionary in dictionaries]
    theirs = [
        [KMeans(6, n_init=1, random_state=seed).fit(states.numpy()).inertia_ for states in groups.values()]
        for seed in seeds
    ]
    assert 0.95 < np.mean(np.mean(ours, 0) / np.mean(theirs, 0)) <= 1.01


def test_restarts_keep_the_best() -> None:
    groups = {token: blobs(token, 60, 8, 9, 0.7) for token in range(30)}
    once, often = (cluster(sample_of(groups, 30), settings(k=6, restarts=count)) for count in (1, 5))
    pairs = [(inertia(once, token), inertia(often, token)) for token in groups]
    assert all(after <= before * (1 + 1e-6) for before, after in pairs)
    assert sum(after for _, after in pairs) < 0.995 * sum(before for before, _ in pairs)


@pytest.mark.parametrize(("width", "restarts"), [(6, 1), (33, 1), (33, 3), (192, 1)])
def test_result_depends_on_neither_batch_nor_neighbours(width: int, restarts: int) -> None:
    random = np.random.default_rng(1)
    groups = {token: blobs(token, int(random.integers(1, 70)), width, 6, 0.9) for token in range(60)}
    groups[7] = groups[8][:2].repeat(20, 1)
    whole = cluster(sample_of(groups, 60), settings(k=5, restarts=restarts))
    for memory in (1, 300_000):
        small = cluster(sample_of(groups, 60), settings(k=5, restarts=restarts, memory=memory))
        for name in ("indptr", "centroids", "support", "spread", "context"):
            assert torch.equal(getattr(whole, name), getattr(small, name)), name
    few = {token: groups[token] for token in range(1, 60, 2)}
    odd = cluster(sample_of(few, 60), settings(k=5, restarts=restarts))
    for token in range(1, 60, 2):
        assert torch.equal(whole.rows(token), odd.rows(token))


def test_seed_changes_the_draws_and_repeats_them() -> None:
    groups = {token: blobs(token, 60, 8, 1, 1.0) for token in range(10)}
    first, again, other = (cluster(sample_of(groups), settings(k=5, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.centroids, other.centroids)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_states_are_clustered_in_float32(dtype: torch.dtype) -> None:
    states = blobs(3, 50, 9).to(dtype)
    half = cluster(sample_of({1: states}), settings(k=4))
    assert torch.equal(half.centroids, cluster(sample_of({1: states.float()}), settings(k=4)).centroids)
    assert half.centroids.dtype == torch.float32


def problems(points: Tensor, clusters: int) -> Problems:
    return Problems(Gram(points), torch.ones(points.shape[:2], dtype=torch.bool), clusters, torch.arange(len(points)))


def test_an_empty_cluster_takes_the_farthest_point() -> None:
    # Both centres start on the same point, so the second is empty at once.
    points = torch.tensor([[[0.0], [1.0], [2.0], [50.0]]])
    found = lloyd(problems(points, 2), torch.tensor([[[0, 0]]]), 10)
    assert found.labels.tolist() == [[0, 0, 0, 1]]
    assert found.inertia.item() == pytest.approx(2.0)


def test_two_empty_clusters_take_the_two_farthest_points() -> None:
    empty = torch.tensor([[False, True, True], [False, False, True]])
    distances = torch.tensor([[3.0, 1.0, 9.0], [1.0, 7.0, 2.0]])
    assert _refill(torch.zeros(2, 3, dtype=torch.int64), empty, distances).tolist() == [[2, 0, 1], [0, 2, 0]]


def test_lloyd_is_the_textbook_s() -> None:
    points = torch.stack([blobs(seed, 40, 6, 5, 1.2) for seed in range(9)])
    centres = torch.arange(8).reshape(1, 2, 4).expand(9, 2, 4)
    found = lloyd(problems(points - points.mean(1, keepdim=True), 4), centres, 100)
    for problem, cloud in enumerate(points.double()):
        best = float("inf")
        for start in centres[problem]:
            means = cloud[start]
            for _ in range(100):
                near = torch.cdist(cloud, means).argmin(1)
                means = torch.stack([cloud[near == number].mean(0) for number in range(4)])
            best = min(best, float((cloud - means[near]).square().sum()))
        assert found.inertia[problem].item() == pytest.approx(best, rel=1e-4)


def test_more_clusters_than_places_leave_no_empty_sense() -> None:
    # Ten states that differ by rounding alone, bit for bit different: as good as one place.
    states = torch.ones(10, 3) + 6e-8 * torch.arange(10)[:, None] * torch.tensor([2.0, 0.0, 0.0])
    assert distinct_states(sample_of({1: states})).tolist() == [10]
    dictionary = cluster(sample_of({1: states, 2: blobs(0, 40, 3)}), settings(k=5))
    start, stop = dictionary.span(1)
    assert 1 <= stop - start <= 5
    assert bool((dictionary.support[start:stop] > 0).all())
    assert int(dictionary.support[start:stop].sum()) == 10
    assert bool(torch.isfinite(dictionary.centroids).all())
    torch.testing.assert_close(dictionary.rows(1), torch.ones(stop - start, 3))


def test_temporaries_stay_within_the_memory_given() -> None:
    from torch.profiler import ProfilerActivity, profile

    groups = {token: blobs(token, 90 + token % 7, 64) for token in range(160)}
    sample, given = sample_of(groups, 160), 6 << 20
    kept = 160 * 10 * 64 * 4
    for k, restarts in ((10, 1), (10, 4), ("adaptive", 1)):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            cluster(sample, settings(k=k, k_max=10, restarts=restarts, memory=given))
        assert profiler.profiler is not None
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
        assert 0.2 * given < held.max() - (0 if k == "adaptive" else kept) < given


def test_gram_and_plain_forms_agree() -> None:
    points = torch.stack([blobs(seed, 30, 5) for seed in range(4)])
    points = points - points.mean(1, keepdim=True)
    valid, tokens = torch.ones(4, 30, dtype=torch.bool), torch.arange(4)
    gram, plain = (kmeans(Problems(form(points), valid, 4, tokens), 0, 1, 50) for form in (Gram, Plain))
    assert torch.equal(gram.labels, plain.labels)
    torch.testing.assert_close(gram.inertia, plain.inertia, rtol=1e-4, atol=1e-4)


def test_iterations_bound_the_work_and_inertia_is_of_the_labels() -> None:
    points = blobs(0, 200, 3, 1, 1.0)[None]
    found = kmeans(problems(points, 8), 0, 1, 1)
    expected = sum(
        float((points[0][found.labels[0] == j] - points[0][found.labels[0] == j].mean(0)).square().sum())
        for j in range(8)
    )
    assert found.inertia.item() == pytest.approx(expected, rel=1e-3)
    assert kmeans(problems(points, 8), 0, 1, 100).inertia.item() < expected


def test_an_empty_sample_is_refused() -> None:
    sample = sample_of({1: torch.zeros(0, 4)})
    with pytest.raises(InputError, match="no state"):
        cluster(sample, settings())


def test_progress_ends_at_all_tokens() -> None:
    seen: list[tuple[int, int]] = []
    groups = {token: blobs(token, 3 + token, 4) for token in range(12)}
    cluster(sample_of(groups), settings(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
