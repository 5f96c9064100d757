"""The facts of a run that its report shows, and the report's two tables, ``summary.json`` and the CSV."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any
from urllib.parse import unquote

import numpy as np

from raypipe.runs.descriptions import read_descriptions
from raypipe.runs.directory import Run
from raypipe.runs.results import read_barycenters, split_paths
from raypipe.schema import FAILED, SKIPPED

CENTRAL_IN_SUMMARY = 5  # summary.json names this many of the most central videos of each cluster.
OUTLIERS_IN_SUMMARY = 100  # summary.json names this many of the farthest outliers; the CSV has all.
_SHOWN = ["video_id", "uri", "duration_s", "status", "error_stage", "error"]
_WEB = ("file://", "http://", "https://")


@dataclass(frozen=True, slots=True)
class Member:
    """A clustered video: its row of ``clusters.parquet``, its name, and the span of the file that it covers.

    ``distance`` is the distance to its own center, and ``x`` and ``y`` are its place on the 2-D map. The video begins
    at ``origin_s`` seconds of the file and lasts ``span_s`` seconds, or None if its length is not known.
    """

    video_id: str
    uri: str
    name: str
    group: str | None
    label: str | None
    cluster: int
    distance: float
    outlier_score: float
    outlier: bool
    x: float
    y: float
    origin_s: float
    span_s: float | None


@dataclass(frozen=True)
class Cluster:
    """A cluster and its videos, the most central first."""

    number: int
    members: tuple[Member, ...]

    def __len__(self) -> int:
        """Return the number of the cluster's videos."""
        return len(self.members)

    @cached_property
    def outliers(self) -> list[Member]:
        """The cluster's outliers, the farthest first."""
        return by_outlier_score(self.members)

    def central_and_farthest(self, n: int) -> tuple[tuple[Member, ...], Member | None]:
        """Return the ``n`` most central videos, and the farthest one unless it is among them."""
        return self.members[:n], self.members[-1] if len(self) > n else None

    def mix(self, column: str | None) -> list[tuple[str, int]]:
        """Return how many videos have each value of ``label`` or ``group``, the most frequent first."""
        counts = Counter(getattr(member, column) for member in self.members if column and getattr(member, column))
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


@dataclass(frozen=True)
class Problem:
    """A video that was not embedded, or only in part (``status`` is then ok)."""

    name: str
    uri: str
    status: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """Everything that the report's tables, plots and page are made from.

    Attributes
    ----------
    url
        The run directory.
    info, metrics
        The contents of ``run.json`` and ``metrics.json``.
    members
        The clustered videos in source order.
    clusters
        The clusters that have videos, by number.
    problems
        The videos that failed entirely or in part, in source order.
    keywords
        The words that describe each cluster, by its number.
    captions
        The captions of the most central videos, by ``video_id``.
    sweep
        The contents of ``sweep.json``, or None if there is no such file.
    """

    url: str
    info: dict[str, Any]
    metrics: dict[str, Any]
    members: tuple[Member, ...]
    clusters: tuple[Cluster, ...]
    problems: tuple[Problem, ...]
    keywords: Mapping[int, Sequence[str]] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    sweep: Mapping[str, Any] | None = None

    @cached_property
    def outliers(self) -> list[Member]:
        """The outliers of all clusters, the farthest first."""
        return by_outlier_score(self.members)

    @cached_property
    def mix_column(self) -> str | None:
        """The column to compare clusters with: that of the metrics, else ``label``, else ``group``, else None."""
        there = (name for name in ("label", "group") if any(getattr(m, name) for m in self.members))
        return self.metrics.get("truth") or next(there, None)

    @property
    def wall_s(self) -> float:
        """Seconds that all stages took together."""
        return float(sum(self.info.get("seconds", {}).values()))


def by_outlier_score(members: Iterable[Member]) -> list[Member]:
    """Return the outliers among the members, the farthest first."""
    return sorted((m for m in members if m.outlier), key=lambda m: -m.outlier_score)


def read_facts(run: Run) -> Facts:
    """Read the facts that a run's report shows.

    Raises
    ------
    RaypipeError
        If the run has not been clustered.
    """
    videos = run.read_table("videos.parquet", _SHOWN).to_pylist()
    rows = run.read_table("clusters.parquet").to_pylist()
    spans = _read_spans(run, videos)
    names = _name_videos(rows, spans)
    members = tuple(_as_member(row, name, *spans[row["video_id"]]) for row, name in zip(rows, names, strict=True))
    numbers = sorted({member.cluster for member in members})
    described = read_descriptions(run)
    central = [video for cluster in described.values() for video in cluster["central"]]
    return Facts(
        url=run.url,
        info=run.read_json("run.json"),
        metrics=run.read_json("metrics.json"),
        members=members,
        clusters=tuple(Cluster(number, _central_first(members, number)) for number in numbers),
        problems=tuple(_find_problems(videos)),
        keywords={n: [each["keyword"] for each in cluster["keywords"]] for n, cluster in described.items()},
        captions={video["video_id"]: video["caption"] for video in central if video["caption"]},
        sweep=run.read_json("sweep.json") if run.exists("sweep.json") else None,
    )


def read_paths(run: Run) -> dict[str, np.ndarray]:
    """Return the 2-D path of each ``video_id``, (n_steps, 2) float64."""
    table = run.read_table("trajectories", ["video_id", "picture"])
    return dict(zip(table["video_id"].to_pylist(), split_paths(table["picture"]), strict=True))


def read_centers(run: Run, paths: Mapping[str, np.ndarray], clusters: Sequence[Cluster]) -> dict[int, np.ndarray]:
    """Return the barycenter of each cluster's paths on the map, (n_steps, 2) float64, by the cluster's number."""
    found = read_barycenters(run)
    if any(cluster.number not in found for cluster in clusters):  # The run is older than their file.
        from raypipe.analysis.averages import average_paths

        found = average_paths({cluster.number: paths_of(cluster, paths) for cluster in clusters})
    return found


def paths_of(cluster: Cluster, paths: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the paths of a cluster's videos, the most central first."""
    return [paths[m.video_id] for m in cluster.members if m.video_id in paths]


def name_of(uri: str) -> str:
    """Return the last part of a URI, a readable name for the video."""
    return _split(uri)[1] or uri


def common_folder(uris: Iterable[str]) -> str:
    """Return the deepest folder that holds all the URIs, in readable form, or "" if there is none."""
    folders = sorted({_split(uri)[0] for uri in uris})
    if not folders:
        return ""
    parts = zip(folders[0].split("/"), folders[-1].split("/"), strict=False)  # The first and the last differ most.
    folder = "/".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], parts))
    return "" if folder.rstrip("/").endswith(":") else folder.removeprefix("file://")


def link_of(uri: str) -> str | None:
    """Return the URI if a browser may follow it, or None for other schemes, such as ``javascript:``."""
    return uri if uri.startswith(_WEB) else None


def _split(uri: str) -> tuple[str, str]:
    """Return a URI's folder and name in readable form: web and file URLs without query and escapes.

    The keys of object stores have neither and are left alone. A fragment belongs to the name, because it tells apart
    the videos of a file that holds several.
    """
    if not uri.startswith(_WEB):
        folder, _, name = uri.rpartition("/")
        return folder, name
    path, mark, fragment = uri.partition("#")
    folder, _, name = path.partition("?")[0].rpartition("/")
    return unquote(folder, errors="backslashreplace"), unquote(name + mark + fragment, errors="backslashreplace")


def mapping_csv(facts: Facts) -> bytes:
    """Return ``video_cluster_mapping.csv`` as UTF-8, with a row for each clustered video, in source order.

    A text that a spreadsheet would run as a formula is preceded by an apostrophe (OWASP, CSV injection).
    """
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(
        ["video", "uri", "cluster", "distance", "outlier_score", "outlier", "group", "label", "video_id"],
    )
    for m in facts.members:
        numbers = [m.cluster, _number(m.distance), _number(m.outlier_score), str(m.outlier).lower()]
        texts = [_inert(text) for text in (m.name, m.uri, m.group, m.label, m.video_id)]
        writer.writerow([*texts[:2], *numbers, *texts[2:]])
    return sink.getvalue().encode()


def summarise(facts: Facts) -> dict[str, Any]:
    """Return the content of ``summary.json``: counts, metrics, times, and the clusters."""
    return {
        "counts": facts.info.get("counts", {}),
        "n_clusters": len(facts.clusters),
        "clusters": [_summarise_cluster(cluster, len(facts.members)) for cluster in facts.clusters],
        "n_outliers": len(facts.outliers),
        "outliers": [_brief(member) for member in facts.outliers[:OUTLIERS_IN_SUMMARY]],
        "metrics": {name: _finite(value) for name, value in facts.metrics.items()},
        "wall_s": round(facts.wall_s, 3),
        "seconds": facts.info.get("seconds", {}),
    }


def _summarise_cluster(cluster: Cluster, n_videos: int) -> dict[str, Any]:
    return {
        "cluster": cluster.number,
        "size": len(cluster),
        "share": round(len(cluster) / n_videos, 4),
        "labels": dict(cluster.mix("label")),
        "groups": dict(cluster.mix("group")),
        "most_central": [_brief(member) for member in cluster.members[:CENTRAL_IN_SUMMARY]],
        "farthest": _brief(cluster.members[-1]),
        "n_outliers": len(cluster.outliers),
    }


def _brief(member: Member) -> dict[str, Any]:
    return {
        "video_id": member.video_id,
        "video": member.name,
        "uri": member.uri,
        "cluster": member.cluster,
        "distance": _finite(member.distance),
        "outlier_score": _finite(member.outlier_score),
    }


def _read_spans(run: Run, videos: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float | None]]:
    """Return each video's origin and length in its file, in seconds, from the plan or else from probing."""
    spans = {row["video_id"]: (0.0, row["duration_s"]) for row in videos}
    if run.exists("plan.parquet"):
        for row in run.read_table("plan.parquet", ["video_id", "origin_s", "span_s"]).to_pylist():
            if row["origin_s"] is not None and row["span_s"] is not None:
                spans[row["video_id"]] = (row["origin_s"], row["span_s"])
    return spans


def _name_videos(rows: Sequence[dict[str, Any]], spans: dict[str, tuple[float, float | None]]) -> list[str]:
    """Return a name for each video; if a file holds several videos, the name includes the span."""
    times_used = Counter(row["uri"] for row in rows)
    names = []
    for row in rows:
        origin_s, span_s = spans[row["video_id"]]
        part = f" [{origin_s:g}–{origin_s + span_s:g} s]" if times_used[row["uri"]] > 1 and span_s else ""
        names.append(name_of(row["uri"]) + part)
    return names


def _as_member(row: dict[str, Any], name: str, origin_s: float, span_s: float | None) -> Member:
    def number(column: str) -> float:
        return math.nan if row[column] is None else float(row[column])

    return Member(
        video_id=row["video_id"],
        uri=row["uri"],
        name=name,
        group=row["group"],
        label=row["label"],
        cluster=row["cluster"],
        distance=number("distance"),
        outlier_score=number("outlier_score"),
        outlier=bool(row["outlier"]),
        x=number("x"),
        y=number("y"),
        origin_s=origin_s,
        span_s=span_s,
    )


def _central_first(members: Iterable[Member], number: int) -> tuple[Member, ...]:
    inside = [member for member in members if member.cluster == number]
    return tuple(sorted(inside, key=lambda m: math.inf if math.isnan(m.distance) else m.distance))


def _find_problems(videos: Iterable[dict[str, Any]]) -> Iterable[Problem]:
    for row in videos:
        # A video that is skipped for an earlier failure is listed; one that is beyond the limit is only counted.
        if row["status"] == FAILED or (row["error"] is not None and (row["status"] != SKIPPED or row["error_stage"])):
            reason = row["error"] or "no reason was recorded"
            yield Problem(name_of(row["uri"]), row["uri"], row["status"], row["error_stage"] or "", reason)


def _inert(text: str | None) -> str:
    if text is None:
        return ""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) or text.startswith(("\t", "\r", "\n")) else text


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
