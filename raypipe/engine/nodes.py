"""The nodes of a Ray cluster but those that are left out, by their ids."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ray


def elsewhere(left_out: Collection[str]) -> dict[str, Any]:
    """Return the labels, as Ray's options select by them, of all nodes but some."""
    return {"ray.io/node-id": f"!in({','.join(left_out)})"} if left_out else {}


def without(resources: Mapping[str, float], left_out: Collection[str]) -> dict[str, float]:
    """Return what a Ray cluster's resources are without those of some nodes."""
    less = [node["Resources"] for node in ray.nodes() if node["NodeID"] in left_out] if left_out else []
    return {name: n - sum(each.get(name, 0.0) for each in less) for name, n in resources.items()}


def machines(left_out: Collection[str] = ()) -> list[dict[str, float]]:
    """Return the resources of each node but some, such as ``{"CPU": 8.0, "GPU": 1.0}``."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in left_out]
