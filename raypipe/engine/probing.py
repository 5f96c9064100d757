"""Videos to the plan: probed in a pool of actors, or here if they are few, and cut into segments."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, fields
from queue import SimpleQueue

import numpy as np
import pyarrow as pa
from ray.data import ActorPoolStrategy

from raypipe.config import Config, DecodeConfig
from raypipe.engine.devices import Worker
from raypipe.engine.pools import Pools
from raypipe.engine.reach import check_readable, find_readable
from raypipe.engine.streaming import Log, in_tasks, once, progressing, stream
from raypipe.runs.plan import Plan
from raypipe.schema import PLAN, Failure, Probe, take_rows
from raypipe.segments.planning import plan_segments
from raypipe.segments.stages import ProbeVideos
from raypipe.sources.videos import hash_texts

# Probing a file takes milliseconds on a disk, and some round trips to an object store.
_PROBE_S = 0.3
FEW = 64
"""So many files have been probed by the driver before an actor has started."""

_WINDOW = 10_000  # So many URIs at a time are copied.

# Probing all videos may take hours; a kill should cost no more than this many seconds of it.
COMMIT_PROBES_S = 60.0


def probe_videos(
    plan: Plan,
    versions: pa.ChunkedArray,
    made_with: str,
    config: Config,
    pools: Pools,
    progress: Callable[[float], None],
) -> None:
    """Probe the videos that the plan lacks, cut them into segments, and add these to the plan now and then.

    A file is probed once, however many videos are spans of it.

    Parameters
    ----------
    plan
        The plan of a run.
    versions
        The version of each of the plan's videos.
    made_with
        See `raypipe.segments.planning.plan_segments`.
    config, pools
        How to probe and to cut, and by how many actors.
    progress
        Called with the number of videos probed since the last call.
    """
    uris = plan.videos.table["uri"]
    order, edges = group_equal(uris, plan.lacking())
    for start in range(0, len(edges) - 1, plan.portion_size):
        some = edges[start : start + plan.portion_size + 1]
        files = take_rows(uris, order[some[:-1]])
        with closing(probe_uris(files, config.decode, pools.for_tasks(len(files)), plan.run.log)) as probed:
            found = ((order[some[number] : some[number + 1]], probe) for number, probe in probed)
            for batch in _now_and_then(found, plan.portion_size, progress):
                rows = np.concatenate([own for own, _ in batch])
                probes = [probe for own, probe in batch for _ in own]
                theirs = take_rows(versions, rows).to_pylist()
                plan.add(plan_segments(plan.videos.take(rows), probes, config.sample, theirs, made_with))


def group_equal(values: pa.ChunkedArray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group rows of a column of text by their text, in the order of each group's first row.

    Returns
    -------
    The rows, (n,), one group after another, and where groups begin and the last one ends, (n_groups + 1,).
    """
    parts = [hash_texts(take_rows(values, rows[start : start + _WINDOW])) for start in range(0, len(rows), _WINDOW)]
    hashes = np.concatenate([np.empty(0, np.int64), *parts])
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[group]
    order = np.argsort(place, kind="stable")
    return rows[order], np.append(np.flatnonzero(np.diff(place[order], prepend=-1)), len(rows))


_Found = tuple[np.ndarray, Probe | Failure]
"""The rows of a file's videos, and what probing it gave."""


def _now_and_then(found: Iterable[_Found], at_most: int, progress: Callable[[float], None]) -> Iterator[list[_Found]]:
    """Count videos as they come, and yield those of `COMMIT_PROBES_S`, or so many, together."""
    batch: list[_Found] = []
    since, n = time.monotonic(), 0
    for rows, probe in found:
        progress(len(rows))
        while len(rows):
            batch.append((rows[: at_most - n], probe))
            rows, n = rows[at_most - n :], min(n + len(rows), at_most)
            if n == at_most or time.monotonic() - since > COMMIT_PROBES_S:
                yield batch
                batch, since, n = [], time.monotonic(), 0
    if batch:
        yield batch


class _Prober(Worker):
    """An actor that probes files."""

    def __init__(self, decode: DecodeConfig, readable: Sequence[str] = ()) -> None:
        check_readable(readable)
        self._probe = ProbeVideos(decode)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row, uri in zip(*batch.to_pydict().values(), strict=True):
            yield pa.Table.from_pylist([{"row": row, **asdict(self._probe(uri))}], schema=_PROBE_ROW)


_PROBE_ROW = pa.schema(
    [
        pa.field("row", pa.int64()),
        *(PLAN.field(field.name) for field in fields(Probe)),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
    ]
)
"""A file's number, and the fields of its `Probe` or its `Failure`."""


def probe_uris(
    uris: pa.ChunkedArray, decode: DecodeConfig, pools: Pools, log: Log
) -> Generator[tuple[int, Probe | Failure], None, None]:
    """Probe files in the decoder pool, or in this process's own sandboxes if they are `FEW`.

    Parameters
    ----------
    uris
        The files.
    decode, pools
        How, and by how many.
    log
        As of `raypipe.engine.streaming.progressing`.

    Yields
    ------
    A file's number and what probing it gave, as they come.
    """
    if len(uris) <= FEW:
        yield from _probe_here(uris.to_pylist(), decode, min(pools.decoders, os.cpu_count() or 1))
        return
    left = np.ones(len(uris), bool)
    while left.any():
        rows = np.flatnonzero(left)
        files = pa.table({"row": rows, "uri": uris.take(pa.array(rows))})
        dataset = in_tasks(files, _PROBE_S, pools.decoders, "raypipe_probe").map_batches(
            _Prober,
            fn_constructor_args=(decode, find_readable(files["uri"])),
            compute=ActorPoolStrategy(size=pools.decoders),
            num_cpus=pools.cpus,
            batch_size=None,
            batch_format="pyarrow",
        )
        with progressing(lambda: int(left.sum()), log) as losses:
            for batch in once(stream(dataset, losses), left):
                for row in batch.to_pylist():
                    kind = Probe if row["error"] is None else Failure
                    yield row["row"], kind(**{field.name: row[field.name] for field in fields(kind)})


def _probe_here(uris: list[str], decode: DecodeConfig, n_threads: int) -> Iterator[tuple[int, Probe | Failure]]:
    probers: SimpleQueue[ProbeVideos] = SimpleQueue()
    for _ in range(n_threads):
        probers.put(ProbeVideos(decode))

    def probe(uri: str) -> Probe | Failure:
        prober = probers.get()
        try:
            return prober(uri)
        finally:
            probers.put(prober)

    with ThreadPoolExecutor(n_threads) as threads:
        try:
            yield from enumerate(threads.map(probe, uris))
        finally:
            threads.shutdown(cancel_futures=True)
            while not probers.empty():
                probers.get().close()
