"""The frame store, ``frames/``: small pictures of clips, so that nothing is decoded again to show a video.

Beside each file of ``embeddings/`` that has pictures lies one of the same name, which is written before it and removed
after it. So a kill can leave pictures without their clips behind, which count for nothing and are removed by the next
run, but no clips that lack their pictures. A row itself says which content it shows, since its fingerprint stands for
the video file's version and for the sampling: rows of another fingerprint than the plan's count for nothing either, and
where a clip lies in two files, the newest counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypipe.runs.directory import Run
from raypipe.schema import FRAMES
from raypipe.storage import numbers_of

FOLDER = "frames"
_EMBEDDINGS = "embeddings"
_PLAN_FILE = "plan.parquet"
_KEY = ["video_id", "segment", "fingerprint"]
_PLACE = ("video_id", "clip_index", "time_s", "fingerprint")  # what is read before a picture is chosen
# A picture has some 4 KB, and to read one its row group is read.
_GROUP_ROWS = 256


@dataclass(frozen=True)
class Pictures:
    """Pictures of one video, in order of time.

    Attributes
    ----------
    times_s
        (n,) float64, the time from which each is on display, in seconds of the file.
    jpegs
        The n pictures.
    """

    times_s: np.ndarray
    jpegs: list[bytes]

    def nearest_to(self, asked_s: np.ndarray) -> Pictures:
        """Return each picture that lies nearest to one of some times, once."""
        rows = sorted(set(np.abs(self.times_s - np.asarray(asked_s)[:, None]).argmin(axis=1).tolist()))
        return Pictures(self.times_s[rows], [self.jpegs[row] for row in rows])


def name_beside(name: str) -> str:
    """Return the name of the file of pictures that belongs to a file of ``embeddings/``."""
    return f"{FOLDER}/{name.rpartition('/')[2]}"


def write_frames(run: Run, beside: str, rows: pa.Table) -> None:
    """Write the pictures that belong to a file of ``embeddings/``, if there are any; that file is written after them.

    Parameters
    ----------
    run
        The run.
    beside
        The file of ``embeddings/``.
    rows
        A `schema.FRAMES` table.
    """
    if rows.num_rows:
        starts = range(0, rows.num_rows, _GROUP_ROWS)
        run.write_tables(name_beside(beside), (rows.slice(start, _GROUP_ROWS) for start in starts))


def move_frames(run: Run, sources: Mapping[str, pa.Table], target: str) -> None:
    """Write the pictures beside a file of ``embeddings/`` that holds rows of several others.

    Parameters
    ----------
    run
        The run.
    sources
        The rows that are taken from each of the others, by the name of the file: columns ``video_id, segment,
        fingerprint``.
    target
        The new file; it may be one of the sources, which is replaced.
    """
    there = set(run.files(FOLDER, ".parquet"))
    parts = [FRAMES.empty_table()]
    for name, rows in sources.items():
        if (beside := name_beside(name)) in there:
            frames = run.read_table(beside)
            parts.append(frames.filter(pc.is_in(_key(frames), value_set=pc.unique(_key(rows)))))
    write_frames(run, target, pa.concat_tables(parts))


def remove_orphans(run: Run) -> None:
    """Remove files of pictures whose partners, the files of ``embeddings/``, are not there."""
    for name in _split_orphans(run)[1]:
        run.remove(name)


def read_frames(run: Run, asked_s: Mapping[str, np.ndarray]) -> dict[str, Pictures]:
    """Read the pictures that lie nearest to some times.

    Parameters
    ----------
    run
        The run.
    asked_s
        By ``video_id``, the times in seconds of the file.

    Returns
    -------
    By ``video_id``, each picture that lies nearest to one of the times, once. Videos without a picture are left out.
    """
    names = _split_orphans(run)[0]
    if not names or not run.exists(_PLAN_FILE):
        return {}
    plan = run.read_table(_PLAN_FILE, ["video_id", "fingerprint"])
    pairs = zip(plan["video_id"].to_pylist(), plan["fingerprint"].to_pylist(), strict=True)
    current = {video_id: fingerprint for video_id, fingerprint in pairs if video_id in asked_s}
    found: dict[str, dict[int, _Place]] = {}
    for places in run.for_each(names, lambda name: run.read_parquet(name, lambda file: _find(file, name, current))):
        for place in places:  # A later file is newer.
            found.setdefault(place.video_id, {})[place.clip_index] = place
    chosen = {video_id: _nearest(list(clips.values()), asked_s[video_id]) for video_id, clips in found.items()}
    jpegs = _fetch(run, [place for places in chosen.values() for place in places])
    return {
        video_id: Pictures(np.array([place.time_s for place in places]), [jpegs[place] for place in places])
        for video_id, places in chosen.items()
        if places
    }


class FrameIndex:
    """Where the pictures of each video lie, so that those of a few videos are read by their row groups alone.

    It is read once, the column ``video_id`` of every file, and takes some bytes a picture and some 100 a video. What
    the run is given later it does not know.

    Parameters
    ----------
    run
        An embedded run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._current: dict[str, str] = {}
        self._groups: dict[str, list[tuple[int, int]]] = {}  # file and row group, for each video
        self._names = _split_orphans(run)[0] if run.exists(_PLAN_FILE) else []
        if self._names:
            plan = run.read_table(_PLAN_FILE, ["video_id", "fingerprint"])
            self._current = dict(zip(plan["video_id"].to_pylist(), plan["fingerprint"].to_pylist(), strict=True))
        for number, name in enumerate(self._names):
            for group, ids in enumerate(run.read_parquet(name, _read_ids)):
                for video_id in ids:
                    self._groups.setdefault(video_id, []).append((number, group))

    def read(self, video_id: str, asked_s: np.ndarray) -> Pictures | None:
        """Return each picture of a video that lies nearest to one of some times, once; None if there are none."""
        current = {video_id: self._current.get(video_id, "")}
        found: dict[int, _Place] = {}
        for number, group in self._groups.get(video_id, ()):
            name = self._names[number]
            find = partial(_find, name=name, current=current, groups=[group])
            found |= {place.clip_index: place for place in self._run.read_parquet(name, find)}
        if not found:
            return None
        chosen = _nearest(list(found.values()), asked_s)
        jpegs = _fetch(self._run, chosen)
        return Pictures(np.array([place.time_s for place in chosen]), [jpegs[place] for place in chosen])


def _read_ids(file: pq.ParquetFile) -> list[list[str]]:
    """Return the videos that each row group has pictures of."""
    groups = range(file.num_row_groups)
    return [pc.unique(file.read_row_group(group, ["video_id"])["video_id"]).to_pylist() for group in groups]


class _Place(NamedTuple):
    """Where a picture lies."""

    video_id: str
    clip_index: int
    time_s: float
    file: str
    group: int
    row: int


def _split_orphans(run: Run) -> tuple[list[str], list[str]]:
    """Return the files of pictures that have a partner, in their order, and those that have none."""
    names = run.files(FOLDER, ".parquet")
    partners = set(map(name_beside, run.files(_EMBEDDINGS, ".parquet"))) if names else set()
    return [name for name in names if name in partners], [name for name in names if name not in partners]


def _key(table: pa.Table) -> pa.ChunkedArray:
    """Return one text for each row that says which segment it is of."""
    return pc.binary_join_element_wise(*(table[name].cast(pa.string()) for name in _KEY), "/")


def _find(
    file: pq.ParquetFile, name: str, current: Mapping[str, str], groups: Sequence[int] | None = None
) -> list[_Place]:
    """Return where the pictures of some videos lie in a file, or in some of its row groups.

    ``current`` has each video's present fingerprint.
    """
    found = []
    for group in range(file.num_row_groups) if groups is None else groups:
        table = file.read_row_group(group, [*_PLACE])
        videos = table["video_id"].combine_chunks().dictionary_encode()
        is_asked = np.array([video_id in current for video_id in videos.dictionary.to_pylist()], bool)
        for row in np.flatnonzero(is_asked[numbers_of(videos.indices)]).tolist():
            video_id, clip_index, time_s, fingerprint = (table[column][row].as_py() for column in _PLACE)
            if fingerprint == current[video_id]:
                found.append(_Place(video_id, clip_index, time_s, name, group, row))
    return found


def _nearest(places: list[_Place], asked_s: np.ndarray) -> list[_Place]:
    """Return the pictures of one video that lie nearest to the times asked for, each once and in order of time."""
    places = sorted(places, key=lambda place: place.time_s)
    away_s = np.abs(np.array([place.time_s for place in places])[None, :] - np.asarray(asked_s)[:, None])
    return [places[i] for i in sorted(set(away_s.argmin(axis=1).tolist()))]


def _fetch(run: Run, places: Sequence[_Place]) -> dict[_Place, bytes]:
    """Read pictures, a row group of a file at a time."""
    found = {}
    for name, of_file in groupby(sorted(places, key=attrgetter("file", "group")), key=attrgetter("file")):
        wanted = {group: list(of_group) for group, of_group in groupby(of_file, key=attrgetter("group"))}

        def fetch(file: pq.ParquetFile, wanted: Mapping[int, list[_Place]] = wanted) -> None:
            for group, of_group in wanted.items():
                frames = file.read_row_group(group, ["frame"])["frame"]
                found.update({place: frames[place.row].as_py() for place in of_group})

        run.read_parquet(name, fetch)
    return found
