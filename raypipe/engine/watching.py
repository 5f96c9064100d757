"""What ends a stream on Ray Data that Ray itself would wait for, for ever."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.exceptions import RayError

from raypipe.engine.pools import PLACING_S
from raypipe.errors import RaypipeError

_LOOK_S = 1.0
_STARTS = 10  # Memory or a disk may be short for a minute.


class PoolLost(RayError):
    """A pool has lost all its actors, and no machine that is left has room for them."""


class PoolWatch(ExecutionCallback):
    """Ends a dataset of which a stage has no actors, and will have none.

    The actors of an earlier stage, which have places, may hold what those of a later one need that were lost: it ends
    with `PoolLost`. Or something kills actors whenever they start, such as a want of memory, or a library that crashes:
    it ends with a `RaypipeError`. A pool that has not begun waits for room on the Ray cluster as long as it takes.
    """

    def __init__(self) -> None:
        self._looked = 0.0
        self._fine: dict[Any, float] = {}  # When each stage last had an actor, or had not begun.

    def on_execution_step(self, executor: Any) -> None:
        """Look at each stage, once a second."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        for stage in executor._topology:
            pool = stage.get_actor_info()
            if pool.running or not pool.restarting:  # An actor that was there and is lost is said to be restarting.
                self._fine[stage] = now
            elif (lost_s := now - self._fine.setdefault(stage, now)) > PLACING_S:
                raise PoolLost(f"{stage.name} lost all its actors, and there was no room for one in {lost_s:.0f} s")
            if pool.pending and not pool.running:
                _check_starts()


def _check_starts() -> None:
    """Raise `RaypipeError` if each actor of a stage has died so many times, and none has started."""
    job, stages = ray.get_runtime_context().get_job_id(), defaultdict(list)
    for actor in ray._private.state.state.actor_table(None).values():
        name, started = actor["ActorClassName"], actor["StartTime"] > 0
        if name.startswith("MapWorker") and actor["JobID"] == job and actor["State"] != "DEAD":
            stages[name].append(0 if started else actor["NumRestarts"])
    for name, deaths in stages.items():
        if min(deaths) >= _STARTS:
            raise RaypipeError(
                f"every {name.rpartition('(')[2].rstrip(')')} has died {min(deaths)} times as it started: see that "
                "there is memory for them, and room on the disk; run the same command again to continue"
            )
