"""The metadata of LeRobot datasets, v2.0 to v3.x: what there is and where it lies, without the package that wrote it.

The layouts are those of lerobot's own readers (``lerobot/common/datasets/utils.py`` of May 2025 for v2.x and
``lerobot/datasets/dataset_metadata.py`` of August 2026 for v3.0). Paths come from the templates in ``meta/info.json``
alone. What it says of a picture's shape is not read: that is often wrong, and each file is probed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SourceError, UsageError, message_of
from raypipe.ranges import read_parquet
from raypipe.schema import numbers_of
from raypipe.sources.columns import UnlikeError, is_unicode, stored_schema, to_array
from raypipe.sources.files import VIDEO_SUFFIXES, find_files, map_files
from raypipe.sources.templates import fill_template, group_rows, read_template
from raypipe.storage import (
    canonical_uri,
    failure,
    is_http,
    is_transient,
    local_path,
    open_file,
    open_filesystem,
    patiently,
    shown,
    shown_place,
    suffix,
)

INFO = "meta/info.json"
EPISODE_STATISTICS = "meta/episodes_stats.jsonl"  # Of v2.1, where each episode has its own.
EPISODE = "episode_index"
_NEWEST = (3, 0)  # The newest version that was seen. Later ones of the same kind are read, and that is said.
_MOST_FPS = 1e9  # No camera and no sensor has a frame each nanosecond; JSON holds numbers beyond float64.
_NUMBERS = ("float", "int", "uint", "bool")  # So numpy's names of numbers begin.
_ANOTHER = ": name another camera by --camera"
_UNREAD = ("stats/", "meta/")  # Statistics are most of the bytes of meta/episodes, and nobody asks here.


@dataclass(frozen=True)
class Camera:
    """A feature that is a picture a frame: in mp4 files, or as PNG or JPEG in the column of its name in ``data/``."""

    name: str
    in_table: bool


@dataclass(frozen=True)
class LeRobotDataset:
    """What ``meta/info.json`` says.

    Attributes
    ----------
    root
        The dataset's folder, a canonical URI without a slash at its end.
    version
        Major and minor version of its layout.
    info
        The whole of ``meta/info.json``.
    features
        By name: what a frame consists of.
    cameras
        Those that show pictures in colours or grey, in the order of the features.
    depth_cameras
        The names of those that show distances. They are no videos here.
    notes
        What is to be said of how it is read.
    """

    root: str
    version: tuple[int, int]
    info: dict[str, Any]
    features: dict[str, dict[str, Any]]
    cameras: tuple[Camera, ...]
    depth_cameras: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The dataset, as messages call it."""
        return shown_place(self.root)

    @property
    def fps(self) -> float:
        """Frames a second, 0 where it does not say how many."""
        fps = self.info.get("fps")
        return float(fps) if isinstance(fps, int | float) and 0 < fps < _MOST_FPS else 0.0

    @property
    def numeric(self) -> list[str]:
        """The names of the features that are numbers."""
        return [name for name, each in self.features.items() if str(each.get("dtype")).startswith(_NUMBERS)]

    def choose_cameras(self, wanted: str) -> tuple[Camera, ...]:
        """Return the camera of a name, or all for "all".

        Raises
        ------
        UsageError
            If there is no such camera.
        SourceError
            If the dataset has no cameras.
        """
        if not self.cameras:
            depth = f" but for depth ({', '.join(self.depth_cameras)}), which is not read" if self.depth_cameras else ""
            there = ", ".join(self.features) or "none"
            advice = "; those of numbers are trajectories by --features" if self.features else ""
            raise SourceError(f"{self.name} has no camera{depth}: its features are {there}{advice}")
        chosen = self.cameras if wanted == "all" else tuple(each for each in self.cameras if each.name == wanted)
        if not chosen:
            there = ", ".join(each.name for each in self.cameras)
            depth = " is a depth camera, which is not read" if wanted in self.depth_cameras else " is not there"
            raise UsageError(f"camera {wanted}{depth}: the cameras of {self.name} are {there}")
        return chosen

    def video_files(self, camera: str, episodes: pa.Table) -> tuple[list[str], np.ndarray]:
        """Return the mp4 files of a camera, and for each row of `read_episodes` which of them holds it, -1 for none."""
        return self._files("video_path", camera, f"videos/{camera}/", episodes)

    def data_files(self, episodes: pa.Table) -> tuple[list[str], np.ndarray]:
        """Return the Parquet files of frames, and for each row of `read_episodes` which of them holds it, -1 for none.

        In v2.x a file holds one episode, in v3.x many.
        """
        return self._files("data_path", None, "data/", episodes)

    def _files(self, key: str, camera: str | None, prefix: str, episodes: pa.Table) -> tuple[list[str], np.ndarray]:
        template = self.info.get(key)
        if not isinstance(template, str):
            raise SourceError(f"{self.name}: {INFO} has no {key}, and {camera or 'data'} cannot be found without it")
        where = f"{self.name}: {INFO}: {key}"
        pattern, roles = read_template(template, where)
        index = whole_numbers(episodes, EPISODE)
        known: dict[str, np.ndarray] = {"episode": index}
        if self.version[0] == 2:
            size = self.info.get("chunks_size", 1000)
            if type(size) is not int or not 1 <= size < 2**63:
                raise SourceError(f"{self.name}: {INFO}: chunks_size is {size!r}, not a number of episodes")
            known["chunk"] = index // size
        else:
            for role, column in (("chunk", f"{prefix}chunk_index"), ("file", f"{prefix}file_index")):
                if role in roles and column not in episodes.column_names:
                    raise SourceError(f"{self.name}: meta/episodes has no column {column}{_ANOTHER if camera else ''}")
                if column in episodes.column_names:
                    known[role] = whole_numbers(episodes, column, f"{self.name}: meta/episodes: ")
        if unknown := [role for role in roles if role not in known and role != "camera"]:
            raise SourceError(f"{where} {template!r} asks for a {unknown[0]} index, which is not known")
        used = {role: known[role] for role in roles if role != "camera"}
        first, codes = group_rows(list(used.values()), len(index))
        is_there = np.logical_and.reduce([column >= 0 for column in used.values()], initial=True)
        uris = []
        for row in first.tolist():
            fields = {role: int(column[row]) for role, column in used.items()}
            uris.append(self.locate(fill_template(pattern, {**fields, "camera": camera}, where)))
        return uris, np.where(is_there, codes, -1)

    def locate(self, path: str) -> str:
        """Return the canonical URI of a file of the dataset.

        Raises
        ------
        SourceError
            If the path leads out of the dataset's folder, or cannot be that of a file.
        """
        if not is_unicode(path):
            raise SourceError(f"{self.name}: {INFO} leads to {shown(ascii(path))}, which is not valid Unicode")
        if path.startswith("/") or "://" in path or ".." in path.split("/"):
            raise SourceError(f"{self.name}: {INFO} leads out of the dataset, to {shown(path)}")
        folder = local_path(self.root)
        return canonical_uri(f"{self.root}/{path}" if folder is None else f"{folder}/{path}")


def open_lerobot(source: str) -> LeRobotDataset | None:
    """Read a dataset's ``meta/info.json``; None if the folder has none, or one that is not LeRobot's.

    Raises
    ------
    SourceError
        If it cannot be read, or describes a layout that is not read here; the message says what to do.
    """
    root = _find_root(source)
    if root is None:
        return None
    place = f"{root}/{INFO}"
    try:
        with open_file(place) as file:
            info = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{shown_place(place)} is not JSON: {error}") from error
    is_ours = isinstance(info, dict) and ("codebase_version" in info or "features" in info)
    return _interpret(root, info) if is_ours else None


def _find_root(source: str) -> str | None:
    """Return the canonical URI of a source that is a folder with an `INFO`, without a slash at its end; else None."""
    if suffix(source) in VIDEO_SUFFIXES or "*" in source:
        return None
    path = local_path(source)
    if path is not None:
        folder = os.path.expanduser(path)  # noqa: PTH111 – Path.expanduser raises if '~name' is no user
        is_there = os.path.isfile(f"{folder}/{INFO}")  # noqa: PTH113 – Path.is_file raises if none may enter the folder
        return canonical_uri(folder) if is_there else None
    if is_http(source) and not source.endswith("/"):  # In an http URL a slash is what tells a folder from a file.
        return None
    root = (source if is_http(source) else canonical_uri(source)).rstrip("/")
    filesystem, inner = open_filesystem(f"{root}/{INFO}")
    try:
        return root if patiently(root, lambda: filesystem.exists(inner)) else None
    except Exception as error:  # Each filesystem raises errors of its own.
        if is_transient(error):
            raise failure("find", source, error) from error
        return None  # Stores refuse to tell of what is not there; the listing will say if nothing may be read.


def _interpret(root: str, info: dict[str, Any]) -> LeRobotDataset:
    name = shown_place(root)
    if info.get("codebase_version") is None:
        raise SourceError(f"{name}: {INFO} has no codebase_version, which tells of the layout, such as v3.0")
    told = str(info["codebase_version"])
    version = _read_version(told, name)
    if (stored := info.get("storage_format", "lerobot")) != "lerobot":
        raise SourceError(
            f"{name} is a LeRobot dataset in the storage format {stored!r}, which is not read: take its copy in the "
            "format 'lerobot' (Parquet and mp4), or write one with the lerobot package"
        )
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(each, dict) for each in features.values()):
        raise SourceError(f"{name}: {INFO}: features is not an object of objects")
    pictures = [key for key, each in features.items() if each.get("dtype") in ("video", "image")]
    if odd := [key for key in pictures if not is_unicode(key)]:
        raise SourceError(f"{name}: {INFO}: the name of the camera {odd[0]!a} is not valid Unicode")
    depth = tuple(key for key in pictures if _is_depth(features[key]))
    cameras = tuple(Camera(key, features[key]["dtype"] == "image") for key in pictures if key not in depth)
    notes = []
    if version > _NEWEST:
        notes.append(f"{name} is a LeRobot dataset {told}, which is newer than this raypipe: it is read as v3.0")
    if depth:
        notes.append(f"depth is not read: {', '.join(depth)} left out")
    return LeRobotDataset(root, version, info, features, cameras, depth, tuple(notes))


def _read_version(told: str, name: str) -> tuple[int, int]:
    """Return the major and the minor version of a dataset's layout, which must be one that is read."""
    numbers = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.\d+)?", told.strip())
    if numbers is None:
        raise SourceError(f"{name}: {INFO}: codebase_version is {told!r}, not such as v3.0")
    version = int(numbers[1]), int(numbers[2])
    if version < (2, 0):
        raise SourceError(
            f"{name} is a LeRobot dataset {told}; v2.0 to v3.x are read: convert it with lerobot's scripts"
        )
    if version >= (4, 0):
        raise SourceError(
            f"{name} is a LeRobot dataset {told}, newer than v3.x, which this raypipe reads: update raypipe"
        )
    return version


def _is_depth(feature: dict[str, Any]) -> bool:
    """Return whether a camera shows distances, which is said in one of three ways."""
    told = [part for part in (feature.get("info"), feature.get("video_info")) if isinstance(part, dict)]
    return any(part.get(key) is True for part in told for key in ("is_depth_map", "video.is_depth_map"))


def whole_numbers(table: pa.Table, column: str, where: str = "") -> np.ndarray:
    """Return a column of whole numbers, (n,) int64, -1 where it is null or NaN, as pandas has nulls among numbers.

    Raises
    ------
    SourceError
        If it holds something else; the message begins with ``where``.
    """
    return numbers_of(_to_numbers(table, column, pa.int64(), where).fill_null(-1))


def frames_told(episodes: pa.Table) -> np.ndarray:
    """Return how many frames each episode has, as its table says, (n,) int64; -1 where it does not."""
    if "length" not in episodes.column_names:
        return np.full(len(episodes), -1)
    return whole_numbers(episodes, "length", "its table of episodes: ")


def seconds(table: pa.Table, column: str, where: str = "") -> np.ndarray:
    """Return a column of seconds, (n,) float64, NaN where it is null; raises as `whole_numbers` does."""
    return numbers_of(_to_numbers(table, column, pa.float64(), where).fill_null(np.nan))


def _to_numbers(table: pa.Table, column: str, kind: pa.DataType, where: str) -> pa.ChunkedArray:
    values = table[column]
    try:
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        return values.cast(kind)
    except pa.ArrowException as error:
        what = "whole numbers" if pa.types.is_integer(kind) else "numbers"
        raise SourceError(f"{where}{column} does not hold {what}: {message_of(error)}") from error


def read_episodes(dataset: LeRobotDataset) -> pa.Table:
    """Read the table of episodes, a row each, in the order of its files.

    Returns
    -------
    A table with at least ``episode_index`` (int64) and, where the dataset has them, ``length`` in frames and ``tasks``
    (list of string). In v3.x also ``data/chunk_index``, ``data/file_index``, and for each camera of dtype video
    ``videos/{camera}/{chunk_index,file_index,from_timestamp,to_timestamp}``; statistics are left unread.

    Raises
    ------
    SourceError
        If a file of it cannot be read, or there is none.
    """
    table = _read_jsonl(dataset, "meta/episodes.jsonl") if dataset.version[0] == 2 else _read_files(dataset)
    if not len(table):
        raise SourceError(f"{dataset.name}: its table of episodes has no rows")
    if EPISODE not in table.column_names:
        raise SourceError(f"{dataset.name}: its table of episodes has no column {EPISODE}")
    index = whole_numbers(table, EPISODE, f"{dataset.name}: ")
    if (index < 0).any():
        raise SourceError(f"{dataset.name}: its table of episodes has no number for some")
    return table.set_column(table.column_names.index(EPISODE), EPISODE, pa.array(index))


def read_task_names(dataset: LeRobotDataset, kind: str = "task") -> dict[int, str]:
    """Return what each ``task_index`` stands for, "" where that is no text; or each ``subtask_index``, for "subtask".

    In v3.x pandas wrote the text as the index of its table: a column of the kind's name, or ``__index_level_0__``.

    Raises
    ------
    SourceError
        If the file cannot be read, or has no such columns.
    """
    if dataset.version[0] == 2 and kind == "task":
        table = _read_jsonl(dataset, "meta/tasks.jsonl")
    else:
        table = read_parquet(dataset.locate(f"meta/{kind}s.parquet"), lambda parquet: parquet.read())
    text = next((column for column in (kind, "__index_level_0__") if column in table.column_names), None)
    if text is None or f"{kind}_index" not in table.column_names:
        there = ", ".join(table.column_names)
        raise SourceError(f"{dataset.name}: meta/{kind}s has no column {kind} beside {kind}_index, only {there}")
    texts = [each if isinstance(each, str) else "" for each in table[text].to_pylist()]
    return dict(zip(whole_numbers(table, f"{kind}_index").tolist(), texts, strict=True))


def _read_jsonl(dataset: LeRobotDataset, path: str) -> pa.Table:
    place = dataset.locate(path)
    rows: list[dict[str, Any]] = []
    with open_file(place) as file:
        for number, line in enumerate(file.read().splitlines(), 1):
            if line.strip():
                try:
                    rows.append(dict(json.loads(line)))
                except (ValueError, TypeError, RecursionError) as error:
                    raise SourceError(f"{shown_place(place)} line {number}: {error}") from error
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = to_array([row.get(name) for row in rows])
        except UnlikeError as error:
            raise SourceError(f"{shown_place(place)}: {name!r} holds {error}") from error
    return pa.table(columns)


def _read_files(dataset: LeRobotDataset) -> pa.Table:
    def read_wanted(parquet: Any) -> pa.Table:
        table = parquet.read([name for name in parquet.schema_arrow.names if not name.startswith(_UNREAD)])
        return table.cast(stored_schema(table.schema))

    try:
        files = find_files(f"{dataset.root}/meta/episodes/", frozenset((".parquet",))).table["uri"].to_pylist()
        # As lerobot: what lies beside the folders of chunks, such as a copy of the table, is none of it.
        files = [uri for uri in files if uri.rsplit("/", 2)[0].endswith("/meta/episodes")] or files
        tables = list(map_files(partial(read_parquet, read=read_wanted), files))
    except SourceError as error:
        if is_transient(error) or all(camera.in_table for camera in dataset.cameras):
            raise
        raise SourceError(
            f"{str(error).rstrip('.')}; where a recording ended before lerobot finalized it, name its videos alone, as "
            f"the files that they are: {dataset.name}/videos"
        ) from error
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise SourceError(f"{dataset.name}: the files of meta/episodes do not fit together: {error}") from error
