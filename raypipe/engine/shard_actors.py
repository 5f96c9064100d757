"""Ray actors that hold the series of shards, and are made anew when they are lost."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from raypipe.clustering.shard import SeriesShard, Sizes
from raypipe.engine.devices import Worker
from raypipe.engine.nodes import elsewhere
from raypipe.engine.pools import PLACING_S, Resources
from raypipe.errors import RaypipeError, UsageError, one_line
from raypipe.softdtw.series import read_series

Call = tuple[Any, ...]
"""The name of a method of a `ShardActor`, or of the series that it holds (``shard.method``), and its arguments."""

Loader = Callable[[], tuple[Any, np.ndarray | None]]
"""Returns a shard's series, in any form that `raypipe.softdtw` takes or as an empty list, and their weights or None. It
is pickled to the shard's actor and called there. A new actor, made when that one is lost, calls it again and must get
the same series."""

REBUILDS = 3  # Machines come and go, but an actor that is lost more often, and never further on, is lost for a reason.
ANSWER_S = 3600.0  # Loading a shard and a pass over it may take long.


class ShardActor(Worker):
    """An actor that holds some of the series, and computes on its share of the machine's cores."""

    shard: SeriesShard

    def __init__(self, threads: int):
        if "numba" not in sys.modules:  # numba reads this when it is imported, and refuses a later change.
            os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))

    def run(self, loader: Loader | None, call: Call) -> Any:
        """Do a call, and return what it returned; a new actor is given the loader of its series."""
        if loader is not None:
            self.load(loader)
        name, *arguments = call
        return attrgetter(name)(self)(*map(_writable, arguments))

    def load(self, loader: Loader) -> None:
        """Load the series."""
        values, weights = loader()
        self.sizes = Sizes()
        if len(values) == 0:
            return
        series = read_series(values)
        series = replace(series, values=_writable(series.values))
        if weights is not None:
            weights = np.asarray(weights, np.float64)
            if weights.shape != (len(series),) or not (np.isfinite(weights).all() and (weights >= 0).all()):
                raise UsageError(f"weights must be {len(series)} finite numbers, none negative; got {weights!s:.60}")
        self.shard = SeriesShard(series, weights)
        self.sizes = self.shard.sizes

    def measure(self) -> Sizes:
        """Return what there is."""
        return self.sizes

    def describe(self) -> tuple[int, int]:
        """Return the number of the process, and of its threads."""
        import numba

        return os.getpid(), numba.get_num_threads()


def _writable(value: Any) -> Any:
    """Copy an array that is read-only, as those from Ray are: numba would compile every kernel once more for such."""
    return value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value


class ActorLost(Exception):
    """An actor was lost, and its state with it: what depends on that state must start again.

    Attributes
    ----------
    name
        The actor's name in errors.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(reason)
        self.name = name


class Actors:
    """The actors, one a shard. A lost one is made anew when it is next asked, and loads its series again.

    Parameters
    ----------
    loaders
        Those of their series.
    resources
        What each takes of its machine.
    placing_s, answer_s
        The work is given up when an actor finds no place, or does not answer, for so many seconds.

    Attributes
    ----------
    n_answered
        How many calls of `ask` have been answered.
    """

    def __init__(
        self,
        loaders: Sequence[Loader],
        resources: Resources,
        placing_s: float = PLACING_S,
        answer_s: float = ANSWER_S,
    ):
        self._loaders, self._threads = loaders, resources.threads
        self._names = [f"shard {number} ({loader})" for number, loader in enumerate(loaders)]
        self._make = ray.remote(ShardActor).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            label_selector=elsewhere(),
        )
        self._placing_s, self._answer_s = placing_s, answer_s
        self.n_answered = 0
        self._handles: dict[int, Any] = {}
        self._placed: dict[int, Any] = {}

    def ask_all(self, actors: Sequence[int], *call: Any) -> list[Any]:
        """Have several actors do the same; the arguments are sent to each machine once."""
        found = self.ask(dict.fromkeys(actors, ray.put(call)))
        return [found[actor] for actor in actors]

    def ask(self, calls: Mapping[int, Any]) -> dict[int, Any]:
        """Have each actor do its own call.

        Raises
        ------
        ActorLost
            If an actor, its machine or its answer was lost.
        RaypipeError
            The error that one of them raised, of the same kind; or if one found no place on the Ray cluster, or did
            not answer.
        """
        found: dict[int, Any] = {}
        waiting = {self._send(actor, call): actor for actor, call in calls.items()}
        waited = 0.0
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=self._placing_s)
            if not done:
                waited += self._placing_s
                self._check_waiting(sorted(waiting.values()), waited)
                continue
            waited, actor = 0.0, waiting.pop(done[0])
            try:
                found[actor] = ray.get(done[0])
            except RayTaskError as error:
                raise self._explain(actor, error) from error
            except RayError as error:
                self._drop(actor)
                raise ActorLost(self._names[actor], one_line(error)) from error
        self.n_answered += 1
        return found

    def close(self) -> None:
        """End the actors."""
        for actor in list(self._handles):
            self._drop(actor)

    def _send(self, actor: int, call: Any) -> Any:
        loader = None
        if actor not in self._handles:
            self._handles[actor] = self._make.remote(self._threads)
            self._placed[actor] = self._handles[actor].__ray_ready__.remote()
            loader = self._loaders[actor]
        return self._handles[actor].run.remote(loader, call)

    def _drop(self, actor: int) -> None:
        with contextlib.suppress(RayError):  # It may be out of reach, not dead.
            ray.kill(self._handles.pop(actor))

    def _check_waiting(self, actors: list[int], waited: float) -> None:
        """Raise if it is no use to wait any longer."""
        for actor in actors:
            if not ray.wait([self._placed[actor]], timeout=0)[0]:
                raise RaypipeError(
                    f"{self._names[actor]} found no place on the Ray cluster in {waited:.0f} s: free "
                    "some CPUs or GPUs, add a machine, or take fewer actors"
                )
        if waited >= self._answer_s:
            raise RaypipeError(f"{self._names[actors[0]]} has not answered for {waited:.0f} s: see Ray's logs")

    def _explain(self, actor: int, error: RayTaskError) -> RaypipeError:
        kind = type(error.cause) if isinstance(error.cause, RaypipeError) else RaypipeError
        cause = str(error.cause) if kind is not RaypipeError else one_line(error.cause)
        return kind(f"{self._names[actor]}: {cause}")
