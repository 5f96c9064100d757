"""Outliers: the videos that no group of other videos is like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from raypipe.clustering.vectors import pool_steps
from raypipe.softdtw import cdist_soft_dtw

_CHUNK = 4_000_000  # So many distances of videos to centers are held at a time.
SUPPORTED_PART = 0.1  # Others support a center if so large a part of an average cluster belongs to it.
LEAST_SUPPORT = 2  # They are so many videos at least.


@dataclass(frozen=True)
class Scores:
    """How far n videos are from what other videos do.

    Attributes
    ----------
    values
        (n,) float64: the distance to the nearest center that others support.
    nearest
        (n,) int64, the number of that center; -1 where there is none.
    note
        Why the values are others, or None: what is to be said where no center has the support.
    """

    values: np.ndarray
    nearest: np.ndarray
    note: str | None = None


def score_outliers(
    values: Any,
    labels: np.ndarray,
    centers: np.ndarray,
    gamma: float | None,
    distances: np.ndarray,
    sizes: np.ndarray | None = None,
) -> Scores:
    """Measure each video's distance to the nearest center that other videos support.

    A lone odd video easily becomes a cluster of its own, whose center it is near. So a center counts only if at least
    max(2, 0.1 n/k) *other* videos belong to it. No more than ``_CHUNK`` distances are held at a time.

    Parameters
    ----------
    values
        The trajectories that were clustered: (n, T, c), or a list of (T_i, c) arrays.
    labels
        (n,) integers, the cluster of each; -1 for noise, which supports no center.
    centers
        (k, T, c), the clusters' centers; of one step where mean vectors were clustered.
    gamma
        γ of the soft-DTW divergence; None for the Euclidean distance, of whole paths or, to centers of one step, of
        the paths' means.
    distances
        (n,) float64, to the own center: the score where nothing else can be computed.
    sizes
        (k,), how many videos belong to each center, where these videos are none of them; None where they are all.

    Returns
    -------
    The scores. Where no center has such support, one that any other video belongs to counts, and then the own one;
    where there is no center of these dimensions at all, or of these steps under the Euclidean distance, the given
    distances are the scores.
    """
    n, k = len(labels), len(centers)
    comparable = gamma is not None or centers.shape[1] == 1 or {len(path) for path in values} == {centers.shape[1]}
    if k == 0 or centers.shape[2] != values[0].shape[1] or not comparable:
        why = "there are no centers in the space of the trajectories: the score is the distance to the own center"
        if np.isnan(distances).all():
            why = "there are no clusters, and so no video has a score"
        return Scores(np.asarray(distances, np.float64), np.full(n, -1), why)
    are_new = sizes is not None
    sizes = np.bincount(labels[labels >= 0], minlength=k) if sizes is None else sizes
    needed = max(float(LEAST_SUPPORT), SUPPORTED_PART * (int(sizes.sum()) if are_new else n) / k)
    score, nearest, lacking, n_alone = np.empty(n), np.empty(n, np.int64), 0, 0
    for start in range(0, n, max(1, _CHUNK // k)):
        rows = slice(start, start + max(1, _CHUNK // k))
        apart = distances_to_centers(values[rows], centers, gamma)
        mine = labels[rows]
        others = np.broadcast_to(sizes, apart.shape).copy()
        own = np.flatnonzero((mine >= 0) & (not are_new))
        others[own, mine[own]] -= 1
        counts = others >= needed
        poor = ~counts.any(axis=1)
        lacking += int(poor.sum())
        counts[poor] = others[poor] > 0
        alone = ~counts.any(axis=1)
        n_alone += int(alone.sum())
        counts[alone] = np.arange(k) == mine[alone, None]
        counts[alone & (mine < 0)] = True
        apart[~counts] = np.inf
        nearest[rows] = apart.argmin(axis=1)
        score[rows] = apart.min(axis=1)
    note = f"no cluster has {needed:g} other videos: any with another counts, for {lacking - n_alone} of {n} videos"
    if n_alone:
        note = f"no cluster has another video for {n_alone} of {n} videos: their own center counts" + (
            f"; {note}" if lacking > n_alone else ""
        )
    return Scores(score, nearest, note if lacking else None)


def distances_to_centers(values: Any, centers: np.ndarray, gamma: float | None) -> np.ndarray:
    """Return each trajectory's soft-DTW divergence from each center, or its Euclidean distance: (n, k) float64."""
    if gamma is not None:
        apart = cdist_soft_dtw(values, centers, gamma, divergence=True, precision="float64")
        return np.maximum(apart, 0)  # Only rounding makes any negative.
    if centers.shape[1] == 1:
        points, middles = pool_steps(values).astype(np.float64), centers[:, 0]
    else:
        points, middles = (np.asarray(paths, np.float64).reshape(len(paths), -1) for paths in (values, centers))
    from scipy.spatial.distance import cdist

    return cdist(points, middles)


def rank_within(measure: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Return for each video the fraction of the others, of its group if groups are given, that have a lower value.

    Parameters
    ----------
    measure
        (n,) float64, such as scores. Ties count half; what is not a number comes last.
    groups
        (n,) integers.

    Returns
    -------
    (n,) float64 in [0, 1].
    """
    filled = np.where(np.isnan(measure), np.inf, measure)
    ranks = np.empty(len(filled))
    for rows in [slice(None)] if groups is None else [groups == group for group in np.unique(groups)]:
        inside = filled[rows]
        ranks[rows] = (rankdata(inside) - 1) / max(len(inside) - 1, 1)
    return ranks


def find_threshold(measure: np.ndarray, quantile: float) -> float:
    """Return the value beyond which videos are flagged: a quantile, interpolated linearly as in numpy."""
    finite = measure[np.isfinite(measure)]
    return float(np.quantile(finite, quantile)) if len(finite) else float("inf")
