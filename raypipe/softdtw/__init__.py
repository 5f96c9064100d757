"""Soft-DTW: how far two paths lie apart when each may dwell or hurry (Cuturi & Blondel, ICML 2017).

For x (T_x, d) and z (T_z, d) the value is ``R[T_z, T_x]`` of
``R[i, j] = ‖z_i − x_j‖² + softmin_γ(R[i−1, j], R[i−1, j−1], R[i, j−1])`` with
``softmin_γ(a) = −γ log Σ exp(−a / γ)``: squared Euclidean distances summed along the alignments, as tslearn counts
them. It falls below DTW² by up to γ·log(number of alignments), so it may be negative, and ``soft_dtw(x, x)`` is not 0;
the divergence ``s(x, z) − ½ s(x, x) − ½ s(z, z)`` is 0 there (Blondel, Mensch & Vert, AISTATS 2021).

Series come as an array (n, T, d) whose trailing all-NaN steps mean a shorter series, as (n, T) where d is 1, or as a
list of (T_i, d) or (T_i,) arrays. Values are float64.
"""

from numbers import Real
from typing import Any

import numpy as np

from raypipe.errors import UsageError
from raypipe.softdtw.series import pad_series, series_lengths

__all__ = ["auto_gamma", "cdist_soft_dtw", "soft_dtw", "soft_dtw_barycenter"]

_SAMPLED_STEPS = 1000  # half a million pairs: the median of their distances is stable to about 1 %


def soft_dtw(X: Any, Y: Any, gamma: float = 1.0) -> float:
    """Soft-DTW between two series.

    Parameters
    ----------
    X, Y
        (T_x, d) and (T_y, d), or (T_x,) and (T_y,).
    gamma
        Smoothness, greater than 0; towards 0 the value tends to DTW².

    Raises
    ------
    UsageError
        If ``gamma`` is not positive, a series is empty or not finite, or their dimensions differ.
    """
    return float(cdist_soft_dtw([X], [Y], gamma)[0, 0])


def cdist_soft_dtw(X: Any, Y: Any = None, gamma: float = 1.0, divergence: bool = False) -> np.ndarray:
    """Soft-DTW between every series of ``X`` and every series of ``Y``.

    Parameters
    ----------
    X, Y
        n and m series; ``Y=None`` stands for ``X``, and each pair is then computed once.
    gamma
        Smoothness, greater than 0.
    divergence
        Subtract half of each series' value with itself, so that equal series are 0 apart. The result is not negative
        but for rounding.

    Returns
    -------
    (n, m) float64.

    Raises
    ------
    UsageError
        If ``gamma`` is not positive, a series is empty or not finite, or dimensions differ.
    """
    from raypipe.softdtw import tslearn

    gamma = check_gamma(gamma)
    x = pad_series(X)
    y = None if Y is None else pad_series(Y)
    if y is not None and x.shape[2] != y.shape[2]:
        raise UsageError(f"series of {x.shape[2]} and of {y.shape[2]} dimensions cannot be compared")
    values = tslearn.cdist(x, y, gamma)
    if divergence:
        own_x = tslearn.self_values(x, gamma)
        own_y = own_x if y is None else tslearn.self_values(y, gamma)
        values = values - 0.5 * (own_x[:, None] + own_y[None, :])
    return values


def soft_dtw_barycenter(
    X: Any, gamma: float = 1.0, *, init: Any = None, max_iter: int = 50, tol: float = 1e-3
) -> np.ndarray:
    """Find the series with the least sum of soft-DTW to all of ``X``, by L-BFGS from ``init``.

    Parameters
    ----------
    X
        n series.
    gamma
        Smoothness, greater than 0.
    init
        (T, d) to start from, which also sets the length; by default the mean of the series, resampled to the longest.
    max_iter, tol
        Limits of the optimiser.

    Returns
    -------
    (T, d) float64.

    Raises
    ------
    UsageError
        If ``gamma`` is not positive, or a series is empty or not finite.
    """
    from raypipe.softdtw import tslearn

    gamma = check_gamma(gamma)
    x = pad_series(X)
    start = None if init is None else pad_series([init])[0]
    if start is not None and start.shape[1] != x.shape[2]:
        raise UsageError(f"init has {start.shape[1]} dimensions, the series have {x.shape[2]}")
    return tslearn.barycenter(x, gamma, start, max_iter, tol)


def auto_gamma(X: Any, seed: int = 0) -> float:
    """Choose γ to fit the data: a hundredth of the median squared distance between steps.

    The steps of all series are pooled (1,000 of them at most, drawn with ``seed``). Where more than half of their
    pairs coincide, the median is taken over those that do not; where all coincide, every γ groups alike and 1.0 is
    returned: the result is always greater than 0.

    Parameters
    ----------
    X
        n series.
    seed
        For the sample of steps.
    """
    from scipy.spatial.distance import pdist

    x = pad_series(X)
    n_series, n_steps, dim = x.shape
    present = np.flatnonzero(np.arange(n_steps) < series_lengths(x)[:, None])
    if len(present) > _SAMPLED_STEPS:
        present = np.random.default_rng(seed).choice(present, _SAMPLED_STEPS, replace=False)
    apart = pdist(x.reshape(n_series * n_steps, dim)[present], "sqeuclidean")
    median = np.median(apart) if len(apart) else 0.0
    if median == 0 and apart.any():
        median = np.median(apart[apart > 0])
    return float(median / 100) or 1.0


def check_gamma(gamma: float) -> float:
    """Return γ as a float, or raise `UsageError` where it is not a positive number."""
    if not (isinstance(gamma, Real) and 0 < gamma < np.inf):
        raise UsageError(f"gamma must be a number greater than 0, got {gamma!r}; metric 'dtw' is the limit at 0")
    return float(gamma)
