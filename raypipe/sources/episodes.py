"""The episodes of a LeRobot dataset as videos: one for each episode and camera."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raypipe.errors import SourceError
from raypipe.progress import counted
from raypipe.sources.frame_tables import read_frames
from raypipe.sources.lerobot import (
    EPISODE,
    Camera,
    LeRobotDataset,
    read_episodes,
    read_task_names,
    seconds,
    whole_numbers,
)
from raypipe.sources.videos import FOUND, Videos, make_video_id
from raypipe.storage import ImageColumn

_BATCH = 10_000  # So many episodes at a time become Python objects.
_SUCCESS, _SUBTASKS, _SUBTASK = "next.success", "subtasks", "subtask_index"
_LANGUAGE = "language_persistent"
_HAVE = ("episode has", "episodes have")
_PLACES = ("videos/", "data/")  # These columns say where an episode lies; the video's URI and span say it already.


def find_episodes(dataset: LeRobotDataset, camera: str = "all") -> Videos:
    """Return a video for each episode and camera of a dataset, episode by episode.

    In v3.x many episodes share an mp4, and each is a span of it; in v2.x a file is an episode. A video's id is made of
    ``episode_index/camera``, its group is the camera, and its label and caption are the episode's task: of several the
    one that most of its frames have. The further columns of the table of episodes are kept.

    Parameters
    ----------
    dataset
        What `raypipe.sources.lerobot.open_lerobot` returned.
    camera
        One camera's name, or "all".

    Raises
    ------
    SourceError
        If the table of episodes cannot be read, or does not say where they lie.
    UsageError
        If there is no such camera.
    """
    cameras = dataset.choose_cameras(camera)
    episodes, labels, kept, notes = describe_episodes(dataset)
    placed = [_place(dataset, each, episodes, notes) for each in cameras]
    for each, (_, codes, _, _) in zip(cameras, placed, strict=True):
        if n_lacking := int((codes < 0).sum()):
            notes.append(f"{n_lacking} of {len(episodes)} episodes have no {each.name}")
    videos = Videos.from_tables(_tables(cameras, placed, labels, kept), kept.schema)
    if not len(videos):
        raise SourceError(f"{dataset.name}: no episode has a video of {', '.join(each.name for each in cameras)}")
    videos.notes = tuple(notes)
    return videos


def check_numbers(dataset: LeRobotDataset, videos: Videos) -> None:
    """Raise `SourceError` if two episodes of a dataset have one number, of which their videos' ids are made."""
    if videos.has_duplicate_ids():
        counts = Counter(video.video_id for video in videos)
        number = next(video.extra[EPISODE] for video in videos if counts[video.video_id] > 1)
        raise SourceError(
            f"{dataset.name}: its table of episodes has episode {number} twice, and both would have one id: see "
            "raypipe inspect"
        )


class Described(NamedTuple):
    """The episodes of a dataset, in the order of their table.

    Attributes
    ----------
    table
        What `raypipe.sources.lerobot.read_episodes` returned.
    labels
        The task of each.
    kept
        What is kept of each as columns of its videos: those of the table that do not say where it lies, and what its
        frames alone tell.
    notes
        What is to be said of how they were read.
    """

    table: pa.Table
    labels: pa.Array
    kept: pa.Table
    notes: list[str]


def describe_episodes(dataset: LeRobotDataset) -> Described:
    """Read the episodes of a dataset, and what they are about.

    Raises
    ------
    SourceError
        If the table of episodes cannot be read.
    """
    episodes = read_episodes(dataset)
    notes = list(dataset.notes)
    told = dataset.info.get("total_episodes")
    if isinstance(told, int) and told != len(episodes):
        notes.append(f"{dataset.name}: info.json tells of {told} episodes, and their table has {len(episodes)}")
    labels = _read_labels(dataset, episodes, notes)
    kept = episodes.select([name for name in episodes.column_names if not name.startswith(_PLACES)])
    for name, column in _read_facts(dataset, episodes, notes).items():
        kept = kept.append_column(name, column)
    return Described(episodes, labels, kept, notes)


_Placed = tuple[list[str], np.ndarray, pa.Array, pa.Array]
"""A camera's files, which of them each episode lies in (-1: none), and from when to when, null for the whole file."""


def _place(dataset: LeRobotDataset, camera: Camera, episodes: pa.Table, notes: list[str]) -> _Placed:
    whole = pa.nulls(len(episodes), pa.float64())
    where = f"{dataset.name}: meta/episodes"
    if camera.in_table:
        return *dataset.data_files(episodes), whole, whole
    files, codes = dataset.video_files(camera.name, episodes)
    if dataset.version[0] == 2:
        return files, codes, whole, whole
    edges = []
    for edge in ("from_timestamp", "to_timestamp"):
        if (column := f"videos/{camera.name}/{edge}") not in episodes.column_names:
            raise SourceError(f"{where} has no column {column}: name another camera by --camera")
        edges.append(seconds(episodes, column, f"{where}: "))
    # An episode whose times are not known must become neither the whole file nor all of it up to its end.
    is_known = np.isfinite(edges).all(axis=0) & (np.array(edges) >= 0).all(axis=0)
    if n_lost := int((~is_known & (codes >= 0)).sum()):
        notes.append(f"{n_lost} of {len(episodes)} episodes have no valid times in {camera.name}, and fail")
    start_s, end_s = np.where(is_known, edges, 0.0)
    return files, codes, pa.array(start_s), pa.array(end_s)


def _tables(
    cameras: tuple[Camera, ...], placed: list[_Placed], labels: pa.Array, kept: pa.Table
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the videos' rows of `FOUND`, and of the kept columns."""
    index = kept[EPISODE]
    n_cameras = len(cameras)
    for start in range(0, len(kept), _BATCH):
        numbers = index.slice(start, _BATCH).to_pylist()
        n = len(numbers)
        columns: list[list[pa.Array]] = []
        is_there = []
        for camera, (files, codes, start_s, end_s) in zip(cameras, placed, strict=True):
            own = codes[start : start + n]
            is_there.append(own >= 0)
            uris = [files[code] if code >= 0 else "" for code in own.tolist()]
            if camera.in_table:
                uris = [ImageColumn(uri, number, camera.name).uri for uri, number in zip(uris, numbers, strict=True)]
            ids = [make_video_id(f"{number}/{camera.name}") for number in numbers]
            label = labels.slice(start, n)
            spans = [part.slice(start, n) for part in (start_s, end_s)]
            columns.append([pa.array(ids), pa.array(uris), pa.array([camera.name] * n), label, label, *spans])
        # Row e of camera c stands at place c * n + e of the joined columns.
        places = np.arange(n_cameras * n).reshape(n_cameras, n).T.ravel()
        places = places[np.concatenate(is_there)[places]]
        joined = [pa.concat_arrays(parts).take(pa.array(places)) for parts in zip(*columns, strict=True)]
        if len(places):
            yield pa.table(joined, schema=FOUND), kept.slice(start, n).take(pa.array(places % n))


def _read_labels(dataset: LeRobotDataset, episodes: pa.Table, notes: list[str]) -> pa.Array:
    """Return each episode's task; of several or none the one that most of its frames have."""
    tasks = _read_tasks(episodes)
    labels = [each[0] if each else None for each in tasks]
    n_tasks = np.array([len(each) for each in tasks])
    # The table of episodes that lerobot 0.6 writes when it converts pictures to videos has no tasks.
    several, without = np.flatnonzero(n_tasks > 1), np.flatnonzero(n_tasks == 0)
    is_first = "so their label is the first of their tasks"
    if "task_index" in dataset.features:
        for rows, instead in ((several, is_first), (without, "so they have no label")):
            some = episodes.take(pa.array(rows))
            for row, label in _label_by_frames(dataset, some, notes, instead) if len(some) else ():
                labels[rows[row]] = label
    elif len(several):
        notes.append(f"{counted(len(several), *_HAVE)} several tasks and their frames none, {is_first}")
    return pa.array(labels, pa.string())


def _read_facts(dataset: LeRobotDataset, episodes: pa.Table, notes: list[str]) -> dict[str, pa.Array]:
    """Return what the frames of episodes alone tell, where they do: whether each succeeded, and its subtasks."""
    facts: dict[str, pa.Array] = {}
    if _SUCCESS in dataset.features and _SUCCESS not in episodes.column_names:
        facts[_SUCCESS] = _read_success(dataset, episodes, notes)
    if _LANGUAGE in dataset.features and _SUBTASKS not in episodes.column_names:
        # First of the two: what writes it takes the other out of the frames, and leaves it in the list of features.
        facts[_SUBTASKS] = _read_language(dataset, episodes, notes)
    elif _SUBTASK in dataset.features and _SUBTASKS not in episodes.column_names:
        facts[_SUBTASKS] = _read_subtasks(dataset, episodes, notes)
    return facts


def _read_tasks(episodes: pa.Table) -> list[list[str]]:
    # Some converters write one text in place of the list.
    name = next((name for name in ("tasks", "task") if name in episodes.column_names), None)
    if name is None:
        return [[]] * len(episodes)
    told = episodes[name].to_pylist()
    lists = ([each] if isinstance(each, str) else each if isinstance(each, list) else [] for each in told)
    return [[task for task in each if isinstance(task, str) and task] for each in lists]


def _each_episode(
    dataset: LeRobotDataset, episodes: pa.Table, column: str, notes: list[str], instead: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield a row of ``episodes``, and a column of whole numbers or truths of its frames, in their order."""
    lost = 0
    reason: SourceError | None = None
    for rows, frames in read_frames(dataset, episodes, [column]):
        try:
            if isinstance(frames, SourceError):
                raise frames
            index, values = whole_numbers(frames, EPISODE), whole_numbers(frames, column)
        except SourceError as error:
            lost, reason = lost + len(rows), error
            continue
        order = np.argsort(index, kind="stable")
        numbers, first = np.unique(index[order], return_index=True)
        of = dict(zip(numbers.tolist(), np.split(values[order], first)[1:], strict=True))
        for row, number in zip(rows.tolist(), whole_numbers(episodes, EPISODE)[rows].tolist(), strict=True):
            yield row, of.get(number, values[:0])
    if lost:
        notes.append(f"{column} of {counted(lost, 'episode')} cannot be read, {instead}: {reason}")


def _label_by_frames(
    dataset: LeRobotDataset, episodes: pa.Table, notes: list[str], instead: str
) -> Iterator[tuple[int, str]]:
    """Yield a row of ``episodes``, which have several tasks each or none, and the task that most of its frames have."""
    tasks = _read_tasks(episodes)
    try:
        names = read_task_names(dataset)
    except SourceError as error:
        how_many = "several" if tasks[0] else "no"
        notes.append(f"{counted(len(tasks), *_HAVE)} {how_many} tasks, {instead}: {error}")
        return
    for row, numbers in _each_episode(dataset, episodes, "task_index", notes, instead):
        counts, own = Counter(names[n] for n in np.sort(numbers).tolist() if names.get(n)), tasks[row]
        if counts:  # Of equally frequent ones the first in the table of tasks, since the order of `tasks` is none.
            yield row, max(counts, key=lambda task: (counts[task], task in own))


def _read_success(dataset: LeRobotDataset, episodes: pa.Table, notes: list[str]) -> pa.Array:
    found: list[bool | None] = [None] * len(episodes)
    for row, values in _each_episode(dataset, episodes, _SUCCESS, notes, "so it is not known"):
        found[row] = bool((values > 0).any()) if len(values) else None
    return pa.array(found, pa.bool_())


def _read_subtasks(dataset: LeRobotDataset, episodes: pa.Table, notes: list[str]) -> pa.Array:
    """Return the names of each episode's subtasks, in the order in which they begin."""
    try:
        names = read_task_names(dataset, "subtask")
    except SourceError as error:
        notes.append(f"subtasks are not known: {error}")
        return pa.nulls(len(episodes), pa.list_(pa.string()))
    found: list[list[str] | None] = [None] * len(episodes)
    for row, values in _each_episode(dataset, episodes, _SUBTASK, notes, "so they are not known"):
        found[row] = list(dict.fromkeys(names[n] for n in values.tolist() if names.get(n)))
    return pa.array(found, pa.list_(pa.string()))


def _read_language(dataset: LeRobotDataset, episodes: pa.Table, notes: list[str]) -> pa.Array:
    """Return the same as `_read_subtasks`, of a dataset in whose every frame lerobot-annotate has put all of them."""
    found: list[list[str] | None] = [None] * len(episodes)
    numbers, lost = whole_numbers(episodes, EPISODE), 0
    for rows, frames in read_frames(dataset, episodes, [_LANGUAGE], only_first=True):
        if isinstance(frames, SourceError):
            lost, reason = lost + len(rows), frames
            continue
        of = dict(zip(frames[EPISODE].to_pylist(), frames[_LANGUAGE].to_pylist(), strict=True))
        for row in rows.tolist():
            found[row] = _subtasks_in(of.get(numbers[row]))
    if lost:
        notes.append(
            f"{_LANGUAGE} of {counted(lost, 'episode')} cannot be read, so their subtasks are not known: {reason}"
        )
    bare = sum(not subtasks for subtasks in found) - lost
    if 0 < bare < len(found) - lost:
        notes.append(
            f"{bare} of {counted(len(found), 'episode')} have no subtasks in {_LANGUAGE}: lerobot-annotate with "
            "--only_episodes takes away those of the other episodes in a file"
        )
    return pa.array(found, pa.list_(pa.string()))


def _subtasks_in(language: Any) -> list[str] | None:
    """Return the subtasks among what was said of an episode, by the time at which they begin."""
    if not isinstance(language, list):
        return None
    told = [each for each in language if isinstance(each, dict) and each.get("style") == "subtask"]
    told.sort(key=lambda each: each.get("timestamp") or 0.0)
    return list(dict.fromkeys(str(each["content"]) for each in told if each.get("content")))
