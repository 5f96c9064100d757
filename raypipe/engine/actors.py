"""Ray actors that hold something, and are made anew when they are lost."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from raypipe.errors import RaypipeError, UsageError, one_line

Call = tuple[Any, ...]
"""The name of a method of an actor, or of something that it holds, and arguments."""

RESERVED = 0.75  # of each CPU: actors that take all of them starve everything else on the Ray cluster
REBUILDS = 3  # of one shard in one pass: machines come and go, but a shard that dies each time does so for a reason
PLACING_S = 300.0  # an autoscaler needs minutes to bring a machine
ANSWER_S = 3600.0  # loading a shard, a replay and a pass


@dataclass(frozen=True)
class Share:
    """What an actor takes of its machine: CPUs and GPUs that it reserves, and the threads that it runs."""

    cpus: float
    gpus: float
    threads: int


def plan_share(nodes: Sequence[Mapping[str, float]], n_shards: int) -> Share:
    """Choose the largest share of which the Ray cluster's machines hold so many.

    Parameters
    ----------
    nodes
        Resources of each machine, such as ``{"CPU": 8.0, "GPU": 1.0}``.
    n_shards
        How many actors there are to be: one a GPU, or several that share one; else one a CPU or several.

    Raises
    ------
    UsageError
        If no machine has a CPU.
    """
    cpus = _largest_part([node.get("CPU", 0.0) for node in nodes], n_shards)
    if cpus == 0:
        raise UsageError("the Ray cluster has no CPU: start its nodes with --num-cpus of 1 or more")
    gpus = min(1.0, _largest_part([node.get("GPU", 0.0) for node in nodes], n_shards))
    reserved = RESERVED * cpus
    return Share(_round_down(reserved) if reserved < 1 else math.floor(reserved), _round_down(gpus), max(1, int(cpus)))


def _largest_part(sizes: Sequence[float], n: int) -> float:
    """Return the largest size of which n fit into these sizes, 0 if there is nothing."""
    parts = sorted({size / m for size in sizes if size > 0 for m in range(1, n + 1)}, reverse=True)
    return next((part for part in parts if sum(int(size / part + 1e-9) for size in sizes) >= n), 0.0)


def _round_down(share: float) -> float:
    return math.floor(share * 10_000 + 1e-6) / 10_000  # Ray counts in ten-thousandths


class Holder:
    """What actors are made of: it runs calls, on its share of the machine's cores."""

    def __init__(self, threads: int):
        if "numba" not in sys.modules:  # it reads this when it is imported, and refuses a change
            os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))

    def run(self, before: list[Call], call: Call) -> Any:
        """Call methods, and return what the last one returned."""
        for name, *arguments in [*before, call]:
            found = attrgetter(name)(self)(*arguments)
        return found

    def describe(self) -> tuple[int, int]:
        """Return the process's number, and its threads."""
        import numba

        return os.getpid(), numba.get_num_threads()


class Actors:
    """Actors that are made anew when they are lost, and told again what led to their present state.

    Parameters
    ----------
    kind
        A subclass of `Holder`.
    first
        What each is told first.
    names
        What each is called in errors.
    share
        What each takes of its machine.
    placing_s, answer_s
        Seconds after which one that found no place, or does not answer, ends the work.

    Attributes
    ----------
    history
        Returns what else an actor made anew is told, whichever it is.
    """

    def __init__(
        self,
        kind: type[Holder],
        first: Sequence[Call],
        names: Sequence[str],
        share: Share,
        placing_s: float = PLACING_S,
        answer_s: float = ANSWER_S,
    ):
        self.history: Callable[[], list[Call]] = list
        self._first, self._names, self._threads = first, names, share.threads
        self._make = ray.remote(kind).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._placing_s, self._answer_s = placing_s, answer_s
        self._handles: dict[int, Any] = {}
        self._placed: dict[int, Any] = {}

    def ask_all(self, actors: Sequence[int], *call: Any) -> list[Any]:
        """Have several do the same, for which the arguments are sent to a machine once."""
        found = self.ask(dict.fromkeys(actors, ray.put(call)))
        return [found[actor] for actor in actors]

    def ask(self, calls: Mapping[int, Any]) -> dict[int, Any]:
        """Have actors do each its own.

        Raises
        ------
        RaypipeError
            Of the kind that was raised by one of them; or if one was lost again and again, found no place on the Ray
            cluster, or did not answer.
        """
        found: dict[int, Any] = {}
        losses: Counter[int] = Counter()
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
            except RayError as error:  # the actor, its machine, or the answer on its way
                losses[actor] += 1
                if losses[actor] > REBUILDS:
                    raise RaypipeError(
                        f"{self._names[actor]} was lost {losses[actor]} times in one pass, and made anew in vain; the "
                        f"last time: {one_line(error)}"
                    ) from error
                self._drop(actor)
                waiting[self._send(actor, calls[actor])] = actor
        return found

    def close(self) -> None:
        """End the actors."""
        for actor in list(self._handles):
            self._drop(actor)

    def _send(self, actor: int, call: Any) -> Any:
        before: list[Call] = []
        if actor not in self._handles:
            self._handles[actor] = self._make.remote(self._threads)
            self._placed[actor] = self._handles[actor].__ray_ready__.remote()
            before = [self._first[actor], *self.history()]
        return self._handles[actor].run.remote(before, call)

    def _drop(self, actor: int) -> None:
        with contextlib.suppress(RayError):  # it may only be out of reach
            ray.kill(self._handles.pop(actor))

    def _check_waiting(self, actors: list[int], waited: float) -> None:
        """Raise where there is nothing to wait for any more."""
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
