"""The signals of LeRobot episodes, such as a robot's state and its actions, as trajectories.

A frame has a vector of all features that are asked for, one behind the other. Each of its numbers is z-scored: less the
mean and over the standard deviation of ``meta/stats.json``, or where that does not hold them soundly, of the episodes'
frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.errors import SourceError, UsageError
from raypipe.progress import counted
from raypipe.sources.columns import Extra, as_rows
from raypipe.sources.episodes import describe_episodes
from raypipe.sources.frame_tables import read_frames
from raypipe.sources.lerobot import EPISODE, LeRobotDataset, frames_told, open_lerobot, whole_numbers
from raypipe.sources.precomputed import Precomputed
from raypipe.sources.videos import Video, Videos, make_video_id
from raypipe.storage import open_file, shown

VIDEO = "video"
"""In the list of features this one stands for the episodes' videos, which the signals are joined to."""

_LEAST_SPREAD = 1 / 400
"""Of the mean. lerobot 0.6.1 takes the square of the mean from the mean of the squares, in float32: where a standard
deviation is below this part of the mean, more than a hundredth of it is rounding."""

_MOST = 1e150  # The square of a larger number leaves float64. Such as the largest of all stand where nothing was read.


@dataclass(frozen=True)
class Scale:
    """How signals are z-scored.

    Attributes
    ----------
    features
        Their names.
    mean, std
        (d,) float64, of all their numbers; a standard deviation of 0 is taken for 1.
    origin
        Where they come from.
    """

    features: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    origin: str

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back."""
        return {**vars(self), "features": list(self.features), "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Scale:
        """Return what `to_json` made JSON of."""
        mean, std = np.array(content["mean"]), np.array(content["std"])
        return cls(tuple(content["features"]), mean, std, content["origin"])


@dataclass(frozen=True)
class Signals:
    """The signals of a dataset's episodes.

    Attributes
    ----------
    videos
        An episode each; the ``uri`` is that of its frames.
    paths
        (n_frames, d) float32 of each of the first of them, z-scored; (0, d) of one that cannot be read.
    reasons
        Why not, by ``video_id``.
    fps
        Frames a second.
    scale
        How they were z-scored.
    """

    videos: Videos
    paths: list[np.ndarray]
    reasons: dict[str, str]
    fps: float
    scale: Scale

    @property
    def trajectories(self) -> Precomputed:
        """The episodes' paths, a clip a frame."""
        spans_s = [(np.arange(len(path))[:, None] + np.array([0, 1])) / self.fps for path in self.paths]
        return Precomputed(self.paths, spans_s, self.reasons)


def split_features(features: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(dict.fromkeys(name.strip() for name in features.split(",") if name.strip()))


def read_signals(source: str, features: str, limit: int | None = None, scale: Scale | None = None) -> Signals:
    """Read signals of a dataset's episodes as trajectories; no video is opened.

    Parameters
    ----------
    source
        The folder or URL of a LeRobot dataset.
    features
        Names of features, with commas between them.
    limit
        Read the first so many episodes.
    scale
        How they are z-scored, where that is not the dataset's to say.

    Raises
    ------
    UsageError
        If the source is no LeRobot dataset, or a feature is not there or holds no numbers.
    SourceError
        If the table of episodes cannot be read.
    """
    dataset, names = open_features(source, features)
    episodes, labels, kept, notes = describe_episodes(dataset)
    uris, codes = dataset.data_files(episodes)
    numbers = whole_numbers(episodes, EPISODE).tolist()
    extras = [Extra(kept, row) for row in range(len(kept))]
    videos = Videos(
        Video(
            make_video_id(f"{number}/{','.join(names)}"),
            f"{uris[code] if code >= 0 else dataset.root}#episode={number}",
            label=label,
            caption=label,
            extra=extra,
        )
        for number, code, label, extra in zip(numbers, codes.tolist(), labels.to_pylist(), extras, strict=True)
    )
    wanted = episodes.slice(0, limit)
    scale = scale or find_scale(dataset, names, episodes)  # With another limit these must be the same numbers.
    if scale.features != names:
        raise UsageError(f"the features must be {','.join(scale.features)}, as in the run that these are held against")
    paths = [np.empty((0, len(scale.mean)), np.float32)] * len(wanted)
    reasons: dict[str, str] = {}
    for row, found in iter_signals(dataset, wanted, scale, notes):
        if isinstance(found, np.ndarray):
            paths[row] = found
        else:
            reasons[videos[row].video_id] = str(found)
    videos.notes = tuple(notes)
    return Signals(videos, paths, reasons, frame_rate(dataset), scale)


def frame_rate(dataset: LeRobotDataset) -> float:
    """Return a dataset's frames a second.

    Raises
    ------
    SourceError
        If it does not say how many there are.
    """
    if not dataset.fps:
        told = dataset.info.get("fps")
        raise SourceError(f"{dataset.name}: meta/info.json: fps is {told!r}, not a number of frames a second")
    return dataset.fps


def open_features(source: str, features: str) -> tuple[LeRobotDataset, tuple[str, ...]]:
    """Return a dataset, and the names of its signals in a list of features, of which `VIDEO` is none.

    Raises
    ------
    UsageError
        If the source is no LeRobot dataset, or a feature is not there or holds no numbers.
    """
    dataset = open_lerobot(source)
    if dataset is None:
        raise UsageError(f"{shown(source)} is no LeRobot dataset, and has no features {features}")
    names = tuple(name for name in split_features(features) if name != VIDEO)
    there = dataset.numeric
    if not names:
        raise UsageError(f"no features are named: those of {dataset.name} are {', '.join(there)}")
    for name in names:
        if name not in there:
            what = f"is of dtype {dataset.features[name].get('dtype')}" if name in dataset.features else "is not there"
            raise UsageError(f"feature {name} {what}: those of {dataset.name} are {', '.join(there)}")
    return dataset, names


def find_scale(dataset: LeRobotDataset, names: Sequence[str], episodes: pa.Table) -> Scale:
    """Find the mean and the standard deviation of features: in ``meta/stats.json``, else in the episodes' frames.

    A standard deviation that is small beside the mean is not taken from there, see `_LEAST_SPREAD`.

    Raises
    ------
    SourceError
        If no frame of the episodes can be read.
    """

    def readable() -> Iterator[np.ndarray]:
        return (values for _, values in _iter_values(dataset, episodes, names) if isinstance(values, np.ndarray))

    first = next(readable(), None)
    if first is None:
        reason = next((f": {why}" for _, why in _iter_values(dataset, episodes, names)), "")
        raise SourceError(f"{dataset.name}: no frame with {', '.join(names)} can be read{reason}")
    told = _read_scale(dataset, names)
    if told is not None and told.mean.shape == first.shape[1:]:
        return told
    count, total, squares = np.zeros((3, first.shape[1]))
    is_number = np.isfinite(first)  # Squares of differences from a near value do not cancel.
    middle = np.where(is_number, first, 0.0).sum(axis=0) / np.maximum(is_number.sum(axis=0), 1)
    for frames in readable():
        if frames.shape[1] != len(middle):  # `iter_signals` says so of that episode.
            continue
        apart = np.where(np.isfinite(frames), frames - middle, 0.0)
        count += np.isfinite(frames).sum(axis=0)
        total += apart.sum(axis=0)
        squares += (apart**2).sum(axis=0)
    count = np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
    return Scale(tuple(names), middle + total / count, np.where(std > 0, std, 1.0), "the episodes' frames")


def _read_scale(dataset: LeRobotDataset, names: Sequence[str]) -> Scale | None:
    """Return what ``meta/stats.json`` says; None if it does not, or of some features what rounding made."""
    try:
        with open_file(dataset.locate("meta/stats.json")) as file:
            told = json.loads(file.read())
        mean, std = (np.concatenate([np.ravel(told[name][of]) for name in names]) for of in ("mean", "std"))
        is_sound = np.isfinite(mean) & ((std == 0) | (std >= _LEAST_SPREAD * np.abs(mean)) & np.isfinite(std))
    except (SourceError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if mean.shape != std.shape or not is_sound.all():
        return None
    return Scale(tuple(names), mean, np.where(std > 0, std, 1.0), "meta/stats.json")


def iter_signals(
    dataset: LeRobotDataset, episodes: pa.Table, scale: Scale, notes: list[str]
) -> Iterator[tuple[int, np.ndarray | SourceError]]:
    """Yield a row of the table of episodes, and the z-scored signals of its frames; or why they cannot be read.

    A number that is none is replaced from its neighbours in time, linearly. That is added to the notes, and where an
    episode has another number of frames than its table says.

    Yields
    ------
    The row, and (n_frames, d) float32.
    """
    told = frames_told(episodes)
    n_mended = 0
    unlike: list[int] = []
    for row, values in _iter_values(dataset, episodes, scale.features):
        if isinstance(values, SourceError):
            yield row, values
            continue
        if values.shape[1] != len(scale.mean):
            yield row, SourceError(f"its frames have {values.shape[1]} numbers, and others have {len(scale.mean)}")
            continue
        if told[row] not in (-1, len(values)):
            unlike.append(row)
        bad = ~np.isfinite(values)
        if bad.any():
            n_mended += 1
            at = np.arange(len(values))
            for column in np.flatnonzero(bad.any(axis=0)):
                good = ~bad[:, column]
                known = (at[good], values[good, column]) if good.any() else ([0], [scale.mean[column]])
                values[:, column] = np.interp(at, *known)
        yield row, ((values - scale.mean) / scale.std).astype(np.float32)
    if n_mended:
        has = counted(n_mended, "episode has", "episodes have")
        notes.append(f"{has} numbers that are none, which are interpolated from their neighbours")
    if unlike:
        has = counted(len(unlike), "episode has", "episodes have")
        first = whole_numbers(episodes, EPISODE)[unlike].min()
        notes.append(f"{has} more or fewer frames than the table of episodes says, such as episode {first}")


def _iter_values(
    dataset: LeRobotDataset, episodes: pa.Table, names: Sequence[str]
) -> Iterator[tuple[int, np.ndarray | SourceError]]:
    """Yield a row of the table of episodes, and its frames' numbers, (n, d) float64, by time; or why there are none."""
    numbers = whole_numbers(episodes, EPISODE)
    order_by = ["frame_index"] if "frame_index" in dataset.features else []
    for rows, frames in read_frames(dataset, episodes, [*names, *order_by]):
        try:
            if isinstance(frames, SourceError):
                raise frames
            values = np.concatenate([as_rows(frames[name], name) for name in names], axis=1)
            values[np.abs(values) > _MOST] = np.nan
            keys = [whole_numbers(frames, name) for name in (*order_by, EPISODE)]
        except SourceError as error:
            yield from ((row, error) for row in rows.tolist())
            continue
        own, order = keys[-1], np.lexsort(keys)
        for row in rows.tolist():
            inside = order[slice(*np.searchsorted(own[order], [numbers[row], numbers[row] + 1]))]
            if len(inside):
                yield row, values[inside]
            else:
                yield row, SourceError("it has no frames")
