"""The learned trajectories of a run: one vector or path a video, and the spans of long ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from raypipe.analysis.segmentation import Segmenter, fit_segmenter
from raypipe.config import Config, LearnConfig
from raypipe.errors import RaypipeError
from raypipe.progress import Progress
from raypipe.runs.clips import iter_clip_paths
from raypipe.runs.contents import CHECKPOINT_FILE
from raypipe.runs.directory import Run
from raypipe.runs.span_table import VideoSpan
from raypipe.schema import Trajectories
from raypipe.trajectories.interpolation import build_trajectories, interpolate
from raypipe.trajectories.learned import Seq2SeqEmbedder

_PER_WINDOW = 4  # Windows to learn from begin a quarter of their length apart: nearer ones are nearly the same.


@dataclass(frozen=True)
class LearnedPaths:
    """What was learned of a run's videos.

    Attributes
    ----------
    paths
        (n_videos, 1, hidden_size), or the paths of states, (n_videos, T, hidden_size).
    decoded
        The decoder's states over time (those of windows, where there are), on their two principal axes: the picture of
        what was learned.
    spans
        The spans of videos that are longer than a window, in source order; None where there are no windows.
    arrays
        All that embedding and parting new videos needs, as plain arrays.
    record
        What ``learned.json`` holds; None where an earlier run's encoder was taken.
    """

    paths: Trajectories
    decoded: Trajectories
    spans: list[VideoSpan] | None
    arrays: dict[str, np.ndarray]
    record: dict[str, Any] | None


class _Windows(NamedTuple):
    """The windows of all videos, of ``width`` clips each; a shorter video is one window.

    ``clips`` are (n_clips, dim) each, one video's after another's, of which each has so many of ``counts``. The
    middles of windows and clips, and each video's ends, are in seconds of the file.
    """

    width: int
    clips: list[np.ndarray]
    counts: np.ndarray
    middles_s: list[np.ndarray]
    clip_middles_s: list[np.ndarray]
    ends_s: list[tuple[float, float]]


def learn_paths(
    run: Run, config: Config, progress: Progress, known: Mapping[str, np.ndarray] | None = None
) -> LearnedPaths:
    """Learn from a run's trajectories, and embed them.

    What was learned is kept in the run's ``learning/``: it is gone on with after a kill, and taken again as long as
    neither the trajectories nor what is learned of them have changed.

    Parameters
    ----------
    run
        An embedded run.
    config
        How its trajectories are built (``trajectory``), and what is learned of them (``learn``).
    progress
        Where the epochs are shown.
    known
        The ``arrays`` of another run's `LearnedPaths`: its encoder is taken, and nothing learned.

    Raises
    ------
    RaypipeError
        If no video has a clip, the videos are not those that the known encoder reads, or a trajectory is not finite.
    """
    how = config.trajectory.model_dump(exclude={"method"})
    windowed = config.learn.window_s is not None
    given = build_trajectories(run, **{**how, "n_steps": None} if windowed else how)
    windows = _cut(run, given, config.learn, known) if windowed else None
    sequences = windows.clips if windows else list(given.values)
    record = None
    if known is None:
        embedder = _make_embedder(config)
        checkpoint = f"{run.url.rstrip('/')}/{CHECKPOINT_FILE}"
        embedder.fit(_to_learn_from(windows) if windows else sequences, checkpoint=checkpoint, progress=progress)
        record = _describe(embedder, config)
    else:
        embedder = Seq2SeqEmbedder.of(known)
    states = embedder.transform(sequences)
    over_time = np.split(states, np.cumsum(windows.counts)[:-1]) if windows else embedder.states(sequences)
    arrays = {**embedder.arrays(), **_find_axes(over_time, known)}
    spans = None
    if windows:
        arrays["window"] = np.array(windows.width)
        spans, more = _part(given, windows, over_time, config.learn, known)
        arrays |= more
    note = f"seq2seq, {embedder.cell} of {embedder.hidden_size}"
    if record:
        note += f": epoch {embedder.best_epoch_} of {len(embedder.history_) - 1} was the best"
    told = ("; ".join((note, *given.notes[:1])), *given.notes[1:])
    decoded = _on_axes(over_time, arrays)
    values = _choose_output(config, states, over_time, windows)
    ids, n_clips = given.video_ids, given.n_clips
    return LearnedPaths(
        Trajectories(ids, values, n_clips, told), Trajectories(ids, decoded, n_clips), spans, arrays, record
    )


def _make_embedder(config: Config) -> Seq2SeqEmbedder:
    learn = config.learn.model_dump(exclude={"output", "window_s", "span_kinds", "seed"})
    return Seq2SeqEmbedder(**learn, n_clusters=config.cluster.n_clusters, random_state=config.learn.seed)


def _describe(embedder: Seq2SeqEmbedder, config: Config) -> dict[str, Any]:
    return {
        "parameters": config.learn.model_dump(mode="json"),
        "n_held_out": embedder.n_held_out_,
        "best_epoch": embedder.best_epoch_,
        "silhouette_of": f"k-means of the states in {config.cluster.n_clusters} clusters",
        "history": embedder.history_,
    }


def _choose_output(
    config: Config, states: np.ndarray, over_time: list[np.ndarray], windows: _Windows | None
) -> np.ndarray | list[np.ndarray]:
    """Return the paths that are clustered: a state a video, or states over time."""
    if config.learn.output == "state":
        own = np.stack([each.mean(axis=0) for each in over_time]) if windows else states
        return own[:, None]
    n_steps = config.trajectory.n_steps
    if windows and n_steps is not None:
        resampled = [
            interpolate(each, times_s, n_steps) for each, times_s in zip(over_time, windows.middles_s, strict=True)
        ]
        return np.stack(resampled)
    return over_time if n_steps is None else np.stack(over_time)


def _cut(run: Run, given: Trajectories, learn: LearnConfig, known: Mapping[str, np.ndarray] | None) -> _Windows:
    """Cut each video into windows, one from each of its clips on."""
    times = {clips.video_id: (clips.start_s, clips.end_s) for clips in iter_clip_paths(run)}
    middles = [np.add(*times[video_id]) / 2 for video_id in given.video_ids]
    steps_s = np.concatenate([np.diff(each) for each in middles])
    if known is not None:
        width = int(known["window"])
    elif len(steps_s) and learn.window_s is not None:
        width = max(round(learn.window_s / float(np.median(steps_s))), 1)
    else:
        raise RaypipeError("learn.window_s parts videos, and none of these has two clips: sample more finely")
    clips, centers = [], []
    for values, middles_s in zip(given.values, middles, strict=True):
        starts = range(max(len(values) - width + 1, 1))
        clips += [values[start : start + width] for start in starts]
        centers.append(np.array([middles_s[start : start + width].mean() for start in starts]))
    ends_s = [(float(times[i][0][0]), float(times[i][1][-1])) for i in given.video_ids]
    return _Windows(width, clips, np.array([len(each) for each in centers]), centers, middles, ends_s)


def _to_learn_from(windows: _Windows) -> list[np.ndarray]:
    hop = max(windows.width // _PER_WINDOW, 1)
    firsts = np.cumsum(windows.counts) - windows.counts
    chosen = [first + start for first, n in zip(firsts, windows.counts, strict=True) for start in range(0, n, hop)]
    return [windows.clips[i] for i in chosen]


def _part(
    given: Trajectories,
    windows: _Windows,
    states: list[np.ndarray],
    learn: LearnConfig,
    known: Mapping[str, np.ndarray] | None,
) -> tuple[list[VideoSpan], dict[str, np.ndarray]]:
    """Part the videos that are longer than a window into spans; return these, and the segmenter's arrays."""
    width, prefix = windows.width, "segment "
    if known is None:
        segmenter = fit_segmenter(states, given.values, width, learn.span_kinds)
    else:
        named = {name.removeprefix(prefix): array for name, array in known.items() if name.startswith(prefix)}
        segmenter = Segmenter.of(named)
    spans = []
    for video_id, clips, own, middles_s, (start_s, end_s) in zip(
        given.video_ids, given.values, states, windows.clip_middles_s, windows.ends_s, strict=True
    ):
        parts = segmenter.part(own, clips, width) if len(own) > 1 else []
        # A change lies between the middles of the last clip of one span and the first one of the next.
        edges_s = [start_s, *(float(middles_s[p.start - 1 : p.start + 1].mean()) for p in parts[1:]), end_s]
        pairs = zip(pairwise(edges_s), parts, strict=False)
        spans += [VideoSpan(video_id, begin_s, stop_s, part.kind) for (begin_s, stop_s), part in pairs]
    return spans, {f"{prefix}{name}": array for name, array in segmenter.arrays().items()}


def _find_axes(paths: list[np.ndarray], known: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Return the mean and the two principal axes of states, or those of an earlier run."""
    if known is not None:
        return {name: known[name] for name in ("axes mean", "axes")}
    states = np.concatenate(paths).astype(np.float64)
    mean = states.mean(axis=0)
    _, axes = np.linalg.eigh((states - mean).T @ (states - mean))
    axes = axes[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])  # The sign is free: fix it.
    return {"axes mean": mean, "axes": axes}


def _on_axes(paths: list[np.ndarray], arrays: Mapping[str, np.ndarray]) -> Any:
    flat = [((path - arrays["axes mean"]) @ arrays["axes"]).astype(np.float32) for path in paths]
    return np.stack(flat) if len({len(path) for path in flat}) == 1 else flat
