"""How often each row was begun and not ended: a way to find what kills workers.

The actor that counts is a process of its own. This module imports nothing that takes long, so that it is soon there.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from raypipe.engine.nodes import elsewhere, left_out
from raypipe.errors import one_line

TRIES = 3  # A row is given up after its worker process has died so many times.
LOST = f"the worker process died of it {TRIES} times"
_HOPELESS = 20  # The work ends after so many deaths without a single result.
_ORPHANED = "the driver is gone"


class Attempts:
    """Counts how often each row was begun and not ended, because Ray would retry for ever what kills its workers.

    It is a handle on one small actor on the driver's node, which the actors of all stages are given: each counts its
    own rows, under the name of its stage. The actor ends with the context.
    """

    def __init__(self) -> None:
        here = ray.get_runtime_context().get_node_id()
        # A soft affinity would put an actor that takes no CPU on any node.
        place = elsewhere() if here in left_out() else {"ray.io/node-id": here}
        actor = ray.remote(_Attempts).options(num_cpus=0, max_restarts=-1, label_selector=place)
        self._actor: Any = actor.remote(os.getpid(), _birth(os.getpid()))

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        ray.kill(self._actor)

    def begin(self, stage: str, *things: Hashable) -> int:
        """Count one more attempt at each; return the most that any of them has had, this one included.

        Raises
        ------
        RuntimeError
            If the stage's workers keep dying and nothing comes through. Also if the driver is gone: Ray lets workers go
            on for a while, but nobody would commit their results.
        """
        try:
            most, reason = ray.get(self._actor.begin.remote(stage, things), timeout=60)
        except ActorDiedError as error:  # It is not restarted, so the driver is gone.
            raise RuntimeError(f"{_ORPHANED}: {one_line(error)}") from error
        except RayError:  # The counts were lost with their process, so counting begins anew.
            return 1
        if reason:
            raise RuntimeError(reason)
        return most

    def end(self, stage: str, *things: Hashable) -> None:
        """Forget what came through."""
        self._actor.end.remote(stage, things)


class _Attempts:
    def __init__(self, driver: int, birth: str | None) -> None:
        self._begun: defaultdict[str, Counter] = defaultdict(Counter)  # These three are by stage.
        self._n_deaths: Counter[str] = Counter()
        self._n_ended: Counter[str] = Counter()
        # From another machine or container the driver's process cannot be seen, and is not watched.
        self._driver = (driver, birth) if birth is not None and _birth(driver) == birth else None

    def begin(self, stage: str, things: tuple[Hashable, ...]) -> tuple[int, str | None]:
        with contextlib.suppress(OSError):  # If it cannot be found out, the driver is taken to live.
            if self._driver and _birth(self._driver[0]) != self._driver[1]:
                return 0, _ORPHANED
        begun = self._begun[stage]
        begun.update(set(things))  # A row may come twice.
        most = max(begun[thing] for thing in things)
        self._n_deaths[stage] += most > 1
        hopeless = self._n_deaths[stage] >= _HOPELESS and not self._n_ended[stage]
        return most, f"{_HOPELESS} worker processes died, and nothing came through" if hopeless else None

    def end(self, stage: str, things: tuple[Hashable, ...]) -> None:
        self._n_ended[stage] += 1
        for thing in things:
            self._begun[stage].pop(thing, None)


def _birth(process: int) -> str | None:
    """Return when a process began, in Linux's clock ticks; None without such a process, or on another system."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else fields[18]
