"""What a run says of the episodes of a LeRobot dataset, in the forms that LeRobot's own tools take.

The dataset is only read. An episode of several cameras has several videos: it is an outlier if one of them is, its
score and distance are the greatest of theirs, and its cluster is that of most of them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.clustering.result import name_cluster
from raypipe.errors import SourceError, UsageError
from raypipe.progress import counted
from raypipe.report.exporting.step_tables import iter_step_scores
from raypipe.runs.contents import CLUSTERS_FILE, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.sources.lerobot import (
    EPISODE,
    EPISODE_STATISTICS,
    LeRobotDataset,
    frames_told,
    open_lerobot,
    read_episodes,
    whole_numbers,
)
from raypipe.sources.signals import frame_rate
from raypipe.storage import local_path, open_file, parse_image_column, shown

EDIT, EPISODES, FRAMES, LISTS = "edit.json", "episodes.parquet", "frames.parquet", "episodes.json"
_SCHEMA = pa.schema(
    [("index", pa.int64()), (EPISODE, pa.int64()), ("frame_index", pa.int64()), ("outlier", pa.float32())]
)
_LONGEST_LINE = 100_000  # Linux takes no argument of more than 128 KiB.
_LONGEST_LIST = 1_000  # So many episodes at most are printed; the file has all.
_EPISODES_PER_GROUP = 1_000
_PICTURES = ("video", "image")
_MEASURES = ["cluster", "distance", "outlier_score", "outlier"]


@dataclass(frozen=True)
class EpisodeTable:
    """What the videos of each episode come to: arrays of n, ascending by the number of the episode.

    Attributes
    ----------
    numbers
        int64, ``episode_index``.
    clusters
        int64.
    distances, scores
        float64.
    is_outlier
        bool.
    videos
        By camera: for each episode the row of its video in ``clusters.parquet``, int64; -1 where it has none.
    """

    numbers: np.ndarray
    clusters: np.ndarray
    distances: np.ndarray
    scores: np.ndarray
    is_outlier: np.ndarray
    videos: Mapping[str, np.ndarray]


def write_edits(run: Run, place: Run, keep: int | None) -> list[str]:
    """Write what LeRobot's tools take of a run's results; return the lines to print.

    ``episodes.parquet`` has a row for each episode with a cluster: ``episode_index, cluster, distance, outlier_score,
    outlier``, and with several cameras ``cluster/CAMERA`` and ``outlier_score/CAMERA`` behind. ``frames.parquet`` has a
    row for each of their frames, a row group some thousand: ``index, episode_index, frame_index, outlier``, the last
    being the score of the step that shows the frame (see `raypipe.analysis.step_scores`), with metadata such as a
    score file of LeRobot has. ``episodes.json`` lists the episodes of each cluster, and the outliers. ``edit.json`` is
    what the printed command does.

    Parameters
    ----------
    run
        A clustered run of one LeRobot dataset, all of it or a part.
    place
        Where to write.
    keep
        The cluster to keep; None for all but the outliers.

    Raises
    ------
    UsageError
        If the run is of anything else, there is no cluster or no such one, or it can lead to no edit.
    """
    videos = run.read_table(VIDEOS_FILE)
    if EPISODE not in videos.column_names:
        raise UsageError(f"{run} is no run of a LeRobot dataset: its videos have no {EPISODE}")
    dataset = find_dataset(run, videos["uri"])
    clusters = run.read_table(CLUSTERS_FILE, ["video_id", "group", *_MEASURES])
    found = merge_videos(clusters, _episodes_of(clusters, videos))
    if np.isnan(found.scores).all():
        raise UsageError(f"{run} has no cluster, only noise: cluster it again with a lower --min-cluster-size")
    if keep is not None and keep not in found.clusters:
        there = ", ".join(map(str, np.unique(found.clusters)))
        raise UsageError(f"no episode is in cluster {keep}: the clusters of {run} are {there}")
    table = read_episodes(dataset)
    numbers = np.sort(whole_numbers(table, EPISODE))
    if len(lost := np.setdiff1d(found.numbers, numbers)):
        raise UsageError(f"{dataset.name} has no episode {lost[0]} any more, which the run has: run raypipe anew")
    gone = (
        found.numbers[found.is_outlier]
        if keep is None
        else np.setdiff1d(numbers, found.numbers[found.clusters == keep])
    )
    if len(gone) == len(numbers):
        raise UsageError(f"all {len(numbers)} episodes would be deleted, which LeRobot refuses")
    lists = {k: found.numbers[found.clusters == k].tolist() for k in np.unique(found.clusters).tolist()}
    # What is amiss is said before anything is written.
    lengths, starts = _frames_of(dataset, table)
    frames = _iter_frames(run, dataset, found, lengths, starts)
    place.write_table(EPISODES, _to_table(found, clusters))
    place.write_json(LISTS, {"clusters": lists, "outliers": found.numbers[found.is_outlier].tolist()})
    place.write_tables(FRAMES, frames)
    n_frames = sum(lengths[number] for number in found.numbers.tolist())
    lines = [
        f"wrote {counted(len(found.numbers), 'episode')} and {counted(n_frames, 'frame')} to {shown(place.place())}"
    ]
    if len(found.videos) > 1:
        lines.append(
            f"of {len(found.videos)} cameras: an episode is an outlier if one of its videos is, its score is the "
            "greatest of theirs, its cluster that of most of them"
        )
    for number, of in lists.items():
        inside = ", ".join(map(str, of[:_LONGEST_LIST])) + (f", … see {LISTS}" if len(of) > _LONGEST_LIST else "")
        lines.append(f"{name_cluster(number)}: episodes=[{inside}]")
    if len(gone) and dataset.version >= (3, 0) and "tasks" not in table.column_names:
        lines.append(
            "# the table of episodes has no tasks, and lerobot-edit-dataset fails without: where its "
            "convert_image_to_video wrote this dataset, edit the one that was converted, and convert the result"
        )
    return [*lines, *_write_edit(place, dataset, numbers, gone, keep)]


def find_dataset(run: Run, uris: pa.ChunkedArray) -> LeRobotDataset:
    """Find the dataset that a run's videos lie in, by the folders above the first of them.

    Raises
    ------
    UsageError
        If there is none, or another video lies elsewhere.
    """
    first = uris[0].as_py()
    pictures = parse_image_column(first)
    protocol, mark, path = (first if pictures is None else pictures.file).partition("://")
    parts = path.split("/")[:-1]
    while len(parts) > 1:
        folder = f"{protocol}{mark}{'/'.join(parts)}"
        if (dataset := open_lerobot(folder)) is not None:
            break
        parts.pop()
    else:
        raise UsageError(f"{run}: no folder above {shown(first)} is a LeRobot dataset (meta/info.json): has it moved?")
    elsewhere = pc.index(pc.starts_with(uris.combine_chunks(), f"{dataset.root}/"), False).as_py()
    if elsewhere >= 0:
        raise UsageError(
            f"{run} is of several datasets: {shown(uris[elsewhere].as_py())} is not in {dataset.name}; edits are of one"
        )
    return dataset


def edit_command(run: Run, uris: pa.ChunkedArray) -> tuple[str, list[str]]:
    """Return how the command begins that edits the dataset of a run's videos into a new one, and its notes.

    A note is a comment of the shell that says what must be done before the command can run.

    Raises
    ------
    UsageError
        If the videos are not of one dataset, or it has moved.
    """
    dataset = find_dataset(run, uris)
    places = _places(dataset, "selection_deleted")
    return shlex.join(_begin_command(places)), _note_needs(dataset, places)


def _note_needs(dataset: LeRobotDataset, edit: Mapping[str, Any]) -> list[str]:
    notes = []
    if dataset.version < (2, 1):
        notes.append(
            "# the conversion below takes datasets of v2.1: on the Hub, python -m "
            "lerobot.datasets.v21.convert_dataset_v20_to_v21 of lerobot 0.3 makes one of this one"
        )
    if dataset.version < (3, 0):
        notes.append(
            "# lerobot since 0.4 edits datasets of v3.0 only: convert a copy of this one first, by "
            f"python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id {shlex.quote(edit['repo_id'])} "
            "--root COPY --push-to-hub=false, and give the copy as --root"
        )
    if dataset.version == (2, 1):
        try:
            with open_file(dataset.locate(EPISODE_STATISTICS)):
                pass
        except SourceError:
            notes.append(f"# that conversion fails without {EPISODE_STATISTICS}, which this dataset lacks")
    shapes = {name: each.get("shape") for name, each in dataset.features.items() if each.get("dtype") not in _PICTURES}
    if matrices := [name for name, shape in shapes.items() if isinstance(shape, list) and len(shape) > 1]:
        notes.append(
            f"# lerobot-edit-dataset 0.6 fails where a feature has several dimensions ({', '.join(matrices)}): "
            "LeRobotDataset reads the episodes that stay, if they are given to it as episodes=[…], and normalises by "
            "the statistics of all"
        )
    if "://" in edit.get("root", ""):
        notes.append("# lerobot reads local folders: copy the dataset, and give the copy as --root")
    return notes


def _begin_command(edit: Mapping[str, Any]) -> list[str]:
    words = ["lerobot-edit-dataset"]
    for name in ("repo_id", "root", "new_repo_id", "new_root"):
        if name in edit:
            words += [f"--{name}", edit[name]]
    return words


def merge_videos(clusters: pa.Table, episodes: np.ndarray) -> EpisodeTable:
    """Merge the videos of each episode.

    Parameters
    ----------
    clusters
        Rows of ``clusters.parquet``, whose group is the camera.
    episodes
        (n_videos,) int64, the episode of each.
    """
    labels = clusters["cluster"].to_numpy().astype(np.int64)
    distances, scores = (_numbers(clusters, name) for name in ("distance", "outlier_score"))
    flags = clusters["outlier"].to_numpy()
    numbers, row = np.unique(episodes, return_inverse=True)
    # Of equally frequent clusters the one counts whose center is nearer to one of the videos.
    pair, of = np.unique(np.stack([row, labels]), axis=1, return_inverse=True)
    of = of.ravel()
    nearest = np.full(pair.shape[1], np.inf)
    np.minimum.at(nearest, of, np.where(np.isnan(distances), np.inf, distances))
    order = np.lexsort((nearest, -np.bincount(of), pair[0]))
    chosen = pair[1][order[np.unique(pair[0][order], return_index=True)[1]]]
    cameras = clusters["group"].fill_null("").to_pylist()
    videos = {name: np.full(len(numbers), -1) for name in dict.fromkeys(cameras)}
    for video, (camera, place) in enumerate(zip(cameras, row.tolist(), strict=True)):
        videos[camera][place] = video
    is_outlier = np.zeros(len(numbers), bool)
    np.logical_or.at(is_outlier, row, flags)
    return EpisodeTable(
        numbers,
        chosen,
        _greatest(distances, row, len(numbers)),
        _greatest(scores, row, len(numbers)),
        is_outlier,
        videos,
    )


def _greatest(values: np.ndarray, row: np.ndarray, n: int) -> np.ndarray:
    found = np.full(n, -np.inf)
    np.maximum.at(found, row, np.where(np.isnan(values), -np.inf, values))
    return np.where(np.isinf(found), np.nan, found)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return table[name].fill_null(np.nan).to_numpy().astype(np.float64)


def _episodes_of(clusters: pa.Table, videos: pa.Table) -> np.ndarray:
    place = pc.index_in(clusters["video_id"], value_set=videos["video_id"].combine_chunks())
    return whole_numbers(videos.select([EPISODE]).take(place), EPISODE)


def _to_table(found: EpisodeTable, clusters: pa.Table) -> pa.Table:
    columns: dict[str, Any] = {
        EPISODE: found.numbers,
        "cluster": pa.array(found.clusters, pa.int32()),
        "distance": pa.array(found.distances, from_pandas=True),
        "outlier_score": pa.array(found.scores, from_pandas=True),
        "outlier": found.is_outlier,
    }
    if len(found.videos) > 1:
        for camera, rows in found.videos.items():
            place = pa.array(rows, mask=rows < 0)
            for name in ("cluster", "outlier_score"):
                columns[f"{name}/{camera}"] = clusters[name].take(place)
    return pa.table(columns)


def _write_edit(
    place: Run, dataset: LeRobotDataset, numbers: np.ndarray, gone: np.ndarray, keep: int | None
) -> list[str]:
    """Write ``edit.json``, and return the command that edits the dataset into a new one, and what to know of it."""
    if not len(gone):
        place.remove(EDIT)
        return [f"no episode is {'an outlier' if keep is None else f'outside of cluster {keep}'}: nothing to delete"]
    named = "without_outliers" if keep is None else name_cluster(keep, "cluster_")
    edit: dict[str, Any] = _places(dataset, named)
    edit["operation"] = {"type": "delete_episodes", "episode_indices": gone.tolist()}
    place.write_json(EDIT, edit)
    words = [*_begin_command(edit), "--operation.type", "delete_episodes"]
    words += ["--operation.episode_indices", str(gone.tolist())]
    if sum(map(len, words)) > _LONGEST_LINE:
        words = ["lerobot-edit-dataset", "--config_path", place.place(EDIT)]
    notes = _note_needs(dataset, edit)
    if not np.array_equal(numbers, np.arange(len(numbers))):
        notes.append("# the episodes are not numbered from 0 without gaps, which lerobot-edit-dataset relies on")
    outside = f"{counted(len(gone), 'episode')} outside of cluster {keep}"
    what = counted(len(gone), "outlier") if keep is None else outside
    return [*notes, f"# deletes {what} of {len(numbers)} episodes in a copy:", shlex.join(words)]


def _places(dataset: LeRobotDataset, named: str) -> dict[str, str]:
    """Return where LeRobot finds the dataset, and where the edited one goes: never in its place."""
    path = local_path(dataset.root)
    if path is None and (hub := re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:@[^/]*)?", dataset.root)):
        return {"repo_id": hub[1], "new_repo_id": f"{hub[1]}_{named}"}
    root = path or dataset.root
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.rpartition("/")[2]).strip("-.") or "dataset"
    return {
        "repo_id": f"local/{name}",
        "root": root,
        "new_repo_id": f"local/{name}_{named}",
        "new_root": f"{root if path else name}_{named}",
    }


def _iter_frames(
    run: Run, dataset: LeRobotDataset, found: EpisodeTable, lengths: Mapping[int, int], starts: Mapping[int, int]
) -> Iterator[pa.Table]:
    """Read the scores of all steps, and return an iterator over the row groups of ``frames.parquet``."""
    video_ids = run.read_table(CLUSTERS_FILE, ["video_id"])["video_id"].to_pylist()
    steps = dict(iter_step_scores(run))
    fps = frame_rate(dataset)
    schema = _SCHEMA.with_metadata(_describe(run, dataset))

    def make_group(first: int) -> pa.Table:
        parts: list[list[np.ndarray]] = [[], [], [], []]
        for row in range(first, min(first + _EPISODES_PER_GROUP, len(found.numbers))):
            number = int(found.numbers[row])
            length = lengths[number]
            of_videos = [video_ids[rows[row]] for rows in found.videos.values() if rows[row] >= 0]
            at_s = np.arange(length) / fps
            parts[0].append(starts[number] + np.arange(length))
            parts[1].append(np.full(length, number))
            parts[2].append(np.arange(length))
            parts[3].append(np.max([np.interp(at_s, *steps[video]) for video in of_videos], axis=0))
        kinds = [kind.to_pandas_dtype() for kind in schema.types]
        arrays = [np.concatenate(part).astype(kind) for part, kind in zip(parts, kinds, strict=True)]
        return pa.table(arrays, schema=schema)

    return map(make_group, range(0, len(found.numbers), _EPISODES_PER_GROUP))


def _frames_of(dataset: LeRobotDataset, table: pa.Table) -> tuple[dict[int, int], dict[int, int]]:
    """Return each episode's number of frames, and the number of its first one in the dataset, by its number."""
    numbers, lengths = whole_numbers(table, EPISODE), frames_told(table)
    if (lengths < 0).any():
        first = f"episode {numbers[np.argmax(lengths < 0)]}" if "length" in table.column_names else "any episode"
        raise UsageError(f"{dataset.name}: no length of {first} in its table of episodes, so frames cannot be scored")
    order = np.argsort(numbers, kind="stable")
    starts = np.empty_like(lengths)
    starts[order] = np.cumsum([0, *lengths[order][:-1]])
    if "dataset_from_index" in table.column_names:
        told = whole_numbers(table, "dataset_from_index")
        starts = np.where(told >= 0, told, starts)
    return dict(zip(numbers.tolist(), lengths.tolist(), strict=True)), dict(
        zip(numbers.tolist(), starts.tolist(), strict=True)
    )


def _describe(run: Run, dataset: LeRobotDataset) -> dict[str, str]:
    """Return the metadata of a LeRobot score file (``lerobot.frame_signals``, version 1)."""
    told = "squared distance of the step that shows the frame from what other episodes do there, by raypipe"
    signal = {"description": told, "direction": "lower", "allow_nan": False, "bounds": None}
    info = run.info()
    provenance = {
        "dataset": {
            "repo_id": _places(dataset, "")["repo_id"],
            "total_episodes": dataset.info.get("total_episodes"),
            "total_frames": dataset.info.get("total_frames"),
        },
        "scoring": {
            "raypipe": info.get("versions", {}).get("raypipe"),
            "encoder": info.get("encoder"),
            "config": {name: info.get("config", {}).get(name) for name in ("trajectory", "reduce", "cluster")},
        },
    }
    return {
        "lerobot.scores.format": "lerobot.frame_signals",
        "lerobot.scores.schema_version": "1",
        "lerobot.scores.descriptors": json.dumps({"outlier": signal}, sort_keys=True, separators=(",", ":")),
        "lerobot.scores.provenance": json.dumps(provenance, sort_keys=True, separators=(",", ":")),
    }
