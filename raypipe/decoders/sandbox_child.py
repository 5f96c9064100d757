"""What runs in the child process of a sandbox: decoders, whose memory is bounded, and which end with their parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from raypipe.decoders import DECODERS, describe, make_decoder
from raypipe.decoders.memory import read_arrays, write_arrays
from raypipe.decoders.thumbnails import thumbnails_of_squares
from raypipe.errors import DecodeError, RaypipeError

_LOOK_S = 0.5
_PR_SET_PDEATHSIG = 1
_MOST_MEMORY = 4 << 30
"""Bytes that FFmpeg may take for one request, because a few bytes of a header can ask for any number of huge frames.

The frames of an 8K video that a decoder holds at once take 2 GB.
"""


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even while a decoder hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def bound_memory(name: str) -> None:
    """Make allocations fail once a decoder has taken `_MOST_MEMORY` more than this process has now.

    torchcodec is not bounded, because GPU libraries map far more memory than they use; nor is a user's own decoder.
    """
    if sys.platform != "linux":  # Other kernels count this memory differently, or not at all.
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = most
    if name in ("pyav", "decord", "images"):
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = pages * resource.getpagesize() + _MOST_MEMORY
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def _answer(memory: int, method: str, name: str, uri: str, *arguments: Any) -> Any:
    decoder: Any = _decoder(name)
    bound_memory(name)
    if method == "probe":
        return vars(decoder.probe(uri))
    if method == "frame_times":
        times_s = np.asarray(decoder.frame_times(uri), dtype=np.float64)
        write_arrays(memory, times_s)
        return len(times_s)
    n, image_size, resize_mode, thumbnails = arguments
    (times_s,) = read_arrays(memory, ((n,), np.float64))
    if name in DECODERS:
        frames = decoder.frames(uri, times_s, image_size, resize_mode, thumbnails)
        small = frames.thumbnails
    else:  # A user's own decoder need not know of small pictures.
        frames = decoder.frames(uri, times_s, image_size, resize_mode)
        small = thumbnails_of_squares(frames.pixels, frames.requested, resize_mode, thumbnails) if thumbnails else {}
    write_arrays(memory, frames.pixels, frames.times_s, frames.requested.astype(np.int64))
    return len(frames.times_s), frames.error, small


_decoder = cache(make_decoder)


def serve(answer: Callable[..., Any], parent: int, connection: int, memory: int) -> None:
    """Answer requests until the parent closes the connection.

    Parameters
    ----------
    answer
        A function of the memory file and a request: method, decoder's name, video's URI and further arguments.
    parent, connection, memory
        The arguments of the process: its parent's id, its end of the socket pair, and the memory file.
    """
    die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # Crashes are expected here, and nobody reads their dumps.
    channel = Connection(connection)
    channel.send(None)
    while True:
        try:
            request = channel.recv()
        except (EOFError, OSError):
            return
        try:
            reply: tuple[Any, RaypipeError | None] = (answer(memory, *request), None)
        except RaypipeError as error:
            reply = (None, error)
        except Exception as error:  # Whatever a library raises is recorded as this video's error.
            reply = (None, DecodeError(describe(error, uri=request[2])))
        channel.send(reply)


if __name__ == "__main__":
    serve(_answer, *map(int, sys.argv[1:]))
