"""Points placed between others whose places are known."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

_BLOCK = 1 << 16  # So many points are placed at a time: a copy of all of them would need as much memory again.
_NEAREST, _SHARPNESS = 3, 3.0


class Placement:
    """A map that is known at some points, carried on to others.

    A point is placed as the mean of the places of its three nearest known ones, with weights exp(−3 (d − d₁) / m) for
    their squared distances d, where m is the mean of d − d₁. (With weights that fall off more slowly, points between
    two groups lie in the gap between them.) So a point's place depends on no other that is placed with it, and on no
    library's version.

    Parameters
    ----------
    points
        (n, dim), whose places are known.
    places
        (n, c), these places.
    metric
        "cosine" or "euclidean": which points are near.
    keeps
        Whether a point that is one of the known, bit for bit, gets exactly its place.
    """

    implementation = "between the three nearest"
    reason: str | None = None

    def __init__(self, points: np.ndarray, places: np.ndarray, metric: str, keeps: bool = False):
        self._places, self._metric = places, metric
        self._neighbors = NearestNeighbors(n_neighbors=min(_NEAREST, len(points)), algorithm="brute")
        self._neighbors.fit(self._comparable(points))
        self._keeps, self._points = keeps, points
        self._row_of = {_key(point): row for row, point in enumerate(points)} if keeps else {}

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Place (n, dim) points: (n, c) float32."""
        return np.concatenate([self._place(points[i : i + _BLOCK]) for i in range(0, len(points), _BLOCK)])

    def _place(self, points: np.ndarray) -> np.ndarray:
        distances, nearest = self._neighbors.kneighbors(self._comparable(points))
        excess = distances**2 - distances[:, :1] ** 2
        mean = excess.mean(axis=1, keepdims=True)
        weights = np.exp(-_SHARPNESS * excess / np.where(mean > 0, mean, 1.0))
        weights /= weights.sum(axis=1, keepdims=True)
        found = np.einsum("nk,nkc->nc", weights, self._places[nearest]).astype(np.float32)
        if self._keeps:
            points = points.astype(self._points.dtype, copy=False)
            rows = np.array([self._row_of.get(_key(point), 0) for point in points])
            same = (self._points[rows] == points).all(axis=1)
            found[same] = self._places[rows[same]]
        return found

    def _comparable(self, points: np.ndarray) -> np.ndarray:
        """Return points whose Euclidean neighbours are the metric's."""
        return normalize(points) if self._metric == "cosine" else points


def _key(point: np.ndarray) -> int:
    return hash(point.tobytes())
