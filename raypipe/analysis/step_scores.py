"""How far each step of a trajectory is from what others do there."""

from __future__ import annotations

import numpy as np

from raypipe.analysis.examination import edges_of, spread_of
from raypipe.schema import ClipPath


def score_steps(
    path: np.ndarray, center: np.ndarray, gamma: float | None, clips: ClipPath, time_axis: str
) -> tuple[np.ndarray, np.ndarray]:
    """Measure each step of a path along its alignment with a center.

    Parameters
    ----------
    path, center
        (T_x, c) and (T_z, c).
    gamma
        γ of soft-DTW; None for the Euclidean distance of steps of the same number.
    clips
        The clips that the path was made from.
    time_axis
        How it was interpolated, as in `raypipe.config.TrajectoryConfig`.

    Returns
    -------
    times_s
        (T_x,) float64, the middle of each step, in seconds of the file.
    scores
        (T_x,) float64, its squared distance from the steps of the center that it is aligned with, weighted by the
        probability of each (Cuturi & Blondel 2017, §2.2).
    """
    edges = edges_of(clips, len(path), time_axis)
    assert edges is not None, "there is no path without clips"
    far, _, _ = spread_of(np.asarray(path, np.float64), center, gamma)
    return (edges[1:] + edges[:-1]) / 2, far
