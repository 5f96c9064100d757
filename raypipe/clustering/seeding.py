"""The centers that k-means begins with: seeds drawn among series in any `Shards`, as tslearn draws them.

The potentials that k-means++ compares are exact sums, so any sharding draws the same seeds.
"""

from typing import Any

import numpy as np

from raypipe.clustering.shards import Shards
from raypipe.softdtw.barycenter import resample


def seed_centers(shards: Shards, init: Any, n_clusters: int, random: np.random.RandomState) -> np.ndarray:
    """Choose (k, T, d) centers to begin with.

    Parameters
    ----------
    shards
        The series, opened.
    init
        "k-means++", "random", or the centers themselves, (k, T, d), of which shorter ones end in NaN.
    n_clusters
        k.
    random
        Where draws are taken from; none are if centers are given.
    """
    if not isinstance(init, str):
        return fill_length(np.asarray(init, dtype=np.float64), init.shape[1])
    if init == "random":
        seeds = shards.paths(random.choice(shards.n_series, n_clusters, replace=False))
    else:
        seeds = _draw_seeds(shards, n_clusters, random)
    return fill_length(seeds, shards.outline.values.shape[1])


def fill_length(paths: np.ndarray, n_steps: int) -> np.ndarray:
    """Resample paths, each of which ends where NaN begins, to n_steps: (k, n_steps, d)."""
    return np.stack([resample(path[~np.isnan(path).all(axis=1)], n_steps) for path in paths])


def _draw_seeds(shards: Shards, n_clusters: int, random: np.random.RandomState) -> np.ndarray:
    """Draw seeds by k-means++ (Arthur & Vassilvitskii 2007) weighted by squared soft-DTW, the best of a few each."""
    n_trials = 2 + int(np.log(n_clusters))
    seeds = shards.paths(np.array([random.randint(shards.n_series)]))
    shards.begin_seeding()
    potential = float(shards.try_seeds(seeds)[0])
    shards.take_seed(0)
    for _ in range(1, n_clusters):
        rows = shards.draw(random.random_sample(n_trials) * potential)
        candidates = shards.paths(rows)
        potentials = shards.try_seeds(candidates)
        best = potentials.index(min(potentials))
        shards.take_seed(best)
        potential = float(potentials[best])
        seeds = np.concatenate([seeds, candidates[best : best + 1]])
    return seeds
