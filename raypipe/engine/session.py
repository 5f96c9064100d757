"""A connection to a Ray cluster, and how many actors of each kind run on it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # Otherwise `uv run` makes an environment for each worker.

import ray
from ray.data import DataContext, ExecutionResources
from ray.exceptions import AuthenticationError

from raypipe.config import RayConfig
from raypipe.errors import RaypipeError, UsageError, one_line

HEAVY_FRAME_S = 0.005
"""Decoding takes about so many seconds a sampled frame; an encoder that takes longer is heavy."""

_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Pools:
    """How many actors of each kind run, and what each takes.

    Attributes
    ----------
    decoders, encoders
        Numbers of actors.
    cpus
        CPUs that one actor reserves. At most half, and in sum at most three quarters of the Ray cluster: actors that
        take every CPU starve Ray Data's own tasks, and the run hangs. They are reservations, not limits.
    gpus_per_encoder
        GPUs that one encoder reserves; 0 where there are none.
    where
        One line for people that says what runs where.
    """

    decoders: int
    encoders: int
    cpus: float
    gpus_per_encoder: float
    where: str

    def for_tasks(self, n: int) -> Pools:
        """Return the same pools with at most ``n`` actors each, for so many tasks."""
        return replace(self, decoders=min(self.decoders, n), encoders=min(self.encoders, n))


def plan_pools(resources: dict[str, float], config: RayConfig, n_tasks: int, frame_s: float = 0.0) -> Pools:
    """Size the pools to a Ray cluster.

    Parameters
    ----------
    resources
        The Ray cluster's resources, as ``ray.cluster_resources()`` returns them.
    config
        What the user asks for.
    n_tasks
        The number of tasks; no pool is larger.
    frame_s
        Seconds that the encoder takes a frame on one core, if it runs on the CPU.

    Raises
    ------
    UsageError
        If the user asks for more than the Ray cluster has.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if cpus < 1:
        raise UsageError("the Ray cluster has no CPU: start its nodes with --num-cpus of 1 or more")
    if gpus:
        most = math.floor(gpus / config.gpus_per_encoder + 1e-9)
        encoders = config.encoders or most
        if encoders > most or most == 0:
            needed = max(encoders, 1) * config.gpus_per_encoder
            raise UsageError(
                f"{max(encoders, 1)} encoders of {config.gpus_per_encoder:g} GPU need {needed:g} GPUs and the Ray "
                f"cluster has {gpus:g}: lower ray.encoders or ray.gpus_per_encoder"
            )
    else:
        # Encoders and decoders share the cores. One light encoder keeps up with the decoders of two cores, and more of
        # them only get in the way. A heavy encoder, such as CLIP, is needed on every core.
        encoders = config.encoders or math.ceil(cpus if frame_s > HEAVY_FRAME_S else cpus / 2)
    encoders = max(1, min(encoders, n_tasks))
    decoders = max(1, min(config.decoders or int(cpus), n_tasks))
    share = min(0.5, 0.75 * cpus / (decoders + encoders))
    share = math.floor(share * 10_000) / 10_000  # Ray counts in ten-thousandths
    device = f"{config.gpus_per_encoder:g} GPU each" if gpus else "CPU"
    where = (
        f"{decoders} decoder(s) on CPU, {encoders} encoder(s) on {device}; "
        f"the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs"
    )
    return Pools(decoders, encoders, share, config.gpus_per_encoder if gpus else 0.0, where)


@contextlib.contextmanager
def ray_session(config: RayConfig) -> Iterator[dict[str, float]]:
    """Connect to a Ray cluster, or start a local one; at the end close only a connection that was opened here.

    Yields
    ------
    The Ray cluster's resources, such as ``{"CPU": 2.0, "GPU": 1.0}``.

    Raises
    ------
    RaypipeError
        If the address cannot be reached.
    """
    opened = not ray.is_initialized()
    if opened:
        address = config.address or os.environ.get("RAY_ADDRESS") or "local"
        _check_reachable(address)
        options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, ValueError, RuntimeError, AuthenticationError) as error:
            hint = "" if os.environ.get("RAY_AUTH_MODE") else "; if it asks for a token, set RAY_AUTH_MODE=token"
            raise RaypipeError(f"cannot connect to the Ray cluster at {address}: {one_line(error)}{hint}") from error
    try:
        _set_data_context()
        _hush()
        yield ray.cluster_resources()
    finally:
        if opened:
            ray.shutdown()


@cache
def _hush() -> None:
    """Keep one warning of Ray's core out of our progress.

    "Actor … has constructor arguments in the object store and max_restarts > 0" is true of every actor that Ray Data
    makes. C++ code prints it past Python's logging, for the first such actor of a process. So one is made here for
    nothing, while standard error goes nowhere.
    """
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123 – a device
        stderr = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            actor: Any = ray.remote(_Unneeded).options(num_cpus=0, max_restarts=1)
            ray.kill(actor.remote(ray.put(None)))
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


class _Unneeded:
    def __init__(self, nothing: None) -> None:
        pass


def _check_reachable(address: str) -> None:
    """Try to open the address's port, because Ray itself would try for minutes before it gave up."""
    if address.startswith("ray://"):
        raise UsageError(
            "Ray Data does not run through Ray Client (ray://): take --address HOST:6379 on a node, or ray job submit"
        )
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):
        return  # The address is "local" or "auto".
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise RaypipeError(f"cannot connect to the Ray cluster at {address}: {error.strerror or error}") from error


def bound_blocks(n_bytes: float, most: int) -> None:
    """Bound the size of the blocks between decoding and encoding, and how many wait in the object store.

    Without a bound the decoders run far ahead: an hour of video takes more memory than five minutes, and at the end the
    decoders' cores idle while the encoders work off the queue.

    Ray Data's own bound, half of the object store, is switched off. Where blocks are large for the store, it would let
    one through in ten seconds; Ray spills to disk what has no room.
    """
    context = DataContext.get_current()
    context.target_max_block_size = min(_BLOCK_BYTES, math.ceil(n_bytes))
    context.override_object_store_memory_limit_fraction = math.inf
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=most * n_bytes)


def _set_data_context() -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False  # raypipe shows its own progress, in videos.
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = 6 * 3600  # One segment may take that long; the sandbox has a deadline.
    context.target_max_block_size = _BLOCK_BYTES
    context.max_errored_blocks = -1  # raypipe itself tries again what was lost with a worker.
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Ray Data warns of this when every video fails before it comes to an encoder.
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
