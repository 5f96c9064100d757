"""Reducers whose place PCA takes where the points do not allow what they do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np

from raypipe.config import ReduceConfig
from raypipe.reduction.pca import PCAReducer


class Replaceable(ABC):
    """A reducer of points that PCA maps in its stead, and ``reason`` says so, if there are too few or all are the same.

    Parameters
    ----------
    config
        Components and seed.
    fewest
        So many points it needs.
    keeps_dims
        Whether it cannot map points to more dimensions than they have.
    """

    name: str
    """What ``reason`` calls it."""

    def __init__(self, config: ReduceConfig, fewest: int, keeps_dims: bool = True):
        self._config, self._fewest, self._keeps_dims = config, fewest, keeps_dims
        self.implementation = self.name
        self.reason: str | None = None
        self._stand_in: PCAReducer | None = None
        self._is_fitted = False

    def fit(self, points: np.ndarray) -> Self:
        """Learn from (n, dim) points."""
        self._fit(points)
        return self

    def fit_transform(self, points: np.ndarray) -> np.ndarray:
        """Learn from (n, dim) points and return them as mapped, (n, c)."""
        placed = self._fit(points)
        return self.transform(points) if placed is None else placed

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Map (n, dim) points to (n, c)."""
        if not self._is_fitted:
            raise RuntimeError("this reducer is not fitted yet")
        return self._map(points) if self._stand_in is None else self._stand_in.transform(points)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all that mapping further points needs, as plain arrays; those of PCA if that took its place."""
        return self._own_arrays() if self._stand_in is None else self._stand_in.arrays()

    @abstractmethod
    def _learn(self, points: np.ndarray) -> np.ndarray | None:
        """Learn from points that allow it; return their places, (n, c) float32, if these come with it."""

    @abstractmethod
    def _map(self, points: np.ndarray) -> np.ndarray:
        """Map (n, dim) points to (n, c) float32."""

    @abstractmethod
    def _own_arrays(self) -> dict[str, np.ndarray]: ...

    def _fit(self, points: np.ndarray) -> np.ndarray | None:
        self._stand_in, placed = None, None
        if (obstacle := self._find_obstacle(points)) is None:
            placed = self._learn(points)
        else:
            self._note(f"PCA instead of {self.name}: {obstacle}")
            self._stand_in = PCAReducer(self._config.n_components, self._config.seed, self.reason).fit(points)
            self.implementation, self.reason = self._stand_in.implementation, self._stand_in.reason
        self._is_fitted = True
        return placed

    def _find_obstacle(self, points: np.ndarray) -> str | None:
        (n, dim), n_components = points.shape, self._config.n_components
        if n < self._fewest:
            return f"{n_components} components need at least {self._fewest} points, there are {n}"
        if (points == points[0]).all():
            return "all points are the same"
        if self._keeps_dims and dim < n_components:
            return f"there are {n_components} components of points of {dim} dimensions"
        return None

    def _note(self, reason: str) -> None:
        self.reason = reason if self.reason is None else f"{self.reason}; {reason}"
