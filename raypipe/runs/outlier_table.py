"""The outliers of a run: which videos, why, and where in them; ``outliers.csv``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raypipe.analysis.examination import Examiner, Finding, choose_ordinary
from raypipe.analysis.outliers import find_threshold, rank_within, score_outliers
from raypipe.config import Config
from raypipe.errors import UsageError
from raypipe.runs.clips import iter_clip_paths
from raypipe.runs.contents import CENTERS_FILE, CLUSTERS_FILE, METRICS_FILE, OUTLIERS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.lookup import describe_videos, name_of, own_id
from raypipe.runs.results import is_predicted, read_model_centers, read_trajectories
from raypipe.schema import ClipPath, Trajectories, inert
from raypipe.softdtw import auto_gamma
from raypipe.storage import shown, shown_place

_ROUNDING = 1e-6  # Of the range of all distances, such a part may be rounding.
WORST = 10  # So many of the farthest videos are named, as the recipe of the preset outlier-detection does.
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
    is_known
        Whether the quantile is one of other videos, whose clusters these joined.
    noun
        What they are called: "video", or "episode" where the cameras of each are joined.
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
    is_known: bool = False
    noun: str = "video"

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
    """What other videos are judged by: how many each cluster of a run has, and beyond what its own were flagged.

    ``by``, ``quantile`` and ``threshold`` are those of the own `Judgement` of the ``run``.
    """

    run: Run
    sizes: np.ndarray
    by: str
    quantile: float
    threshold: float


def read_known(run: Run) -> Known:
    """Read what a clustered run judges other videos by.

    A distance that is computed again differs by rounding, so the threshold is a little higher than the run's own.

    Raises
    ------
    UsageError
        If the run was clustered by a version that judged otherwise.
    """
    metrics = run.read_json(METRICS_FILE)
    if "outliers" not in metrics:
        raise UsageError(f"{run} was clustered by an earlier version: run raypipe cluster {run} again")
    own = metrics["outliers"]
    column = "distance" if own["by"] == "distance" else "outlier_score"
    table = run.read_table(CLUSTERS_FILE, ["cluster", column])
    labels, measure = table["cluster"].to_numpy(), table[column].to_numpy().astype(np.float64)
    finite = measure[np.isfinite(measure)]
    rounding = _ROUNDING * float(np.ptp(finite)) if len(finite) else 0.0
    sizes = np.bincount(labels[labels >= 0], minlength=len(metrics["sizes"]))
    threshold = np.inf if own["threshold"] is None else own["threshold"]
    return Known(run, sizes, own["by"], own["quantile"], threshold + rounding)


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
        The clustering of other videos that these joined, which says it then; None where they were clustered themselves.
    """
    how = config.cluster
    by, quantile = (known.by, known.quantile) if known else (how.outlier_by, how.outlier_quantile)
    if gamma is None and how.method == "dtw":
        gamma = auto_gamma((read_trajectories(known.run, "reduced") if known else paths).values)
    scores = score_outliers(paths.values, labels, centers, gamma, distances, known.sizes if known else None)
    measure = distances if by == "distance" else scores.values
    threshold = known.threshold if known else find_threshold(measure, quantile)
    flags = measure > threshold
    findings: dict[int, Finding] = {}
    rows = np.flatnonzero(flags)
    rows = rows[np.argsort(-measure[rows], kind="stable")][:MAX_EXAMINED]
    if len(rows):
        axis = config.trajectory.step_axis
        if known:
            examiner = _learn_usual(known, centers, gamma, axis)
            clips = _read_clips(run, paths, rows)
        else:
            ordinary = choose_ordinary(scores, flags)
            clips = _read_clips(run, paths, (*rows, *ordinary))  # One pass over the embeddings has both.
            examiner = Examiner(paths.values, scores, centers, gamma, ordinary, clips, axis, threshold)
        findings = {
            row: examiner.examine(
                paths.values[row], clips.get(row), int(scores.nearest[row]), float(scores.values[row])
            )
            for row in rows.tolist()
        }
    return Judgement(
        scores.values,
        np.asarray(distances, np.float64),
        labels,
        scores.nearest,
        flags,
        by,
        quantile,
        threshold,
        findings,
        scores.note,
        is_known=known is not None,
        noun=config.trajectory.noun,
    )


def _read_clips(run: Run, paths: Trajectories, rows: Iterable[int]) -> dict[int, ClipPath]:
    """Return the clips of some videos by row."""
    row_of = {paths.video_ids[row]: int(row) for row in rows}
    return {row_of[each.video_id]: each for each in iter_clip_paths(run, row_of)}


def _learn_usual(known: Known, centers: np.ndarray, gamma: float | None, axis: Literal["time", "index"]) -> Examiner:
    """Learn what is usual among the videos of a run whose clusters others joined."""
    paths = read_trajectories(known.run, "reduced")
    clusters = known.run.read_table(CLUSTERS_FILE, ["cluster", "distance", "outlier"])
    labels, distances = clusters["cluster"].to_numpy().astype(np.int64), clusters["distance"].to_numpy()
    scores = score_outliers(paths.values, labels, centers, gamma, distances)
    ordinary = choose_ordinary(scores, np.array(clusters["outlier"].to_pylist(), bool))
    clips = _read_clips(known.run, paths, ordinary)
    return Examiner(paths.values, scores, centers, gamma, ordinary, clips, axis, known.threshold)


def judge_run(run: Run, config: Config) -> Judgement:
    """Judge the videos of a run that has been clustered, from the run directory alone.

    Raises
    ------
    UsageError
        If the run has no clusters, or they were found outside of it, so that it has no centers, or they are those of
        another run, which its videos were given.
    """
    if is_predicted(run.info()):
        raise UsageError(
            f"{run} holds new videos in {run.info()['implementations']['cluster']}, and raypipe predict has judged "
            "them by the videos of these: predict again"
        )
    if not run.exists(CLUSTERS_FILE):
        raise UsageError(f"{run} has no {CLUSTERS_FILE}: run raypipe cluster {run} first")
    if not run.exists(CENTERS_FILE):
        raise UsageError(
            f"the clusters of {run} are an estimator's that was fitted elsewhere: its {OUTLIERS_FILE} says what is odd "
            f"by them, and to judge by another measure run raypipe cluster {run}"
        )
    clusters = run.read_table(CLUSTERS_FILE, ["cluster", "distance"])
    return judge_videos(
        run,
        read_trajectories(run, "reduced"),
        clusters["cluster"].to_numpy().astype(np.int64),
        clusters["distance"].to_numpy(),
        read_model_centers(run),
        run.read_json(METRICS_FILE)["gamma"],
        config,
    )


def list_outliers(run: Run, found: Judgement) -> list[Outlier]:
    """Return every clustered video as a row of ``outliers.csv``, the farthest first, noise without a distance last."""
    videos = run.read_table(CLUSTERS_FILE, ["video_id", "uri"])
    ids, uris = videos["video_id"].to_pylist(), videos["uri"].to_pylist()
    every, inside = rank_within(found.measure), rank_within(found.measure, found.labels)
    order = np.argsort(-found.measure, kind="stable")
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
    rows: list[Sequence[Any]] = [list(Outlier.__dataclass_fields__)]
    for video in outliers:
        numbers = (video.distance, video.score, video.quantile, video.cluster_quantile)
        rows.append(
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
    run.write_csv(OUTLIERS_FILE, rows)


def describe_outliers(
    found: Judgement, outliers: Sequence[Outlier], known: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """Return lines that say how many are outliers and beyond which threshold, and which are the farthest.

    ``known`` is what `describe_videos` returned of so many of the farthest; by default none is named.
    """
    n, n_flagged, n_drop = len(outliers), int(found.flags.sum()), found.summary()["n_drop"]
    if not np.isfinite(found.measure).any():
        return [f"outliers: none of {n} {found.noun}s has a {found.by}, since there are no clusters"]
    of = f" of the {found.noun}s that were clustered" if found.is_known else ""
    what = f"{found.by} beyond {found.threshold:.4g}, its {100 * found.quantile:g} % quantile{of}"
    have = "has" if n_flagged == 1 else "have"
    lines = [f"outliers: {n_flagged} of {n} {found.noun}s {have} a {what}; {n_drop} to drop, see {OUTLIERS_FILE}"]
    known = known or {}
    worst = outliers[: min(len(known), np.isfinite(found.measure).sum())]
    times_used = Counter(used for video in outliers if worst for used in {video.uri, name_of(video.uri)})
    if worst:
        lines.append(f"the {len(worst)} farthest:")
    for place, video in enumerate(worst, 1):
        value = video.distance if found.by == "distance" else video.score
        reason = f"  {video.reason}" if video.reason else ""
        name = shown(name_of(video.uri))
        if own := own_id(known[video.video_id]):
            name = own
        elif times_used[video.uri] > 1:
            name = f"{name}  {video.video_id}"
        elif times_used[name_of(video.uri)] > 1:  # Several folders have a file of the name.
            name = shown_place(video.uri)
        lines.append(f"{place:4d}. {found.by} {value:.4g}  cluster {video.cluster}  {name}{reason}")
    return lines


def record_outliers(run: Run, found: Judgement, say: Callable[[str], None], n_worst: int = WORST) -> None:
    """Write ``outliers.csv`` of a run's clusters, and say how many outliers there are and which videos lie farthest."""
    listed = list_outliers(run, found)
    write_outliers(run, listed)
    run.record_stage("outliers", f"by {found.by}", found.note)
    for line in describe_outliers(found, listed, describe_videos(run, [each.video_id for each in listed[:n_worst]])):
        say(line)
