"""Metrics of a clustering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics

from raypipe.clustering.result import NOISE
from raypipe.clustering.vectors import cluster_vectors, pool_steps
from raypipe.softdtw import auto_gamma, cdist_soft_dtw

_MAX_SOFTDTW_VIDEOS = 2_000
_MAX_POINT_VIDEOS = 20_000  # The silhouette of so many points takes about ten seconds, as it compares all pairs.
# Operations of the soft-DTW silhouette. A cell takes 8 and one for each dimension; two cores do at least 1e10 a second.
_SOFTDTW_BUDGET = 1e11


def evaluate(
    values: Any,
    labels: np.ndarray,
    *,
    gamma: float | None = None,
    inertia: float | None = None,
    n_clusters: int | None = None,
    truth: Sequence[str | None] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how compact and separate clusters are, and how well they agree with known classes.

    Parameters
    ----------
    values
        The trajectories that were clustered: (n, T, c), or a list of (T_i, c) arrays.
    labels
        (n,) integers from 0, the cluster of each trajectory; −1 for noise.
    gamma
        γ of the soft-DTW silhouette; None chooses it by `auto_gamma`.
    inertia
        The objective that the clustering minimised, as in `raypipe.clustering.Clustering`; it is passed on.
    n_clusters
        How many clusters were asked for, of which the last may be empty; None for those that the labels name.
    truth
        The class of each trajectory, or None if it is not known; such trajectories do not count for the agreement.
    seed
        Seed of the samples from large collections.

    Returns
    -------
    A dict that can be written as JSON. A metric that is not defined (for one cluster, for as many clusters as videos,
    or without truth) is None.

    ``silhouette, davies_bouldin``
        Computed on the mean of each trajectory over its steps, Euclidean; ``silhouette_n`` videos were compared. Noise
        is left out of these and of ``silhouette_softdtw``.
    ``silhouette_softdtw``
        Computed on the soft-DTW divergence, with ``silhouette_softdtw_gamma``, among ``silhouette_softdtw_n`` videos.
    ``inertia, sizes, n_empty``
        The given inertia, the number of videos of each cluster, and how many clusters have none.
    ``n_noise``
        How many videos are noise.
    ``ari, nmi, v_measure``
        Agreement with ``truth``, over ``n_truth`` videos. Noise counts as a cluster of its own, as it does where
        scikit-learn's functions are given HDBSCAN's labels.
    """
    rng = np.random.default_rng(seed)
    held = np.flatnonzero(labels != NOISE)
    means = pool_steps(values).astype(np.float64)
    points = held[_sample(rng, len(held), _MAX_POINT_VIDEOS)]
    paths = held[_sample(rng, len(held), affordable_videos(values))]
    gamma = auto_gamma(values, seed) if gamma is None else gamma
    sizes = np.bincount(labels[held], minlength=n_clusters or 0)
    return {
        "silhouette": score_silhouette(means[points], labels[points], "euclidean"),
        "silhouette_n": len(points),
        "davies_bouldin": score_davies_bouldin(means[held], labels[held]),
        "silhouette_softdtw": _silhouette_softdtw([values[i] for i in paths], labels[paths], gamma),
        "silhouette_softdtw_n": len(paths),
        "silhouette_softdtw_gamma": gamma,
        "inertia": inertia,
        "sizes": sizes.tolist(),
        "n_empty": int(np.count_nonzero(sizes == 0)),
        "n_noise": len(labels) - len(held),
        **score_agreement(labels, truth),
    }


def score_agreement(labels: np.ndarray, truth: Sequence[str | None] | None) -> dict[str, Any]:
    """Compare clusters with known classes: ``ari, nmi, v_measure`` over the ``n_truth`` videos whose class is known."""
    known = [i for i, name in enumerate(truth or ()) if name is not None]
    if len(known) < 2:
        return {"ari": None, "nmi": None, "v_measure": None, "n_truth": len(known)}
    found, true = labels[known], [truth[i] for i in known]  # type: ignore[index]
    return {
        "ari": float(metrics.adjusted_rand_score(true, found)),
        "nmi": float(metrics.normalized_mutual_info_score(true, found)),
        "v_measure": float(metrics.v_measure_score(true, found)),
        "n_truth": len(known),
    }


def score_mean_pooled(values: Any, truth: Sequence[str | None], n_clusters: int, seed: int = 0) -> float | None:
    """Return the ARI of plain k-means on the trajectories' means, the baseline that ignores the order in time.

    Parameters
    ----------
    values
        Trajectories of embeddings, not reduced: (n, T, dim), or a list of (T_i, dim) arrays.
    truth
        The class of each trajectory, or None if it is not known.
    n_clusters, seed
        Of k-means.
    """
    found = cluster_vectors(pool_steps(values), n_clusters, n_init=10, max_iter=300, seed=seed)
    return score_agreement(found.labels, truth)["ari"]


def affordable_videos(values: Any) -> int:
    """Return how many trajectories can be compared with one another in some seconds, 2,000 at most."""
    n_steps, dim = max(len(path) for path in values), values[0].shape[1]
    return max(2, min(_MAX_SOFTDTW_VIDEOS, int(np.sqrt(2 * _SOFTDTW_BUDGET / (n_steps**2 * (dim + 8))))))


def _sample(rng: np.random.Generator, n: int, at_most: int) -> np.ndarray:
    return np.arange(n) if n <= at_most else np.sort(rng.choice(n, at_most, replace=False))


def _is_defined(labels: np.ndarray) -> bool:
    return 2 <= len(np.unique(labels)) < len(labels)


def score_silhouette(distances: np.ndarray, labels: np.ndarray, metric: str) -> float | None:
    """Return the mean silhouette, or None where it is not defined; of points, or of "precomputed" distances."""
    return float(metrics.silhouette_score(distances, labels, metric=metric)) if _is_defined(labels) else None


def score_davies_bouldin(means: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the Davies–Bouldin index of points, or None where it is not defined."""
    if not _is_defined(labels):
        return None
    # scikit-learn takes distances below 1e-8 for none; a power of two rounds nothing.
    _, exponent = np.frexp(np.abs(means).max())
    return float(metrics.davies_bouldin_score(np.ldexp(means, -exponent), labels))


def _silhouette_softdtw(paths: list[np.ndarray], labels: np.ndarray, gamma: float) -> float | None:
    return score_silhouette(compare_pairs(paths, gamma), labels, "precomputed") if _is_defined(labels) else None


def compare_pairs(paths: Any, gamma: float) -> np.ndarray:
    """Return the soft-DTW divergence of every pair of n paths, (n, n) float64, none negative."""
    distances = cdist_soft_dtw(paths, gamma=gamma, divergence=True, precision="float64")
    distances = np.maximum(distances, 0)  # Only rounding makes any negative.
    np.fill_diagonal(distances, 0)
    return distances
