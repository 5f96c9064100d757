"""The steps from embeddings to clusters in this process; `raypipe.engine.transform.RaySteps` takes them on Ray."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from raypipe.clustering import Clustering, fit_clusters
from raypipe.config import Config
from raypipe.progress import Progress
from raypipe.reduction import (
    Identity,
    Reducer,
    fit_reducer,
    reduce_trajectories,
    reduce_with_centers,
    restore_reducer,
    split_steps,
    stack_steps,
)
from raypipe.reduction.pca import PCAReducer
from raypipe.reduction.placement import Placement
from raypipe.reduction.umap import choose_library
from raypipe.runs.beginnings import begin_clusters
from raypipe.runs.contents import LEARNED_FILE
from raypipe.runs.directory import Run
from raypipe.runs.results import PREDICTED, SavedModel, read_labelled, write_encoder, write_trajectories
from raypipe.runs.span_table import write_spans
from raypipe.schema import Trajectories
from raypipe.trajectories.interpolation import build_trajectories

if TYPE_CHECKING:
    from raypipe.reduction.autoencoder import LearnedMap
    from raypipe.trajectories.learned_paths import LearnedPaths


class LocalSteps:
    """The steps of `raypipe.pipeline.cluster`, each to be taken after those above it.

    Parameters
    ----------
    run
        An embedded run.
    config
        What to do.
    encoder
        The arrays of another run's learned encoder, by which trajectories are embedded; by default a run whose
        trajectories are learned has its own.
    progress
        Where learning is shown; by default nowhere.

    Attributes
    ----------
    where
        How a line of progress says where the clustering runs.
    notes
        What is to be said of how the trajectories were made.
    picture
        The trajectories in the two dimensions of the pictures.
    centers
        There the path of each cluster's center, (T, 2), by the cluster's number; None where the picture does not place
        centers.
    """

    where = ""
    notes: tuple[str, ...] = ()
    picture: Trajectories
    centers: dict[int, np.ndarray] | None = None
    _reduced: Trajectories | None = None
    _learned: LearnedPaths | None = None
    _map: Future[tuple[Reducer, np.ndarray | None]] | None = None

    def __init__(
        self,
        run: Run,
        config: Config,
        encoder: Mapping[str, np.ndarray] | None = None,
        progress: Progress | None = None,
    ):
        self._run, self._config, self._encoder, self._progress = run, config, encoder, progress or Progress()

    def build(self) -> int:
        """Gather each video's clips into a trajectory, or learn it; return the number of trajectories."""
        if self._config.trajectory.method == "seq2seq":
            from raypipe.trajectories.learned_paths import learn_paths

            self._learned = learn_paths(self._run, self._config, self._progress, self._encoder)
            self.paths = self._learned.paths
        else:
            self.paths = build_trajectories(self._run, **self._config.trajectory.model_dump(exclude={"method"}))
        self.notes = self.paths.notes
        return len(self.paths)

    def reduce(self) -> Reducer:
        """Reduce the trajectories; return the fitted reducer."""
        self._reduced, self._reducer = reduce_trajectories(self.paths, self._config.reduce)
        self._fit_map_beside()
        return self._reducer

    def _fit_map_beside(self) -> None:
        """Begin to fit the pictures' map in a thread, where the library lets other threads work meanwhile.

        Beside k-means of vectors it does not: both would set the number of BLAS's threads.
        """
        flat = self._config.reduce.for_picture()
        if flat.method != "umap" or flat == self._config.reduce or self._config.cluster.method == "kmeans":
            return
        if choose_library(flat.backend)[0] == "fastumap":
            thread = ThreadPoolExecutor(1, "raypipe-map")
            self._map = thread.submit(fit_reducer, self.paths, flat)
            thread.shutdown(wait=False)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> PCAReducer | Placement | LearnedMap | Identity:
        """Reduce the trajectories as an earlier run's were, from its reducer's arrays; return the reducer."""
        reducer = restore_reducer(arrays)
        self._reduced = split_steps(reducer.transform(stack_steps(self.paths)), self.paths)
        return reducer

    def fit(self) -> Clustering:
        """Group the reduced trajectories; what the run holds of an earlier clustering goes when that is done."""
        clustering = fit_clusters(self.reduced.values, self._config.cluster)
        begin_clusters(self._run, self._config)
        return clustering

    def assign(self, known: Run, model: SavedModel) -> Clustering:
        """Give the reduced trajectories the clusters of an earlier run, by its model."""
        from raypipe.clustering.assignment import assign_to_centers, assign_to_neighbours

        values, how = self.reduced.values, self._config.cluster
        if how.method == "density":
            neighbours = read_labelled(known)
            labels, distances = assign_to_neighbours(values, *neighbours, model.centers, how, model.gamma)
        else:
            labels, distances = assign_to_centers(values, model.centers, how, model.gamma)
        return Clustering(labels, distances, model.centers, None, 0, model.gamma, f"{PREDICTED}{known}")

    @property
    def reduced(self) -> Trajectories:
        """The trajectories after reduction."""
        assert self._reduced is not None
        return self._reduced

    def project(self, clustering: Clustering | None = None) -> Reducer:
        """Reduce the trajectories to the two dimensions of the pictures, and write all; return the fitted reducer.

        t-SNE lays out what was clustered, together with the centers of ``clustering`` where that is given.
        """
        flat = self._config.reduce.for_picture()
        if self._reduced is not None and flat == self._config.reduce:
            self.picture, reducer = self._reduced, self._reducer
        elif self._reduced is not None and flat.method == "tsne":
            centers = clustering.paths_of_centers() if clustering is not None else {}
            self.picture, self.centers, reducer = reduce_with_centers(self._reduced, centers, flat)
        else:
            fitted = self._map.result() if self._map else None
            self.picture, reducer = reduce_trajectories(self.paths, flat, fitted)
        self._write()
        return reducer

    def place_by(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Place the trajectories on an earlier run's map, from the arrays of its reducer, and write all."""
        self.picture = split_steps(restore_reducer(arrays).transform(stack_steps(self.paths)), self.paths)
        self._write()

    def place(self, points: np.ndarray, places: np.ndarray) -> None:
        """Place the trajectories on an earlier run's map, of which some points are known, and write all."""
        if self._config.reduce == self._config.reduce.for_picture():
            self.picture = self.reduced
        else:
            placed = Placement(points, places, self._config.reduce.metric, keeps=True).transform(
                stack_steps(self.paths)
            )
            self.picture = split_steps(placed, self.paths)
        self._write()

    def _write(self) -> None:
        """Write the trajectories, and what was learned of them."""
        learned = self._learned
        decoded = learned.decoded if learned else None
        more = {"reduced": self._reduced, "picture": self.picture, "decoded": decoded}
        write_trajectories(self._run, self.paths, more)
        if learned:
            write_encoder(self._run, learned.arrays)
            if learned.record:
                self._run.write_json(LEARNED_FILE, learned.record)
            if learned.spans is not None:
                write_spans(self._run, learned.spans)
