"""What the sizes of clusters say of a clustering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
