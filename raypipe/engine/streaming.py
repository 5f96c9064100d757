"""What every stream on Ray Data has in common: blocks, and what becomes of those that their workers die of."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.errors import RaypipeError, one_line

TRIES = 3  # of anything that a worker process dies of
LOST = f"the worker process died of it {TRIES} times"
_HOPELESS = 20  # deaths, if nothing at all has come through by then


class Attempts:
    """Counts how often something was begun and not ended: Ray itself tries for ever what its workers die of.

    A handle on one small actor on the driver's node, to be given to other actors.
    """

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._actor: Any = ray.remote(_Attempts).options(num_cpus=0, scheduling_strategy=here).remote()

    def begin(self, *things: Hashable) -> int:
        """Count one more attempt at each; return the most that any of them has had, this one included.

        Raises
        ------
        RuntimeError
            If workers die and nothing ever comes through.
        """
        try:
            most, hopeless = ray.get(self._actor.begin.remote(things), timeout=60)
        except RayError:  # the counts are gone with their node: begin to count anew
            return 1
        if hopeless:
            raise RuntimeError(f"{_HOPELESS} worker processes died, and nothing came through")
        return most

    def end(self, *things: Hashable) -> None:
        """Forget what came through."""
        self._actor.end.remote(things)


class _Attempts:
    def __init__(self) -> None:
        self._begun: Counter = Counter()
        self._n_deaths = 0
        self._n_ended = 0

    def begin(self, things: tuple[Hashable, ...]) -> tuple[int, bool]:
        self._begun.update(things)
        most = max(self._begun[thing] for thing in things)
        self._n_deaths += most > 1
        return most, self._n_deaths >= _HOPELESS and not self._n_ended

    def end(self, things: tuple[Hashable, ...]) -> None:
        self._n_ended += 1
        for thing in things:
            self._begun.pop(thing, None)


def blocks(table: pa.Table, rows: int) -> list[pa.Table]:
    """Cut a table into blocks of so many rows."""
    return [table.slice(start, rows) for start in range(0, table.num_rows, rows)]


def stream(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    """Execute a dataset and yield its blocks as they come."""
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


@contextlib.contextmanager
def progressing(left: Callable[[], int]) -> Iterator[None]:
    """Let Ray's failures pass, and what got lost by them, as long as there is less left to do than before.

    Raises
    ------
    RaypipeError
        If nothing was done.
    """
    before, failure = left(), None
    try:
        yield
    except RayError as error:
        failure = error
    if left() == before:
        reason = _reason(failure) if failure else "all that was tried got lost with its workers"
        raise RaypipeError(f"Ray failed: {reason}; the same command goes on from here") from failure


def _reason(error: RayError) -> str:
    """Say in one line what Ray's error comes to: its cause, or its last words, without the traceback."""
    if isinstance(error, RayTaskError):
        return one_line(error.cause) if error.cause is not None else str(error).strip().splitlines()[-1][:300]
    return one_line(error)
