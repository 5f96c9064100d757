"""The frame store, ``frames/``: small pictures of clips, so that nothing is decoded again to show a video.

Beside each file of ``embeddings/`` that has pictures lies one of the same name, which is written before it and removed
after it. So a kill can leave pictures without their clips behind, which count for nothing and are removed by the next
run, but no clips that lack their pictures. A row itself says which content it shows, since its fingerprint stands for
the video file's version and for the sampling: rows of another fingerprint than the plan's count for nothing either, and
where a clip lies in two files, the newest counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypipe.runs.directory import Run
from raypipe.schema import FRAMES

FOLDER = "frames"
_EMBEDDINGS = "embeddings"
_PLAN_FILE = "plan.parquet"
_KEY = ["video_id", "segment", "fingerprint"]
_PLACE = ["video_id", "clip_index", "time_s", "fingerprint"]  # what is read before a picture is chosen
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
    ids = pa.array(list(asked_s), pa.string())
    if not names or not len(ids) or not run.exists(_PLAN_FILE):
        return {}
    plan = run.read_table(_PLAN_FILE, ["video_id", "fingerprint"])
    current = pc.unique(_key(plan.filter(pc.is_in(plan["video_id"], value_set=ids))))
    found = run.for_each(names, lambda name: run.read_parquet(name, lambda file: _find(file, ids, current)))
    places = pa.concat_tables(
        table.append_column("file", pa.array(np.full(table.num_rows, number))) for number, table in enumerate(found)
    )
    chosen = places.take(pa.array(_choose(places, asked_s)))
    jpegs: list[Any] = [None] * chosen.num_rows
    for number in np.unique(chosen["file"].to_numpy()).tolist():
        at = np.flatnonzero(chosen["file"].to_numpy() == number)
        rows = chosen.take(pa.array(at))
        for place, jpeg in zip(at, run.read_parquet(names[number], lambda file: list(_fetch(file, rows))), strict=True):  # noqa: B023
            jpegs[place] = jpeg
    return dict(_by_video(chosen, jpegs))


def _split_orphans(run: Run) -> tuple[list[str], list[str]]:
    """Return the files of pictures that have a partner, in their order, and those that have none."""
    names = run.files(FOLDER, ".parquet")
    partners = set(map(name_beside, run.files(_EMBEDDINGS, ".parquet"))) if names else set()
    return [name for name in names if name in partners], [name for name in names if name not in partners]


def _key(table: pa.Table) -> pa.ChunkedArray:
    """Return one text for each row that says which columns of `_KEY` it has, as far as the table has them."""
    columns = [table[name].cast(pa.string()) for name in _KEY if name in table.column_names]
    return pc.binary_join_element_wise(*columns, "/")


def _find(file: pq.ParquetFile, ids: pa.Array, current: pa.Array) -> pa.Table:
    """Return where the pictures of some videos lie in a file: `_PLACE`, the row group, and the row within it."""
    parts = []
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, _PLACE)
        counts = pc.and_(
            pc.is_in(table["video_id"], value_set=ids),
            pc.is_in(_key(table.select(["video_id", "fingerprint"])), value_set=current),
        )
        rows = np.arange(table.num_rows)
        table = table.append_column("group", pa.array(np.full(table.num_rows, group)))
        parts.append(table.append_column("row", pa.array(rows)).filter(counts))
    return pa.concat_tables(parts)


def _choose(places: pa.Table, asked_s: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the rows of the pictures that are nearest to a time that is asked for, by video and in order of time."""
    video = pc.index_in(places["video_id"], value_set=pa.array(list(asked_s), pa.string())).to_numpy()
    clip, time_s = places["clip_index"].to_numpy(), places["time_s"].to_numpy()
    order = np.lexsort((np.arange(len(video)), clip, video))
    is_newest = np.ones(len(order), bool)
    is_newest[:-1] = (video[order][1:] != video[order][:-1]) | (clip[order][1:] != clip[order][:-1])
    order = order[is_newest]
    chosen = [np.empty(0, np.int64)]
    for number, wanted_s in enumerate(asked_s.values()):
        start, stop = np.searchsorted(video[order], [number, number + 1])
        if stop > start:
            away_s = np.abs(time_s[order[start:stop]][None, :] - np.asarray(wanted_s)[:, None])
            chosen.append(order[start:stop][np.unique(away_s.argmin(axis=1))])
    return np.concatenate(chosen)


def _fetch(file: pq.ParquetFile, rows: pa.Table) -> Iterator[bytes]:
    """Yield the picture of each row, one row group in memory at a time."""
    group, frames = -1, None
    order = np.lexsort((rows["row"].to_numpy(), rows["group"].to_numpy()))
    found: list[Any] = [None] * rows.num_rows
    for place in order.tolist():
        if group != rows["group"][place].as_py():
            group = rows["group"][place].as_py()
            frames = file.read_row_group(group, ["frame"])["frame"]
        found[place] = frames[rows["row"][place].as_py()].as_py()  # type: ignore[index]
    yield from found


def _by_video(chosen: pa.Table, jpegs: list[bytes]) -> Iterator[tuple[str, Pictures]]:
    rows = zip(chosen["video_id"].to_pylist(), chosen["time_s"].to_pylist(), jpegs, strict=True)
    for video_id, mine in groupby(rows, key=itemgetter(0)):
        _, times_s, pictures = zip(*mine, strict=True)
        yield video_id, Pictures(np.array(times_s), list(pictures))
