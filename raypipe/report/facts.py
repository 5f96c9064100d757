"""The facts of a run that its report shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np

from raypipe.clustering.result import NOISE, name_cluster
from raypipe.runs.contents import (
    CLUSTERS_FILE,
    DATASET_FAULTS_FILE,
    DESCRIPTIONS_FILE,
    DUPLICATES_FILE,
    FRAMES_FOLDER,
    LEARNED_FILE,
    METRICS_FILE,
    PLAN_FILE,
    POSTER_FACTS_FILE,
    RUN_FILE,
    SWEEP_FILE,
    TRAJECTORIES_FOLDER,
    VIDEOS_FILE,
)
from raypipe.runs.directory import Run
from raypipe.runs.lookup import WEB, name_part, split_uri, with_episode
from raypipe.runs.results import read_barycenters, read_model_centers, read_reasons, split_paths
from raypipe.runs.span_table import VideoSpan, read_spans
from raypipe.schema import FAILED, OK, SKIPPED
from raypipe.sources.files import path_order
from raypipe.sources.precomputed import has_video

_SHOWN = ["video_id", "uri", "group", "caption", "duration_s", "status", "error_stage", "error"]


@dataclass(frozen=True, slots=True)
class Member:
    """A clustered video: its row of ``clusters.parquet``, its name, and the span of the file that it covers.

    ``distance`` is the distance to its own center, and ``x`` and ``y`` are its place on the 2-D map. The video begins
    at ``origin_s`` seconds of the file and lasts ``span_s`` seconds, or None if its length is not known. ``caption`` is
    the source's own, of ``videos.parquet``. Of an outlier ``reason`` says what is odd, ``odd_s`` from when to when, in
    seconds of the file, and ``stands_out`` whether the verdict is to drop it; else they are empty, None and False.
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
    caption: str | None = None
    reason: str = ""
    odd_s: tuple[float, float] | None = None
    stands_out: bool = False

    @property
    def has_video(self) -> bool:
        """Whether the video lies somewhere, and can be played; of what was computed elsewhere it is not known where."""
        return has_video(self.uri)

    def oddness(self, by: str) -> float:
        """Return that by which outliers are told, "score" or "distance"."""
        return self.distance if by == "distance" else self.outlier_score


@dataclass(frozen=True)
class Cluster:
    """A cluster and its videos, the most central first; or the noise, in source order, whose number is −1."""

    number: int
    members: tuple[Member, ...]

    @property
    def is_noise(self) -> bool:
        """Whether these are the videos that belong to no cluster."""
        return self.number == NOISE

    @property
    def short_name(self) -> str:
        """The cluster's number, or "noise": what chips, axes, anchors and the names of files say."""
        return name_cluster(self.number, "")

    @property
    def title(self) -> str:
        """The cluster's name at the head of its part."""
        return name_cluster(self.number).capitalize()

    def __len__(self) -> int:
        """Return the number of the cluster's videos."""
        return len(self.members)

    @cached_property
    def outliers(self) -> list[Member]:
        """The cluster's outliers."""
        return [member for member in self.members if member.outlier]

    def sample(self, n: int, seed: int) -> tuple[Member, ...]:
        """Return ``n`` random videos, each cluster's by a seed of its own, in the members' order."""
        rng = np.random.default_rng([seed, self.number + 1])
        chosen = rng.choice(len(self), min(n, len(self)), replace=False)
        return tuple(self.members[i] for i in np.sort(chosen))

    def mix(self, column: str | None) -> list[tuple[str, int]]:
        """Return how many videos have each value of ``label`` or ``group``, the most frequent first, 2 before 10."""
        counts = Counter(getattr(member, column) for member in self.members if column and getattr(member, column))
        return sorted(counts.items(), key=lambda pair: (-pair[1], path_order(pair[0])))


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
    noise
        The videos that belong to none, or None if there are none.
    problems
        The videos that failed entirely or in part, in source order.
    sweep
        The contents of ``sweep.json``, or None if there is no such file.
    learned
        The contents of ``learned.json``, or None if there is no such file.
    spans
        The spans of each long video, by its ``video_id``.
    descriptions
        The contents of ``descriptions.json``; empty if there is no such file.
    dataset
        The contents of ``dataset_faults.json``; None if there is no such file, as the source is checked for nothing.
    duplicates
        The contents of ``duplicates.json``; None if there is no such file.
    poster
        The file of the run's poster, or the page that shows it; None if there is none.
    has_frames
        Whether the run keeps small pictures, of which a poster is made.
    folder
        The deepest folder that holds all the videos that are ok, in readable form; "" if there is none.
    n_dimensions
        How many dimensions the steps had that were clustered; None if the run has no centers that tell it.
    """

    url: str
    info: dict[str, Any]
    metrics: dict[str, Any]
    members: tuple[Member, ...]
    clusters: tuple[Cluster, ...]
    problems: tuple[Problem, ...]
    sweep: Mapping[str, Any] | None = None
    noise: Cluster | None = None
    learned: Mapping[str, Any] | None = None
    spans: Mapping[str, Sequence[VideoSpan]] = field(default_factory=dict)
    descriptions: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] | None = None
    duplicates: Mapping[str, Any] | None = None
    poster: str | None = None
    has_frames: bool = False
    folder: str = ""
    n_dimensions: int | None = None

    @property
    def clusters_and_noise(self) -> tuple[Cluster, ...]:
        """The clusters, and behind them the noise if there is any."""
        return (*self.clusters, self.noise) if self.noise else self.clusters

    @cached_property
    def keywords(self) -> dict[int, list[str]]:
        """The words that describe each cluster, by its number."""
        described = self.descriptions.get("clusters", ())
        return {each["cluster"]: [word["keyword"] for word in each["keywords"]] for each in described}

    @property
    def is_pooled(self) -> bool:
        """Whether each video is a vector, its clips pooled or a state that was learned, and not a path."""
        config = self.info.get("config", {})
        return bool(
            config.get("trajectory", {}).get("pool") or (self.is_learned and config["learn"]["output"] == "state")
        )

    @property
    def has_order(self) -> bool:
        """Whether the clusters are of paths, and not of vectors or of paths' means."""
        method = self.info.get("config", {}).get("cluster", {}).get("method")
        return not self.is_pooled and method != "kmeans"

    @property
    def is_learned(self) -> bool:
        """Whether the trajectories are learned."""
        return self.info.get("config", {}).get("trajectory", {}).get("method") == "seq2seq"

    @property
    def is_joined(self) -> bool:
        """Whether the cameras of an episode are joined, so that a member is an episode, in its first camera's name."""
        return bool(self.info.get("config", {}).get("trajectory", {}).get("join"))

    @property
    def noun(self) -> str:
        """What a member is called: "video" or "episode"."""
        return "episode" if self.is_joined else "video"

    @property
    def map_name(self) -> str:
        """The name of the method that drew the map; PCA where it took that method's place."""
        if str(self.info.get("fallbacks", {}).get("picture", "")).startswith("PCA instead"):
            return "PCA"
        method = self.info.get("config", {}).get("reduce", {}).get("picture", "umap")
        return {"umap": "UMAP", "tsne": "t-SNE"}.get(method, method)

    @cached_property
    def outliers(self) -> list[Member]:
        """The outliers of all clusters, the farthest first."""
        odd = (member for member in self.members if member.outlier)
        return sorted(odd, key=lambda member: -member.oddness(self.outliers_by))

    @property
    def outliers_by(self) -> str:
        """That by which the run told its outliers, "score" or "distance"."""
        return (self.metrics.get("outliers") or {}).get("by", "score")

    @cached_property
    def mix_column(self) -> str | None:
        """The column to compare clusters with: that of the metrics, else ``label``, else ``group``, else None."""
        there = (name for name in ("label", "group") if any(getattr(m, name) for m in self.members))
        return self.metrics.get("truth") or next(there, None)

    @property
    def wall_s(self) -> float:
        """Seconds that all stages took together."""
        return float(sum(self.info.get("seconds", {}).values()))


def read_facts(run: Run) -> Facts:
    """Read the facts that a run's report shows.

    Raises
    ------
    RaypipeError
        If the run has not been clustered.
    """
    videos = run.read_table(VIDEOS_FILE, with_episode(run, _SHOWN)).to_pylist()
    rows = run.read_table(CLUSTERS_FILE).to_pylist()
    spans = _read_spans(run, videos)
    names = _name_videos(videos, spans)
    captions = {row["video_id"]: row["caption"] for row in videos}
    reasons = read_reasons(run)
    members = tuple(
        _as_member(
            row,
            names[row["video_id"]],
            captions.get(row["video_id"]),
            spans[row["video_id"]],
            reasons.get(row["video_id"]),
        )
        for row in rows
    )
    numbers = sorted({member.cluster for member in members} - {NOISE})
    odd = tuple(member for member in members if member.cluster == NOISE)
    return Facts(
        url=run.url,
        info=run.read_json(RUN_FILE),
        metrics=run.read_json(METRICS_FILE),
        members=members,
        clusters=tuple(Cluster(number, _central_first(members, number)) for number in numbers),
        problems=tuple(_find_problems(videos, names)),
        noise=Cluster(NOISE, odd) if odd else None,
        sweep=run.read_json(SWEEP_FILE) if run.exists(SWEEP_FILE) else None,
        learned=run.read_json(LEARNED_FILE) if run.exists(LEARNED_FILE) else None,
        spans=read_spans(run),
        descriptions=run.read_json(DESCRIPTIONS_FILE) if run.exists(DESCRIPTIONS_FILE) else {},
        dataset=run.read_json(DATASET_FAULTS_FILE) if run.exists(DATASET_FAULTS_FILE) else None,
        duplicates=run.read_json(DUPLICATES_FILE) if run.exists(DUPLICATES_FILE) else None,
        poster=_find_poster(run),
        has_frames=bool(run.files(FRAMES_FOLDER, ".parquet")),
        folder=common_folder(video["uri"] for video in videos if video["status"] == OK),
        n_dimensions=read_model_centers(run).shape[-1] or None,
    )


def read_paths(run: Run, column: str = "picture") -> dict[str, np.ndarray]:
    """Return a 2-D path of each ``video_id``, (n_steps, 2) float64: its ``picture``, or ``decoded`` states."""
    table = run.read_table(TRAJECTORIES_FOLDER, ["video_id", column])
    return dict(zip(table["video_id"].to_pylist(), split_paths(table[column]), strict=True))


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


def common_folder(uris: Iterable[str]) -> str:
    """Return the deepest folder that holds all the URIs, in readable form, or "" if there is none."""
    folders = {tuple(split_uri(uri)[0].split("/")) for uri in uris}
    if not folders:
        return ""
    parts = zip(min(folders), max(folders), strict=False)  # Part by part the first and the last differ most.
    folder = "/".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], parts))
    return "" if folder.rstrip("/").endswith(":") else folder.removeprefix("file://")


def link_of(uri: str) -> str | None:
    """Return the URI if a browser may follow it to a video, or None, as for other schemes such as ``javascript:``."""
    return uri if uri.startswith(WEB) and has_video(uri) else None


def _read_spans(run: Run, videos: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float | None]]:
    """Return each video's origin and length in its file, in seconds, from the plan or else from probing."""
    spans = {row["video_id"]: (0.0, row["duration_s"]) for row in videos}
    if run.exists(PLAN_FILE):
        for row in run.read_table(PLAN_FILE, ["video_id", "origin_s", "span_s"]).to_pylist():
            if row["origin_s"] is not None and row["span_s"] is not None:
                spans[row["video_id"]] = (row["origin_s"], row["span_s"])
    return spans


def _name_videos(rows: Sequence[dict[str, Any]], spans: dict[str, tuple[float, float | None]]) -> dict[str, str]:
    """Return a name for each video, by its id; if a file holds several videos, the name tells them apart."""
    times_used = Counter(row["uri"] for row in rows)
    return {row["video_id"]: name_part(row, *spans[row["video_id"]], times_used[row["uri"]] > 1) for row in rows}


def _as_member(
    row: dict[str, Any],
    name: str,
    caption: str | None,
    span: tuple[float, float | None],
    odd: tuple[str, float | None, float | None, str] | None,
) -> Member:
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
        origin_s=span[0],
        span_s=span[1],
        caption=caption,
        reason=odd[0] if odd else "",
        odd_s=(odd[1], odd[2]) if odd and odd[1] is not None and odd[2] is not None else None,
        stands_out=odd is not None and odd[3] == "drop",
    )


def _central_first(members: Iterable[Member], number: int) -> tuple[Member, ...]:
    inside = [member for member in members if member.cluster == number]
    return tuple(sorted(inside, key=lambda m: math.inf if math.isnan(m.distance) else m.distance))


def _find_problems(videos: Iterable[dict[str, Any]], names: Mapping[str, str]) -> Iterable[Problem]:
    for row in videos:
        # A video that is skipped for an earlier failure is listed; one that is beyond the limit is only counted.
        if row["status"] == FAILED or (row["error"] is not None and (row["status"] != SKIPPED or row["error_stage"])):
            reason = (row["error"] or "no reason was recorded").removeprefix(f"{row['uri']}: ")  # Named beside it.
            yield Problem(names[row["video_id"]], row["uri"], row["status"], row["error_stage"] or "", reason)


def _find_poster(run: Run) -> str | None:
    if not run.exists(POSTER_FACTS_FILE):
        return None
    facts = run.read_json(POSTER_FACTS_FILE)
    return f"{facts['name']}.html" if facts["levels"] else str(facts["file"])
