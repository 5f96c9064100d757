"""Videos that are converted for browsers when they are asked for, and a bounded folder that keeps them."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from uuid import uuid4

from raypipe.errors import DecodeError, RaypipeError
from raypipe.report.serving.transcoder import SHORT_SIDE, Media, MediaSandbox

MOST_BYTES = 2 << 30
"""What the folder holds at most."""
_VERSION = 1  # Other settings of the conversion are another version.
_LEFT_OVER_S = 3600.0  # A temporary file of this age was left by a process that was killed.
_INSPECTORS = 2  # Where a video's server is slow, there is another one for other videos.
_REMEMBERED = 4096
_FAILED_S = 60.0  # After that what failed is tried again: a full disk may have room by then.
_END_S = 5.0


def default_folder() -> Path:
    """Return the user's own folder for converted videos."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raypipe" / "converted"


@dataclass(frozen=True)
class Excerpt:
    """A part of a video file that is to be converted.

    Attributes
    ----------
    uri
        The file.
    version
        What identifies its present content.
    start_s, span_s
        The part, in seconds of the file.
    fps
        Its rate, 0 where unknown.
    """

    uri: str
    version: str
    start_s: float
    span_s: float
    fps: float

    @property
    def key(self) -> str:
        """The name of the converted file, without its suffix."""
        told = repr((self.uri, self.version, self.start_s, self.span_s, self.fps, SHORT_SIDE, _VERSION))
        return sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:40]


@dataclass
class _Job:
    future: asyncio.Future[Path]
    sandbox: MediaSandbox
    n_waiting: int = 0


class Conversions:
    """Converts a few videos at a time, each in a process of its own, for as long as somebody waits for it.

    Its methods that are coroutines belong to one event loop.

    Parameters
    ----------
    folder
        Where converted videos are kept; several processes may share it.
    most_bytes
        What it holds at most; those that have not been used for longest go first.
    n_at_once
        How many are converted at a time.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES, n_at_once: int = 2) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._threads = ThreadPoolExecutor(n_at_once, "raypipe-convert")
        self._jobs: dict[str, _Job] = {}
        self._failures: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._sweep()

    def find(self, excerpt: Excerpt) -> Path | None:
        """Return the converted file if there is one."""
        path = self._path(excerpt)
        return path if path.exists() else None

    def failure_of(self, excerpt: Excerpt) -> str | None:
        """Return why an excerpt could not be converted, if that was tried within the last minute."""
        failed_s, reason = self._failures.get(excerpt.key, (-math.inf, ""))
        return reason if time.monotonic() < failed_s + _FAILED_S else None

    async def convert(self, excerpt: Excerpt) -> Path:
        """Return the converted file, after converting it if need be.

        If nobody waits for it any more, its process is killed.

        Raises
        ------
        RaypipeError
            If it cannot be converted.
        """
        path = self._path(excerpt)
        with suppress(OSError):  # Why nothing can be kept here is said when it is tried.
            os.utime(path)  # It has been used.
            return path
        if reason := self.failure_of(excerpt):
            raise DecodeError(reason)
        job = self._jobs.get(excerpt.key)
        if job is None:
            sandbox = MediaSandbox()
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._work, excerpt, sandbox)
            job = self._jobs[excerpt.key] = _Job(future, sandbox)
            future.add_done_callback(lambda done: self._finish(excerpt, job, done))
        job.n_waiting += 1
        try:
            return await asyncio.shield(job.future)
        finally:
            job.n_waiting -= 1
            if not job.n_waiting and not job.future.done():
                self._drop(excerpt.key, job)
                job.sandbox.cancel()

    def close(self) -> None:
        """End all processes."""
        for job in list(self._jobs.values()):
            job.sandbox.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _path(self, excerpt: Excerpt) -> Path:
        return self._folder / f"{excerpt.key}.mp4"

    def _work(self, excerpt: Excerpt, sandbox: MediaSandbox) -> Path:
        temporary = self._folder / f".{excerpt.key}.{uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                with sandbox:
                    sandbox.convert(excerpt.uri, excerpt.start_s, excerpt.span_s, excerpt.fps, temporary)
                temporary.replace(self._path(excerpt))
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise RaypipeError(f"cannot keep converted videos in {self._folder}: {error.strerror or error}") from error
        self._make_room(self._path(excerpt))
        return self._path(excerpt)

    def _finish(self, excerpt: Excerpt, job: _Job, done: asyncio.Future[Path]) -> None:
        self._drop(excerpt.key, job)
        if not done.cancelled() and (error := done.exception()) is not None and job.n_waiting:
            self._failures[excerpt.key] = time.monotonic(), str(error)
            while len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)

    def _drop(self, key: str, job: _Job) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]

    def _make_room(self, newest: Path) -> None:
        """Remove the files that have not been used for longest, until the rest fit; never the newest."""
        there = []
        for path in self._folder.glob("*.mp4"):
            with suppress(FileNotFoundError):  # Another process may have removed it.
                status = path.stat()
                there.append((path != newest, status.st_mtime, status.st_size, path))
        n_bytes = sum(size for _, _, size, _ in there)
        for may_go, _, size, path in sorted(there, key=lambda each: each[1]):
            if n_bytes <= self._most_bytes:
                return
            if may_go:
                path.unlink(missing_ok=True)  # Who is reading it can go on.
                n_bytes -= size

    def _sweep(self) -> None:
        """Remove what processes that were killed have left."""
        for path in self._folder.glob(".*"):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - _LEFT_OVER_S:
                    path.unlink()


class Inspector:
    """Looks into videos for what browsers need to know of them, in a few processes that are kept."""

    def __init__(self) -> None:
        self._sandboxes = [MediaSandbox() for _ in range(_INSPECTORS)]
        self._known: OrderedDict[tuple[str, str], Media] = OrderedDict()
        self._idle: SimpleQueue[MediaSandbox] = SimpleQueue()
        for sandbox in self._sandboxes:
            self._idle.put(sandbox)

    def look_into(self, uri: str, version: str) -> Media:
        """Return what a browser needs to know of a video in its present version; waits for a process that is idle.

        Raises
        ------
        DecodeError
            If it cannot be read.
        """
        if (known := self._known.get((uri, version))) is not None:
            return known
        sandbox = self._idle.get()
        try:
            found = sandbox.inspect(uri)
        finally:
            self._idle.put(sandbox)
        self._known[uri, version] = found
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def close(self) -> None:
        """End the processes; what waits for one of them fails."""
        for sandbox in self._sandboxes:
            sandbox.cancel()
        ended = []
        with suppress(Empty):
            for _ in self._sandboxes:  # Each comes back when its process has been killed.
                ended.append(self._idle.get(timeout=_END_S))
        for sandbox in ended:
            sandbox.close()
            self._idle.put(sandbox)
