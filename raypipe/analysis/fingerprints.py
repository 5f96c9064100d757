"""Fingerprints of videos: the paths that they take over the 2-D map, and which of many are most unlike one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

N_STEPS = 16
"""Steps at which paths are compared: those of a longer one are some of its own, evenly spread."""
MAX_VIDEOS = 5_000
"""Of more videos so many are looked at, chosen at random: a second then suffices for a dozen."""


def choose_unlike(paths: Sequence[np.ndarray], n: int, seed: int) -> list[int]:
    """Choose videos whose paths are as unlike one another as can be: farthest-point order (Gonzalez 1985).

    The first lies farthest from the mean path; each further one is that whose nearest among those already chosen is
    farthest, by dynamic time warping.

    Parameters
    ----------
    paths
        The path of each video on the map, (T_i, 2).
    n
        How many to choose.
    seed
        Of more than `MAX_VIDEOS` videos those that are looked at are chosen at random.

    Returns
    -------
    Places in ``paths``, in order. Fewer than ``n`` if there are no more that differ; a path that is not finite is left
    out.
    """
    there = np.array([i for i, path in enumerate(paths) if len(path) and np.isfinite(path).all()], np.int64)
    if len(there) > MAX_VIDEOS:
        there = np.sort(np.random.default_rng(seed).choice(there, MAX_VIDEOS, replace=False))
    if not len(there):
        return []
    values = np.stack([_resample(np.asarray(paths[i], np.float64)) for i in there])
    nearest = warp_distances(values.mean(axis=0), values)
    chosen = [int(nearest.argmax())]
    nearest = warp_distances(values[chosen[0]], values)
    while len(chosen) < n and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, warp_distances(values[chosen[-1]], values))
    return there[chosen].tolist()


def warp_distances(query: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """Return dynamic time warping from one path to each of many: the least sum of squared distances of aligned steps.

    That is soft-DTW for γ → 0. In two dimensions, and over all paths at once, numpy is quick enough, so that whoever
    draws a report compiles nothing.

    Parameters
    ----------
    query
        (T, 2).
    paths
        (n, U, 2).

    Returns
    -------
    (n,) float64.
    """
    costs = np.square(query[:, None, None] - paths.transpose(1, 0, 2)[None]).sum(axis=3)  # (T, U, n)
    above = costs[0].cumsum(axis=0)
    for row in costs[1:]:
        reached = np.empty_like(row)
        reached[0] = above[0] + row[0]
        for j in range(1, len(row)):
            reached[j] = row[j] + np.minimum(np.minimum(above[j], above[j - 1]), reached[j - 1])
        above = reached
    return above[-1]


def _resample(path: np.ndarray) -> np.ndarray:
    """Return `N_STEPS` of a path's steps, evenly spread."""
    return path[np.rint(np.linspace(0, len(path) - 1, N_STEPS)).astype(np.int64)]
