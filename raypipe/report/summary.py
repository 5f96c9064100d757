"""What a run says of its clusters to programs: ``summary.json`` and ``video_cluster_mapping.csv``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from raypipe.report.channels import count_channels
from raypipe.report.facts import Cluster, Facts, Member
from raypipe.schema import finite_or_none, inert

CENTRAL_IN_SUMMARY = 5  # summary.json names this many of the most central videos of each cluster.
OUTLIERS_IN_SUMMARY = 100  # summary.json names this many of the farthest outliers; the CSV has all.


def mapping_rows(facts: Facts) -> Iterator[list[Any]]:
    """Yield the rows of ``video_cluster_mapping.csv``: the names, and a row for each clustered video, in source order.

    A text that a spreadsheet would run as a formula is preceded by an apostrophe (OWASP, CSV injection).
    """
    yield ["video", "uri", "cluster", "distance", "outlier_score", "outlier", "group", "label", "video_id"]
    for m in facts.members:
        numbers = [m.cluster, _number(m.distance), _number(m.outlier_score), str(m.outlier).lower()]
        texts = [inert(text) for text in (m.name, m.uri, m.group, m.label, m.video_id)]
        yield [*texts[:2], *numbers, *texts[2:]]


def summarise(facts: Facts) -> dict[str, Any]:
    """Return the content of ``summary.json``: counts, metrics, times, and the clusters."""
    return {
        "counts": facts.info.get("counts", {}),
        "n_clusters": len(facts.clusters),
        "clusters": [_summarise_cluster(cluster, len(facts.members)) for cluster in facts.clusters],
        "n_noise": len(facts.noise or ()),
        "noise": _count_mix(facts.noise, len(facts.members)) if facts.noise else None,
        "channels": count_channels([(m.cluster, m.group, m.name) for m in facts.members]),
        "n_outliers": len(facts.outliers),
        "outliers": [_brief(member) for member in facts.outliers[:OUTLIERS_IN_SUMMARY]],
        "metrics": {name: finite_or_none(value) for name, value in facts.metrics.items()},
        "wall_s": round(facts.wall_s, 3),
        "seconds": facts.info.get("seconds", {}),
    }


def _summarise_cluster(cluster: Cluster, n_videos: int) -> dict[str, Any]:
    return {
        "cluster": cluster.number,
        **_count_mix(cluster, n_videos),
        "most_central": [_brief(member) for member in cluster.members[:CENTRAL_IN_SUMMARY]],
        "farthest": _brief(cluster.members[-1]),
        "n_outliers": len(cluster.outliers),
    }


def _count_mix(cluster: Cluster, n_videos: int) -> dict[str, Any]:
    return {
        "size": len(cluster),
        "share": round(len(cluster) / n_videos, 4),
        "labels": dict(cluster.mix("label")),
        "groups": dict(cluster.mix("group")),
    }


def _brief(member: Member) -> dict[str, Any]:
    return {
        "video_id": member.video_id,
        "video": member.name,
        "uri": member.uri,
        "cluster": member.cluster,
        "distance": finite_or_none(member.distance),
        "outlier_score": finite_or_none(member.outlier_score),
        **({"reason": member.reason, "odd_s": member.odd_s} if member.reason else {}),
    }


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""
