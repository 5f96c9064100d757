"""The outliers of a run: which videos, why, and where in them; ``outliers.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.analysis.faults import Examiner, Finding, VideoClips, choose_ordinary
from raypipe.analysis.outliers import find_threshold, rank_within, score_outliers
from raypipe.config import Config
from raypipe.errors import UsageError
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.runs.plan import PLAN_FILE
from raypipe.runs.results import OUTLIERS, read_trajectories
from raypipe.schema import Trajectories
from raypipe.softdtw import auto_gamma
from raypipe.storage import inert

_ROUNDING = 1e-6  # of the range of all distances
MAX_EXAMINED = 2_000  # So many outliers at most, the farthest, are examined: what is wrong with each, and where.


@dataclass(frozen=True)
class Outlier:
    """A video as a row of ``outliers.csv`` shows it.

    Attributes
    ----------
    video_id, uri, cluster
        The video and its cluster.
    distance, score
        To its own center, in the clustering's distance; and to the nearest center that others support.
    quantile, cluster_quantile
        The fraction of all other videos, and of those of its cluster, that are less far.
    nearest
        The number of the nearest center that others support; -1 if there is none.
    outlier
        Whether it is flagged.
    verdict
        "drop" if something is wrong with it, else "keep".
    start_s, end_s
        Where in the video, in seconds of the file; None where nothing is to be shown.
    reason
        Why, in words; empty for videos that are not flagged.
    """

    video_id: str
    uri: str
    cluster: int
    distance: float
    score: float
    quantile: float
    cluster_quantile: float
    nearest: int
    outlier: bool
    verdict: str
    start_s: float | None
    end_s: float | None
    reason: str


@dataclass(frozen=True)
class Judgement:
    """What was found of n clustered videos, in their order.

    Attributes
    ----------
    scores, distances
        (n,) float64.
    labels, nearest
        (n,) int64, the own cluster, and the nearest center that others support.
    flags
        (n,) bool.
    by
        "score" or "distance", by which they are flagged beyond the ``threshold``, the ``quantile`` of it.
    findings
        By row, what was found of the flagged videos that were examined.
    note
        What is to be said of how it was done, or None.
    """

    scores: np.ndarray
    distances: np.ndarray
    labels: np.ndarray
    nearest: np.ndarray
    flags: np.ndarray
    by: str
    quantile: float
    threshold: float
    findings: dict[int, Finding]
    note: str | None

    @property
    def measure(self) -> np.ndarray:
        """(n,), that by which videos are flagged."""
        return self.distances if self.by == "distance" else self.scores

    def summary(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds of it."""
        return {
            "by": self.by,
            "quantile": self.quantile,
            "threshold": self.threshold if np.isfinite(self.threshold) else None,
            "n": int(self.flags.sum()),
            "n_drop": sum(finding.is_fault for finding in self.findings.values()),
        }


@dataclass(frozen=True)
class Known:
    """What other videos are judged by: how many each cluster of a run has, and beyond what its own were flagged."""

    sizes: np.ndarray
    threshold: float


def read_known(run: Run, config: Config) -> Known:
    """Read what a clustered run judges other videos by.

    A distance that is computed again differs by rounding, so the threshold is a little higher than the run's own.
    """
    how = config.cluster
    column = "distance" if how.outlier_by == "distance" else "outlier_score"
    table = run.read_table("clusters.parquet", ["cluster", column])
    labels, measure = table["cluster"].to_numpy(), table[column].to_numpy().astype(np.float64)
    finite = measure[np.isfinite(measure)]
    rounding = _ROUNDING * float(np.ptp(finite)) if len(finite) else 0.0
    sizes = np.bincount(labels[labels >= 0], minlength=len(run.read_json("metrics.json")["sizes"]))
    return Known(sizes, find_threshold(measure, how.outlier_quantile) + rounding)


def judge_videos(
    run: Run,
    paths: Trajectories,
    labels: np.ndarray,
    distances: np.ndarray,
    centers: np.ndarray,
    gamma: float | None,
    config: Config,
    known: Known | None = None,
) -> Judgement:
    """Score a run's videos, flag the farthest, and examine these.

    Parameters
    ----------
    run
        An embedded run, whose clips are read.
    paths
        The trajectories that were clustered, n of them.
    labels, distances
        (n,) of the clustering.
    centers, gamma
        Its centers, (k, T, c), and the γ of soft-DTW, or None.
    config
        ``cluster.outlier_by`` and ``cluster.outlier_quantile`` say which are flagged.
    known
        The clustering of other videos that these joined; None where they are those that were clustered.
    """
    how = config.cluster
    if gamma is None and how.method == "dtw":
        gamma = auto_gamma(paths.values)
    scores = score_outliers(paths.values, labels, centers, gamma, distances, known.sizes if known else None)
    measure = distances if how.outlier_by == "distance" else scores.values
    threshold = known.threshold if known else find_threshold(measure, how.outlier_quantile)
    flags = measure > threshold
    findings: dict[int, Finding] = {}
    rows = np.flatnonzero(flags)
    rows = rows[np.argsort(-measure[rows], kind="stable")][:MAX_EXAMINED]
    if len(rows):
        ordinary = choose_ordinary(scores, flags)
        clips = read_clips(run, {paths.video_ids[row]: int(row) for row in (*rows, *ordinary)})
        axis = "index" if config.trajectory.n_steps is None else config.trajectory.time_axis
        examiner = Examiner(paths.values, scores, centers, gamma, ordinary, clips, axis)
        findings = {int(row): examiner.examine(int(row)) for row in rows}
    return Judgement(
        scores.values,
        np.asarray(distances, np.float64),
        labels,
        scores.nearest,
        flags,
        how.outlier_by,
        how.outlier_quantile,
        threshold,
        findings,
        scores.note,
    )


def judge_run(run: Run, config: Config) -> Judgement:
    """Judge the videos of a run that has been clustered, from the run directory alone.

    Raises
    ------
    UsageError
        If the run has no clusters, or they were found outside of it, so that it has no centers.
    """
    for name in ("clusters.parquet", "model/centers.npy"):
        if not run.exists(name):
            raise UsageError(f"{run.url} has no {name}: run raypipe cluster {run.url} first")
    clusters = run.read_table("clusters.parquet", ["cluster", "distance"])
    centers = np.load(io.BytesIO(run.read_bytes("model/centers.npy")), allow_pickle=False)
    return judge_videos(
        run,
        read_trajectories(run, "reduced"),
        clusters["cluster"].to_numpy().astype(np.int64),
        clusters["distance"].to_numpy(),
        centers,
        run.read_json("metrics.json")["gamma"],
        config,
    )


def read_clips(run: Run, rows: dict[str, int]) -> dict[int, VideoClips]:
    """Read the clips of some videos from ``embeddings/``, a file at a time.

    Parameters
    ----------
    run
        An embedded run.
    rows
        The number of each video, by its ``video_id``.

    Returns
    -------
    The clips by that number.
    """
    wanted = pa.array(list(rows))
    plan = run.read_table(PLAN_FILE, ["video_id", "segment", "fingerprint", "error"])
    plan = plan.filter(pc.is_in(plan["video_id"], value_set=wanted))
    columns = ["video_id", "segment", "clip_index", "start_s", "end_s", "embedding"]
    parts = []
    for table in Ledger(run, plan).iter_clips(columns):
        table = table.filter(pc.is_in(table["video_id"], value_set=wanted))
        parts.append(table.filter(pc.is_valid(table["embedding"])))
    clips = pa.concat_tables(parts) if parts else None
    if clips is None or not clips.num_rows:
        return {}
    clips = clips.sort_by([(name, "ascending") for name in ("video_id", "segment", "clip_index")])
    ids = clips["video_id"].combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy()
    starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
    vectors = [chunk.flatten().to_numpy() for chunk in clips["embedding"].chunks]
    values = np.concatenate(vectors).reshape(clips.num_rows, -1)
    times = clips["start_s"].to_numpy(), clips["end_s"].to_numpy()
    found = {}
    for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
        video_id = ids.dictionary[int(codes[start])].as_py()
        found[rows[video_id]] = VideoClips(times[0][start:end], times[1][start:end], values[start:end])
    return found


def list_outliers(run: Run, found: Judgement) -> list[Outlier]:
    """Return every clustered video as a row of ``outliers.csv``, the farthest first."""
    videos = run.read_table("clusters.parquet", ["video_id", "uri"])
    ids, uris = videos["video_id"].to_pylist(), videos["uri"].to_pylist()
    every, inside = rank_within(found.measure), rank_within(found.measure, found.labels)
    order = np.argsort(np.where(np.isnan(found.measure), -np.inf, -found.measure), kind="stable")
    listed = []
    for row in order.tolist():
        finding = found.findings.get(row)
        listed.append(
            Outlier(
                ids[row],
                uris[row],
                int(found.labels[row]),
                float(found.distances[row]),
                float(found.scores[row]),
                float(every[row]),
                float(inside[row]),
                int(found.nearest[row]),
                bool(found.flags[row]),
                "drop" if finding is not None and finding.is_fault else "keep",
                finding.start_s if finding else None,
                finding.end_s if finding else None,
                finding.reason if finding else "far, but not examined" if found.flags[row] else "",
            )
        )
    return listed


def write_outliers(run: Run, outliers: Sequence[Outlier]) -> None:
    """Write ``outliers.csv``."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(Outlier.__dataclass_fields__)
    for video in outliers:
        numbers = (video.distance, video.score, video.quantile, video.cluster_quantile)
        writer.writerow(
            [
                *map(inert, (video.video_id, video.uri)),
                video.cluster,
                *(f"{number:.6g}" if np.isfinite(number) else "" for number in numbers),
                video.nearest,
                str(video.outlier).lower(),
                video.verdict,
                *("" if time_s is None else f"{time_s:.3f}" for time_s in (video.start_s, video.end_s)),
                inert(video.reason),
            ]
        )
    run.write_bytes(OUTLIERS, sink.getvalue().encode())


def describe_outliers(found: Judgement, outliers: Sequence[Outlier], n_worst: int = 0) -> list[str]:
    """Return lines that say how many videos are outliers and beyond which threshold, and the farthest of all videos."""
    n, n_flagged, n_drop = len(outliers), int(found.flags.sum()), found.summary()["n_drop"]
    what = f"{found.by} beyond {found.threshold:.4g}, its {100 * found.quantile:g} % quantile"
    lines = [f"outliers: {n_flagged} of {n} videos have a {what}; {n_drop} to drop, see {OUTLIERS}"]
    worst = outliers[:n_worst]
    if worst:
        lines.append(f"the {len(worst)} farthest:")
    for place, video in enumerate(worst, 1):
        value = video.distance if found.by == "distance" else video.score
        reason = f"  {video.reason}" if video.reason else ""
        name = video.uri.rpartition("/")[2]
        lines.append(f"{place:4d}. {found.by} {value:.4g}  cluster {video.cluster}  {name}{reason}")
    return lines
