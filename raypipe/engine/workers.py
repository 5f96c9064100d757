"""The actors of the streaming chain, and how they pack their results into Arrow rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.config import DecodeConfig, EncodeConfig, SampleConfig
from raypipe.encoders import remake_encoder
from raypipe.engine.attempts import LOST, TRIES, Attempts
from raypipe.engine.devices import Worker
from raypipe.engine.reach import check_readable
from raypipe.schema import Failure, pack_table
from raypipe.segments.stages import DecodeSegments, EncodeSegments, empty_segment


class DecoderActor(Worker):
    """An actor that decodes segments, one row at a time, so that a row travels on when it is done."""

    def __init__(
        self,
        sample: SampleConfig,
        decode: DecodeConfig,
        image_size: int,
        resize_mode: str,
        attempts: Attempts,
        readable: Sequence[str] = (),
    ) -> None:
        check_readable(readable)
        self._decode = DecodeSegments(sample, decode, image_size, resize_mode)
        self._attempts = attempts

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield each segment with its frames, a one-row table."""
        for row in batch.to_pylist():
            started = time.monotonic()
            key = row["row"]
            given_up = self._attempts.begin("decode", key) > TRIES
            decoded = self._decode.refuse(row, Failure("decode", LOST)) if given_up else self._decode(row)
            self._attempts.end("decode", key)
            yield _pack(row["row"], decoded, time.monotonic() - started)


class EncoderActor(Worker):
    """An actor that encodes segments."""

    def __init__(
        self, sample: SampleConfig, encode: EncodeConfig, fingerprint: str, import_path: str, attempts: Attempts
    ) -> None:
        sys.path.append(import_path)  # A user's own encoder may lie there.
        self._encoder = remake_encoder(fingerprint, **encode.model_dump())
        self._encode = EncodeSegments(self._encoder, sample, encode.normalize)
        self._attempts = attempts

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return a row a segment, with its clips packed."""
        rows = _unpack(batch, self._encoder.image_size)
        started = time.monotonic()
        keys = [row["row"] for row in rows]
        if self._attempts.begin("encode", *keys) < TRIES:
            tables = self._encode(rows)
        else:  # One of them kills the process; alone, it will be found.
            tables = [self._encode_alone(row) for row in rows]
        self._attempts.end("encode", *keys)
        took_s = time.monotonic() - started
        return pa.concat_tables(
            _result(row["row"], clips, row["frames"], len(row["pixels"]), row["decode_s"], took_s / len(rows), took_s)
            for clips, row in zip(tables, rows, strict=True)
        )

    def _encode_alone(self, row: dict[str, Any]) -> pa.Table:
        key = "alone", row["row"]
        if self._attempts.begin("encode", key) >= TRIES:
            return empty_segment(row, self._encoder.dim, "encode", LOST)
        (table,) = self._encode([row])
        self._attempts.end("encode", key)
        return table


class GpuActor(Worker):
    """An actor that decodes and encodes segments on its GPU."""

    def __init__(
        self, form: tuple[Any, ...], import_path: str, attempts: Attempts, readable: Sequence[str] = ()
    ) -> None:
        from raypipe.segments.gpu import GpuSegments  # All other actors would wait for what it imports.

        check_readable(readable)
        sys.path.append(import_path)
        self._segments = GpuSegments(*form)
        self._attempts = attempts

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield each segment with its clips packed, or the reason for leaving it to the CPU."""
        for row in batch.to_pylist():
            started = time.monotonic()
            key = row["row"]
            n_frames, clips, frames, reason = 0, None, None, LOST
            if self._attempts.begin("decode", key) <= TRIES:
                decoded, clips = self._segments(row)
                n_frames, frames, reason = len(decoded["pixels"]), pack_table(decoded["frames"]), decoded["error"]
            self._attempts.end("decode", key)
            took_s = time.monotonic() - started
            refused = reason if clips is None else None
            yield _result(key, clips, frames, 0 if clips is None else n_frames, took_s, 0.0, took_s, refused)


def _pack(number: int, row: dict[str, Any], decode_s: float) -> pa.Table:
    """Pack a decoded segment into a one-row table without copying its pixels."""
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
            "frames": pa.array([pack_table(row["frames"])], pa.large_binary()),
            "pixels": binary,
        }
    )


def _unpack(batch: pa.Table, size: int) -> list[dict[str, Any]]:
    """Unpack what `_pack` packed; the pixels are read-only views of the object store."""
    rows = batch.drop_columns(["pixels", "members", "clip_index", "clip_start_s", "clip_end_s"]).to_pylist()
    for name in ("clip_index", "clip_start_s", "clip_end_s"):
        for row, value in zip(rows, batch.column(name), strict=True):
            row[name] = np.asarray(value.values)
    for row, value, pixels in zip(rows, batch.column("members"), batch.column("pixels"), strict=True):
        row["members"] = np.asarray(value.values).reshape(-1, 2)
        row["pixels"] = np.frombuffer(pixels.as_buffer(), np.uint8).reshape(-1, size, size, 3)
    return rows


def _result(
    number: int,
    clips: pa.Table | None,
    frames: bytes | None,
    n_frames: int,
    decode_s: float,
    encode_s: float,
    took_s: float,
    refused: str | None = None,
) -> pa.Table:
    """Pack a segment's clips and figures into one row, which Ray cannot cut in two."""
    if clips is None or clips["clip_index"].null_count:
        frames = None  # A picture without its clip would be of no use.
    return pa.table(
        {
            "row": pa.array([number]),
            "n_frames": pa.array([n_frames]),
            "decode_s": pa.array([decode_s]),
            "encode_s": pa.array([encode_s]),
            "took_s": pa.array([took_s]),
            "ended": pa.array([time.time()]),
            "refused": pa.array([refused], pa.string()),
            "clips": pa.array([None if clips is None else pack_table(clips)], pa.large_binary()),
            "frames": pa.array([frames], pa.large_binary()),
        }
    )
