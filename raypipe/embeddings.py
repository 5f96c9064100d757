"""``embeddings/``: clips committed a file at a time, and read so that no segment counts twice.

The unit of work is a segment. It is done when its rows are in a file; where several files have it, as after a kill or a
retry, those of the newest file count. Rows that were made with another encoder or sampling, or from a file that has
changed since, bear another fingerprint than the plan and count for nothing.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import RaypipeError
from raypipe.schema import AWAY

FOLDER = "embeddings"
COMMIT_BYTES = 64 << 20
FILE_BYTES = 128 << 20  # of a file after compaction
_READERS = 8  # files read at once, for the latency of object stores
_TOLD = ["decoder", "error_stage", "error"]  # what each row tells of its segment
_KEY = ["video_id", "segment", "fingerprint"]
_UNPLANNED, _STALE = -1, -2  # rows of the plan that there are not


class Store(Protocol):
    """Where the files lie; a `raypipe.runs.Run` is one."""

    def files(self, folder: str, suffix: str = "") -> list[str]:
        """Names of a folder's files, sorted."""
        ...

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file."""
        ...

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file, whole or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file."""
        ...


@dataclass(frozen=True)
class _File:
    """A file, and its segments as a slice of the ledger's."""

    name: str
    units: slice


class Ledger:
    """What of a plan has been committed.

    Parameters
    ----------
    store
        Where ``embeddings/`` is.
    plan
        A `schema.PLAN` table: the rows of a video together, its segments numbered from 0.
    files
        The files to look at; all by default.

    Attributes
    ----------
    plan
        The plan, n rows.
    video_ids
        Its videos, in its order.
    first
        (n_videos,) int64, the row of each video's first segment.
    n_clips
        (n,) int64, clips of each segment; -1 where nothing has been committed.
    told
        ``decoder, error_stage, error`` of each segment, null where there is nothing to tell: n rows.
    """

    def __init__(self, store: Store, plan: pa.Table, files: Sequence[str] | None = None):
        self.plan = plan
        self.first = np.flatnonzero(_changes(plan, ["video_id"]))
        self.video_ids = plan["video_id"].take(pa.array(self.first))
        self._store = store
        self._files, units = _scan(store, files)
        self._n_rows = units["n_rows"].to_numpy()
        self._row = self._find_rows(units)
        planned = np.flatnonzero(self._row >= 0)
        newest = np.full(plan.num_rows, -1)
        newest[self._row[planned]] = planned  # in the order of the files: the last one stays
        self._counts = np.zeros(len(self._row), bool)
        self._counts[newest[newest >= 0]] = True
        taken = units.select(["n_clips", *_TOLD]).take(pa.array(newest, mask=newest < 0))
        self.n_clips = pc.fill_null(taken["n_clips"], -1).to_numpy()
        self.told = taken.select(_TOLD)

    def remaining(self, retry_failed: bool = False) -> pa.Table:
        """Return the plan's rows that can be embedded and have not been; those that failed too, if they are wanted.

        What failed because its server was away is always wanted.
        """
        wanted = self.n_clips < 0
        wanted |= pc.fill_null(pc.equal(self.told["error_stage"], AWAY), False).to_numpy()
        if retry_failed:
            wanted |= self.is_failed()
        return self.plan.filter(pa.array(wanted & self.plan["error"].is_null().to_numpy()))

    def is_failed(self) -> np.ndarray:
        """Whether each segment was tried in vain: (n,) bool."""
        return (self.n_clips == 0) & self.told["error"].is_valid().to_numpy()

    def files_of(self, rows: slice) -> list[str]:
        """Return the files in which the segments of these rows of the plan are."""
        inside = self._counts & (self._row >= rows.start) & (self._row < rows.stop)
        return [file.name for file in self._files if inside[file.units].any()]

    def iter_clips(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Iterate over the rows that count, a file at a time."""
        for file in self._files:
            yield self._read(file, self._counts, columns)

    def compact(self, dim: int) -> None:
        """Merge small files, and drop rows that count for nothing; those of videos that the plan lacks stay.

        What is merged is written before what it came from is removed: a kill between leaves both, of which the newer
        counts.
        """
        kept = self._counts | (self._row == _UNPLANNED)
        full = FILE_BYTES // (4 * dim + 100)  # rows, of which the vector is the most
        group: list[_File] = []
        n_rows = 0
        for file in self._files:
            size = int(self._n_rows[file.units][kept[file.units]].sum())
            if size >= full // 2 and kept[file.units].all():
                continue
            group.append(file)
            n_rows += size
            if n_rows >= full:
                self._merge(group, kept)
                group, n_rows = [], 0
        self._merge(group, kept)

    def _merge(self, group: list[_File], kept: np.ndarray) -> None:
        if not group or (len(group) == 1 and kept[group[0].units].all()):
            return
        merged = pa.concat_tables([self._read(file, kept) for file in group])
        if merged.num_rows:
            self._store.write_table(_next_name(self._store), merged)
        for file in group:
            self._store.remove(file.name)

    def _read(self, file: _File, kept: np.ndarray, columns: list[str] | None = None) -> pa.Table:
        """Read a file's rows of the segments that are kept."""
        table = self._store.read_table(file.name, columns)
        kept = kept[file.units]
        return table if kept.all() else table.filter(pa.array(np.repeat(kept, self._n_rows[file.units])))

    def _find_rows(self, units: pa.Table) -> np.ndarray:
        """Return the plan's row of each committed segment: (n_units,) int64, or what it has none for."""
        video = pc.index_in(units["video_id"], value_set=self.video_ids.combine_chunks())
        video = pc.fill_null(video, -1).to_numpy().astype(np.int64)
        segment = units["segment"].to_numpy()
        row = np.full(len(video), _UNPLANNED)
        planned = np.flatnonzero(video >= 0)
        n_segments = np.diff(self.first, append=self.plan.num_rows)
        inside = segment[planned] < n_segments[video[planned]]
        row[planned] = np.where(inside, self.first[video[planned]] + segment[planned], _STALE)
        within = np.flatnonzero(row >= 0)
        same = pc.equal(
            units["fingerprint"].take(pa.array(within)), self.plan["fingerprint"].take(pa.array(row[within]))
        )
        row[within[~pc.fill_null(same, False).to_numpy()]] = _STALE
        return row


class Committer:
    """Writes clips to ``embeddings/``, none later than ``every_s`` seconds after they came.

    Parameters
    ----------
    store
        Where ``embeddings/`` is.
    on_commit
        Called, in another thread, after each file that is written, with its number of rows.
    every_s, max_bytes
        A file is written when its first rows have waited so long, or when so much has come together.

    Notes
    -----
    Leaving the context writes what waits, whatever the reason to leave.
    """

    def __init__(
        self,
        store: Store,
        on_commit: Callable[[int], None] = lambda n_rows: None,
        every_s: float = 20.0,
        max_bytes: int = COMMIT_BYTES,
    ):
        self._store, self._on_commit = store, on_commit
        self._every_s, self._max_bytes = every_s, max_bytes
        self._waiting: list[pa.Table] = []
        self._n_bytes = 0
        self._since = 0.0  # when the first of those that wait came
        self._closed = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="raypipe-committer", daemon=True)

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if kind is None:
            self._check()

    def add(self, clips: pa.Table) -> None:
        """Take rows of whole segments; waits while more than two files' worth is unwritten.

        Raises
        ------
        RaypipeError
            If an earlier file could not be written: nothing more is taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._n_bytes < 2 * self._max_bytes or self._failure)
            self._check()
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append(clips)
            self._n_bytes += clips.nbytes
            self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        """Write files as they fall due, until closed."""
        try:
            while (clips := self._take()) is not None:
                self._store.write_table(_next_name(self._store), clips)
                self._on_commit(clips.num_rows)
        except Exception as error:  # is raised where the rows come from
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _take(self) -> pa.Table | None:
        """Wait for a file's worth of clips; None when there will be no more."""
        with self._changed:
            while not (self._closed or self._n_bytes >= self._max_bytes or (self._waiting and self._left_s() <= 0)):
                self._changed.wait(self._left_s() if self._waiting else None)
            clips, self._waiting, self._n_bytes = self._waiting, [], 0
            self._changed.notify_all()
        return pa.concat_tables(clips) if clips else None

    def _left_s(self) -> float:
        return self._since + self._every_s - time.monotonic()


def _next_name(store: Store) -> str:
    """Name a file after all that there are; two writers that choose the same number do not meet."""
    numbers = [name.rpartition("/")[2].partition("-")[0] for name in store.files(FOLDER, ".parquet")]
    number = max((int(each) for each in numbers if each.isdigit()), default=-1) + 1
    return f"{FOLDER}/{number:08d}-{uuid.uuid4().hex[:8]}.parquet"


def _scan(store: Store, files: Sequence[str] | None) -> tuple[list[_File], pa.Table]:
    """Read what files say of their segments: a row a segment, in the order of the files."""
    for attempt in range(3):
        names = store.files(FOLDER, ".parquet") if files is None else list(files)
        try:
            with ThreadPoolExecutor(_READERS) as threads:
                tables = list(threads.map(lambda name: _read_units(store, name), names))
            break
        except RaypipeError:  # another process may be compacting: what is gone has been written anew
            if attempt == 2 or names == store.files(FOLDER, ".parquet"):
                raise
    ends = np.cumsum([table.num_rows for table in tables], dtype=np.int64).tolist()
    found = [
        _File(name, slice(end - table.num_rows, end)) for name, table, end in zip(names, tables, ends, strict=True)
    ]
    return found, pa.concat_tables([_UNITS.empty_table(), *tables])


_UNITS = pa.schema(
    [
        ("video_id", pa.string()),
        ("segment", pa.int32()),
        ("fingerprint", pa.string()),
        ("decoder", pa.string()),
        ("error_stage", pa.string()),
        ("error", pa.string()),
        ("n_rows", pa.int64()),
        ("n_clips", pa.int64()),
    ]
)


def _read_units(store: Store, name: str) -> pa.Table:
    """Read a file's segments: their first rows, how many rows each has, and how many of these are clips."""
    table = store.read_table(name, [*_KEY, *_TOLD, "clip_index"])
    starts = np.flatnonzero(_changes(table, _KEY))
    n_rows = np.diff(starts, append=table.num_rows)
    is_clip = table["clip_index"].is_valid().to_numpy().astype(np.int64)
    n_clips = np.add.reduceat(is_clip, starts) if len(starts) else n_rows
    units = table.select([*_KEY, *_TOLD]).take(pa.array(starts))
    return units.append_column("n_rows", pa.array(n_rows)).append_column("n_clips", pa.array(n_clips)).cast(_UNITS)


def _changes(table: pa.Table, columns: list[str]) -> np.ndarray:
    """Whether each row begins something new in some of the columns: (n,) bool."""
    changed = np.zeros(table.num_rows, bool)
    changed[:1] = True
    for name in columns:
        column = table[name].combine_chunks()
        if pa.types.is_string(column.type):
            column = pc.fill_null(column.dictionary_encode().indices, -1)
        values = column.to_numpy()
        changed[1:] |= values[1:] != values[:-1]
    return changed
