"""t-SNE (van der Maaten & Hinton 2008), by cuML on a GPU and by scikit-learn elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
from sklearn.manifold import TSNE

from raypipe import packages
from raypipe.config import ReduceConfig
from raypipe.reduction.placement import Placement
from raypipe.reduction.stand_in import Replaceable
from raypipe.reduction.umap import choose_library

_FAR = 1e15
_PERPLEXITY = 30.0  # The default of scikit-learn and of cuML.


class TSNEReducer(Replaceable):
    """A reducer that keeps neighbours together, by the library's own defaults: Euclidean, perplexity 30.

    If the points are not more than the perplexity, it is lowered to a third of their number less one. Fewer than four
    points, points that are all the same and points of fewer dimensions than components are PCA's; ``reason`` says so.
    t-SNE itself maps no further points: they are placed between the fitted ones (`Placement`).

    Parameters
    ----------
    config
        Components, seed and backend.

    Raises
    ------
    RaypipeError
        If cuML is asked for and cannot be used here.
    """

    name = "t-SNE"

    def __init__(self, config: ReduceConfig):
        super().__init__(config, max(4, config.n_components + 1))
        self._library, self.reason = choose_library("auto" if config.backend == "quick" else config.backend)
        if self._library == "cuml" and config.n_components != 2:
            self._library = "scikit-learn"
            self._note(f"cuML's t-SNE has 2 components, not {config.n_components}: scikit-learn")
        self.implementation = f"scikit-learn {sklearn.__version__}"

    def _learn(self, points: np.ndarray) -> np.ndarray:
        self._perplexity = _PERPLEXITY
        if len(points) <= _PERPLEXITY:
            self._perplexity = (len(points) - 1) / 3
            self._note(f"perplexity lowered to {self._perplexity:.3g}: there are {len(points)} points")
        self._points = points
        placed = self._make_model().fit_transform(_at_scale(points))
        self.embedding_ = _share_places(points, np.asarray(placed))
        self._placement = Placement(points, self.embedding_, "euclidean")
        return self.embedding_

    def _map(self, points: np.ndarray) -> np.ndarray:
        return self._placement.transform(points)

    def _own_arrays(self) -> dict[str, np.ndarray]:
        """Return all that placing needs: ``points`` (n, dim), their ``embedding`` (n, c), parameters and ``seed``."""
        return {
            "points": self._points,
            "embedding": self.embedding_,
            "perplexity": np.array(self._perplexity),
            "n_components": np.array(self._config.n_components),
            "metric": np.array("euclidean"),
            "seed": np.array(self._config.seed),
        }

    def _make_model(self) -> Any:
        parameters: dict[str, Any] = {  # Both libraries know these names.
            "n_components": self._config.n_components,
            "perplexity": self._perplexity,
            "random_state": self._config.seed,
        }
        if self._library == "cuml":
            self.implementation = f"cuml {packages.require('cuml').__version__}"
            # cuML starts at random by default, and scikit-learn by PCA, which keeps groups in order.
            return packages.require("cuml.manifold").TSNE(**parameters, init="pca", output_type="numpy")
        return TSNE(**parameters)


def _at_scale(points: np.ndarray) -> np.ndarray:
    """Return points whose squared distances float32 can hold; a layout depends on the ratios of distances alone."""
    spread = np.abs(points - points[0]).max()
    if 1 / _FAR < spread < _FAR:
        return points
    return np.ldexp(points.astype(np.float64), -np.frexp(spread)[1])


def _share_places(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Give equal points their mean place: t-SNE sets them apart, and a video that stands still would seem to move."""
    same = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1)
    sums = np.zeros((same.max() + 1, places.shape[1]))
    np.add.at(sums, same, places)
    return (sums / np.bincount(same)[:, None])[same].astype(places.dtype)
