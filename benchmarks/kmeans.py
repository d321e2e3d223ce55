"""Clustering many small ragged groups, against scikit-learn KMeans in a loop; one thread, same k and restarts."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import TYPE_CHECKING

from benchmarks.measure import Line, cpu_seconds

if TYPE_CHECKING:
    import numpy as np

    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.sample import StateSample

COMMAND = "make bench ONLY=kmeans"
TOKENS, WIDTH, K, ROUNDS = 400, 576, 10, 5
SIZES = (200, 600, 1800)


def _sample(seed: int, tokens: int = TOKENS) -> StateSample:
    """Blobs: eight true centres a token, 40 to 200 states."""
    import numpy as np
    import torch

    from sensekd.provenance import TeacherIdentity
    from sensekd.senses.sample import StateSample

    random = np.random.default_rng(seed)
    counts = random.integers(40, 201, tokens)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    centres = random.standard_normal((tokens, 8, WIDTH), dtype=np.float32)
    states = 0.7 * random.standard_normal((indptr[-1], WIDTH), dtype=np.float32)
    states += centres[np.repeat(np.arange(tokens), counts), random.integers(0, 8, indptr[-1])]
    rows = len(states)
    return StateSample(
        tokens=np.arange(tokens),
        indptr=indptr,
        states=torch.from_numpy(states),
        priority=np.arange(rows, dtype=np.uint64),
        document=np.zeros(rows, np.uint64),
        position=np.zeros(rows, np.int32),
        context=np.full((rows, 24), -1, np.int32),
        seen=np.zeros(1, np.uint64),
        identity=TeacherIdentity("synthetic", "w", "t", WIDTH, tokens),
        settings={"samples_per_token": 200},
    )


def _inertia(dictionary: SenseDictionary) -> np.ndarray:
    """Σ squared distance to the centroid, by token."""
    import numpy as np

    each = dictionary.support.double().numpy() * dictionary.spread.double().numpy() * WIDTH
    return np.add.reduceat(each, dictionary.indptr[:-1].numpy())


def _measure(restarts: int) -> tuple[float, float]:
    """(speed-up, mean inertia ratio)."""
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    from sensekd.config import SensesConfig
    from sensekd.senses.cluster import cluster

    speed, inertia = [], []
    for seed in range(ROUNDS):
        sample = _sample(seed)
        points = sample.states.numpy()
        start = time.process_time()
        found = cluster(sample, SensesConfig(k=K, restarts=restarts, iterations=100))
        middle = time.process_time()
        with threadpool_limits(1):
            loop = [
                KMeans(K, n_init=1, random_state=seed, algorithm="lloyd", max_iter=100)
                .fit(points[sample.indptr[token] : sample.indptr[token + 1]])
                .inertia_
                for token in range(TOKENS)
            ]
        speed.append((time.process_time() - middle) / (middle - start))
        inertia.append(float((_inertia(found) / np.asarray(loop)).mean()))
    return statistics.median(speed), statistics.median(inertia)


def _growth() -> float:
    """The largest cost per token, over three sizes, against that of the smallest; medians of five."""
    from sensekd.config import SensesConfig
    from sensekd.senses.cluster import cluster

    config = SensesConfig(k=K, iterations=100)
    samples = {size: _sample(0, size) for size in SIZES}
    costs: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(ROUNDS):
        for size, sample in samples.items():
            costs[size].append(cpu_seconds(lambda sample=sample: cluster(sample, config)) / size)
    each = [statistics.median(costs[size]) for size in SIZES]
    return max(each[1:]) / each[0]


def measure() -> list[Line]:
    """Speed and inertia, with one run and with four; growth of the cost with the number of tokens."""
    import torch

    torch.set_num_threads(1)
    baseline = f"scikit-learn KMeans (n_init 1) in a loop, {TOKENS} tokens x 40-200 x {WIDTH}, k = {K}"
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for restarts, fast, tight in ((1, 4.0, 1.005), (4, 2.0, 0.995)):
            speed, inertia = _measure(restarts)
            name = f"kmeans_{restarts}_run{'s' if restarts > 1 else ''}"
            lines.append(Line(f"{name}_speed", speed, "times", baseline, fast, "least", ROUNDS, COMMAND))
            lines.append(Line(f"{name}_inertia", inertia, "ratio", baseline, tight, "most", ROUNDS, COMMAND))
    baseline = f"cost per token at {SIZES[0]} tokens, against {SIZES[1]} and {SIZES[2]}"
    lines.append(Line("kmeans_growth", _growth(), "ratio", baseline, 1.1, "most", ROUNDS, COMMAND))
    return lines
