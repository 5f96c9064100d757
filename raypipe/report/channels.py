"""How a collection's channels, its groups of videos, are spread over the clusters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from raypipe.clustering.result import NOISE, name_cluster

_SAMPLES = 10  # So many videos of each cluster are named.


def count_channels(videos: Sequence[tuple[int, str | None, str]]) -> dict[str, Any] | None:
    """Count each cluster's videos by channel.

    Parameters
    ----------
    videos
        The cluster of each video, its group and its name, in source order.

    Returns
    -------
    ``summary`` with totals and ``clusters`` by name, in the keys of a published clusterer's own report (CLIP, UMAP and
    HDBSCAN), so that what reads that reads this; None if no video has a group.
    """
    if not any(group for _, group, _ in videos):
        return None
    mine = defaultdict(list)
    for number, group, name in videos:
        mine[number].append((group, name))
    found = {
        name_cluster(number, "cluster_"): {
            "id": number,
            "size": len(mine[number]),
            "channel_distribution": dict(Counter(group for group, _ in mine[number] if group).most_common()),
            "sample_videos": [name for _, name in mine[number][:_SAMPLES]],
        }
        for number in sorted(mine, key=lambda number: (number == NOISE, number))
    }
    n_noise = len(mine.get(NOISE, ()))
    counts = {"total_videos": len(videos), "num_clusters": len(mine.keys() - {NOISE}), "num_noise": n_noise}
    return {"summary": counts, "clusters": found}
