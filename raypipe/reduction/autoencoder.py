"""A map learned by an autoencoder, which places new points by itself and fills the plane evenly.

It follows the maps of frames in published notebooks: principal components, dense layers of weighted geometric means
with ELU and batch norm, a code of few numbers, and a linear decoder, trained to give the points back, to spread the
code (mean 0, standard deviation 0.3) and to keep the log-ratios of distances in random triples; at last the code is
turned and stretched by percentiles until it fills the plane. `raypipe.reduction.geometric_means` is the network,
`raypipe.reduction.stretch` what follows it. Once trained, mapping a point is a few small products of matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import numpy as np
from threadpoolctl import threadpool_limits

from raypipe import packages
from raypipe.config import ReduceConfig
from raypipe.errors import RaypipeError
from raypipe.reduction.pca import fit_pca
from raypipe.reduction.stand_in import Replaceable
from raypipe.reduction.stretch import Stretch

_PRINCIPAL = 256  # Components that the network sees at most: what the others hold is noise to a map.
_FEWEST = 10  # Batch norms and percentiles of fewer points mean nothing.
_BLOCK = 1 << 12  # So many points are mapped at a time: what lies between the layers stays in the processor's cache.


class LearnedMap:
    """The map of a trained encoder, applied by numpy alone.

    Parameters
    ----------
    arrays
        ``mean`` (dim,) and ``axes`` (dim, p), which map points to scaled principal components; of each layer its
        ``weights``, ``scale`` and ``shift``; ``code_weights`` (c, h) and ``code_bias`` (c,); and those of a `Stretch`
        where there is one.
    """

    implementation = "the encoder that was trained"
    reason: str | None = None

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays
        names = ("weights", "scale", "shift")
        self._layers = []
        for number in count():
            if f"layer{number}_weights" not in arrays:
                break
            self._layers.append(tuple(arrays[f"layer{number}_{name}"] for name in names))
        self._stretch = Stretch.of(arrays) if "knots" in arrays else None

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Map (n, dim) points to (n, c) float32; a point's place depends on others by rounding alone."""
        codes = self.encode(points)
        return self._stretch.transform(codes) if self._stretch is not None else codes

    def encode(self, points: np.ndarray) -> np.ndarray:
        """Map (n, dim) points to the code before any stretch, (n, c) float32 from −1 to 1."""
        # A block's products are small: threads that share one wait for each other longer than they compute.
        with threadpool_limits(1):
            blocks = [self._encode(points[i : i + _BLOCK]) for i in range(0, len(points), _BLOCK)]
        return np.concatenate(blocks) if blocks else np.empty((0, len(self._arrays["code_bias"])), np.float32)

    def _encode(self, points: np.ndarray) -> np.ndarray:
        z = ((points - self._arrays["mean"]) @ self._arrays["axes"]).astype(np.float32, copy=False)
        for weights, scale, shift in self._layers:
            logs = np.where(z > 0, np.log1p(np.maximum(z, 0)), z)
            z = np.exp(logs @ weights.T) * scale + shift
        z = np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
        return np.tanh(z @ self._arrays["code_weights"].T + self._arrays["code_bias"])


class AutoencoderReducer(Replaceable):
    """A reducer that learns the map of `LearnedMap` from points.

    Fewer than ten points, points that are all the same, and points of fewer dimensions than components are PCA's;
    ``reason`` says so. On the CPU the same points and seed give the same bits on any number of threads, on a GPU they
    do not. Fitting raises `RaypipeError` if the training does not stay finite.

    Parameters
    ----------
    config
        Components and seed; ``stretch`` and ``smoothness``.
    follows
        (n − 1,) bool: whether the next of the points that it is fitted on is the step that follows in the same video.
        It matters under ``smoothness`` alone.
    """

    name = "the autoencoder"

    def __init__(self, config: ReduceConfig, follows: np.ndarray | None = None):
        super().__init__(config, _FEWEST)
        self._follows = follows
        self.implementation = "autoencoder"

    def _learn(self, points: np.ndarray) -> None:
        from raypipe.reduction.geometric_means import train

        n_components = self._config.n_components
        with threadpool_limits(1):  # Sums that are shared among threads differ in their last bits by how many.
            mean, model = fit_pca(points, min(_PRINCIPAL, *points.shape), self._config.seed)
            scale = float(np.sqrt(model.explained_variance_.mean()))
            axes = (model.components_.T / scale).astype(np.float32)
            principal = (points - mean).astype(np.float32) @ axes
        device = "cuda" if packages.sees_gpu() and packages.require("torch").cuda.is_available() else "cpu"
        layers = train(principal, n_components, self._config.seed, self._follows, self._config.smoothness, device)
        if not all(np.isfinite(values).all() for values in layers.values()):
            raise RaypipeError(
                "the autoencoder's training went to infinity: set reduce.method=pca, or another reduce.seed"
            )
        self._arrays = {"mean": mean.astype(points.dtype), "axes": axes, **layers}
        if self._config.stretch:
            self._arrays.update(Stretch.fit(LearnedMap(self._arrays).encode(points)).arrays())
        self.implementation = f"autoencoder, torch {packages.require('torch').__version__} on {device}"

    def _map(self, points: np.ndarray) -> np.ndarray:
        return LearnedMap(self._arrays).transform(points)

    def _own_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of `LearnedMap`."""
        return self._arrays
