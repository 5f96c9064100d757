"""Ray on this machine, started and stopped by tests."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

# What starts an actor is a process that imports Ray and raypipe, for two seconds of a core: where a test is not about
# actors working beside each other, one of each kind will do.
ONE_EACH = {"decoders": 1, "encoders": 1}


@contextlib.contextmanager
def local_ray(**resources) -> Iterator[ModuleType]:
    """Start a Ray of two CPUs of its own: another may be running on this machine."""
    end_ray()
    ray = _import_ray()
    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", **{**options, **resources})
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def ray_nodes(*nodes: dict) -> Iterator:
    """Start a Ray cluster of several nodes on this machine, the head first, and connect to it."""
    end_ray()
    ray = _import_ray()
    try:
        cluster = _start_nodes(nodes)
    except ray.exceptions.RaySystemError:  # On a busy machine it may not reach the head that it has just started.
        cluster = _start_nodes(nodes)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def _start_nodes(nodes: Sequence[dict]) -> Any:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**nodes[0], "include_dashboard": False})
    try:
        for node in nodes[1:]:
            cluster.add_node(**node)
    except BaseException:
        cluster.shutdown()
        raise
    return cluster


def end_ray() -> None:
    """End the Ray that tests share, where one runs in this process."""
    if sys.modules.get("ray"):
        sys.modules["ray"].shutdown()


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # `uv run pytest` would make one for each worker.
    import ray

    return ray
