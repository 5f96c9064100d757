"""Principal component analysis, by scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import sklearn
from sklearn.decomposition import PCA

_BLOCK = 1 << 8  # So many points are mapped at a time: less their mean and in float64, they stay in a core's cache.


def fit_pca(points: np.ndarray, n_components: int, seed: int) -> tuple[np.ndarray, PCA]:
    """Fit scikit-learn's PCA to (n, dim) points less their mean, in float64; return the mean, (dim,), and the model.

    scikit-learn itself subtracts the mean from products of the points, of which float32 loses all that counts where
    the points lie far from zero beside their spread (findings/float32_far_from_zero.sh).
    """
    centered = points.astype(np.float64)
    mean = centered.mean(axis=0)
    centered -= mean
    with np.errstate(divide="ignore", invalid="ignore"):  # Equal points have a total variance of 0.
        return mean, PCA(n_components=n_components, random_state=seed).fit(centered)


class PCAReducer:
    """A reducer to the directions in which points vary most; their signs are those of scikit-learn's PCA.

    They are found in float64; float32 points stay float32.

    Parameters
    ----------
    n_components
        Number of dimensions to reduce to. If there are fewer points, or the points have fewer dimensions, the remaining
        components are 0, and ``reason`` says so.
    seed
        Seed of the randomised solver, which scikit-learn uses for wide data.
    reason
        Why this reducer replaces another one, if it does.
    """

    def __init__(self, n_components: int, seed: int, reason: str | None = None):
        self.implementation = f"scikit-learn {sklearn.__version__}"
        self.reason = reason
        self._n_components = n_components
        self._seed = seed
        self._arrays: dict[str, np.ndarray] | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> PCAReducer:
        """Return the fitted reducer whose `arrays` these are."""
        made = cls(len(arrays["components"]), seed=0)
        made._arrays = {name: arrays[name] for name in ("mean", "components")}
        return made

    def fit(self, points: np.ndarray) -> PCAReducer:
        """Learn from (n, dim) points."""
        n_components = min(self._n_components, *points.shape)
        missing = self._n_components - n_components
        if missing:
            note = f"all but {n_components} components are 0: {len(points)} points of {points.shape[1]} dimensions"
            self.reason = note if self.reason is None else f"{self.reason}; {note}"
        mean, model = fit_pca(points, n_components, self._seed)
        dtype = np.float32 if points.dtype == np.float32 else np.float64
        components = np.pad(model.components_, ((0, missing), (0, 0)))
        # Along a direction in which points vary no more than their numbers are rounded, there is nothing to see.
        rounding = np.finfo(dtype).eps * np.abs(points).max(axis=0).astype(np.float64)
        components[:n_components][model.explained_variance_ <= np.square(model.components_) @ np.square(rounding)] = 0
        self._arrays = {"mean": mean.astype(dtype), "components": components.astype(dtype)}
        return self

    def fit_transform(self, points: np.ndarray) -> np.ndarray:
        """Learn from (n, dim) points and return them as mapped, (n, c)."""
        return self.fit(points).transform(points)

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Map (n, dim) points to (n, c)."""
        mean, axes = self.arrays()["mean"], self.arrays()["components"].T
        mapped = np.empty((len(points), axes.shape[1]), mean.dtype)
        for start in range(0, len(points), _BLOCK):
            centered = (points[start : start + _BLOCK] - mean).astype(np.float64)
            # In float32 equal points would differ by where they stand (findings/equal_rows_unequal_products.sh).
            mapped[start : start + _BLOCK] = centered @ axes.astype(np.float64)
        return mapped

    def arrays(self) -> dict[str, np.ndarray]:
        """Return ``mean`` (dim,) and ``components`` (c, dim), which map x to (x − mean) · componentsᵀ."""
        if self._arrays is None:
            raise RuntimeError("this reducer is not fitted yet")
        return self._arrays
