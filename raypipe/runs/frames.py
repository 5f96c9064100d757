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
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypipe.runs.contents import EMBEDDINGS_FOLDER, FRAMES_FOLDER, PLAN_FILE
from raypipe.runs.directory import Run
from raypipe.schema import FRAMES, UNIT, numbers_of

_PLACE = ("video_id", "clip_index", "time_s", "fingerprint")  # These are read before a picture is chosen.
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
    clip_index
        (n,) int32, the number of the clip in its video that each is the first frame of.
    """

    times_s: np.ndarray
    jpegs: list[bytes]
    clip_index: np.ndarray

    def nearest_to(self, asked_s: np.ndarray) -> Pictures:
        """Return each picture that lies nearest to one of some times, once."""
        rows = _nearest(self.times_s, asked_s).tolist()
        return Pictures(self.times_s[rows], [self.jpegs[row] for row in rows], self.clip_index[rows])


def name_beside(name: str) -> str:
    """Return the name of the file of pictures that belongs to a file of ``embeddings/``."""
    return f"{FRAMES_FOLDER}/{name.rpartition('/')[2]}"


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
    there = set(run.files(FRAMES_FOLDER, ".parquet"))
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
    frames = index_frames(run, list(asked_s))
    chosen = {video_id: frames.nearest(video, times_s) for video, (video_id, times_s) in enumerate(asked_s.items())}
    jpegs = fetch_frames(run, [place for each in chosen.values() for place in each.places()])
    return {video_id: each.pictures(jpegs) for video_id, each in chosen.items() if len(each)}


def index_frames(run: Run, video_ids: Sequence[str]) -> FrameIndex:
    """Find where all pictures of some videos lie, ordered by video and clip; the pictures themselves are not read."""
    names = _split_orphans(run)[0]
    if not names or not run.exists(PLAN_FILE):
        nothing = np.empty(0, np.int32)
        return FrameIndex(video_ids, [], nothing, nothing, np.empty(0), nothing, nothing, nothing)
    # Arrow would find the ids quicker, but to make an array of them it imports pandas, which takes half a second.
    row_of = {video_id: row for row, video_id in enumerate(video_ids)}
    plan = run.read_table(PLAN_FILE, ["video_id", "fingerprint"])
    pairs = zip(plan["video_id"].to_pylist(), plan["fingerprint"].to_pylist(), strict=True)
    current = {video_id: fingerprint for video_id, fingerprint in pairs if video_id in row_of}

    def index(file: pq.ParquetFile) -> np.ndarray:
        table = file.read([*_PLACE])
        ids, prints = (table[name].combine_chunks().dictionary_encode() for name in ("video_id", "fingerprint"))
        number_of = {fingerprint: number for number, fingerprint in enumerate(prints.dictionary.to_pylist())}
        rows = [row_of.get(video_id, -1) for video_id in ids.dictionary.to_pylist()]
        wanted = [number_of.get(current.get(video_id), -1) for video_id in ids.dictionary.to_pylist()]
        of_row = numbers_of(ids.indices)
        video = np.array(rows, np.int64)[of_row]
        kept = np.flatnonzero(np.array(wanted, np.int64)[of_row] == numbers_of(prints.indices))
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        first = np.cumsum([0, *sizes])
        group = np.searchsorted(first, kept, side="right") - 1
        columns = (video, numbers_of(table["clip_index"]), numbers_of(table["time_s"]))
        return np.array([*(column[kept] for column in columns), group, kept - first[group]], np.float64)

    parts = run.for_each(names, lambda name: run.read_parquet(name, index))
    video, clip_index, time_s, group, row = np.concatenate(parts, axis=1)
    file = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    order = np.lexsort((file, clip_index, video))
    is_newest = np.ones(len(order), bool)  # A later file is newer.
    is_newest[:-1] = (np.diff(video[order]) != 0) | (np.diff(clip_index[order]) != 0)
    columns = (video, clip_index, time_s, file, group, row)
    whole = (each if each is time_s else each.astype(np.int32) for each in columns)
    return FrameIndex(video_ids, names, *whole).take(order[is_newest])


@dataclass(frozen=True)
class FrameIndex:
    """Where many pictures lie, as columns: six million of them take 200 MB.

    Attributes
    ----------
    video_ids
        The videos that were asked for.
    names
        The files of ``frames/``.
    video, clip_index, file, group, row
        (n,) int32: the picture's video and its file, as places in those, its clip, its row group, and its row there.
    time_s
        (n,) float64, the time from which it is on display, in seconds of the file.
    """

    video_ids: Sequence[str]
    names: Sequence[str]
    video: np.ndarray
    clip_index: np.ndarray
    time_s: np.ndarray
    file: np.ndarray
    group: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.video)

    def take(self, rows: np.ndarray) -> FrameIndex:
        """Return some of the pictures."""
        columns = (self.video, self.clip_index, self.time_s, self.file, self.group, self.row)
        return FrameIndex(self.video_ids, self.names, *(column[rows] for column in columns))

    def nearest(self, video: int, asked_s: np.ndarray) -> FrameIndex:
        """Return each picture of a video that lies nearest to one of some times, once; all must be ordered by video."""
        first, end = np.searchsorted(self.video, [video, video + 1])
        return self.take(first + _nearest(self.time_s[first:end], asked_s) if first < end else np.empty(0, np.int64))

    def pictures(self, jpegs: Mapping[FramePlace, bytes]) -> Pictures:
        """Return the pictures of one video that `fetch_frames` has read."""
        return Pictures(self.time_s, [jpegs[place] for place in self.places()], self.clip_index)

    def places(self) -> list[FramePlace]:
        """Return the place of each picture."""
        files = [self.names[i] for i in self.file.tolist()]
        return [FramePlace(*each) for each in zip(files, self.group.tolist(), self.row.tolist(), strict=True)]


class FrameReader:
    """Reads the pictures of one video at a time, by an index of all that is made once.

    What the run is given later it does not know.

    Parameters
    ----------
    run
        An embedded run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        there = run.exists(PLAN_FILE)
        ids = pc.unique(run.read_table(PLAN_FILE, ["video_id"])["video_id"]).to_pylist() if there else []
        self._index = index_frames(run, ids)
        self._number_of = {video_id: number for number, video_id in enumerate(ids)}

    def read(self, video_id: str, asked_s: np.ndarray) -> Pictures | None:
        """Return each picture of a video that lies nearest to one of some times, once; None if there are none."""
        number = self._number_of.get(video_id)
        if number is None:
            return None
        chosen = self._index.nearest(number, asked_s)
        return chosen.pictures(fetch_frames(self._run, chosen.places())) if len(chosen) else None


class FramePlace(NamedTuple):
    """Where a picture lies: its file of ``frames/``, its row group there, and its row in that."""

    file: str
    group: int
    row: int


def _split_orphans(run: Run) -> tuple[list[str], list[str]]:
    """Return the files of pictures that have a partner, in their order, and those that have none."""
    names = run.files(FRAMES_FOLDER, ".parquet")
    partners = set(map(name_beside, run.files(EMBEDDINGS_FOLDER, ".parquet"))) if names else set()
    return [name for name in names if name in partners], [name for name in names if name not in partners]


def _key(table: pa.Table) -> pa.ChunkedArray:
    """Return one text for each row that says which segment it is of."""
    return pc.binary_join_element_wise(*(table[name].cast(pa.string()) for name in UNIT), "/")


def _nearest(times_s: np.ndarray, asked_s: np.ndarray) -> np.ndarray:
    """Return which times of a video's pictures lie nearest to those asked for, each once and in order of time."""
    order = np.argsort(times_s, kind="stable")
    away_s = np.abs(times_s[order][None, :] - np.asarray(asked_s)[:, None])
    return order[np.unique(away_s.argmin(axis=1))]


def fetch_frames(run: Run, places: Sequence[FramePlace]) -> dict[FramePlace, bytes]:
    """Read some pictures, a row group of a file at a time; all of them are in memory in the end."""
    found = {}
    for name, of_file in groupby(sorted(places, key=attrgetter("file", "group")), key=attrgetter("file")):
        wanted = {group: list(of_group) for group, of_group in groupby(of_file, key=attrgetter("group"))}

        def fetch(file: pq.ParquetFile, wanted: Mapping[int, list[FramePlace]] = wanted) -> None:
            for group, of_group in wanted.items():
                frames = file.read_row_group(group, ["frame"])["frame"]
                found.update({place: frames[place.row].as_py() for place in of_group})

        run.read_parquet(name, fetch)
    return found
