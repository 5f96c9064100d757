"""Videos that lie far from their own center."""

import numpy as np
from scipy.stats import rankdata


def score_outliers(distances: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Rank videos by their distance to their own center, and flag the farthest.

    Parameters
    ----------
    distances
        (n,) float64. Soft-DTW may be negative, so the scores are ranks: ratios would mean nothing.
    quantile
        Flagged is what lies above this quantile of all distances (interpolated linearly, as numpy's).

    Returns
    -------
    scores
        (n,) float64 in [0, 1]: the share of the other videos that lie nearer, ties counting half.
    flags
        (n,) bool.
    """
    scores = (rankdata(distances) - 1) / max(len(distances) - 1, 1)
    return scores, distances > np.quantile(distances, quantile)
