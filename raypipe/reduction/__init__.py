"""Reducing trajectories from the encoder's dimensions to the few that the clustering sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from raypipe.config import ReduceConfig, validate
from raypipe.errors import RaypipeError, UsageError, check_type
from raypipe.schema import Trajectories
from raypipe.softdtw.series import as_array

if TYPE_CHECKING:
    from raypipe.reduction.autoencoder import LearnedMap
    from raypipe.reduction.pca import PCAReducer
    from raypipe.reduction.placement import Placement

_BLOCK = 1 << 16  # So many points are checked at a time.
_MOST, _MOST_SINGLE = 1e150, 1e15
"""Numbers of this magnitude can still be squared, and many of the squares summed, in float64; and in float32."""


class Reducer(Protocol):
    """A map from dim to c dimensions, learned from points.

    Attributes
    ----------
    implementation
        The library that computes it, with its version; known after fitting.
    reason
        Why the reduction differs from the requested one, or None if it does not.
    """

    implementation: str
    reason: str | None

    def fit(self, points: np.ndarray) -> Reducer:
        """Learn from (n, dim) points."""
        ...

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Map (n, dim) points to (n, c)."""
        ...

    def fit_transform(self, points: np.ndarray) -> np.ndarray:
        """Learn from (n, dim) points and return them as mapped, (n, c)."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything that mapping new points needs, as plain arrays."""
        ...


class Identity:
    """A reducer that leaves points unchanged."""

    implementation: str = "none"
    reason: str | None = None

    def fit(self, points: np.ndarray) -> Identity:
        """Learn nothing."""
        return self

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Return the points."""
        return points

    def fit_transform(self, points: np.ndarray) -> np.ndarray:
        """Return the points."""
        return points

    def arrays(self) -> dict[str, np.ndarray]:
        """Return no arrays, because mapping needs none."""
        return {}


def make_reducer(config: ReduceConfig, follows: np.ndarray | None = None) -> Reducer:
    """Make the reducer that ``config`` names, without fitting it.

    Parameters
    ----------
    config
        The reducer's parameters.
    follows
        What `find_consecutive` returns for the points that it will be fitted on; the autoencoder alone takes it.

    Raises
    ------
    RaypipeError
        If cuML is asked for and cannot be used here.
    """
    if config.method == "tsne":
        from raypipe.reduction.tsne import TSNEReducer

        return TSNEReducer(config)
    if config.method == "umap":
        from raypipe.reduction.umap import UMAPReducer

        return UMAPReducer(config)
    if config.method == "autoencoder":
        from raypipe.reduction.autoencoder import AutoencoderReducer

        return AutoencoderReducer(config, follows)
    if config.method == "pca":
        from raypipe.reduction.pca import PCAReducer

        return PCAReducer(config.n_components, config.seed)
    return Identity()


def restore_reducer(arrays: Mapping[str, np.ndarray]) -> PCAReducer | Placement | LearnedMap | Identity:
    """Return the map to fewer dimensions that a fitted reducer's `arrays` describe.

    PCA and the autoencoder map as they did. UMAP's points keep the places that they were given, and other points are
    placed between them (`raypipe.reduction.placement`), instead of fitting it again: on another machine or by another
    version of the library that could end in another map, in which the centers of clusters mean nothing.
    """
    from raypipe.reduction.autoencoder import LearnedMap
    from raypipe.reduction.pca import PCAReducer
    from raypipe.reduction.placement import Placement

    if "code_weights" in arrays:
        return LearnedMap(arrays)
    if "components" in arrays:
        return PCAReducer.of(arrays)
    if "points" in arrays:
        return Placement(arrays["points"], arrays["embedding"], str(arrays["metric"]), keeps=True)
    return Identity()


def reduce(
    trajectories: Trajectories,
    method: Literal["umap", "pca", "tsne", "autoencoder", "none"] = "pca",
    *,
    n_components: int = 5,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    metric: Literal["cosine", "euclidean"] = "cosine",
    backend: Literal["auto", "cuml", "cpu", "quick"] = "auto",
    fit_points: int = 100_000,
    stretch: bool = True,
    smoothness: float = 0.0,
    seed: int = 0,
) -> Trajectories:
    """Reduce the steps of all trajectories together, as points of one space.

    Parameters
    ----------
    trajectories
        Paths of one length or of several.
    method
        "umap", "pca", "tsne" (to three dimensions at most), "autoencoder", or "none" to leave them as they are.
    n_components
        Number of dimensions to reduce to.
    n_neighbors, min_dist, metric
        UMAP's parameters of these names.
    backend
        UMAP's library: "cuml" (on a GPU), "cpu" (umap-learn), or "auto": cuML if it is installed and there is a GPU,
        else umap-learn. "quick" is "auto" with fastumap on the CPU, as for the pictures: it compiles nothing, and suits
        some thousands of points. t-SNE's is cuML or scikit-learn.
    fit_points
        Most steps to fit the reducer on, sampled with ``seed``; it then maps all steps.
    stretch, smoothness
        The autoencoder's: whether its points are spread evenly over the map, and the weight of the term that draws
        steps together that follow each other.
    seed
        Seed of the sample and of the reducer. The same seed gives the same result.

    Returns
    -------
    Trajectories of the same videos with ``n_components`` dimensions.

    Raises
    ------
    UsageError
        If there is no trajectory, trajectories do not have one dim, or a parameter is out of range.
    RaypipeError
        If a trajectory has a NaN or infinite value or one too large to be squared, or cuML is asked for and cannot be
        used here.
    """
    remedy = "what build_trajectories returns, or Trajectories(video_ids, values, n_clips) of your own arrays"
    check_type("trajectories", trajectories, Trajectories, remedy)
    paths = _read_paths(trajectories)
    values = {
        "method": method,
        "n_components": n_components,
        "n_neighbors": n_neighbors,
        "min_dist": min_dist,
        "metric": metric,
        "backend": backend,
        "fit_points": fit_points,
        "stretch": stretch,
        "smoothness": smoothness,
        "seed": seed,
    }
    config = validate(ReduceConfig, values)
    return reduce_trajectories(paths, config)[0]


def _read_paths(trajectories: Trajectories) -> Trajectories:
    """Return trajectories as numpy's arrays; raise `UsageError` unless there are any, (n_steps, dim) of one dim."""
    paths = trajectories.values
    if hasattr(paths, "__array__"):
        paths = as_array(paths, "trajectories")
    if not isinstance(paths, np.ndarray) or paths.dtype == object:
        paths = [as_array(path, f"trajectory {i}") for i, path in enumerate(paths)]
    if not len(paths):
        raise UsageError("there is no trajectory to reduce")
    if len(paths) != len(trajectories):
        raise UsageError(f"Trajectories have {len(trajectories):,} video_ids and {len(paths):,} values: one a video")
    for i, path in enumerate(paths[:1] if isinstance(paths, np.ndarray) else paths):
        if path.ndim != 2 or 0 in path.shape or path.shape[1] != paths[0].shape[1]:
            raise UsageError(f"trajectory {i} has the shape {path.shape}; each must be (n_steps, dim), of one dim")
        if path.dtype.kind not in "fiu":
            raise UsageError(f"trajectory {i} holds {path.dtype}, not numbers")
    return replace(trajectories, values=paths)


@np.errstate(under="ignore")  # The weights of UMAP and t-SNE fall to 0, and their libraries count on it.
def reduce_trajectories(
    trajectories: Trajectories, config: ReduceConfig, fitted: tuple[Reducer, np.ndarray | None] | None = None
) -> tuple[Trajectories, Reducer]:
    """Do what `reduce` does, by what `fit_reducer` returned of the same if that is given; return the reducer too."""
    reducer, reduced = fitted or fit_reducer(trajectories, config)
    if reduced is None:
        reduced = reducer.transform(stack_steps(trajectories))
    return split_steps(reduced, trajectories), reducer


@np.errstate(under="ignore")
def fit_reducer(trajectories: Trajectories, config: ReduceConfig) -> tuple[Reducer, np.ndarray | None]:
    """Fit a reducer on all steps or a sample; return it, and the steps as mapped if it was fitted on all of them."""
    points = stack_steps(trajectories)
    _check_size(points, config.method)
    chosen = choose_points(len(points), config)
    reducer = make_reducer(config, find_consecutive([len(path) for path in trajectories.values], chosen))
    if len(points) <= config.fit_points:
        return reducer, reducer.fit_transform(points)
    points = points[chosen]  # The others are not held while it is fitted.
    return reducer.fit(points), None


def _check_size(points: np.ndarray, method: str) -> None:
    """Raise `RaypipeError` if points are too large for the arithmetic of a method."""
    most = _MOST_SINGLE if method in ("umap", "autoencoder") else _MOST  # Those calculate in float32 throughout.
    largest = max(float(points.max()), -float(points.min()))
    if method != "none" and largest > most:
        raise RaypipeError(
            f"the trajectories hold {largest:.3g}; {method} squares numbers, which beyond {most:g} leaves its range: "
            "scale the data"
        )


def reduce_with_centers(
    trajectories: Trajectories, centers: Mapping[int, np.ndarray], config: ReduceConfig
) -> tuple[Trajectories, dict[int, np.ndarray], Reducer]:
    """Reduce trajectories together with the centers of their clusters.

    Parameters
    ----------
    trajectories
        What was clustered.
    centers
        The path of each center, (T, dim), by the cluster's number.
    config
        The reducer.

    Returns
    -------
    The reduced trajectories, the reduced centers by number, and the fitted reducer.
    """
    n, first = len(trajectories), trajectories.values[0]
    paths = [*trajectories.values, *(center.astype(first.dtype) for center in centers.values())]
    ids = (*trajectories.video_ids, *(f"center {number}" for number in centers))
    n_clips = np.concatenate([trajectories.n_clips, np.zeros(len(centers), np.int64)])
    reduced, reducer = reduce_trajectories(Trajectories(ids, paths, n_clips), config)
    videos: Any = reduced.values[:n]
    if isinstance(trajectories.values, np.ndarray):
        videos = np.stack(videos)
    found = Trajectories(trajectories.video_ids, videos, trajectories.n_clips)
    return found, dict(zip(centers, reduced.values[n:], strict=True)), reducer


def choose_points(n: int, config: ReduceConfig) -> np.ndarray:
    """Sample the points that a reducer is fitted on: sorted indices of ``fit_points`` out of n, or all if n is less."""
    if n <= config.fit_points:
        return np.arange(n)
    return np.sort(np.random.default_rng(config.seed).choice(n, config.fit_points, replace=False))


def find_consecutive(lengths: Sequence[int], chosen: np.ndarray) -> np.ndarray:
    """Return whether each chosen step but the last is followed, among the chosen, by the next one of its video.

    Parameters
    ----------
    lengths
        The number of steps of each video.
    chosen
        (n,) sorted indices of steps, counted through all videos.

    Returns
    -------
    (n − 1,) bool.
    """
    videos = np.searchsorted(np.cumsum(lengths), chosen, side="right")
    return (np.diff(chosen) == 1) & (np.diff(videos) == 0)


def split_steps(reduced: np.ndarray, trajectories: Trajectories) -> Trajectories:
    """Split (Σ T_i, c) points into trajectories again, in the order in which `stack_steps` stacked them."""
    ends = np.cumsum([len(path) for path in trajectories.values])
    values: Any = np.split(reduced, ends[:-1])
    if isinstance(trajectories.values, np.ndarray):
        values = reduced.reshape(len(ends), -1, reduced.shape[1])
    return Trajectories(trajectories.video_ids, values, trajectories.n_clips)


def stack_steps(trajectories: Trajectories) -> np.ndarray:
    """Stack the steps of all paths to (Σ T_i, dim); raise `RaypipeError` with the video if a step is not finite."""
    values = trajectories.values
    points = values.reshape(-1, values.shape[2]) if isinstance(values, np.ndarray) else np.concatenate(values)
    finite = np.concatenate([np.isfinite(points[i : i + _BLOCK]).all(axis=1) for i in range(0, len(points), _BLOCK)])
    if not finite.all():
        ends = np.cumsum([len(path) for path in values])
        first = np.searchsorted(ends, np.argmin(finite), side="right")
        raise RaypipeError(f"the trajectory of video {trajectories.video_ids[first]} has NaN or infinite values")
    return points
