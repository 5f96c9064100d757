"""How many actors of each kind run on a Ray cluster, and what each takes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raypipe.config import RayConfig
from raypipe.engine.nodes import left_out, without_left_out
from raypipe.errors import UsageError

HEAVY_FRAME_S = 0.005
"""Decoding takes about so many seconds a sampled frame; an encoder that takes longer is heavy."""

CPUS_SHARE = 0.75  # So much of a Ray cluster's CPUs do actors reserve together, at most.
_RESERVED = 0.75  # Actors reserve this part of each CPU; if they took all, nothing else on the Ray cluster could run.
PLACING_S = 300.0  # An autoscaler needs minutes to bring a machine.
_NO_CPU = "the Ray cluster has no CPU: start its nodes with --num-cpus of 1 or more"


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
        GPUs that one encoder reserves; 0 where there are none. Encoders that share GPUs reserve as much as lets all of
        them run, because Ray would put as many as fit on the first GPU before it takes the second.
    gpus
        GPUs of the Ray cluster.
    left_out
        Ids of nodes on which none runs, because the session leaves them out.
    where
        One line for people that says what runs where.
    """

    decoders: int
    encoders: int
    cpus: float
    gpus_per_encoder: float
    gpus: float
    where: str
    left_out: tuple[str, ...]

    def for_tasks(self, n: int) -> Pools:
        """Return the same pools with at most ``n`` actors each, for so many tasks."""
        encoders = min(self.encoders, n)
        share = _largest_share(self.gpus, encoders, self.gpus_per_encoder)
        return replace(self, decoders=min(self.decoders, n), encoders=encoders, gpus_per_encoder=share)

    def fit(self, resources: Mapping[str, float]) -> bool:
        """Whether a Ray cluster has room for them, though it has lost machines, and something to spare."""
        resources = without_left_out(resources)
        cpus, gpus = self.cpus * (self.decoders + self.encoders), self.gpus_per_encoder * self.encoders
        return cpus <= CPUS_SHARE * resources.get("CPU", 0.0) and gpus <= resources.get("GPU", 0.0)


def _largest_share(gpus: float, encoders: int, least: float) -> float:
    """Return the most of a GPU that each encoder can reserve, and no less than ``least``, which may be several."""
    if not 0 < least < 1:
        return least
    return max(round_down(1 / math.ceil(encoders / max(math.floor(gpus), 1))), least)


def plan_pools(resources: Mapping[str, float], config: RayConfig, n_tasks: int, frame_s: float = 0.0) -> Pools:
    """Size the pools to a Ray cluster, without the nodes that the session leaves out.

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
    resources = without_left_out(resources)
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if cpus < 1:
        raise UsageError(_NO_CPU)
    if gpus:
        each = config.gpus_per_encoder
        # No encoder lies on two halves of different GPUs.
        most = math.floor(gpus) * math.floor(1 / each + 1e-9) if each < 1 else math.floor(gpus / each + 1e-9)
        encoders = config.encoders or most
        if encoders > most or most == 0:
            needed = max(encoders, 1) * config.gpus_per_encoder
            raise UsageError(
                f"{max(encoders, 1)} encoders of {config.gpus_per_encoder:g} GPU need {needed:g} GPUs and the Ray "
                f"cluster has {gpus:g}, room for {most}: lower ray.encoders or ray.gpus_per_encoder"
            )
    else:
        # Encoders and decoders share the cores. One light encoder keeps up with the decoders of two cores, and more of
        # them only get in the way. A heavy encoder, such as CLIP, is needed on every core.
        encoders = config.encoders or math.ceil(cpus if frame_s > HEAVY_FRAME_S else cpus / 2)
    encoders = max(1, min(encoders, n_tasks))
    decoders = max(1, min(config.decoders or int(cpus), n_tasks))
    share = round_down(min(0.5, CPUS_SHARE * cpus / (decoders + encoders)))
    gpus_each = _largest_share(gpus, encoders, config.gpus_per_encoder) if gpus else 0.0
    device = f"{gpus_each:g} GPU each" if gpus else "CPU"
    where = (
        f"{decoders} decoder(s) on CPU, {encoders} encoder(s) on {device}; "
        f"the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs"
    )
    return Pools(decoders, encoders, share, gpus_each, gpus, where, left_out())


@dataclass(frozen=True)
class Resources:
    """What an actor takes of its machine: CPUs and GPUs that it reserves, and the number of its threads."""

    cpus: float
    gpus: float
    threads: int


def plan_resources(nodes: Sequence[Mapping[str, float]], n_actors: int) -> Resources:
    """Choose the most that each of so many actors can take on the Ray cluster's machines.

    Parameters
    ----------
    nodes
        Resources of each machine, such as ``{"CPU": 8.0, "GPU": 1.0}``.
    n_actors
        The number of actors. On GPUs each takes one, or several share one; else each takes one CPU or several.

    Raises
    ------
    UsageError
        If no machine has a CPU.
    """
    cpus = _largest_part([node.get("CPU", 0.0) for node in nodes], n_actors)
    if cpus == 0:
        raise UsageError(_NO_CPU)
    gpus = min(1.0, _largest_part([node.get("GPU", 0.0) for node in nodes], n_actors))
    reserved = _RESERVED * cpus
    return Resources(
        round_down(reserved) if reserved < 1 else math.floor(reserved), round_down(gpus), max(1, int(cpus))
    )


def _largest_part(sizes: Sequence[float], n: int) -> float:
    """Return the largest size of which n fit into these sizes; 0 if all sizes are 0."""
    parts = sorted({size / m for size in sizes if size > 0 for m in range(1, n + 1)}, reverse=True)
    return next((part for part in parts if sum(int(size / part + 1e-9) for size in sizes) >= n), 0.0)


def round_down(share: float) -> float:
    """Return a part of a CPU or GPU as Ray counts, in ten-thousandths."""
    return math.floor(share * 10_000 + 1e-6) / 10_000
