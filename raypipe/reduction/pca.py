"""Principal component analysis, by scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import sklearn
from sklearn.decomposition import PCA


class PCAReducer:
    """A reducer to the directions in which points vary most; signs and dtype are those of scikit-learn's PCA.

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
        self._model: PCA | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> PCAReducer:
        """Return the fitted reducer whose `arrays` these are."""
        made = cls(len(arrays["components"]), seed=0)
        made._model = PCA(n_components=len(arrays["components"]))
        made._model.mean_, made._model.components_ = arrays["mean"], arrays["components"]
        made._model.explained_variance_ = np.ones(len(arrays["components"]))  # scikit-learn 1.6 reads it, to no effect.
        return made

    def fit(self, points: np.ndarray) -> PCAReducer:
        """Learn from (n, dim) points."""
        self.fit_transform(points)
        return self

    def fit_transform(self, points: np.ndarray) -> np.ndarray:
        """Learn from (n, dim) points and return them as mapped, (n, c)."""
        n_components = min(self._n_components, *points.shape)
        if n_components < self._n_components:
            note = f"all but {n_components} components are 0: {len(points)} points of {points.shape[1]} dimensions"
            self.reason = note if self.reason is None else f"{self.reason}; {note}"
        self._model = PCA(n_components=n_components, random_state=self._seed)
        # scikit-learn divides by the total variance, which is 0 if all points are equal.
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._widen(self._model.fit_transform(points), axis=1)

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Map (n, dim) points to (n, c)."""
        return self._widen(self._fitted.transform(points), axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return ``mean`` (dim,) and ``components`` (c, dim), which map x to (x − mean) · componentsᵀ."""
        return {"mean": self._fitted.mean_, "components": self._widen(self._fitted.components_, axis=0)}

    def _widen(self, values: np.ndarray, axis: int) -> np.ndarray:
        missing = [0, 0]
        missing[axis] = self._n_components - values.shape[axis]
        return np.pad(values, [(0, more) for more in missing]) if any(missing) else values

    @property
    def _fitted(self) -> PCA:
        if self._model is None:
            raise RuntimeError("this reducer is not fitted yet")
        return self._model
