"""A single new video, embedded in this process as a run's videos were, to be held against them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.config import Config
from raypipe.encoders import Encoder
from raypipe.errors import UsageError
from raypipe.runs.contents import EMBEDDINGS_FOLDER, PLAN_FILE
from raypipe.runs.directory import Run
from raypipe.schema import Failure
from raypipe.segments.planning import plan_precomputed, plan_segments
from raypipe.segments.stages import DecodeSegments, EncodeSegments, ProbeVideos
from raypipe.sources.videos import Video
from raypipe.storage import shown


@contextmanager
def embedded_alone(video: Video, config: Config, encoder: Encoder) -> Iterator[Run]:
    """Yield a run, for the time being, of one video, embedded without Ray as ``config`` says.

    Raises
    ------
    UsageError
        If the video cannot be read, or has no clip.
    """
    probe_video = ProbeVideos(config.decode)
    decode = DecodeSegments(config.sample, config.decode, encoder.image_size, encoder.resize_mode)
    encode = EncodeSegments(encoder, config.sample, config.encode.normalize)
    try:
        probe = probe_video(video.uri)
        if isinstance(probe, Failure):
            name = shown(video.uri)
            raise UsageError(f"{name} cannot be read: {probe.error.removeprefix(f'{name}: ')}")
        plan = plan_segments([video], [probe], config.sample)
        if problem := plan["error"][0].as_py():
            raise UsageError(f"{shown(video.uri)}: {problem}")
        clips = pa.concat_tables(table for row in plan.to_pylist() for table in encode([decode(row)]))
    finally:
        probe_video.close()
        decode.close()
    if not clips["embedding"].is_valid().to_numpy().any():
        raise UsageError(f"{shown(video.uri)} has no clip: {clips['error'][0].as_py()}")
    with _kept(plan, clips) as run:
        yield run


@contextmanager
def taken_alone(video: Video, path: np.ndarray, spans_s: list[np.ndarray] | None = None) -> Iterator[Run]:
    """Yield a run, for the time being, of one trajectory that was computed elsewhere."""
    if not len(path):
        raise UsageError(f"the trajectory {shown(video.uri)} is empty")
    with _kept(*plan_precomputed([video], [path], "query", spans_s)) as run:
        yield run


@contextmanager
def _kept(plan: Any, clips: Any) -> Iterator[Run]:
    with TemporaryDirectory(prefix="raypipe-query-") as folder:
        run = Run(folder)
        run.write_table(PLAN_FILE, plan)
        run.write_table(f"{EMBEDDINGS_FOLDER}/0.parquet", clips)
        yield run
