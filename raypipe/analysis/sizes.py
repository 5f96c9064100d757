"""What the sizes of clusters say of a clustering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEAST_SWEPT = 4
"""A sweep needs so many videos: halves of them are put into two clusters too."""


def describe_empty(figures: Mapping[str, Any]) -> str | None:
    """Return the line that says how many clusters hold a video, or None if all do.

    Parameters
    ----------
    figures
        What `raypipe.analysis.evaluation.evaluate` returned, or ``metrics.json``.
    """
    if not figures.get("n_empty"):
        return None
    n = len(figures["sizes"])
    return f"only {n - figures['n_empty']} of {n} clusters hold any video: lower n_clusters, or try another seed"


def describe_noise(figures: Mapping[str, Any]) -> str | None:
    """Return the line that says how many videos are noise, or were given a cluster for it, or None if there are none.

    Parameters
    ----------
    figures
        What ``metrics.json`` holds; of an older run it says nothing of noise.
    """
    n, n_clustered = figures.get("n_noise") or 0, sum(figures.get("sizes", ()))
    if n and not n_clustered:
        return (
            f"no cluster was found, all {n:,} videos are noise: lower cluster.min_cluster_size, or use another method"
        )
    if n:
        return f"{n:,} of {n + n_clustered:,} videos are noise: they lie in no dense group, and count in no silhouette"
    if n := figures.get("n_assigned"):
        return f"{n:,} of {n_clustered:,} videos were noise, and went to the cluster of the nearest video that has one"
    return None
