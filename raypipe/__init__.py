"""raypipe: what happens in many videos, which of them do the same thing, and which are odd.

A video is a trajectory, the path that its embedding takes through time; videos that do the same thing, faster or
slower, take paths of the same shape. Each name of this package is imported when it is first used.
"""

import importlib
from typing import Any

_HOMES = {
    "Config": "raypipe.config",
    "make_config": "raypipe.config",
    "Run": "raypipe.runs.directory",
    "Trajectories": "raypipe.schema",
    "Videos": "raypipe.sources.videos",
    "find_videos": "raypipe.sources",
    "embed_videos": "raypipe.api",
    "find_outliers": "raypipe.api",
    "write_report": "raypipe.api",
    "write_poster": "raypipe.api",
    "sweep": "raypipe.api",
    "predict": "raypipe.api",
    "search": "raypipe.trajectories.similarity",
    "find_diverse": "raypipe.trajectories.similarity",
    "find_duplicates": "raypipe.trajectories.similarity",
    "build_trajectories": "raypipe.trajectories",
    "Seq2SeqEmbedder": "raypipe.trajectories.learned",
    "reduce": "raypipe.reduction",
    "TimeSeriesKMeans": "raypipe.clustering.time_series_kmeans",
    "export": "raypipe.report.exporting.exports",
    "RaypipeError": "raypipe.errors",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'raypipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
