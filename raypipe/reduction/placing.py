"""Further points on a map that was fitted without them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.neighbors import NearestNeighbors

_BLOCK = 1 << 16  # So many points are placed at a time: a copy of all of them would need as much memory again.
_NEAREST, _SHARPNESS = 3, 3.0


class Places:
    """The places of fitted points, between which further points are placed, each by itself.

    A point's place is the mean of the places of its three nearest fitted points, with weights
    exp(−3 (d − d₁) / mean(d − d₁)) for their squared distances d. (With weights that fall off more slowly, points
    between two groups lie in the gap between them.)

    Parameters
    ----------
    points
        (n, dim), the fitted points, of which Euclidean neighbours count.
    places
        (n, c), their places.
    """

    def __init__(self, points: np.ndarray, places: np.ndarray):
        self._places = places
        self._neighbors = NearestNeighbors(n_neighbors=min(_NEAREST, len(points)), algorithm="brute").fit(points)

    def between(self, points: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray] = np.asarray) -> np.ndarray:
        """Place (m, dim) points, a block at a time after ``prepare``: (m, c) float32."""
        blocks = (points[i : i + _BLOCK] for i in range(0, len(points), _BLOCK))
        return np.concatenate([self._place(prepare(block)) for block in blocks])

    def _place(self, points: np.ndarray) -> np.ndarray:
        distances, nearest = self._neighbors.kneighbors(points)
        excess = distances**2 - distances[:, :1] ** 2
        mean = excess.mean(axis=1, keepdims=True)
        weights = np.exp(-_SHARPNESS * excess / np.where(mean > 0, mean, 1.0))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.einsum("nk,nkc->nc", weights, self._places[nearest]).astype(np.float32)
