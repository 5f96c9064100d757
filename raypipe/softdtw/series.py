"""Series of equal or unequal lengths as one padded array."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.errors import UsageError, one_line

_CHECKED = 1 << 20  # This many values are checked at a time, so that checking takes a bounded amount of memory.


@dataclass(frozen=True)
class Series:
    """n series of d dimensions.

    Attributes
    ----------
    values
        (n, T, d) float32 or float64. Values beyond a series' length are padding and mean nothing.
    lengths
        (n,) int32, or None if all series have length T.
    largest
        The largest magnitude among the values.
    """

    values: Any
    lengths: Any = None
    largest: float = 0.0

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_points(self) -> int:
        """The number of steps of all series."""
        return len(self) * self.values.shape[1] if self.lengths is None else int(to_host(self.lengths).sum())

    def steps(self, points: np.ndarray) -> np.ndarray:
        """Return the steps of these numbers, counted through all series: (len(points), d) float64 on the host."""
        if self.lengths is None:
            rows, at = np.divmod(points, self.values.shape[1])
        else:
            lengths = to_host(self.lengths)
            ends = np.cumsum(lengths)
            rows = np.searchsorted(ends, points, side="right")
            at = points - (ends - lengths)[rows]
        return to_host(pick(self.values, rows, at)).astype(np.float64)

    def take(self, rows: np.ndarray) -> "Series":
        """Return the series in these rows."""
        return Series(pick(self.values, rows), None if self.lengths is None else pick(self.lengths, rows), self.largest)

    def rows(self) -> Iterator[np.ndarray]:
        """Yield each series as (T_i, d) float64."""
        for i, row in enumerate(self.values):
            yield np.asarray(row if self.lengths is None else row[: self.lengths[i]], dtype=np.float64)


@dataclass(frozen=True)
class Statistics:
    """The sums over each center's series that an update of k centers of T steps needs, in float64.

    Attributes
    ----------
    sums
        (k, T, d): Σ weight · E x, the sum of the series' steps that are expected at each step of the center.
    mass
        (k, T): Σ weight · E, the expected number of these steps.
    values
        (k,): Σ weight · soft-DTW.
    weights
        (k,): Σ weight.
    """

    sums: np.ndarray
    mass: np.ndarray
    values: np.ndarray
    weights: np.ndarray

    def __add__(self, other: "Statistics") -> "Statistics":
        """Return the sums over these and other series."""
        return Statistics(
            self.sums + other.sums, self.mass + other.mass, self.values + other.values, self.weights + other.weights
        )


def to_host(array: Any) -> Any:
    """Return an array as numpy's, copied from the GPU if it lies there."""
    return array.get() if hasattr(array, "get") else array


def read_series(X: Any) -> Series:
    """Read series in any of their forms, without a copy if they are an array of floats already.

    Parameters
    ----------
    X
        An array (n, T, d) or (n, T), in which trailing all-NaN steps mean a shorter series; or a sequence of (T_i, d)
        or (T_i,) arrays; or a pandas frame whose index has two levels, which series it is and the step, as sktime has
        them. float32 is kept, any other type becomes float64; an array on a GPU stays there.

    Raises
    ------
    UsageError
        If there is no series, one is empty or has NaN or infinite values inside, or dimensions differ.
    """
    if isinstance(X, Series):
        return X
    X = _split_levels(X)
    if hasattr(X, "__cuda_array_interface__"):
        from raypipe import packages

        X = packages.require("cupy").asarray(X)
    elif hasattr(X, "__array__"):
        X = as_array(X, "series")
    else:
        return _read_list(X)
    if X.dtype == object:
        return _read_list(X)
    if X.ndim not in (2, 3):
        raise UsageError(f"series must come as (n, T, d) or (n, T), got an array of {X.ndim} dimensions")
    if X.dtype.kind not in "fiub":
        raise UsageError(f"series must be of real numbers, got {X.dtype}")
    values = X if X.ndim == 3 else X[:, :, None]
    values = values.astype(np.float32 if values.dtype == np.float32 else np.float64, order="C", copy=False)
    if 0 in values.shape:
        raise UsageError(f"no series in an array of shape {values.shape}")
    chunk = max(1, _CHECKED // (values.shape[1] * values.shape[2]))
    starts = range(0, len(values), chunk)
    checked = [_check(values[start : start + chunk], start) for start in starts]
    lengths = _namespace(values).concatenate([lengths for lengths, _ in checked])
    largest = max(one for _, one in checked)
    if int(lengths.max()) < values.shape[1]:
        values = values[:, : int(lengths.max())].copy()
    return Series(values, None if bool((lengths == values.shape[1]).all()) else lengths, largest)


def pick(values: Any, *index: np.ndarray) -> Any:
    """Return ``values[index]`` for numpy's indices; the values may lie on a GPU."""
    xp = _namespace(values)
    return values[tuple(xp.asarray(one) for one in index)]


def check_range(x: Series, y: Series, gamma: float, dtype: str) -> None:
    """Raise `UsageError` if soft-DTW between the two, or its square in float64, could leave the type's range."""
    longest = x.values.shape[1] + y.values.shape[1]
    with np.errstate(over="ignore"):
        cost = np.square(np.float64(x.largest) + y.largest) * x.values.shape[2] * longest
        reached = max(cost, cost / gamma, gamma * longest, 1 / np.float64(gamma))
    if not reached < (1e29 if dtype == "float32" else 1e149):
        remedy = "scale the data by a factor, and gamma by its square"
        raise UsageError(
            f"values up to {max(x.largest, y.largest):.3g} with gamma={gamma:.3g} leave the range of {dtype}: "
            + (f"{remedy}; or take precision float64" if dtype == "float32" else remedy)
        )


def read_path(X: Any) -> Series:
    """Read one series, (T, d) or (T,), of any type that `read_series` takes."""
    return read_series(X[None] if hasattr(X, "__cuda_array_interface__") else [X])


def as_array(X: Any, name: str) -> np.ndarray:
    """Return numbers that any library or nested lists hold as numpy's array; what is masked or NA in them is NaN.

    Raises
    ------
    UsageError
        If numpy cannot read what an error calls by this name.
    """
    if isinstance(X, np.ma.MaskedArray) and X.dtype.kind in "fiub":
        return np.ma.filled(X.astype(np.float64), np.nan)
    try:
        array = np.asarray(X)
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises them, of bfloat16 for one.
        raise UsageError(f"{name} cannot be read as a numpy array: {one_line(error)}") from error
    if array.dtype == object and array.ndim >= 2:  # So come pandas' NA, Arrow's nulls, and decimals.
        with suppress(TypeError, ValueError):  # They hold no numbers, which the caller says.
            if hasattr(X, "iloc"):  # NA is known to pandas alone.
                return np.asarray(X.astype(np.float64))
            if not any(isinstance(value, str | bytes) for value in array.flat):  # numpy would read these as numbers.
                return array.astype(np.float64)
    return array


def pad_series(series: Series) -> np.ndarray:
    """Return series as (n, T, d) float64 on the host, with the shorter ones padded with NaN."""
    padded = np.array(to_host(series.values), dtype=np.float64)
    if series.lengths is not None:
        padded[np.arange(padded.shape[1]) >= to_host(series.lengths)[:, None]] = np.nan
    return padded


def _split_levels(X: Any) -> Any:
    """Return the series of a pandas frame whose index says which series a row is of and which step; else X itself."""
    n_levels = getattr(getattr(X, "index", None), "nlevels", 1)
    if n_levels > 2:
        raise UsageError(f"an index of {n_levels} levels: series have two, which series it is and the step")
    return [steps for _, steps in X.groupby(level=0, sort=False, dropna=False)] if n_levels == 2 else X


def _read_list(X: Any) -> Series:
    try:
        listed = list(X)
    except TypeError as error:  # A LazyFrame of polars seems to be iterable, too.
        hint = ": give its values" if hasattr(X, "values") else ""  # as Trajectories have them
        what = f"series must be an array (n, T, d) or (n, T), or a list of (T_i, d), not {type(X).__name__}{hint}"
        raise UsageError(what) from error
    steps = [_steps(one, i) for i, one in enumerate(listed)]
    dims = sorted({one.shape[1] for one in steps})
    if len(dims) != 1:
        raise UsageError(f"series of different dimensions: {', '.join(map(str, dims))}" if dims else "no series given")
    dtype = np.result_type(*{one.dtype for one in steps})
    padded = np.full((len(steps), max(len(one) for one in steps), dims[0]), np.nan, dtype)
    for row, one in zip(padded, steps, strict=True):
        row[: len(one)] = one
    return read_series(padded)


def _steps(one: Any, i: int) -> np.ndarray:
    steps = as_array(one.get() if hasattr(one, "__cuda_array_interface__") else one, f"series {i}")
    if steps.dtype.kind not in "fiub":
        raise UsageError(f"series {i} must be of real numbers, got {steps.dtype}")
    if steps.dtype != np.float32:
        steps = steps.astype(np.float64)
    if steps.ndim not in (1, 2):
        raise UsageError(f"series {i} must be (T, d) or (T,), got shape {steps.shape}")
    return steps if steps.ndim == 2 else steps[:, None]


def _check(values: Any, first: int) -> tuple[Any, float]:
    """Return the lengths and the largest magnitude of (n, T, d) series; errors count series from ``first``."""
    xp = _namespace(values)
    largest = float(max(values.max(), -values.min()))
    if largest < np.inf:  # This is False for NaN too.
        return xp.full(len(values), values.shape[1], dtype=np.int32), largest
    present = ~xp.isnan(values).all(axis=2)
    lengths = values.shape[1] - present[:, ::-1].argmax(axis=1)
    lengths = xp.where(present.any(axis=1), lengths, 0).astype(np.int32)
    if not lengths.all():
        raise UsageError(f"series {first + int(lengths.argmin())} is empty")
    inside = xp.arange(values.shape[1]) < lengths[:, None]
    broken = inside & ~xp.isfinite(values).all(axis=2)
    if broken.any():
        i, step = divmod(int(broken.argmax()), values.shape[1])
        raise UsageError(
            f"series {first + i} has a NaN or infinite value at step {step}; only trailing NaN steps may pad it"
        )
    return lengths, float(abs(xp.where(inside[:, :, None], values, 0)).max())


def _namespace(values: Any) -> Any:
    """Return the module that made the array, numpy or cupy."""
    if isinstance(values, np.ndarray):
        return np
    from raypipe import packages

    return packages.require("cupy")
