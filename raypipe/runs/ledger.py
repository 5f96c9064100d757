"""The ledger of ``embeddings/``: which segments have been committed, each counted once.

The unit of work is a segment. It is done when its rows are in a file. Rows that were made with another encoder or
sampling, or from a video file that has changed since, bear another fingerprint than the plan and count for nothing.

A segment may have been committed twice, after a kill or a retry, or because Ray ran a task again whose results had come
already. Of several places that hold its rows, the newest counts that has clips. Where its rows follow each other in one
place, the first of each clip counts, and a failure does not count beside clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import RaypipeError
from raypipe.runs import frames
from raypipe.runs.contents import EMBEDDINGS_FOLDER, FRAMES_FOLDER
from raypipe.runs.directory import Run
from raypipe.schema import AWAY, UNIT

FILE_BYTES = 128 << 20
"""The size of a file after compaction, its pictures in ``frames/`` included."""

_OUTCOME = ["decoder", "error_stage", "error"]  # These are equal in all rows of a segment.
# These stand for the plan's row of a committed segment that has none: its video is not in the plan; or it is, but the
# plan has no such segment any more, or the segment was made from another file, encoder or sampling.
_UNPLANNED, _STALE = -1, -2


@dataclass(frozen=True)
class _File:
    """A file of ``embeddings/``, which of the ledger's committed segments lie in it, and its rows that are repeated."""

    name: str
    units: slice
    repeated: np.ndarray


def split_clips(clips: pa.Table, dim: int) -> Iterator[pa.Table]:
    """Split the clips of whole segments into tables of the size of a file; no segment lies in two."""
    starts = np.flatnonzero(clips["clip_index"].to_numpy() == 0)
    files = starts // (FILE_BYTES // _row_bytes(dim))
    edges = starts[np.append(True, files[1:] > files[:-1])] if len(starts) else starts
    for start, end in pairwise([*edges.tolist(), clips.num_rows]):
        yield clips.slice(start, end - start)


def _row_bytes(dim: int) -> int:
    return 4 * dim + 100  # A row is a vector and some text.


class Ledger:
    """What has been committed of a plan.

    Parameters
    ----------
    run
        The run directory.
    plan
        A `schema.PLAN` table, or its columns ``video_id, segment, fingerprint, error``. The rows of a video lie
        together, and its segments are numbered from 0.
    files
        Names of the files to look at; all of ``embeddings/`` by default.

    Attributes
    ----------
    run
        The run directory.
    plan
        The plan, n rows.
    video_ids
        Its videos, in its order.
    first
        (n_videos,) int64, the row of each video's first segment.
    n_clips
        (n,) int64, clips of each segment; -1 where nothing has been committed.
    outcome
        ``decoder, error_stage, error`` of each segment, n rows; null where a segment has none, or is not committed.
    """

    def __init__(self, run: Run, plan: pa.Table, files: Sequence[str] | None = None):
        self.plan = plan
        self.first = np.flatnonzero(_changes(plan, ["video_id"]))
        self.video_ids = plan["video_id"].take(pa.array(self.first))
        self.run = run
        self._files, units = _scan(run, files)
        self._n_rows = units["n_rows"].to_numpy()
        self._row = self._find_rows(units)
        planned = np.flatnonzero(self._row >= 0)
        planned = planned[np.argsort(units["n_clips"].to_numpy()[planned] > 0, kind="stable")]
        newest = np.full(plan.num_rows, -1)
        newest[self._row[planned]] = planned  # What comes last overwrites the others: the newest that has clips.
        self._counts = np.zeros(len(self._row), bool)
        self._counts[newest[newest >= 0]] = True
        taken = units.select(["n_clips", *_OUTCOME]).take(pa.array(newest, mask=newest < 0))
        self.n_clips = pc.fill_null(taken["n_clips"], -1).to_numpy()
        self.outcome = taken.select(_OUTCOME)

    def is_remaining(self, retry_failed: bool = False) -> np.ndarray:
        """Return which segments are left to embed: (n,) bool.

        They can be read and have not been committed. Those whose server was away are left too, and with
        ``retry_failed`` all others that failed.
        """
        is_left = self.n_clips < 0
        is_left |= pc.fill_null(pc.equal(self.outcome["error_stage"], AWAY), False).to_numpy()
        if retry_failed:
            is_left |= self.is_failed()
        return is_left & self.plan["error"].is_null().to_numpy()

    def remaining(self, retry_failed: bool = False) -> pa.Table:
        """Return the plan's rows that are left to embed."""
        return self.plan.filter(pa.array(self.is_remaining(retry_failed)))

    def is_failed(self) -> np.ndarray:
        """Return which segments were tried and have no clip because of an error: (n,) bool."""
        return (self.n_clips == 0) & self.outcome["error"].is_valid().to_numpy()

    def files_of(self, rows: slice) -> list[str]:
        """Return the files that hold the segments of these rows of the plan."""
        inside = self._counts & (self._row >= rows.start) & (self._row < rows.stop)
        return [file.name for file in self._files if inside[file.units].any()]

    def iter_clips(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Iterate over the rows that count, a file at a time; no table is empty."""
        for file in self._files:
            if self._counts[file.units].any():
                yield self._read(file, self._counts, columns)

    def compact(self, dim: int) -> None:
        """Merge small files, each with its pictures, and drop rows that count for nothing.

        The plan may be a portion of the run's. Rows of other videos stay in their file, and that file keeps its place
        in the order, because only their own portion knows which of them count. A merged file is written before the
        files it came from are removed: a kill in between leaves both, and the newer one counts.
        """
        others = self._row == _UNPLANNED
        of_frames = self.run.sizes(FRAMES_FOLDER)
        group: list[_File] = []
        n_bytes = 0
        for file in self._files:
            counts, n_rows = self._counts[file.units], self._n_rows[file.units]
            a_row = _row_bytes(dim)
            a_row += of_frames.get(frames.name_beside(file.name), 0) // max(int(n_rows.sum()), 1)
            size = a_row * int(n_rows[counts].sum())
            if _is_clean(file, counts | others[file.units]) and (size == 0 or a_row * n_rows.sum() >= FILE_BYTES // 2):
                continue
            group.append(file)
            n_bytes += size
            if n_bytes >= FILE_BYTES:
                self._merge(group, others)
                group, n_bytes = [], 0
        self._merge(group, others)

    def _merge(self, group: list[_File], others: np.ndarray) -> None:
        if len(group) == 1 and _is_clean(group[0], (self._counts | others)[group[0].units]):
            return
        parts = {file.name: self._read(file, self._counts) for file in group if self._counts[file.units].any()}
        if parts:
            name = self.run.next_name(EMBEDDINGS_FOLDER)
            frames.move_frames(self.run, parts, name)
            self.run.write_table(name, pa.concat_tables(parts.values()))
        for file in group:
            if others[file.units].any():
                rest = self._read(file, others)
                self.run.write_table(file.name, rest)
                frames.move_frames(self.run, {file.name: rest}, file.name)
            else:
                self.run.remove(file.name)
                self.run.remove(frames.name_beside(file.name))

    def _read(self, file: _File, kept: np.ndarray, columns: list[str] | None = None) -> pa.Table:
        """Read a file's rows of the segments that are kept, each once."""
        table = self.run.read_table(file.name, columns)
        kept = kept[file.units]
        if _is_clean(file, kept):
            return table
        rows = np.repeat(kept, self._n_rows[file.units])
        rows[file.repeated] = False
        return table.filter(pa.array(rows))

    def _find_rows(self, units: pa.Table) -> np.ndarray:
        """Return the plan's row of each committed segment, or the mark of one without: (n_units,) int64."""
        video = pc.index_in(units["video_id"], value_set=self.video_ids.combine_chunks())
        video = pc.fill_null(video, -1).to_numpy().astype(np.int64)
        segment = units["segment"].to_numpy()
        row = np.full(len(video), _UNPLANNED)
        # A video that cannot be read at present has no segments in the plan; its committed segments are kept.
        has_segments = self.plan["error"].is_null().to_numpy()[self.first]
        planned = np.flatnonzero((video >= 0) & has_segments[video]) if len(has_segments) else video[:0]
        n_segments = np.diff(self.first, append=self.plan.num_rows)
        inside = segment[planned] < n_segments[video[planned]]
        row[planned] = np.where(inside, self.first[video[planned]] + segment[planned], _STALE)
        within = np.flatnonzero(row >= 0)
        same = pc.equal(
            units["fingerprint"].take(pa.array(within)), self.plan["fingerprint"].take(pa.array(row[within]))
        )
        row[within[~pc.fill_null(same, False).to_numpy()]] = _STALE
        return row


def _is_clean(file: _File, kept: np.ndarray) -> bool:
    """Return whether the file holds nothing but the segments that are kept, each clip once."""
    return bool(kept.all()) and not len(file.repeated)


def _scan(run: Run, files: Sequence[str] | None) -> tuple[list[_File], pa.Table]:
    """Read which segments the files hold: a row a segment, in the order of the files."""
    for attempt in range(3):
        names = run.files(EMBEDDINGS_FOLDER, ".parquet") if files is None else list(files)
        try:
            read = run.for_each(names, lambda name: _read_units(run, name))
            break
        except RaypipeError:  # Another process may be compacting, and has written the rows of a vanished file anew.
            if attempt == 2 or files is not None or names == run.files(EMBEDDINGS_FOLDER, ".parquet"):
                raise
    ends = np.cumsum([table.num_rows for table, _ in read], dtype=np.int64).tolist()
    found = [
        _File(name, slice(end - table.num_rows, end), repeated)
        for name, (table, repeated), end in zip(names, read, ends, strict=True)
    ]
    return found, pa.concat_tables([_UNITS.empty_table(), *(table for table, _ in read)])


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


def _read_units(run: Run, name: str) -> tuple[pa.Table, np.ndarray]:
    """Read a file's segments, and which of its rows are repeated.

    Returns
    -------
    For each segment its key and outcome, its number of rows in the file, and how many of these are clips that count.
    Then (n,) int64, the rows of the file that count for nothing beside others of their segment.
    """
    table = run.read_table(name, [*UNIT, *_OUTCOME, "clip_index"])
    starts = np.flatnonzero(_changes(table, UNIT))
    n_rows = np.diff(starts, append=table.num_rows)
    repeated, first = _find_repeated(np.repeat(np.arange(len(starts)), n_rows), table["clip_index"], starts)
    is_clip = table["clip_index"].is_valid().to_numpy().astype(np.int64)
    is_clip[repeated] = 0
    n_clips = np.add.reduceat(is_clip, starts) if len(starts) else n_rows
    units = table.select([*UNIT, *_OUTCOME]).take(pa.array(first))
    units = units.append_column("n_rows", pa.array(n_rows)).append_column("n_clips", pa.array(n_clips)).cast(_UNITS)
    return units, repeated


def _find_repeated(unit: np.ndarray, clip: pa.ChunkedArray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows count for nothing beside others of their segment, and each segment's first row that counts."""
    number = pc.fill_null(clip, -1).to_numpy().astype(np.int64)  # Failures sort before their segment's clips.
    if (unit[1:] != unit[:-1]).all() or ((np.diff(number) > 0) & (number[:-1] >= 0))[unit[1:] == unit[:-1]].all():
        return np.empty(0, np.int64), starts
    order = np.lexsort((np.arange(len(unit)), number, unit))
    unit, number = unit[order], number[order]
    counts = np.ones(len(unit), bool)
    counts[1:] = (unit[1:] != unit[:-1]) | (number[1:] != number[:-1])
    ends = np.append(unit[1:] != unit[:-1], True)
    last = number[np.flatnonzero(ends)]  # It is -1 where a segment has failures alone.
    counts &= (number >= 0) | (last[unit] < 0)
    kept = np.sort(order[counts])
    return np.sort(order[~counts]), kept[np.searchsorted(kept, starts)]


def _changes(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Return which rows differ from the row before in one of the columns: (n,) bool, true for the first."""
    changed = np.zeros(table.num_rows, bool)
    changed[:1] = True
    for name in columns:
        column = table[name].combine_chunks()
        if pa.types.is_string(column.type):
            column = pc.fill_null(column.dictionary_encode().indices, -1)
        values = column.to_numpy()
        changed[1:] |= values[1:] != values[:-1]
    return changed
