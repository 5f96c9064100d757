"""The clips of each video in order of time, one video after another."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.runs.contents import PLAN_FILE
from raypipe.runs.directory import Run
from raypipe.runs.plan import read_ledger
from raypipe.schema import ClipPath

_COLUMNS = ["video_id", "segment", "clip_index", "start_s", "end_s", "embedding"]


def iter_clip_paths(run: Run, video_ids: Collection[str] | None = None) -> Iterator[ClipPath]:
    """Yield the clips of each of a run's videos, or of some of them.

    A file of ``embeddings/`` is in memory at a time, and with it the videos of which some segments are yet to come. The
    order is that in which they are complete.

    Parameters
    ----------
    run
        An embedded run.
    video_ids
        The only videos that are wanted.
    """
    ledger = read_ledger(run, video_ids)
    counts = np.diff(ledger.first, append=ledger.plan.num_rows).tolist()
    missing = dict(zip(ledger.video_ids.to_pylist(), counts, strict=True))
    waiting: dict[str, list[pa.Table]] = {}
    for table in ledger.iter_clips(_COLUMNS):
        for video, part in split_by_video(table):
            waiting.setdefault(video, []).append(part)
            missing[video] -= len(pc.unique(part["segment"]))
            if missing[video] == 0:
                yield from _join(video, waiting.pop(video))
    for video, parts in waiting.items():
        yield from _join(video, parts)


def read_origins(run: Run) -> dict[str, float]:
    """Return where each of a run's videos begins in its file, in seconds, by its id; 0 where that is not known."""
    plan = run.read_table(PLAN_FILE, ["video_id", "origin_s"])
    pairs = zip(plan["video_id"].to_pylist(), plan["origin_s"].to_pylist(), strict=True)
    return {video_id: origin_s or 0.0 for video_id, origin_s in pairs}


def split_by_video(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each video; they stay in their order."""
    ids = pc.dictionary_encode(table["video_id"].combine_chunks())
    codes = ids.indices.to_numpy()
    if not (np.diff(codes) >= 0).all():
        order = np.argsort(codes, kind="stable")
        table, codes = table.take(pa.array(order)), codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    for start, stop in pairwise([*starts.tolist(), len(codes)]):
        yield ids.dictionary[int(codes[start])].as_py(), table.slice(start, stop - start)


def _join(video_id: str, parts: list[pa.Table]) -> Iterator[ClipPath]:
    """Yield a video's clips, unless it has none."""
    table = pa.concat_tables(parts)
    table = table.filter(table["embedding"].is_valid())
    if not table.num_rows:
        return
    order = np.lexsort((table["clip_index"].to_numpy(), table["segment"].to_numpy()))
    vectors = table["embedding"].combine_chunks()
    if isinstance(vectors, pa.ChunkedArray):
        vectors = pa.concat_arrays(vectors.chunks)
    values = vectors.flatten().to_numpy().reshape(len(order), -1)
    start_s, end_s = (table[name].to_numpy()[order] for name in ("start_s", "end_s"))
    yield ClipPath(video_id, values[order], start_s, end_s)
