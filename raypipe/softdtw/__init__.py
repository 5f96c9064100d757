"""Soft-DTW: how far two paths lie apart when each may dwell or hurry (Cuturi & Blondel, ICML 2017).

For x (T_x, d) and z (T_z, d) the value is ``R[T_z, T_x]`` of
``R[i, j] = ‖z_i − x_j‖² + softmin_γ(R[i−1, j], R[i−1, j−1], R[i, j−1])`` with
``softmin_γ(a) = −γ log Σ exp(−a / γ)``: squared Euclidean distances summed along the alignments, as in tslearn. It is
up to γ·log(number of alignments) below DTW², so it may be negative, and ``soft_dtw(x, x)`` is not 0; the divergence
``s(x, z) − ½ s(x, x) − ½ s(z, z)`` is 0 for z = x (Blondel, Mensch & Vert, AISTATS 2021).

Series come as an array (n, T, d) whose trailing all-NaN steps mean a shorter series, as (n, T) where d is 1, or as a
list of (T_i, d) or (T_i,) arrays; arrays on a GPU stay there, and so does what is computed from them.

A global constraint lets an alignment pass through some cells only, those of tslearn 0.10 for the same parameters:
``sakoe_chiba_radius``, a number of steps from the diagonal, or ``itakura_max_slope``, at least 1.
``global_constraint``, "sakoe_chiba" or "itakura", says which one counts if both are given, and alone stands for a
radius of 1 or a slope of 2. The other cells are not computed, so a narrow band is as much faster.
"""

from numbers import Real
from typing import Any

import numpy as np

from raypipe.errors import UsageError, one_line
from raypipe.softdtw.backends import PRECISIONS, load_backend
from raypipe.softdtw.barycenter import Descent, descend_lbfgs, resample, slope
from raypipe.softdtw.constraints import Constraint, read_constraint
from raypipe.softdtw.series import Series, Statistics, check_range, read_path, read_series, to_host

__all__ = ["auto_gamma", "cdist_soft_dtw", "soft_dtw", "soft_dtw_barycenter", "soft_dtw_gradient"]

_SAMPLED_STEPS = 1000  # They form half a million pairs, whose median distance is stable to about 1 %.


def soft_dtw(
    X: Any,
    Y: Any,
    gamma: float = 1.0,
    divergence: bool = False,
    *,
    global_constraint: str | None = None,
    sakoe_chiba_radius: int | None = None,
    itakura_max_slope: float | None = None,
    precision: str = "auto",
    backend: str = "auto",
) -> float:
    """Return soft-DTW between two series.

    Parameters
    ----------
    X, Y
        (T_x, d) and (T_y, d), or (T_x,) and (T_y,).
    gamma
        Smoothness, greater than 0; towards 0 the value tends to DTW².
    divergence
        Subtract half of each series' value with itself.
    global_constraint, sakoe_chiba_radius, itakura_max_slope, precision, backend
        As in `cdist_soft_dtw`.

    Raises
    ------
    UsageError
        If ``gamma`` is not positive, a series is empty or not finite, their dimensions differ, values are so large
        that the result would not be a number, or no alignment keeps to the constraint.
    """
    options = {"precision": precision, "backend": backend}
    constraint = read_constraint(global_constraint, sakoe_chiba_radius, itakura_max_slope)
    return float(compare(read_path(X), read_path(Y), gamma, divergence, constraint, **options)[0, 0])


def cdist_soft_dtw(
    X: Any,
    Y: Any = None,
    gamma: float = 1.0,
    divergence: bool = False,
    *,
    global_constraint: str | None = None,
    sakoe_chiba_radius: int | None = None,
    itakura_max_slope: float | None = None,
    precision: str = "auto",
    backend: str = "auto",
) -> np.ndarray:
    """Return soft-DTW between every series of ``X`` and every series of ``Y``.

    Parameters
    ----------
    X, Y
        n and m series; ``Y=None`` stands for ``X``, and each pair is then computed once.
    gamma
        Smoothness, greater than 0.
    divergence
        Subtract half of each series' value with itself, so that equal series are 0 apart. Apart from rounding, the
        result is not negative.
    global_constraint, sakoe_chiba_radius, itakura_max_slope
        Which cells an alignment may pass through; see the module.
    precision
        ``"float64"``; ``"float32"``, which is two to three times as fast, and accurate to 1e-4 of the larger of the
        values and γ; or ``"auto"``, float32 if all series are of float32, else float64.
    backend
        ``"cupy"``, ``"numba"``, or ``"auto"``: cupy if it is installed and there is a GPU or the series are on one.

    Returns
    -------
    (n, m) array of the precision, where X lies: on a GPU only if X lies there.

    Raises
    ------
    UsageError
        As in `soft_dtw`, or if the precision or the backend is unknown.
    """
    constraint = read_constraint(global_constraint, sakoe_chiba_radius, itakura_max_slope)
    return compare(X, Y, gamma, divergence, constraint, precision=precision, backend=backend)


def compare(
    X: Any,
    Y: Any,
    gamma: float,
    divergence: bool = False,
    constraint: Constraint | None = None,
    *,
    precision: str = "auto",
    backend: str = "auto",
) -> np.ndarray:
    """Return what `cdist_soft_dtw` returns, for a constraint that has been read."""
    gamma = check_gamma(gamma)
    x = read_series(X)
    y = None if Y is None else read_series(Y)
    precision = _resolve_precision(precision, x, y or x)
    module, prepared = _prepare(x, y, gamma, precision, backend)
    other = None if y is None else module.prepare(y, precision)
    values = module.cdist(prepared, other, gamma, constraint)
    if divergence:
        own = module.self_values(prepared, gamma, constraint) / 2
        values = values - own[:, None] - (own if other is None else module.self_values(other, gamma, constraint) / 2)
    return values if hasattr(x.values, "__cuda_array_interface__") else to_host(values)


def soft_dtw_gradient(
    X: Any,
    Y: Any,
    gamma: float = 1.0,
    divergence: bool = False,
    *,
    global_constraint: str | None = None,
    sakoe_chiba_radius: int | None = None,
    itakura_max_slope: float | None = None,
    precision: str = "auto",
    backend: str = "auto",
) -> tuple[float, np.ndarray]:
    """Return soft-DTW between two series, and its gradient by the steps of the first.

    The gradient is ``2 Σ_j E[i, j] (x_i − y_j)`` with E the expected alignment (Cuturi & Blondel 2017, §2.2).

    Parameters
    ----------
    X, Y, gamma, divergence, global_constraint, sakoe_chiba_radius, itakura_max_slope, precision, backend
        As in `soft_dtw`.

    Returns
    -------
    The value, and its gradient by X: (T_x, d) float64.

    Raises
    ------
    UsageError
        As in `soft_dtw`.
    """
    constraint = read_constraint(global_constraint, sakoe_chiba_radius, itakura_max_slope)
    return _differentiate(X, Y, gamma, divergence, constraint, precision, backend)


def _differentiate(
    X: Any, Y: Any, gamma: float, divergence: bool, constraint: Constraint | None, precision: str, backend: str
) -> tuple[float, np.ndarray]:
    gamma = check_gamma(gamma)
    center, y = read_path(X), read_path(Y)
    precision = _resolve_precision(precision, center, y)
    path = to_host(center.values)[0].astype(np.float64)
    found = _evaluate(y, center, path, gamma, precision, backend, constraint)
    value, gradient = found.values[0], slope(found, path)
    if divergence:
        own = _evaluate(center, center, path, gamma, precision, backend, constraint)
        other = compare(y, y, gamma, False, constraint, precision=precision, backend=backend)
        value -= (own.values[0] + float(other[0, 0])) / 2
        gradient = gradient - slope(own, path)  # Half of the gradient by each of the two equal arguments.
    return float(value), gradient


def soft_dtw_barycenter(
    X: Any,
    gamma: float = 1.0,
    divergence: bool = False,
    *,
    weights: Any = None,
    init: Any = None,
    solver: str | None = None,
    max_iter: int = 100,
    tol: float = 1e-6,
    global_constraint: str | None = None,
    sakoe_chiba_radius: int | None = None,
    itakura_max_slope: float | None = None,
    precision: str = "auto",
    backend: str = "auto",
) -> np.ndarray:
    """Find the series with the least weighted sum of soft-DTW to all of ``X``.

    Parameters
    ----------
    X
        n series.
    gamma
        Smoothness, greater than 0.
    divergence
        Minimise the sum of divergences instead, which does not shrink the center at large γ.
    weights
        (n,) numbers, not negative; by default all are equal.
    init
        (T, d) start, which also sets the length; by default the mean of the series, resampled to the longest.
    solver
        ``"mm"``, whose steps never raise the sum, or scipy's ``"lbfgs"``. The default is "mm", and "lbfgs" for the
        divergence, which "mm" cannot minimise.
    max_iter, tol
        Maximum number of steps, and the relative gain below which they end.
    global_constraint, sakoe_chiba_radius, itakura_max_slope
        As in `cdist_soft_dtw`.
    precision, backend
        As in `cdist_soft_dtw`; "auto" looks at X alone, and is float64 under "lbfgs", whose line search needs it.

    Returns
    -------
    (T, d) float64.

    Raises
    ------
    UsageError
        As in `soft_dtw`, or if the solver is unknown or cannot minimise the divergence, or the weights do not fit.
    """
    gamma = check_gamma(gamma)
    constraint = read_constraint(global_constraint, sakoe_chiba_radius, itakura_max_slope)
    solver = solver or ("lbfgs" if divergence else "mm")
    if solver not in ("mm", "lbfgs") or (divergence and solver == "mm"):
        raise UsageError(f"solver must be mm or lbfgs, and lbfgs for the divergence; got {solver!r}")
    x = read_series(X)
    precision = "float64" if precision == "auto" and solver == "lbfgs" else _resolve_precision(precision, x)
    shares = None if weights is None else check_weights(weights, len(x))
    if shares is not None and solver == "mm":  # Their ratios alone count, and float32 need not hold their size.
        shares = np.ldexp(shares, -np.frexp(shares.max())[1])
    if init is None:
        paths = [resample(path, x.values.shape[1]) for path in Series(to_host(x.values), to_host(x.lengths)).rows()]
        center = Series(np.average(paths, axis=0, weights=shares)[None], None, x.largest)
    else:
        center = read_path(init)
    start = to_host(center.values)[0].astype(np.float64)
    module, prepared = _prepare(x, center, gamma, precision, backend)
    labels = np.zeros(len(x), np.int32)
    total = len(x) if shares is None else shares.sum()

    def evaluate(centers: np.ndarray) -> Statistics:
        return module.statistics(prepared, centers, labels, gamma, shares, constraint)

    def objective(center: np.ndarray) -> tuple[float, np.ndarray]:
        found = evaluate(center[None])
        value, gradient = found.values[0], slope(found, center)
        if divergence:
            own, own_gradient = _differentiate(center, center, gamma, False, constraint, precision, backend)
            value, gradient = value - total * own / 2, gradient - total * own_gradient
        return value, gradient

    if solver == "mm":
        return Descent(1).run(evaluate, start[None], max_iter, tol)[0]
    return descend_lbfgs(objective, start, max_iter, tol)


def half_self_values(X: Any, gamma: float, backend: str = "auto", constraint: Constraint | None = None) -> np.ndarray:
    """Return half of each series' soft-DTW with itself, which the divergence subtracts: (n,) float64."""
    x = read_series(X)
    module, prepared = _prepare(x, None, gamma, "float64", backend)
    return to_host(module.self_values(prepared, gamma, constraint)) / 2


def auto_gamma(X: Any, seed: int = 0) -> float:
    """Choose γ to fit the data: a hundredth of the median squared distance between steps.

    No rule in ``bench/gamma.py`` is better by more than its own standard error, and none is simpler. The steps of all
    series are pooled, and 1,000 of them at most are sampled with ``seed``. If more than half of their pairs coincide
    but for rounding, the median is taken over those that do not. If all coincide, every γ gives the same clusters, and
    1.0 is returned: the result is always greater than 0.

    Parameters
    ----------
    X
        n series.
    seed
        For the sample of steps.

    Returns
    -------
    γ, in the squared units of the data.

    Raises
    ------
    UsageError
        If the series are empty or not finite.
    """
    from scipy.spatial.distance import pdist

    x = read_series(X)
    apart = pdist(x.steps(choose_steps(x.n_points, seed)), "sqeuclidean")
    # What a map to fewer dimensions makes of equal points differs in the last bits.
    rounding = x.values.shape[2] * (2 * np.finfo(np.float64).eps * x.largest) ** 2
    differing = apart[apart > rounding]
    if 2 * len(differing) >= len(apart):
        differing = apart
    return float(np.median(differing) / 100) if len(differing) else 1.0


def choose_steps(n_steps: int, seed: int = 0) -> np.ndarray:
    """Sample the steps that `auto_gamma` uses: the indices of 1,000 out of ``n_steps``, or of all if they are fewer."""
    if n_steps <= _SAMPLED_STEPS:
        return np.arange(n_steps)
    return np.random.default_rng(seed).choice(n_steps, _SAMPLED_STEPS, replace=False)


def check_gamma(gamma: float) -> float:
    """Return γ as a float, or raise `UsageError` if it is not a positive number."""
    if not (isinstance(gamma, Real) and 0 < gamma < np.inf):
        raise UsageError(f"gamma must be a number greater than 0, got {gamma!r}; metric 'dtw' is the limit at 0")
    return float(gamma)


def check_weights(weights: Any, n: int) -> np.ndarray:
    """Return weights as (n,) float64; raise `UsageError` unless they are n finite numbers, none negative, not all 0."""
    rule = f"weights must be {n} finite numbers, none negative and not all 0"
    try:
        found = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # These are the errors that `as_array` meets.
        raise UsageError(f"{rule}; {one_line(error)}") from error
    if found.shape != (n,) or not (np.isfinite(found).all() and (found >= 0).all() and found.any()):
        raise UsageError(f"{rule}; got {' '.join(str(found).split()):.60}")
    return found


def _resolve_precision(precision: str, *series: Series) -> str:
    """Return "float32" or "float64"; "auto" is float32 if all series are."""
    if precision == "auto":
        return "float32" if all(one.values.dtype == np.float32 for one in series) else "float64"
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of auto, {', '.join(PRECISIONS)}; got {precision!r}")
    return precision


def _prepare(x: Series, y: Series | None, gamma: float, precision: str, backend: str) -> tuple[Any, Any]:
    """Check that ``x`` and ``y`` can be compared; return the backend's module, and ``x`` prepared for it."""
    y = x if y is None else y
    if x.values.shape[2] != y.values.shape[2]:
        raise UsageError(f"series of {x.values.shape[2]} and of {y.values.shape[2]} dimensions cannot be compared")
    check_range(x, y, gamma, precision)
    module = load_backend(backend, x.values)
    return module, module.prepare(x, precision)


def _evaluate(
    x: Series,
    y: Series,
    center: np.ndarray,
    gamma: float,
    precision: str,
    backend: str,
    constraint: Constraint | None = None,
) -> Statistics:
    """Return the statistics of one series at one center, where ``center`` is the host's copy of ``y``."""
    module, prepared = _prepare(x, y, gamma, precision, backend)
    return module.statistics(prepared, center[None], np.zeros(1, np.int32), gamma, None, constraint)
