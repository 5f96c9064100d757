"""The nodes of the Ray cluster that a session's work may run on: all but those that are left out of it.

Whoever places actors or tasks asks here. What is left out holds for the thread that has the session, and until its end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import ray

_LEFT_OUT: ContextVar[tuple[str, ...] | None] = ContextVar("left_out", default=None)  # None until that is settled.


@contextlib.contextmanager
def unsettled() -> Iterator[None]:
    """Leave out no nodes before `settle` is called; at the end, those that were left out before are again."""
    token = _LEFT_OUT.set(None)
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


def settle(left_out: tuple[str, ...]) -> None:
    """Leave out the nodes of these ids."""
    _LEFT_OUT.set(left_out)


def is_settled() -> bool:
    """Whether it is known which nodes are left out."""
    return _LEFT_OUT.get() is not None


def left_out() -> tuple[str, ...]:
    """Return the ids of the nodes that are left out."""
    return _LEFT_OUT.get() or ()


def elsewhere() -> dict[str, Any]:
    """Return the labels, as Ray's options select by them, of all nodes but those left out."""
    return {"ray.io/node-id": f"!in({','.join(left_out())})"} if left_out() else {}


def without_left_out(resources: Mapping[str, float]) -> dict[str, float]:
    """Return what a Ray cluster's resources are without those of the nodes left out."""
    less = [node["Resources"] for node in ray.nodes() if node["NodeID"] in left_out()] if left_out() else []
    return {name: n - sum(each.get(name, 0.0) for each in less) for name, n in resources.items()}


def machines() -> list[dict[str, float]]:
    """Return the resources of each node but those left out, such as ``{"CPU": 8.0, "GPU": 1.0}``."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in left_out()]
