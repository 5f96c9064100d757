"""What is wrong with a LeRobot dataset. It is read, and nothing of it is repaired."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.analysis.dataset_faults import (
    Fault,
    Stream,
    check_edges,
    check_files,
    check_lengths,
    check_spans,
    check_twins,
    digest,
    find_twins,
    is_frozen,
    worst_first,
)
from raypipe.errors import SourceError
from raypipe.schema import Failure, Probe
from raypipe.sources.columns import as_rows
from raypipe.sources.frame_tables import read_frames
from raypipe.sources.lerobot import (
    EPISODE,
    EPISODE_STATISTICS,
    LeRobotDataset,
    frames_told,
    read_episodes,
    read_task_names,
    whole_numbers,
)
from raypipe.sources.videos import Videos
from raypipe.storage import open_file

LOOKS = 8  # So many frames of an episode are looked at.
_BOOKKEEPING = {"timestamp", "frame_index", EPISODE, "index", "task_index", "next.done", "next.reward", "next.success"}

Look = tuple[str, np.ndarray, float]
"""A file, the times in it that are to be looked at, (n,) float64 ascending, and the seconds of video that they span."""


def find_faults(
    dataset: LeRobotDataset,
    videos: Videos,
    is_whole: bool,
    probes: Mapping[str, Probe | Failure],
    time_files: Callable[[list[str]], Iterable[np.ndarray | Failure]],
    look_at: Callable[[list[Look]], Iterable[np.ndarray | Failure]],
) -> list[Fault]:
    """Hold a dataset's tables against one another, against its files, and its episodes against each other.

    Parameters
    ----------
    dataset
        The dataset.
    videos
        Its videos, or the first of them; or its episodes where they are taken for their signals alone.
    is_whole
        Whether they are all.
    probes
        What probing found of each of their files, by URI.
    time_files
        Takes files, and yields when each frame of each is presented, (n,) float64 ascending.
    look_at
        Takes what to look at, and yields of each the frames on display, (n, h, w, 3) uint8.

    Returns
    -------
    What is wrong, the worst first.
    """
    faults = find_table_faults(dataset, videos, is_whole, probes)
    fps = dataset.fps
    if not fps:  # No time can be checked without.
        return faults
    streams = _split_by_camera(videos)
    by_signals, of_rows = _read_signals(dataset, _choose_episodes(dataset, videos, is_whole))
    faults += of_rows
    files = [file for stream in streams for file in stream.files if isinstance(probes[file], Probe)]
    times = dict(zip(files, time_files(files) if files else (), strict=True))
    for file, found in times.items():
        if isinstance(found, Failure):
            faults.append(Fault("unreadable", found.error, file=file))
    times_s = {file: found for file, found in times.items() if not isinstance(found, Failure)}
    by_pictures = {}
    for stream in streams:
        faults += check_edges(stream, times_s, fps)
        frozen, by_pictures[stream.camera] = _look(stream, times_s, fps, look_at)
        faults += frozen
    faults += check_twins(by_signals, by_pictures)
    return worst_first(faults)


def find_table_faults(
    dataset: LeRobotDataset, videos: Videos, is_whole: bool, probes: Mapping[str, Probe | Failure]
) -> list[Fault]:
    """Hold a dataset's metadata against one another, and against what probing found: no frame is read or decoded.

    Parameters and result are those of `find_faults`, which finds these faults too.
    """
    fps = dataset.fps
    if not fps:
        return [Fault("frame rate", f"info.json says fps {dataset.info.get('fps')!r}, so that no time can be checked")]
    streams = _split_by_camera(videos)
    episodes = _choose_episodes(dataset, videos, is_whole)
    numbers, lengths = whole_numbers(episodes, EPISODE), frames_told(episodes)
    faults = [*check_lengths(numbers, lengths), *_check_tasks(dataset, episodes)]
    faults += _check_statistics(dataset)
    if is_whole:
        faults += _check_counts(dataset, numbers, lengths)
    for stream in streams:
        if is_whole:
            faults += [
                Fault(
                    "no place", "its row in meta/episodes does not say which file it lies in", int(each), stream.camera
                )
                for each in np.setdiff1d(numbers, stream.episodes)
            ]
        faults += [*check_files(stream, probes, fps), *check_spans(stream, probes, fps, is_whole)]
    return worst_first(faults)


def _choose_episodes(dataset: LeRobotDataset, videos: Videos, is_whole: bool) -> pa.Table:
    """Return the rows of the table of episodes that are looked at: all, or those that the videos are of."""
    episodes = read_episodes(dataset)
    if is_whole:
        return episodes
    return episodes.filter(np.isin(whole_numbers(episodes, EPISODE), whole_numbers(videos.extra, EPISODE)))


def _split_by_camera(videos: Videos) -> list[Stream]:
    table, extra = videos.table, videos.extra
    episodes, lengths = whole_numbers(extra, EPISODE), frames_told(extra)
    streams = []
    for camera in pc.unique(table["group"]).drop_null().to_pylist():  # Signals alone are of none.
        rows = pc.equal(table["group"], camera)
        own = table.filter(rows)
        inside = rows.to_numpy()
        encoded = own["uri"].combine_chunks().dictionary_encode()
        edges = (own[name].fill_null(np.nan).to_numpy() for name in ("start_s", "end_s"))
        files = encoded.dictionary.to_pylist()
        of_file = encoded.indices.to_numpy().astype(np.int64)
        streams.append(Stream(camera, episodes[inside], lengths[inside], files, of_file, *edges))
    return streams


def _check_tasks(dataset: LeRobotDataset, episodes: pa.Table) -> Iterator[Fault]:
    """Yield episodes without a task, and tasks without text."""
    numbers = whole_numbers(episodes, EPISODE).tolist()
    is_told = "tasks" in episodes.column_names
    if not is_told:
        says = "the table of episodes has no tasks, without which lerobot cannot delete episodes"
        yield Fault("no task", says, amount=1.0)
    for number, own in zip(numbers, episodes["tasks"].to_pylist(), strict=True) if is_told else ():
        texts = [own] if isinstance(own, str) else own or []
        if not texts:
            yield Fault("no task", "it has no task", number)
        elif not all(isinstance(text, str) and text.strip() for text in texts):
            yield Fault("no task", "one of its tasks has no text", number)
    try:
        names = read_task_names(dataset)
    except SourceError as error:
        yield Fault("no task", str(error), amount=1.0)
        return
    for number, text in names.items():
        if not text.strip():
            yield Fault("no task", f"task {number} of the table of tasks has no text", amount=1.0)


def _check_statistics(dataset: LeRobotDataset) -> Iterator[Fault]:
    """Yield the features whose mean and standard deviation are nowhere to be found.

    They stand in ``meta/stats.json``, or in v2.1 for each episode in ``meta/episodes_stats.jsonl``.
    """
    names = ["meta/stats.json"] + ([EPISODE_STATISTICS] if dataset.version == (2, 1) else [])
    found: dict[str, Any] | None = None
    lacking: list[str] = []
    for name in names:
        try:
            with open_file(dataset.locate(name)) as file:
                content = file.read()
            first = json.loads(content if name.endswith(".json") else content.splitlines()[0])
            found = {**(found or {}), **(first if name.endswith(".json") else first["stats"])}
        except (SourceError, ValueError, LookupError, TypeError, RecursionError):
            lacking.append(name)
    if found is None:
        yield Fault("no statistics", f"{' and '.join(names)} cannot be read, and training cannot normalise without")
        return
    if names[-1] in lacking:
        yield Fault("no statistics", f"{names[-1]} cannot be read, and lerobot converts no dataset to v3.0 without")
    wanted = {*_signals_of(dataset), *(camera.name for camera in dataset.cameras), *dataset.depth_cameras}
    for name in dataset.features:
        own = found.get(name)
        if name in wanted and not (isinstance(own, dict) and {"mean", "std"} <= own.keys()):
            yield Fault("no statistics", f"there is no mean and std of {name}")


def _signals_of(dataset: LeRobotDataset) -> list[str]:
    return [name for name in dataset.numeric if name not in _BOOKKEEPING]


def _check_counts(dataset: LeRobotDataset, numbers: np.ndarray, lengths: np.ndarray) -> Iterator[Fault]:
    """Yield where ``meta/info.json`` counts otherwise than the table of episodes."""
    counted = {"total_episodes": len(numbers)}
    if (lengths >= 0).all():
        counted["total_frames"] = int(lengths.sum())
    for name, n in counted.items():
        told = dataset.info.get(name)
        if isinstance(told, int) and told != n:
            yield Fault(
                "count", f"info.json says {name} {told}, and the table of episodes has {n}", amount=abs(told - n)
            )


def _read_signals(dataset: LeRobotDataset, episodes: pa.Table) -> tuple[dict[int, int], list[Fault]]:
    """Return which episodes have an earlier one's signals, and what is wrong with the rows of frames."""
    names = _signals_of(dataset)
    index = whole_numbers(episodes, EPISODE)
    told = dict(zip(index.tolist(), frames_told(episodes).tolist(), strict=True))
    digests: dict[int, str | None] = {}
    faults = []
    try:
        for rows, frames in read_frames(dataset, episodes, names):
            try:
                if isinstance(frames, SourceError):
                    raise frames
                own = whole_numbers(frames, EPISODE)
                columns = [as_rows(frames[name], name) for name in names] or [np.empty((len(own), 0))]
            except SourceError as error:
                n = "" if len(rows) == 1 else f", and the frames of {len(rows)} episodes with it"
                of = int(index[rows[0]]) if len(rows) == 1 else None
                faults.append(Fault("unreadable", f"{error}{n}", of, amount=float(len(rows))))
                continue
            order, values = np.argsort(own, kind="stable"), np.concatenate(columns, axis=1)
            for number in index[rows].tolist():
                inside = order[slice(*np.searchsorted(own[order], [number, number + 1]))]
                if told[number] >= 0 and len(inside) != told[number]:
                    says = f"it has {len(inside)} rows of frames, and its length is {told[number]} frames"
                    faults.append(Fault("length", says, number, amount=float(abs(len(inside) - told[number]))))
                if names:
                    digests[number] = digest(values[inside])
    except SourceError as error:
        faults.append(Fault("unreadable", str(error)))
    return find_twins(digests), faults


def _look(
    stream: Stream,
    times_s: Mapping[str, np.ndarray],
    fps: float,
    look_at: Callable[[list[Look]], Iterable[np.ndarray | Failure]],
) -> tuple[list[Fault], dict[int, int]]:
    """Return where a camera's picture never changes or cannot be seen, and which episodes have another's pictures."""
    looks, of = [], []
    for row, (file, start_s, end_s) in enumerate(zip(stream.of_file, stream.start_s, stream.end_s, strict=True)):
        times = times_s.get(stream.files[file])
        if times is None:
            continue
        if not np.isnan(start_s):
            hair = 0.25 / fps
            times = times[slice(*np.searchsorted(times, [start_s - hair, end_s - hair]))]
        if len(times):
            chosen = np.unique(np.linspace(0, len(times) - 1, LOOKS).round().astype(int))
            looks.append((stream.files[file], times[chosen] + 1e-6, float(times[-1] - times[0])))
            of.append((row, len(times)))
    faults, digests = [], {}
    for (row, n), seen in zip(of, look_at(looks), strict=True):
        number, file = int(stream.episodes[row]), stream.files[stream.of_file[row]]
        if isinstance(seen, Failure):
            faults.append(Fault("unreadable", seen.error, number, stream.camera, file, 1.0))
        elif is_frozen(seen):
            says = f"its picture never changes in {n} frames"
            faults.append(Fault("frozen camera", says, number, stream.camera, file, float(n)))
        else:
            own = digest(seen)
            digests[number] = own and f"{own} {n}"
    return faults, find_twins(digests)
