"""What every stream on Ray Data has in common: blocks, and what becomes of those that their workers die of."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError, UserCodeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.errors import RaypipeError, one_line

Log = Callable[..., None]

TRIES = 3  # of anything that a worker process dies of
LOST = f"the worker process died of it {TRIES} times"
TASK_S = 20.0  # of an actor's work that is lost with it at most
_MOST_TASKS = 20_000
_HOPELESS = 20  # deaths, if nothing at all has come through by then
_ORPHANED = "the driver is no more"
_EXECUTOR = "ray.data._internal.execution.streaming_executor_state"


class Attempts:
    """Counts how often something was begun and not ended: Ray itself tries for ever what its workers die of.

    A handle on one small actor on the driver's node, to be given to other actors; a context, at whose end it goes.
    """

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(_Attempts).options(num_cpus=0, scheduling_strategy=here, max_restarts=-1)
        self._actor: Any = actor.remote(os.getpid(), _birth(os.getpid()))

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        ray.kill(self._actor)

    def begin(self, *things: Hashable) -> int:
        """Count one more attempt at each; return the most that any of them has had, this one included.

        Raises
        ------
        RuntimeError
            If workers die and nothing ever comes through; or if the driver is gone, and with it who would commit what
            is begun: Ray lets its workers go on for a while.
        """
        try:
            most, reason = ray.get(self._actor.begin.remote(things), timeout=60)
        except ActorDiedError as error:  # for good, as the driver is
            raise RuntimeError(f"{_ORPHANED}: {one_line(error)}") from error
        except RayError:  # the counts are gone with their process: begin to count anew
            return 1
        if reason:
            raise RuntimeError(reason)
        return most

    def end(self, *things: Hashable) -> None:
        """Forget what came through."""
        self._actor.end.remote(things)


class _Attempts:
    def __init__(self, driver: int, birth: str | None) -> None:
        self._begun: Counter = Counter()
        self._n_deaths = 0
        self._n_ended = 0
        # In a container of its own, or elsewhere, the driver is not seen from here.
        self._driver = (driver, birth) if birth is not None and _birth(driver) == birth else None

    def begin(self, things: tuple[Hashable, ...]) -> tuple[int, str | None]:
        with contextlib.suppress(OSError):  # that it cannot be told means nothing
            if self._driver and _birth(self._driver[0]) != self._driver[1]:
                return 0, _ORPHANED
        self._begun.update(things)
        most = max(self._begun[thing] for thing in things)
        self._n_deaths += most > 1
        hopeless = self._n_deaths >= _HOPELESS and not self._n_ended
        return most, f"{_HOPELESS} worker processes died, and nothing came through" if hopeless else None

    def end(self, things: tuple[Hashable, ...]) -> None:
        self._n_ended += 1
        for thing in things:
            self._begun.pop(thing, None)


def _birth(process: int) -> str | None:
    """Return when a process began, as Linux tells it; None where there is none of that number, or no Linux."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else fields[18]


def in_tasks(table: pa.Table, row_s: float, n_actors: int, name: str = "raypipe") -> ray.data.Dataset:
    """Make a dataset of a table's first rows, which may be all, in blocks: a block is a task.

    A block is eight tasks an actor's share, so that all end at about one time, and at most `TASK_S` of work. There are
    at most `_MOST_TASKS` of them: each costs the driver time to begin with, and memory as long as the dataset lives.

    Parameters
    ----------
    table
        What there is to do.
    row_s
        Seconds that a row may take, more or less.
    n_actors
        How many share the work.
    name
        What Ray's dashboard calls it.
    """
    rows = max(1, min(round(TASK_S / row_s), table.num_rows // (8 * n_actors)))
    starts = range(0, table.num_rows, rows)[:_MOST_TASKS]
    # from_arrow would have workers look at each block.
    dataset: ray.data.Dataset = ray.data.from_blocks([table.slice(start, rows) for start in starts])
    dataset.set_name(name)
    return dataset


def stream(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    """Execute a dataset and yield its blocks as they come."""
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


@contextlib.contextmanager
def progressing(left: Callable[[], int], log: Log) -> Iterator[None]:
    """Let Ray's failures pass, and what got lost by them, as long as there is less left to do than before.

    Parameters
    ----------
    left
        Returns how much there is left to do.
    log
        Called at the end for each reason for which something got lost: `raypipe.runs.directory.Run.log`, or the like.

    Raises
    ------
    RaypipeError
        If nothing was done.
    """
    before, overheard = left(), _Overheard()
    try:
        with overheard:
            yield
    except RayError as error:
        overheard.failures[_reason(error)] += 1
    for reason, n in overheard.failures.items():
        log("lost", reason=reason, times=n)
    if left() == before:
        reason = next(iter(overheard.failures), "all that was tried got lost with its workers")
        raise RaypipeError(f"Ray failed: {reason}; the same command goes on from here")


class _Overheard(logging.Filter):
    """Counts by reason what Ray Data goes on without, which it tells to its log and nobody else."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: Counter[str] = Counter()
        self._log = logging.getLogger(_EXECUTOR)

    def __enter__(self) -> None:
        self._log.setLevel(logging.ERROR)
        self._log.addFilter(self)

    def __exit__(self, *_: object) -> None:
        self._log.removeFilter(self)
        self._log.setLevel(logging.NOTSET)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            self.failures[_reason(record.exc_info[1])] += 1
        return False


def _reason(error: BaseException) -> str:
    """Say in one line what an error of Ray comes to: its cause, without the traceback."""
    if not isinstance(error, RayTaskError):
        return one_line(error)
    if error.cause is not None and not isinstance(error.cause, UserCodeException):
        return one_line(error.cause)
    first = str(error).partition("\n\nThe above exception was")[0]  # of a wrapped error only the text is left
    return first.strip().splitlines()[-1][:300]
