"""Near-duplicates: videos whose paths are the same at the same times, but for what a copy loses."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

from raypipe.reduction.pca import PCAReducer
from raypipe.softdtw.barycenter import resample

N_NEIGHBORS = 8
"""So many of each video's nearest are looked at: larger groups of copies are joined through each other."""
NEARER = 4.0
"""A copy is so many times nearer than the second nearest of a video usually is."""
_USUAL = 2  # Even where every video has a copy, its second nearest is none.
_STEPS = 16  # Paths of several lengths are brought to so many steps.
_DIMENSIONS = 12  # A tree finds neighbours quickly in so few.


class Duplicates(NamedTuple):
    """Groups of near-duplicates: indices of the videos, the largest group first; and the distance that tells them.

    ``nearest`` is each video's distance to its nearest other; ``threshold`` is None for fewer than three videos.
    """

    groups: list[list[int]]
    nearest: np.ndarray
    threshold: float | None


def group_duplicates(values: Any) -> Duplicates:
    """Find groups of near-duplicate videos.

    The distance of two paths is the root of the mean squared distance of their steps, without warping: a copy does
    the same at the same time. The threshold is a quarter of the median, over all videos, of the distance to the
    second nearest. Videos nearer than that to each other are of one group (connected components).

    Parameters
    ----------
    values
        Paths: (n, T, c), or a list of (T_i, c) arrays.
    """
    vectors = _flatten(values)
    n = len(vectors)
    if n < 3:  # There is nothing to compare the only distance with.
        return Duplicates([], np.full(n, np.inf), None)
    nearest, others = _find_nearest(vectors, min(N_NEIGHBORS, n - 1))
    threshold = float(np.median(np.sort(nearest, axis=1)[:, :_USUAL][:, -1])) / NEARER
    row, column = np.nonzero(nearest <= threshold)
    linked = coo_array((np.ones(len(row), bool), (row, others[row, column])), shape=(n, n))
    _, component = connected_components(linked, directed=False)
    members = np.argsort(component, kind="stable")
    groups = np.split(members, np.flatnonzero(np.diff(component[members])) + 1)
    several = sorted((group.tolist() for group in groups if len(group) > 1), key=lambda group: (-len(group), group))
    return Duplicates(several, nearest.min(axis=1), threshold)


def _flatten(values: Any) -> np.ndarray:
    """Return each path as a vector, whose Euclidean distances are those of the paths: (n, T · c)."""
    if not isinstance(values, np.ndarray):
        values = np.stack([resample(path, _STEPS) for path in values])
    return values.reshape(len(values), -1) / np.sqrt(values.shape[1])


def _find_nearest(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each vector's distances to its k nearest in the directions in which all vary most, and which these are."""
    flat = PCAReducer(min(_DIMENSIONS, *vectors.shape), seed=0).fit_transform(vectors)
    _, others = NearestNeighbors(n_neighbors=k + 1).fit(flat).kneighbors(flat)
    own = others == np.arange(len(flat))[:, None]
    own[~own.any(axis=1), -1] = True  # Of many equal vectors a vector itself may not be among the nearest.
    others = others[~own].reshape(len(flat), k)
    apart = [np.linalg.norm(vectors[others[:, i]] - vectors, axis=1) for i in range(k)]
    return np.stack(apart, axis=1), others
