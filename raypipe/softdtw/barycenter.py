"""The path in the middle of many: two ways to minimise a weighted sum of soft-DTW over a center."""

from collections.abc import Callable

import numpy as np

from raypipe.softdtw.series import Statistics

Evaluate = Callable[[np.ndarray], Statistics]  # of one center (1, T, d)


def step_mm(found: Statistics, centers: np.ndarray) -> np.ndarray:
    """Move each of (k, T, d) centers to where its series expect it: never a rise of the sum, and no line search.

    Softmin is concave in the distances, so with the expected alignment held fixed the sum lies below a quadratic that
    touches it at the present center; its minimum is a weighted mean of steps (majorise–minimise). A center without
    series stays.
    """
    mass = found.mass[:, :, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(mass > 0, found.sums / mass, centers)


def slope(found: Statistics, center: np.ndarray) -> np.ndarray:
    """Gradient of the weighted sum by the steps of its one center (T, d)."""
    return 2 * (center * found.mass[0][:, None] - found.sums[0])


def descend_mm(evaluate: Evaluate, center: np.ndarray, max_iter: int, tol: float) -> np.ndarray:
    """Take steps until the sum falls by less than ``tol`` of itself: (T, d)."""
    before = np.inf
    for _ in range(max_iter):
        found = evaluate(center[None])
        center = step_mm(found, center[None])[0]
        now = found.values[0]
        if before - now <= tol * abs(now):
            break
        before = now
    return center


def descend_lbfgs(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], center: np.ndarray, max_iter: int, tol: float
) -> np.ndarray:
    """Minimise ``objective(center) -> (value, gradient)`` by scipy's L-BFGS-B, as tslearn does: (T, d)."""
    from scipy.optimize import minimize

    def flat(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(numbers.reshape(center.shape))
        return value, gradient.ravel()

    result = minimize(flat, center.ravel(), method="L-BFGS-B", jac=True, tol=tol, options={"maxiter": max_iter})
    return result.x.reshape(center.shape)


def resample(path: np.ndarray, n_steps: int) -> np.ndarray:
    """Interpolate (T, d) linearly to n_steps evenly spaced: (n_steps, d)."""
    if len(path) == n_steps:
        return path
    at = np.linspace(0, 1, n_steps)
    have = np.linspace(0, 1, len(path))
    return np.stack([np.interp(at, have, column) for column in path.T], axis=1)
