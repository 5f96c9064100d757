"""The GPUs that a worker sees: those that Ray assigned to it, and no others.

Since Ray 2.60 an actor or a task that was given no GPU sees every GPU of its node, and whatever asks CUDA for a device
there gets the first one, beside those to whom it was assigned. Every class whose instances compute on Ray is therefore
a `Worker`, and every function a task that `as_task` made. What asks for a GPU, directly or by way of a library, finds
then none where none was assigned. The driver is neither, and keeps what it sees.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import ray

from raypipe.engine.nodes import elsewhere

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Worker:
    """A class whose instances, where they are Ray's actors or work inside one, see the GPUs assigned to it alone.

    This is settled before ``__init__`` runs, because CUDA reads the variable once, when it is first used.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Settle what the process sees, and make an instance."""
        if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
            os.environ[_VISIBLE] = _assigned()
        return super().__new__(cls)


def as_task(function: Callable[..., Any], **options: Any) -> Any:
    """Make a Ray task of a function, for the nodes that are not left out; ``options`` are those of ``ray.remote``.

    Ray may run tasks of the user's own in the same process later, so what they see is put back when the task ends.
    """

    @functools.wraps(function)
    def task(*arguments: Any) -> Any:
        with _only_assigned():
            return function(*arguments)

    return ray.remote(task).options(label_selector=elsewhere(), **options)


@contextlib.contextmanager
def _only_assigned() -> Iterator[None]:
    before = os.environ.get(_VISIBLE)
    os.environ[_VISIBLE] = _assigned()
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VISIBLE]
        else:
            os.environ[_VISIBLE] = before


def _assigned() -> str:
    """Return the GPUs that Ray assigned to this process's actor or task, as CUDA takes them; "" are none."""
    return ",".join(ray.get_runtime_context().get_accelerator_ids()["GPU"])
