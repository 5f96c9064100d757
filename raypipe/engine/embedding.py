"""Segments to ``embeddings/``: the streaming chain on Ray Data."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy

from raypipe.config import Config, DecodeConfig, EncodeConfig, SampleConfig
from raypipe.decoders import split_nvdec
from raypipe.embeddings import Committer
from raypipe.encoders import Encoder, make_encoder
from raypipe.engine.session import HEAVY_FRAME_S, Pools, bound_blocks
from raypipe.engine.streaming import LOST, TRIES, Attempts, Log, in_tasks, progressing, stream
from raypipe.optional import is_installed
from raypipe.planning import mean_frames
from raypipe.runs import Run
from raypipe.segments import DecodeSegments, EncodeSegments, empty_segment
from raypipe.segments_gpu import GpuSegments

QUEUED_BATCHES = 4  # an actor

_NAME = "raypipe_embed"
_GPU = "cuda"
_MOST_REASONS = 20
_LATE_S = 1.0  # that a result may take to the driver: the clocks of two machines may tell more
TASK = ["video_id", "segment", "uri", "start_s", "end_s", "origin_s", "span_s", "fingerprint"]  # what actors are told


class _Decoder:
    """An actor that decodes segments, one row at a time, so that a row travels on when it is done."""

    def __init__(
        self, sample: SampleConfig, decode: DecodeConfig, image_size: int, resize_mode: str, attempts: Attempts
    ) -> None:
        self._decode = DecodeSegments(sample, decode, image_size, resize_mode)
        self._attempts = attempts

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row in batch.to_pylist():
            started = time.monotonic()
            key = row["row"]
            given_up = self._attempts.begin(key) > TRIES
            decoded = self._decode.refuse(row, LOST) if given_up else self._decode(row)
            self._attempts.end(key)
            yield _pack(row["row"], decoded, time.monotonic() - started)


class _Encoder:
    """An actor that encodes segments."""

    def __init__(self, sample: SampleConfig, encode: EncodeConfig, import_path: str, attempts: Attempts) -> None:
        sys.path.append(import_path)  # where a user's own encoder may lie
        self._encoder = encoder_of(encode)
        self._encode = EncodeSegments(self._encoder, sample, encode.normalize)
        self._attempts = attempts

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = _unpack(batch, self._encoder.image_size)
        started = time.monotonic()
        keys = [row["row"] for row in rows]
        if self._attempts.begin(*keys) < TRIES:
            tables = self._encode(rows)
        else:  # the process dies of one of them: of which will be seen
            tables = [self._encode_alone(row) for row in rows]
        self._attempts.end(*keys)
        took_s = time.monotonic() - started
        return pa.concat_tables(
            _result(row["row"], clips, len(row["pixels"]), row["decode_s"], took_s / len(rows), took_s)
            for clips, row in zip(tables, rows, strict=True)
        )

    def _encode_alone(self, row: dict[str, Any]) -> pa.Table:
        key = "alone", row["row"]
        if self._attempts.begin(key) >= TRIES:
            return empty_segment(row, self._encoder.dim, "encode", LOST)
        (table,) = self._encode([row])
        self._attempts.end(key)
        return table


class _GpuWorker:
    """An actor that decodes and encodes segments on its GPU."""

    def __init__(self, form: tuple[Any, ...], import_path: str, attempts: Attempts) -> None:
        sys.path.append(import_path)
        self._segments = GpuSegments(*form)
        self._attempts = attempts

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row in batch.to_pylist():
            started = time.monotonic()
            key = row["row"]
            n_frames, clips, reason = 0, None, LOST
            if self._attempts.begin(key) <= TRIES:
                decoded, clips = self._segments(row)
                n_frames, reason = len(decoded["pixels"]), decoded["error"]
            self._attempts.end(key)
            took_s = time.monotonic() - started
            refused = reason if clips is None else None
            yield _result(key, clips, 0 if clips is None else n_frames, took_s, 0.0, took_s, refused)


@dataclass
class Stages:
    """What the stages have done: on how much, and how long they were busy, all actors together."""

    done: int = 0
    frames: int = 0
    decode_s: float = 0.0
    encode_s: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    """Segments that NVDEC left to the CPU, by reason."""

    def add(self, results: pa.Table) -> np.ndarray:
        """Count what came out of the chain's end; return the plan's rows that are done with it."""
        for reason in results["refused"].drop_null().to_pylist():
            known = reason in self.refused or len(self.refused) < _MOST_REASONS
            reason = reason if known else "other reasons"
            self.refused = {**self.refused, reason: self.refused.get(reason, 0) + 1}  # another thread may be reading it
        results = _done(results)
        self.done += results.num_rows
        self.frames += sum(results["n_frames"].to_pylist())
        self.decode_s += sum(results["decode_s"].to_pylist())
        self.encode_s += sum(results["encode_s"].to_pylist())
        return results["row"].to_numpy()


def embed_segments(
    run: Run,
    plans: Iterable[pa.Table],
    config: Config,
    encoder: Encoder,
    pools: Pools,
    progress: Callable[[float], None],
    on_commit: Callable[[Stages], None] = lambda stages: None,
) -> Stages:
    """Decode and encode segments and commit their clips to ``embeddings/``.

    What is lost with a worker (killed, crashed, out of memory, on a node that went away) is tried again; a segment that
    takes its worker with it every time is found out, and committed as failed.

    Parameters
    ----------
    run
        Where the clips go.
    plans
        The segments to do: `schema.PLAN` tables without errors, one in memory at a time.
    config, pools
        What to do, and by how many actors of which kind.
    encoder
        The config's, as made here: what is wrong with it is said before any actor starts. The actors make their own.
    progress
        Called with the number of videos done since the last call; a segment is its share of its video.
    on_commit
        Called at the start, and after each file that is written, in another thread, with what has been done so far.

    Raises
    ------
    RaypipeError
        If the clips cannot be written, or if Ray fails and nothing comes through.
    """
    config = config.model_copy(update={"encode": _from_anywhere(config.encode)})
    stages = Stages()
    on_commit(stages)
    for plan in plans:
        share = _share_of_video(plan)
        results = _results(plan, config, encoder, pools, run.log)
        with Committer(run, lambda _: on_commit(stages), config.ray.commit_s) as committer, closing(results):
            for batch in results:
                rows = stages.add(batch)
                clips = [pa.ipc.open_stream(each.as_buffer()).read_all() for each in batch["clips"].drop_null()]
                if clips:
                    committer.add(pa.concat_tables(clips), _age(batch))
                progress(float(share[rows].sum()))
    return stages


def _results(
    plan: pa.Table, config: Config, encoder: Encoder, pools: Pools, log: Log
) -> Generator[pa.Table, None, None]:
    """Stream segments through the chains until each has come out of one."""
    plan = plan.append_column("row", pa.array(np.arange(plan.num_rows)))
    left = np.ones(plan.num_rows, bool)
    on_gpu, decoder = split_nvdec(config.decode.decoder)
    if on_gpu and pools.gpus_per_encoder and is_installed("torchcodec"):
        untried = left.copy()
        while untried.any():
            with progressing(lambda: int(untried.sum()), log):
                for batch in _gpu_chain(plan.filter(pa.array(untried)), config, encoder, pools):
                    untried[batch["row"].to_numpy()] = False
                    left[_done(batch)["row"].to_numpy()] = False
                    yield batch
    decode = config.decode.model_copy(update={"decoder": decoder})
    config = config.model_copy(update={"decode": decode})
    while left.any():
        with progressing(lambda: int(left.sum()), log):
            todo = plan.filter(pa.array(left))
            for batch in _chain(todo, config, encoder, pools.for_tasks(todo.num_rows)):
                left[batch["row"].to_numpy()] = False
                yield batch


def _done(results: pa.Table) -> pa.Table:
    """Return those of the results that NVDEC did not leave to the CPU."""
    return results.filter(results["refused"].is_null())


def _age(results: pa.Table) -> float:
    """Return the seconds of an actor's work that would be lost if the driver died now, and nothing else waited."""
    took_s = pc.max(results["took_s"]).as_py()
    on_the_way_s = min(max(time.time() - pc.min(results["ended"]).as_py(), 0.0), _LATE_S)
    return took_s + on_the_way_s + took_s  # it has the next batch in its hands


def _share_of_video(plan: pa.Table) -> np.ndarray:
    """Return which part of its video's segments each row is: (n,), 1 for a video of one segment."""
    video = plan["video_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    return 1 / np.bincount(video)[video]


def _chain(plan: pa.Table, config: Config, encoder: Encoder, pools: Pools) -> Iterator[pa.Table]:
    """Stream segments through both pools: all of them, or as many as go into one dataset."""
    frames = mean_frames(plan, config.sample)
    # An encoder batch holds about encode.batch_size frames, of one long segment or of many short ones. What a decoder
    # has made travels on in such pieces too.
    per_batch = max(1, min(64, round(config.encode.batch_size / frames)))
    batch_bytes = per_batch * frames * encoder.image_size**2 * 3
    bound_blocks(batch_bytes, QUEUED_BATCHES * (pools.decoders + pools.encoders))  # one in work, one waiting, some room
    with Attempts() as decoding, Attempts() as encoding:
        dataset = (
            in_tasks(plan.select([*TASK, "row"]), frames * HEAVY_FRAME_S, pools.decoders, _NAME)
            .map_batches(
                _Decoder,
                fn_constructor_args=(config.sample, config.decode, encoder.image_size, encoder.resize_mode, decoding),
                compute=ActorPoolStrategy(size=pools.decoders),
                num_cpus=pools.cpus,
                batch_size=None,
                batch_format="pyarrow",
            )
            .map_batches(
                _Encoder,
                fn_constructor_args=(config.sample, config.encode, str(Path.cwd()), encoding),
                compute=ActorPoolStrategy(size=pools.encoders),
                num_cpus=pools.cpus,
                num_gpus=pools.gpus_per_encoder or None,
                batch_size=per_batch,
                batch_format="pyarrow",
            )
        )
        yield from stream(dataset)


def _gpu_chain(plan: pa.Table, config: Config, encoder: Encoder, pools: Pools) -> Iterator[pa.Table]:
    """Stream segments through actors that decode and encode on their GPUs; what NVDEC refuses comes back with it."""
    row_s = mean_frames(plan, config.sample) * HEAVY_FRAME_S
    form = config.sample, config.decode, config.encode, encoder.dim, encoder.image_size, encoder.resize_mode, _GPU
    with Attempts() as attempts:
        dataset = in_tasks(plan.select([*TASK, "row"]), row_s, pools.encoders, _NAME).map_batches(
            _GpuWorker,
            fn_constructor_args=(form, str(Path.cwd()), attempts),
            compute=ActorPoolStrategy(size=pools.encoders),
            num_cpus=pools.cpus,
            num_gpus=pools.gpus_per_encoder,
            batch_size=None,
            batch_format="pyarrow",
        )
        yield from stream(dataset)


def _result(
    number: int,
    clips: pa.Table | None,
    n_frames: int,
    decode_s: float,
    encode_s: float,
    took_s: float,
    refused: str | None = None,
) -> pa.Table:
    """Lay a segment's clips and what there is to tell of them out as one row, which Ray cannot cut in two."""
    packed = None
    if clips is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, clips.schema) as writer:
            writer.write_table(clips)
        packed = sink.getvalue().to_pybytes()
    return pa.table(
        {
            "row": pa.array([number]),
            "n_frames": pa.array([n_frames]),
            "decode_s": pa.array([decode_s]),
            "encode_s": pa.array([encode_s]),
            "took_s": pa.array([took_s]),
            "ended": pa.array([time.time()]),
            "refused": pa.array([refused], pa.string()),
            "clips": pa.array([packed], pa.large_binary()),
        }
    )


def _from_anywhere(encode: EncodeConfig) -> EncodeConfig:
    """Name a checkpoint file so that actors find it, whose working directory is another."""
    file = Path(encode.pretrained).expanduser()
    is_file = file.suffix != "" and file.is_file()  # no tag of open_clip has a suffix
    return encode.model_copy(update={"pretrained": str(file.absolute())}) if is_file else encode


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


def _pack(number: int, row: dict[str, Any], decode_s: float) -> pa.Table:
    """Lay a decoded segment out as a one-row table; the pixels are not copied."""
    pixels = np.ascontiguousarray(row["pixels"])
    offsets = pa.py_buffer(np.array([0, pixels.nbytes], np.int64))
    binary = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(pixels.reshape(-1))])
    clips = {name: pa.array([row[name]]) for name in ("clip_index", "clip_start_s", "clip_end_s")}
    return pa.table(
        {
            "row": pa.array([number]),
            "decode_s": pa.array([decode_s]),
            "video_id": pa.array([row["video_id"]]),
            "segment": pa.array([row["segment"]], pa.int32()),
            "fingerprint": pa.array([row["fingerprint"]], pa.string()),
            "decoder": pa.array([row["decoder"]], pa.string()),
            "error_stage": pa.array([row["error_stage"]], pa.string()),
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
