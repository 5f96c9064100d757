"""Videos to ``plan/``: probed in the decoder pool, and cut into segments."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, fields

import numpy as np
import pyarrow as pa
from ray.data import ActorPoolStrategy

from raypipe.config import Config, DecodeConfig
from raypipe.engine.session import Pools
from raypipe.engine.streaming import Log, in_tasks, progressing, stream
from raypipe.runs.directory import Run
from raypipe.runs.plan import PROBED
from raypipe.schema import PLAN, Away, Probe
from raypipe.segments.planning import plan_segments
from raypipe.segments.stages import ProbeVideos
from raypipe.sources.videos import Videos

_PROBE_S = 0.3  # milliseconds on a disk, and some round trips to a store
COMMIT_S = 60.0  # probing may take hours, of which a kill should cost no more


def plan_videos(
    run: Run,
    videos: Videos,
    versions: pa.ChunkedArray,
    made_with: str,
    config: Config,
    pools: Pools,
    progress: Callable[[float], None],
) -> None:
    """Probe videos, and write their segments to ``plan/``, some now and then and the last in the end.

    Parameters
    ----------
    run
        Where the plan goes.
    videos, versions
        What it lacks, and what each one's file is known by.
    made_with
        See `raypipe.segments.planning.plan_segments`.
    config, pools
        How to probe and to cut, and by how many actors.
    progress
        Called with the number of videos probed since the last call.
    """
    fresh: list[int] = []
    probes: list[Probe | str] = []

    def commit() -> None:
        theirs = versions.take(pa.array(fresh)).to_pylist()
        plan = plan_segments(videos.take(fresh), probes, config.sample, theirs, made_with)
        run.write_table(run.next_name(PROBED), plan)

    since = time.monotonic()
    with closing(probe_uris(videos.table["uri"], config.decode, pools, run.log)) as probed:
        for number, probe in probed:
            fresh.append(number)
            probes.append(probe)
            progress(1)
            if time.monotonic() - since > COMMIT_S:
                commit()
                fresh, probes, since = [], [], time.monotonic()
    if fresh:
        commit()


class _Prober:
    """An actor that probes files."""

    def __init__(self, decode: DecodeConfig) -> None:
        self._probe = ProbeVideos(decode)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row, uri in zip(*batch.to_pydict().values(), strict=True):
            found = self._probe(uri)
            values = {"error": found, "away": isinstance(found, Away)} if isinstance(found, str) else asdict(found)
            yield pa.Table.from_pylist([{"row": row, **values}], schema=_PROBE_ROW)


_PROBE_ROW = pa.schema(
    [
        pa.field("row", pa.int64()),
        *(PLAN.field(field.name) for field in fields(Probe)),
        PLAN.field("error"),
        pa.field("away", pa.bool_()),
    ]
)


def probe_uris(
    uris: pa.ChunkedArray, decode: DecodeConfig, pools: Pools, log: Log
) -> Generator[tuple[int, Probe | str], None, None]:
    """Probe files in the decoder pool.

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
    A file's number, and its `Probe` or the error's text, as they come.
    """
    left = np.ones(len(uris), bool)
    while left.any():
        rows = np.flatnonzero(left)
        plan = pa.table({"row": rows, "uri": uris.take(pa.array(rows))})
        dataset = in_tasks(plan, _PROBE_S, pools.decoders, "raypipe_probe").map_batches(
            _Prober,
            fn_constructor_args=(decode,),
            compute=ActorPoolStrategy(size=pools.decoders),
            num_cpus=pools.cpus,
            batch_size=None,
            batch_format="pyarrow",
        )
        with progressing(lambda: int(left.sum()), log):
            for batch in stream(dataset):
                for row in batch.to_pylist():
                    number, error, away = (row.pop(name) for name in ("row", "error", "away"))
                    left[number] = False
                    yield number, Probe(**row) if error is None else Away(error) if away else error
