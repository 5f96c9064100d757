"""The clusters' paths on the map: the soft-DTW barycenter of each cluster's 2-D paths, which the pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raypipe.softdtw import auto_gamma, soft_dtw_barycenter
from raypipe.softdtw.barycenter import resample

MAX_AVERAGED = 50  # A barycenter is computed from at most this many of the most central members.
MAX_STEPS = 64  # A barycenter has at most this many steps.


def average_paths(groups: Mapping[int, Sequence[np.ndarray]]) -> dict[int, np.ndarray]:
    """Return the soft-DTW barycenter of the 2-D paths of each cluster's most central members.

    Parameters
    ----------
    groups
        The paths of each cluster, (n_steps, 2) floats, the most central first; lengths may differ.

    Returns
    -------
    dict
        The barycenter of each cluster's number, (n_steps, 2). ``n_steps`` is the median of its members' lengths, and
        `MAX_STEPS` at most.
    """
    if not groups:  # A density may find no cluster.
        return {}
    central = {number: list(paths[:MAX_AVERAGED]) for number, paths in groups.items() if len(paths)}
    gamma = auto_gamma([path for group in central.values() for path in group])
    return {number: _average(group, gamma) for number, group in central.items()}


def _average(paths: list[np.ndarray], gamma: float) -> np.ndarray:
    n_steps = min(int(np.median([len(path) for path in paths])), MAX_STEPS)
    paths = [path if len(path) <= MAX_STEPS else resample(path, MAX_STEPS) for path in paths]
    start = np.mean([resample(path, n_steps) for path in paths], axis=0)
    # The kernels for float32 are those that the clustering uses by default: nothing more is compiled.
    return soft_dtw_barycenter(paths, gamma, init=start, precision="float32")
