"""Series of equal or unequal lengths as one padded array."""

from typing import Any

import numpy as np

from raypipe.errors import UsageError


def pad_series(X: Any) -> np.ndarray:
    """Lay series out as one array, those that are shorter than the longest padded with NaN.

    Parameters
    ----------
    X
        An array (n, T, d) or (n, T), trailing all-NaN steps meaning a shorter series; or a sequence of (T_i, d) or
        (T_i,) arrays.

    Returns
    -------
    (n, T, d) float64.

    Raises
    ------
    UsageError
        If there is no series, one is empty or has NaN or infinite values inside, or dimensions differ.
    """
    if hasattr(X, "__array__"):
        X = np.asarray(X)
    if isinstance(X, np.ndarray) and X.dtype != object:
        if X.ndim not in (2, 3):
            raise UsageError(f"series must come as (n, T, d) or (n, T), got an array of {X.ndim} dimensions")
        padded = np.asarray(X if X.ndim == 3 else X[:, :, None], dtype=np.float64)
    else:
        padded = _stack([_steps(one, i) for i, one in enumerate(X)])
    if 0 in padded.shape:
        raise UsageError(f"no series in an array of shape {padded.shape}")
    _check(padded)
    return padded


def series_lengths(padded: np.ndarray) -> np.ndarray:
    """Return the length of each of (n, T, d) padded series, to its last step that is not all NaN: (n,) int64."""
    present = ~np.isnan(padded).all(axis=2)
    last = padded.shape[1] - np.argmax(present[:, ::-1], axis=1)
    return np.where(present.any(axis=1), last, 0)


def _steps(one: Any, i: int) -> np.ndarray:
    steps = np.asarray(one, dtype=np.float64)
    if steps.ndim not in (1, 2):
        raise UsageError(f"series {i} must be (T, d) or (T,), got shape {steps.shape}")
    return steps if steps.ndim == 2 else steps[:, None]


def _stack(series: list[np.ndarray]) -> np.ndarray:
    dims = sorted({one.shape[1] for one in series})
    if len(dims) != 1:
        raise UsageError(f"series of different dimensions: {', '.join(map(str, dims))}" if dims else "no series given")
    padded = np.full((len(series), max(len(one) for one in series), dims[0]), np.nan)
    for row, one in zip(padded, series, strict=True):
        row[: len(one)] = one
    return padded


def _check(padded: np.ndarray) -> None:
    lengths = series_lengths(padded)
    if not lengths.all():
        raise UsageError(f"series {np.argmin(lengths)} is empty")
    inside = np.arange(padded.shape[1]) < lengths[:, None]
    broken = inside & ~np.isfinite(padded).all(axis=2)
    if broken.any():
        i, step = np.argwhere(broken)[0]
        raise UsageError(f"series {i} has a NaN or infinite value at step {step}; only trailing NaN steps may pad it")
