"""New videos held against those that a clustering was found in."""

from __future__ import annotations

import numpy as np

_ROUNDING = 1e-6  # of the range of all distances; a distance that is computed again differs by less.


def score_against(distances: np.ndarray, known: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Rank new videos by their distance to their center among the known videos, and flag the farthest.

    Parameters
    ----------
    distances
        (n,) float64, of the new videos to their centers.
    known
        (m,) float64, of the videos that the clusters were found in.
    quantile
        As for `raypipe.analysis.outliers.score_outliers`.

    Returns
    -------
    scores
        (n,) float64 in [0, 1]: the fraction of the known videos that are nearer to their centers; ties count half.
    flags
        (n,) bool, True for what would be an outlier among the known videos.
    """
    ordered = np.sort(known)
    nearer = np.searchsorted(ordered, distances, "left") + np.searchsorted(ordered, distances, "right")
    return nearer / (2 * len(known)), distances > np.quantile(known, quantile) + _ROUNDING * np.ptp(known)
