"""Soft-DTW by tslearn: exact in float64, one pair at a time.

Series come padded and checked, as `raypipe.softdtw.series.pad_series` leaves them.
"""

import warnings
from types import ModuleType

import numpy as np

from raypipe import optional


def load(name: str) -> ModuleType:
    """Import ``tslearn`` or a module of it.

    tslearn warns on import where h5py is absent, which only its own file format needs.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="h5py not installed", category=UserWarning)
        return optional.require(name)


def cdist(x: np.ndarray, y: np.ndarray | None, gamma: float) -> np.ndarray:
    """Soft-DTW of (n, T, d) and (m, T', d) series, or of the first among themselves: (n, m) float64."""
    return load("tslearn.metrics").cdist_soft_dtw(x, y, gamma=gamma)


def self_values(x: np.ndarray, gamma: float) -> np.ndarray:
    """Soft-DTW of each of (n, T, d) series with itself: (n,) float64."""
    soft_dtw = load("tslearn.metrics").soft_dtw
    return np.array([soft_dtw(one, one, gamma=gamma) for one in x])


def barycenter(x: np.ndarray, gamma: float, init: np.ndarray | None, max_iter: int, tol: float) -> np.ndarray:
    """Minimise the sum of soft-DTW to (n, T, d) series by scipy's L-BFGS-B: (T', d) float64."""
    softdtw_barycenter = load("tslearn.barycenters").softdtw_barycenter
    return softdtw_barycenter(x, gamma=gamma, init=init, max_iter=max_iter, tol=tol)
