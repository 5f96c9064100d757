"""Barycenters: two ways to find the center with the least weighted sum of soft-DTW to given series."""

from collections.abc import Callable

import numpy as np

from raypipe.softdtw.series import Statistics

_MEMORY = 8  # This many past steps contribute to the curvature.
# Along a step shorter than this part of the center, rounding changes the gradient as much as the curvature does.
_SHORTEST_STEP = 1e-7
# At its minimum a sum may rise by this part of itself through rounding, which is no reason to turn back.
_ROUNDING = 1e-12
# A step whose cosine with the change of the gradient is smaller than this says nothing of the curvature.
_LEAST_COSINE = 1e-10


class Descent:
    """Minimise the sums of soft-DTW to k centers, all at once, by steps that never raise a sum.

    Softmin is concave in the distances. So with the expected alignment held fixed, a center's sum lies below a
    quadratic that touches it at the present center. A step to the minimum of this quadratic, which is a weighted mean
    of steps, cannot raise the sum (majorise–minimise), but it is short where γ is large. Therefore the quadratic serves
    as the first guess of the curvature in L-BFGS (Nocedal 1980), which learns the rest from gradients that are computed
    anyway. A center whose sum has risen goes back to the end of its last majorise–minimise step and forgets the
    curvature.
    """

    _safe: np.ndarray  # (k, T, d)
    _gain: float

    def __init__(self, k: int):
        self._pairs: list[list[tuple[np.ndarray, np.ndarray, float]]] = [[] for _ in range(k)]

    def run(
        self, evaluate: Callable[[np.ndarray], Statistics], centers: np.ndarray, max_steps: int, tol: float
    ) -> np.ndarray:
        """Take steps from (k, T, d) centers until they lower the sums by less than ``tol`` of them; return new centers.

        A run keeps the curvature of the run before, but not its sums and gradients, because the series that belong to
        the centers may have changed.
        """
        self._safe = centers
        self._lowest = np.full(len(self._pairs), np.inf)
        self._last: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(self._pairs)
        for _ in range(max_steps):
            centers = self._step(evaluate(centers), centers)
            if self._gain <= tol * abs(self._lowest).sum():
                break
        return self._safe

    def _step(self, found: Statistics, centers: np.ndarray) -> np.ndarray:
        """Return the centers to try next, (k, T, d), from the statistics at (k, T, d) centers.

        The ends of the majorise–minimise steps, which never raise a sum, are kept in ``_safe``.
        """
        sure = step_mm(found, centers)
        rose = found.values > self._lowest + _ROUNDING * abs(self._lowest)
        self._gain = float(np.where(rose, 0, self._lowest - found.values).sum()) + (np.inf if rose.any() else 0)
        self._lowest = np.where(rose, self._lowest, found.values)
        if rose.any():
            sure = np.where(rose[:, None, None], self._safe, sure)
        self._safe = sure
        onward = self._safe.copy()
        for c in range(len(centers)):
            if rose[c]:
                self._pairs[c], self._last[c] = [], None
            else:
                self._learn(c, centers[c], gradient := slope(found, centers[c], c))
                onward[c] = centers[c] - self._bend(c, gradient, 2 * found.mass[c][:, None])
        return onward

    def _learn(self, c: int, center: np.ndarray, gradient: np.ndarray) -> None:
        if (last := self._last[c]) is not None:
            moved, turned = center - last[0], gradient - last[1]
            curvature, length = float((moved * turned).sum()), np.linalg.norm(moved)
            long_enough = length > _SHORTEST_STEP * np.linalg.norm(center)
            if long_enough and curvature > _LEAST_COSINE * length * np.linalg.norm(turned):
                self._pairs[c] = [*self._pairs[c][1 - _MEMORY :], (moved, turned, curvature)]
        self._last[c] = center, gradient

    def _bend(self, c: int, gradient: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
        """Multiply a gradient by the inverse of the curvature, by the two loops of L-BFGS."""
        direction, shares = gradient.copy(), []
        for moved, turned, curvature in reversed(self._pairs[c]):
            shares.append((moved * direction).sum() / curvature)
            direction -= shares[-1] * turned
        direction = np.divide(direction, stiffness, out=np.zeros_like(direction), where=stiffness > 0)
        for (moved, turned, curvature), share in zip(self._pairs[c], reversed(shares), strict=True):
            direction += (share - (turned * direction).sum() / curvature) * moved
        return direction


def step_mm(found: Statistics, centers: np.ndarray) -> np.ndarray:
    """Move each step of (k, T, d) centers to the mean of the steps expected at it; a center without series stays."""
    mass = found.mass[:, :, None]
    return np.divide(found.sums, mass, out=centers.copy(), where=mass > 0)


def slope(found: Statistics, center: np.ndarray, c: int = 0) -> np.ndarray:
    """Return the gradient of the c-th center's weighted sum by its steps: (T, d)."""
    return 2 * (center * found.mass[c][:, None] - found.sums[c])


def descend_lbfgs(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], center: np.ndarray, max_iter: int, tol: float
) -> np.ndarray:
    """Minimise ``objective(center) -> (value, gradient)`` by scipy's L-BFGS-B as tslearn does; return (T, d)."""
    from scipy.optimize import minimize

    if max_iter <= 0:  # scipy would take one step.
        return center

    def flat(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(numbers.reshape(center.shape))
        return value, gradient.ravel()

    result = minimize(flat, center.ravel(), method="L-BFGS-B", jac=True, tol=tol, options={"maxiter": max_iter})
    return result.x.reshape(center.shape)


def resample(path: np.ndarray, n_steps: int) -> np.ndarray:
    """Interpolate (T, d) linearly at ``n_steps`` evenly spaced points: (n_steps, d)."""
    if len(path) == n_steps:
        return path
    at = np.linspace(0, 1, n_steps)
    have = np.linspace(0, 1, len(path))
    return np.stack([np.interp(at, have, column) for column in path.T], axis=1)
