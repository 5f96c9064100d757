"""Outliers: the videos that are far from their own center."""

import numpy as np
from scipy.stats import rankdata


def score_outliers(distances: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Rank videos by their distance to their own center, and flag the farthest.

    Parameters
    ----------
    distances
        (n,) float64. Soft-DTW may be negative, so ratios of distances would mean nothing, and the scores are ranks.
        Not a number for noise, which has no center.
    quantile
        Videos beyond this quantile of all distances (interpolated linearly, as in numpy) are flagged.

    Returns
    -------
    scores
        (n,) float64 in [0, 1]: the fraction of the other videos that are nearer; ties count half. Noise is not counted,
        and its score is not a number.
    flags
        (n,) bool, True for outliers.
    """
    known = ~np.isnan(distances)
    scores = (rankdata(distances, nan_policy="omit") - 1) / max(int(known.sum()) - 1, 1)
    return scores, distances > (np.quantile(distances[known], quantile) if known.any() else np.inf)
