"""What every stream on Ray Data needs: blocks of tasks, settings of our own, and what Ray says of losses."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext, ExecutionResources
from ray.exceptions import ActorDiedError, RayError, RayTaskError, UserCodeException

from raypipe.engine.attempts import TRIES
from raypipe.engine.nodes import elsewhere
from raypipe.engine.watching import PoolWatch
from raypipe.errors import RaypipeError, last_line, one_line

Log = Callable[..., None]

TASK_S = 20.0  # A task holds about so many seconds of work, which are lost with its actor.
_MOST_TASKS = 20_000  # Each task of a dataset costs the driver time and memory.
_BLOCK_BYTES = 32 * 2**20
_CALLBACKS = "custom_execution_callback_classes"  # Ray 2.52, the oldest allowed, has none: no pool is watched there.
_RAY_DATA = "ray.data"
# Here it reports tasks that it goes on without, and actors whose start failed.
_REPORTS = (
    "ray.data._internal.execution.streaming_executor_state",
    "ray.data._internal.execution.operators.actor_pool_map_operator",
)
# Ray Data has this warning of our own actors when every video fails before it comes to an encoder.
_OF_OUR_ACTORS = r"The minimum number of concurrent actors for '[^']*(\w+Actor|_Prober)\)"


def in_tasks(
    table: pa.Table,
    row_s: float,
    n_actors: int,
    name: str = "raypipe",
    largest_pool: int = 0,
) -> ray.data.Dataset:
    """Make a dataset of a table's rows in blocks, each of which is a task.

    There are at least eight blocks for each actor, so that all actors end at about the same time, and a block is no
    more than `TASK_S` of work. At most `_MOST_TASKS` blocks are made; of a larger table they hold the first rows only.

    Settings of our own hold for this dataset alone: it has a copy of the process's context, which is left as it is.

    Parameters
    ----------
    table
        The work, a row each.
    row_s
        Seconds that a row takes, roughly.
    n_actors
        How many actors share the work.
    name
        The dataset's name on Ray's dashboard.
    largest_pool
        The number of actors of a later stage, if it has more.
    """
    rows = max(1, min(round(TASK_S / row_s), table.num_rows // (8 * n_actors)))
    starts = range(0, table.num_rows, rows)[:_MOST_TASKS]
    with _unwarned(r"`\w+` is deprecated", DeprecationWarning):  # Ray's context sets such fields when it is made.
        # from_arrow would start a task for each block, only to look at it.
        dataset: ray.data.Dataset = ray.data.from_blocks([table.slice(start, rows) for start in starts])
    dataset.set_name(name)
    _set_context(dataset.context, max(n_actors, largest_pool))
    dataset.context.execution_options.label_selector = elsewhere()
    return dataset


def _set_context(context: DataContext, n_actors: int) -> None:
    context.enable_progress_bars = False  # raypipe shows its own progress, in videos.
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = 6 * 3600  # One segment may take that long; the sandbox has a deadline.
    context.target_max_block_size = _BLOCK_BYTES
    context.max_errored_blocks = -1  # raypipe itself tries again what was lost with a worker.
    # An actor whose start fails is replaced, so that each has TRIES; Ray would end the whole pass at the first.
    context.max_consecutive_actor_init_deaths = TRIES * n_actors - 1
    context.execution_options.preserve_order = False
    context.custom_execution_callback_classes = [*getattr(context, _CALLBACKS, []), PoolWatch]


def bound_blocks(dataset: ray.data.Dataset, n_bytes: float, most: int) -> None:
    """Bound the size of the blocks between decoding and encoding, and how many wait in the object store.

    Without a bound the decoders run far ahead: an hour of video takes more memory than five minutes, and at the end the
    decoders' cores idle while the encoders work off the queue.

    Ray Data's own bound, half of the object store, is switched off. Where blocks are large for the store, it would let
    one through in ten seconds; Ray spills to disk what has no room.
    """
    context = dataset.context
    context.target_max_block_size = min(_BLOCK_BYTES, math.ceil(n_bytes))
    context.override_object_store_memory_limit_fraction = math.inf
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=most * n_bytes)


def stream(dataset: ray.data.Dataset, losses: Counter[str]) -> Iterator[pa.Table]:
    """Execute a dataset of `in_tasks` and yield its blocks as they come.

    Parameters
    ----------
    dataset
        What to execute.
    losses
        Here the tasks are counted that Ray goes on without, by reason. Ray reports them to its own log only.
    """
    with _Overheard(dataset, losses), _unwarned(_OF_OUR_ACTORS, UserWarning):
        # iter_batches would do the same in a thread of its own, whose messages could not be told from a user's.
        for bundle in dataset.iter_internal_ref_bundles():
            for block in bundle.block_refs:
                if (rows := ray.get(block)).num_rows:
                    yield rows


def once(blocks: Iterable[pa.Table], left: np.ndarray) -> Iterator[pa.Table]:
    """Yield the rows that have not come before, and strike them off what is left.

    When a worker is lost, Ray runs its task again and goes on behind as many blocks as it has had. If the second try
    cuts its blocks elsewhere, for instance because a video timed out in the first, rows come twice, or not at all.

    Parameters
    ----------
    blocks
        Tables with a column ``row``.
    left
        (n,) bool, by ``row``; changed in place.
    """
    for block in blocks:
        rows, first = np.unique(block["row"].to_numpy(), return_index=True)
        new = np.sort(first[left[rows]])
        left[rows] = False
        if len(new):
            yield block if len(new) == block.num_rows else block.take(pa.array(new))


@contextlib.contextmanager
def progressing(left: Callable[[], int], log: Log) -> Iterator[Counter[str]]:
    """Suppress Ray's failures as long as the work gets on; what they cost can be tried again.

    Parameters
    ----------
    left
        Returns how many rows are left.
    log
        `raypipe.runs.directory.Run.log`, which is called at the end for each reason for which rows were lost.

    Yields
    ------
    The losses by reason, for `stream`.

    Raises
    ------
    RaypipeError
        If no row was done.
    """
    before, losses = left(), Counter[str]()
    try:
        yield losses
    except RayError as error:
        losses[_reason(error)] += 1
    for reason, n in losses.items():
        log("lost", reason=reason, times=n)
    if left() == before:
        reason = next(iter(losses), "all that was tried got lost with its workers")
        raise RaypipeError(f"Ray failed: {reason}; run the same command again to continue")


class _Overheard(logging.Filter):
    """Counts the tasks that Ray Data goes on without in one dataset, and keeps what it says of it off the screen.

    What is logged of other datasets at the same time, a user's own in other threads, passes unchanged.
    """

    def __init__(self, dataset: ray.data.Dataset, losses: Counter[str]) -> None:
        super().__init__()
        self._losses = losses
        self._executor = f"StreamingExecutor-{dataset.get_dataset_id().rpartition('_')[0]}_"  # without the run's number
        self._here = threading.get_ident()
        self._levels = {name: logging.getLogger(name).getEffectiveLevel() for name in _REPORTS}
        self._screens = [
            handler for handler in logging.getLogger(_RAY_DATA).handlers if isinstance(handler, logging.StreamHandler)
        ]

    def __enter__(self) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).addFilter(self)
            if level > logging.WARNING:
                logging.getLogger(name).setLevel(logging.WARNING)
        for screen in self._screens:
            screen.addFilter(self)

    def __exit__(self, *_: object) -> None:
        for screen in self._screens:
            screen.removeFilter(self)
        for name, level in self._levels.items():
            logging.getLogger(name).removeFilter(self)
            if level > logging.WARNING:
                logging.getLogger(name).setLevel(logging.NOTSET)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._here and not (record.threadName or "").startswith(self._executor):
            return record.levelno >= self._levels.get(record.name, logging.NOTSET)
        if record.name in self._levels and record.exc_info and record.exc_info[1]:
            self._losses[_reason(record.exc_info[1])] += 1
        return False


@contextlib.contextmanager
def _unwarned(says: str, category: type[Warning]) -> Iterator[None]:
    """Suppress the warnings of a pattern, while other threads may set filters of their own."""
    # The comment makes a pattern that no other call has: one filter for each, which is removed with it.
    pattern = f"{says}(?#{uuid.uuid4().hex})"
    warnings.filterwarnings("ignore", pattern, category)
    try:
        yield
    finally:
        filters: Any = warnings.filters  # It is a list, and read-only to type checkers alone.
        filters[:] = [each for each in filters if getattr(each[1], "pattern", None) != pattern]


def _reason(error: BaseException) -> str:
    """Return the cause of one of Ray's errors on one line, without the traceback."""
    if isinstance(error, ActorDiedError) and error.actor_init_failed:
        return f"an actor's start failed: {last_line(str(error))}"
    if not isinstance(error, RayTaskError):
        return one_line(error)
    if error.cause is not None and not isinstance(error.cause, UserCodeException):
        return one_line(error.cause)
    return last_line(str(error).partition("\n\nThe above exception was")[0])  # A wrapped error is kept as text only.
