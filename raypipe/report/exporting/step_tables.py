"""The score of each step of a run's videos, read from the run directory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from raypipe.analysis.step_scores import score_steps
from raypipe.config import make_config
from raypipe.errors import UsageError
from raypipe.runs.clips import iter_clip_paths, read_origins
from raypipe.runs.contents import METRICS_FILE, OUTLIERS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.results import iter_trajectories, path_column, read_model_centers
from raypipe.softdtw import auto_gamma


def iter_step_scores(run: Run) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Yield of each clustered video when each of its steps is, in seconds from the video's beginning, and its score.

    The score of a step is its squared distance from the center that says the video's own score, along their alignment
    (`raypipe.analysis.step_scores.score_steps`). A video whose steps cannot be compared with a center, as where vectors
    were clustered in another space, has its own score at every step.

    Yields
    ------
    ``video_id``, and ``times_s`` and ``scores``, (n_steps,) float64 each.

    Raises
    ------
    UsageError
        If the run has no ``outliers.csv``.
    """
    if not run.exists(OUTLIERS_FILE):
        raise UsageError(f"{run} was clustered by an earlier version: run raypipe cluster {run} again")
    judged = run.read_csv(OUTLIERS_FILE)
    known = {row["video_id"]: (int(row["nearest"]), float(row["score"] or "nan")) for row in judged}
    config = make_config(base=run.info()["config"])
    centers = read_model_centers(run)
    paths = {
        video_id: path
        for part in iter_trajectories(run, path_column(run))
        for video_id, path in zip(part.video_ids, part.values, strict=True)
    }
    gamma = run.read_json(METRICS_FILE)["gamma"]
    if gamma is None and config.cluster.method == "dtw":
        gamma = auto_gamma(list(paths.values()))
    origins = read_origins(run)
    for clips in iter_clip_paths(run, paths.keys()):
        path = paths[clips.video_id]
        nearest, score = known[clips.video_id]
        fits = 0 <= nearest < len(centers) and centers.shape[2] == path.shape[1]
        if fits and centers.shape[1] == 1:
            path = path.mean(axis=0, keepdims=True)
        fits = fits and (gamma is not None or len(path) == centers.shape[1])
        center = centers[nearest] if fits else path
        times_s, scores = score_steps(path, center, gamma, clips, config.trajectory.step_axis)
        yield (clips.video_id, (times_s - origins[clips.video_id], scores if fits else np.full(len(path), score)))
