"""The streaming chain without Ray: its actors in this process, for tests of what happens around them."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.engine import embedding
from raypipe.engine.nodes import unsettled
from raypipe.engine.workers import DecoderActor, EncoderActor

A_BATCH = 3  # segments


class Uncounted:
    """`raypipe.engine.attempts.Attempts` where no worker can die."""

    def begin(self, stage, *things) -> int:
        return 1

    def end(self, stage, *things) -> None:
        pass


@contextlib.contextmanager
def session_here(**resources: float) -> Iterator[dict[str, float]]:
    """Be `raypipe.engine.session.ray_session` without a connection."""
    with unsettled():
        yield resources


def put_chain_here(patch: pytest.MonkeyPatch) -> None:
    """Let `raypipe.pipeline.embed` connect to no Ray, and send segments through actors in this process."""
    patch.setattr(embedding, "ray_session", lambda config: session_here(CPU=2.0))
    patch.setattr(embedding, "_chain", _chain)


def _chain(plan, config, encoder, pools, losses) -> Iterator[pa.Table]:
    path = [*sys.path]
    form = encoder.image_size, encoder.resize_mode
    decoder = DecoderActor(config.sample, config.decode, *form, Uncounted())
    try:
        encoder = EncoderActor(config.sample, config.encode, encoder.fingerprint, str(Path.cwd()), Uncounted())
        tasks = plan.select([*embedding.TASK, "row"])
        for start in range(0, plan.num_rows, A_BATCH):
            yield encoder(pa.concat_tables(decoder(tasks.slice(start, A_BATCH))))
    finally:
        decoder._decode.close()
        sys.path[:] = path
