"""Segments to ``embeddings/``: the streaming chain on Ray Data, resume and accounting."""

from __future__ import annotations

import math
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from raypipe.config import Config, DecodeConfig, EncodeConfig, SampleConfig
from raypipe.encoders import Encoder, make_encoder
from raypipe.engine.session import Pools, bound_queue
from raypipe.runs import Run
from raypipe.schema import PLAN, Probe
from raypipe.segments import DecodeSegments, EncodeSegments, ProbeVideos, mean_frames

QUEUED_BATCHES = 4  # an actor


class _Prober:
    """An actor that probes files."""

    def __init__(self, decode: DecodeConfig) -> None:
        self._probe = ProbeVideos(decode)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row, uri in zip(*batch.to_pydict().values(), strict=True):
            found = self._probe(uri)
            values = {"error": found} if isinstance(found, str) else {**asdict(found), "error": None}
            yield pa.Table.from_pylist([{"row": row, **values}], schema=_PROBED)


_PROBED = pa.schema(
    [pa.field("row", pa.int64()), *(PLAN.field(field.name) for field in fields(Probe)), PLAN.field("error")]
)


def probe_uris(uris: Sequence[str], decode: DecodeConfig, pools: Pools, progress: Callable[[int], None]) -> list:
    """Probe files in the decoder pool.

    Parameters
    ----------
    uris
        The files.
    decode, pools
        How, and by how many.
    progress
        Called with the number of files done since the last call.

    Returns
    -------
    A `Probe`, or the error's text, for each of ``uris``.
    """
    probed: list[Probe | str] = [""] * len(uris)
    plan = pa.table({"row": np.arange(len(uris)), "uri": list(uris)})
    # A probe takes milliseconds: 64 a task keep Ray's own cost small, fewer when there are few files to share out.
    tables = _blocks(plan, max(1, min(64, math.ceil(len(uris) / (4 * pools.decoders)))))
    dataset = ray.data.from_arrow(tables).map_batches(
        _Prober,
        fn_constructor_args=(decode,),
        compute=ActorPoolStrategy(size=pools.decoders),
        num_cpus=pools.cpus,
        batch_size=None,
        batch_format="pyarrow",
    )
    for batch in _tables(dataset):
        for row in batch.to_pylist():
            number, error = row.pop("row"), row.pop("error")
            probed[number] = error if error is not None else Probe(**row)
        progress(batch.num_rows)
    return probed


class _Decoder:
    """An actor that decodes segments, one row at a time, so that a row travels on when it is done."""

    def __init__(self, sample: SampleConfig, decode: DecodeConfig, image_size: int, resize_mode: str) -> None:
        self._decode = DecodeSegments(sample, decode, image_size, resize_mode)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row in batch.to_pylist():
            yield _pack(self._decode(row))


class _Encoder:
    """An actor that encodes segments and commits their clips; what it returns is what it has done."""

    def __init__(self, run: Run, sample: SampleConfig, encode: EncodeConfig, import_path: str) -> None:
        sys.path.append(import_path)  # where a user's own encoder may lie
        encoder = encoder_of(encode)
        self._run, self._size = run, encoder.image_size
        self._encode = EncodeSegments(encoder, sample, encode.normalize)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = _unpack(batch, self._size)
        table = self._encode(rows)
        units = [(row["video_id"], row["segment"]) for row in rows]
        # Named after its content: a task that Ray runs twice writes the same file twice.
        name = uuid.uuid5(uuid.NAMESPACE_OID, repr(sorted(units))).hex
        self._run.write_table(f"embeddings/{name}.parquet", table)
        return batch.select(["video_id", "segment"])


def embed_segments(
    run: Run, plan: pa.Table, config: Config, encoder: Encoder, pools: Pools, progress: Callable[[float], None]
) -> None:
    """Decode and encode the plan's segments and commit their clips to ``embeddings/``.

    Parameters
    ----------
    run
        Where the clips go.
    plan
        The segments to do, a `schema.PLAN` table without errors.
    config, pools
        What to do, and by how many actors of which kind.
    encoder
        The config's, as made here: what is wrong with it is said before any actor starts. The actors make their own.
    progress
        Called with the number of videos committed since the last call; a segment is its share of its video.
    """
    frames = mean_frames(plan, config.sample)
    # An encoder batch holds about encode.batch_size frames, of one long segment or of many short ones; a decoder task
    # half a batch of segments, so that both pools are fed in small steps, and single segments while there are few.
    per_batch = max(1, min(64, round(config.encode.batch_size / frames)))
    per_task = max(1, min(per_batch // 2, plan.num_rows // (8 * pools.decoders)))
    batch_bytes = per_batch * frames * encoder.image_size**2 * 3
    bound_queue(QUEUED_BATCHES * (pools.decoders + pools.encoders) * batch_bytes)  # one in work, one waiting, some room
    dataset = (
        ray.data.from_arrow(_blocks(plan, per_task))
        .map_batches(
            _Decoder,
            fn_constructor_args=(config.sample, config.decode, encoder.image_size, encoder.resize_mode),
            compute=ActorPoolStrategy(size=pools.decoders),
            num_cpus=pools.cpus,
            batch_size=None,
            batch_format="pyarrow",
        )
        .map_batches(
            _Encoder,
            fn_constructor_args=(run, config.sample, config.encode, str(Path.cwd())),
            compute=ActorPoolStrategy(size=pools.encoders),
            num_cpus=pools.cpus,
            num_gpus=pools.gpus_per_encoder or None,
            batch_size=per_batch,
            batch_format="pyarrow",
        )
    )
    share = {video_id: 1 / n for video_id, n in Counter(plan["video_id"].to_pylist()).items()}
    for batch in _tables(dataset):
        progress(sum(share[video_id] for video_id in batch["video_id"].to_pylist()))


def encoder_of(encode: EncodeConfig) -> Encoder:
    """Make the encoder that the config names."""
    return make_encoder(**encode.model_dump())


def time_frame(encoder: Encoder) -> float:
    """Return the seconds that an encoder takes a frame here, on one core, by trying a few."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        frames = np.full((8, encoder.image_size, encoder.image_size, 3), 127, np.uint8)
        encoder(frames[:1])
        started = time.process_time()  # not the clock on the wall: the machine may be busy with other things
        encoder(frames)
        return (time.process_time() - started) / len(frames)
    finally:
        torch.set_num_threads(threads)


def remaining(plan: pa.Table, run: Run) -> pa.Table:
    """Return the plan's segments that can be embedded and are not yet in ``embeddings/``."""
    plan = plan.filter(pa.compute.is_null(plan["error"]))
    done = [table for table in run.iter_tables("embeddings", ["video_id", "segment"])]
    if not done:
        return plan
    keys = ["video_id", "segment"]
    row = pa.array(np.arange(plan.num_rows))
    left = plan.select(keys).append_column("row", row).join(pa.concat_tables(done), keys=keys, join_type="left anti")
    return plan.take(np.sort(left["row"].to_numpy()))


def _tables(dataset: ray.data.Dataset) -> Iterator[Any]:
    """Execute a dataset and yield its blocks as they come."""
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def _blocks(table: pa.Table, rows: int) -> list[pa.Table]:
    return [table.slice(start, rows) for start in range(0, table.num_rows, rows)]


def _pack(row: dict[str, Any]) -> pa.Table:
    """Lay a decoded segment out as a one-row table; the pixels are not copied."""
    pixels = np.ascontiguousarray(row["pixels"])
    offsets = pa.py_buffer(np.array([0, pixels.nbytes], np.int64))
    binary = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(pixels.reshape(-1))])
    clips = {name: pa.array([row[name]]) for name in ("clip_index", "clip_start_s", "clip_end_s")}
    return pa.table(
        {
            "video_id": pa.array([row["video_id"]]),
            "segment": pa.array([row["segment"]], pa.int32()),
            "decoder": pa.array([row["decoder"]], pa.string()),
            "error": pa.array([row["error"]], pa.string()),
            "members": pa.array([row["members"].ravel()], pa.list_(pa.int64())),
            **clips,
            "pixels": binary,
        }
    )


def _unpack(batch: pa.Table, size: int) -> list[dict[str, Any]]:
    """Read what `_pack` wrote; the pixels are views of the object store."""
    rows = batch.drop_columns(["pixels", "members", "clip_index", "clip_start_s", "clip_end_s"]).to_pylist()
    for name in ("clip_index", "clip_start_s", "clip_end_s"):
        for row, value in zip(rows, batch.column(name), strict=True):
            row[name] = np.asarray(value.values)
    for row, value, pixels in zip(rows, batch.column("members"), batch.column("pixels"), strict=True):
        row["members"] = np.asarray(value.values).reshape(-1, 2)
        row["pixels"] = np.frombuffer(pixels.as_buffer(), np.uint8).reshape(-1, size, size, 3)
    return rows
