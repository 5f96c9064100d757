"""UMAP (McInnes, Healy & Melville 2018), by cuML on a GPU and by umap-learn or fastumap elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence

from raypipe import packages
from raypipe.config import ReduceConfig
from raypipe.errors import RaypipeError
from raypipe.reduction.pca import PCAReducer
from raypipe.reduction.placement import Placement
from raypipe.reduction.stand_in import Replaceable

_EPOCHS = 200  # umap-learn's number for large collections; 500, that for small ones, shows the same in twice the time.
_EXTENT = 10.0  # A layout begins with coordinates of this size, as the spectral start's.
_NOTED = ("Spectral initialisation failed", "A few of your vertices", "A large number of your vertices")


class UMAPReducer(Replaceable):
    """A reducer that keeps neighbours together.

    UMAP cannot map points that are all the same, nor fewer points than its spectral start needs (4, and 2 more than
    components). For these PCA replaces it, and ``reason`` says so. If the points are few, ``n_neighbors`` is lowered to
    their number less one.

    Parameters
    ----------
    config
        UMAP's parameters, seed and backend.

    Raises
    ------
    RaypipeError
        If cuML is asked for and cannot be used here.
    """

    name = "UMAP"
    _model: Any

    def __init__(self, config: ReduceConfig):
        self._library, reason = choose_library(config.backend)
        super().__init__(config, max(4, config.n_components + 2), keeps_dims=self._library == "fastumap")
        self.implementation, self.reason = self._library, reason

    def _learn(self, points: np.ndarray) -> np.ndarray:
        self._points = np.ascontiguousarray(points, dtype=np.float32)
        n_neighbors = min(self._config.n_neighbors, len(points) - 1)
        if n_neighbors < self._config.n_neighbors:
            self._note(f"n_neighbors lowered to {n_neighbors}: there are {len(points)} points")
        self._model, self.implementation = self._make_model(n_neighbors)
        if isinstance(self._model, FastUMAP):  # It may run in a thread, and warnings are caught for the whole process.
            placed = self._model.fit_transform(self._points)
            if self._model.reason:
                self._note(self._model.reason)
            return placed
        with self._noting():
            return np.asarray(self._model.fit_transform(self._points))

    def _map(self, points: np.ndarray) -> np.ndarray:
        with self._noting():
            return np.asarray(self._model.transform(np.ascontiguousarray(points, dtype=np.float32)))

    def _own_arrays(self) -> dict[str, np.ndarray]:
        """Return all that a refit needs: ``points`` (n, dim), their ``embedding`` (n, c), parameters and ``seed``."""
        config = self._config
        return {
            "points": self._points,
            "embedding": np.asarray(self._model.embedding_),
            "n_neighbors": np.array(self._model.n_neighbors),
            "n_components": np.array(config.n_components),
            "min_dist": np.array(config.min_dist),
            "metric": np.array(config.metric),
            "seed": np.array(config.seed),
        }

    def _make_model(self, n_neighbors: int) -> tuple[Any, str]:
        parameters: dict[str, Any] = {  # All libraries know these names.
            "n_neighbors": n_neighbors,
            "n_components": self._config.n_components,
            "min_dist": self._config.min_dist,
            "metric": self._config.metric,
            "random_state": self._config.seed,
        }
        if self._library == "cuml":
            model = packages.require("cuml.manifold").UMAP(**parameters, output_type="numpy")
            return model, f"cuml {packages.require('cuml').__version__}"
        if self._library == "fastumap":
            return FastUMAP(**parameters), f"fastumap {packages.require('fastumap').__version__}"
        umap = _import_umap()
        # With a seed umap-learn always uses one thread, and warns unless n_jobs is 1.
        return umap.UMAP(**parameters, n_jobs=1), f"umap-learn {umap.__version__}"

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Add the library's warnings about its own fallbacks to the reason, and pass all other warnings on."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            message = str(warning.message)
            if message.startswith(_NOTED):
                self._note(" ".join(message.split("\n\n")[0].split()))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


class FastUMAP:
    """fastumap behind the methods of umap-learn that `UMAPReducer` calls.

    Nothing is compiled, which umap-learn does anew in each process. It finds exact neighbours, which suits some
    thousands of points. Further points are placed between those that were fitted, each by itself (`Placement`).

    Parameters
    ----------
    n_neighbors, n_components, min_dist, metric, random_state
        As umap-learn's. ``metric`` is "cosine" or "euclidean".

    Attributes
    ----------
    embedding_
        (n, n_components) float64, the places of the fitted points.
    reason
        Why the layout did not begin as it should, or None.
    """

    reason: str | None = None

    def __init__(self, n_neighbors: int, n_components: int, min_dist: float, metric: str, random_state: int):
        self.n_neighbors = n_neighbors
        self._n_components = n_components
        self._options: dict[str, Any] = {"min_dist": min_dist, "metric": metric, "random_state": random_state}

    def fit_transform(self, points: np.ndarray) -> np.ndarray:
        """Lay out (n, dim) points; return their places, (n, n_components) float32."""
        fastumap = packages.require("fastumap")
        options = {**self._options, "n_neighbors": self.n_neighbors, "n_epochs": _EPOCHS}
        try:
            self.embedding_ = fastumap.umap_project(points, self._n_components, **options)
        except ArpackNoConvergence:  # umap-learn too goes on without the spectral start.
            self.reason = "Spectral initialisation failed: it began from PCA instead"
            start = PCAReducer(self._n_components, seed=0).fit_transform(points)
            start = start * (_EXTENT / np.abs(start).max())
            self.embedding_ = fastumap.umap_project(points, self._n_components, init=start, **options)
        self._placement = Placement(points, self.embedding_, self._options["metric"])
        return self.embedding_.astype(np.float32)

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Place (n, dim) points between the fitted ones: (n, n_components) float32."""
        return self._placement.transform(points)


def choose_library(backend: str) -> tuple[str, str | None]:
    """Return the library for a ``backend`` of auto, cuml, cpu or quick, and why an existing GPU is not used.

    Raises
    ------
    RaypipeError
        If cuML is asked for, and it or a GPU is missing.
    """
    on_cpu, reason = "umap-learn", None
    if backend == "quick":
        if packages.is_installed("fastumap"):
            on_cpu = "fastumap"
        else:
            reason = "fastumap is not installed: umap-learn, which is slower"
    if backend == "cpu" or (backend != "cuml" and not packages.sees_gpu()):
        return on_cpu, reason
    try:
        packages.require_on_gpu("cuml.manifold", "set reduce.backend=cpu")
    except RaypipeError as error:
        if backend == "cuml":
            raise
        return on_cpu, str(error)
    return "cuml", None


def _import_umap() -> Any:
    """Import umap-learn without its warnings about its neural variant, which needs Tensorflow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tensorflow not installed", category=ImportWarning)
        warnings.filterwarnings("ignore", message="The umap.parametric_umap package requires", category=UserWarning)
        import umap
    return umap
