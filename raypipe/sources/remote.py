"""Remote files in trouble: what may be over in a moment is tried again, within bounds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

PATIENCE_S = 10.0
"""For so long the same thing is tried again: half of what a probe may take (``decode.deadline_s``)."""

_FIRST_WAIT_S = 0.25
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 509}  # statuses of HTTP
_log = logging.getLogger(__name__)  # in a sandbox its parent tells the last line if the deadline comes first

T = TypeVar("T")


def patiently(uri: str, call: Callable[[], T]) -> T:
    """Call, and call again after pauses that double, while what fails may be over in a moment.

    A server that says when to come again (``Retry-After``) is obeyed, if there is patience for it.

    Parameters
    ----------
    uri
        What it is about.
    call
        Raises whatever its file system raises. What it raised last is raised in the end.
    """
    from raypipe.sources.files import failure  # which is patient itself

    begun, pause_s = time.monotonic(), _FIRST_WAIT_S
    while True:
        try:
            return call()
        except Exception as raised:  # each file system raises its own kinds
            error = _unwrap(raised)
        wait_s = max(pause_s, _retry_after_s(error))
        if not is_transient(error) or time.monotonic() - begun + wait_s > PATIENCE_S:
            raise error
        _log.warning("%s; trying again", failure("reach", uri, error))
        time.sleep(wait_s)
        pause_s *= 2


def find_patiently(url: str, filesystem: Any, root: str, max_depth: int | None) -> list[str]:
    """List the paths of all files below ``root``, no deeper than ``max_depth`` (1: in it) where that is given."""
    if "http" not in filesystem.protocol:
        return patiently(url, lambda: filesystem.find(root, maxdepth=max_depth))
    # fsspec's own walk leaves out a folder whose listing a lost connection has cost.
    paths, folders = [], [(root, 1)]
    while folders:
        folder, depth = folders.pop()
        for entry in patiently(folder, partial(filesystem.ls, folder, detail=True)):
            if entry["type"] != "directory":
                paths.append(entry["name"])
            elif max_depth is None or depth < max_depth:
                folders.append((entry["name"], depth + 1))
    return paths


def is_transient(error: BaseException) -> bool:
    """Whether what a file system raised may be over in a moment: a busy or broken server, a lost connection."""
    from aiohttp import ClientConnectionError, ClientPayloadError  # light to import raypipe, heavy to import this

    for each in _chain(error):
        if (status := _status(each)) is not None:
            return status in _TRANSIENT
        if isinstance(each, (TimeoutError, ConnectionError, ClientConnectionError, ClientPayloadError)):
            return True
    return False


def _unwrap(error: Exception) -> Exception:
    """Return what really happened: fsspec's HTTP file system calls any fault of a server "not found"."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        if is_transient(cause) or (_status(cause) or 404) not in (404, 410):
            return cause
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__  # botocore's errors are raised while aiohttp's are handled


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of aiohttp, botocore, requests or httpx tells of."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(response, "status_code", getattr(error, "status", None))
    return status if isinstance(status, int) else None


def _retry_after_s(error: BaseException) -> float:
    told = (getattr(error, "headers", None) or {}).get("Retry-After", "")
    return float(told) if told.isdecimal() else 0.0  # a date, too, is allowed and hardly met
