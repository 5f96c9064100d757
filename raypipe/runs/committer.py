"""Writing clips to ``embeddings/`` and their pictures beside them, a file at a time, in a thread of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pyarrow as pa

from raypipe.runs.contents import EMBEDDINGS_FOLDER
from raypipe.runs.directory import Run
from raypipe.runs.frames import write_frames
from raypipe.schema import FRAMES

COMMIT_BYTES = 64 << 20
# Two files are begun this part of the interval apart at least: where batches take long, each would otherwise be due as
# soon as it comes, and make a file of its own.
_CLOSEST = 0.25


class Committer:
    """Writes clips to ``embeddings/``, so that a kill costs the work of ``every_s`` seconds at most, or of two batches.

    Parameters
    ----------
    run
        The run directory.
    on_commit
        Called in another thread after each file is written, with its number of rows.
    every_s
        A file is written by the time that the oldest work in it is so many seconds old.
    max_bytes
        A file is begun as soon as so many bytes wait.

    Notes
    -----
    What still waits is written when the context is left, whatever the reason for leaving it.
    """

    def __init__(
        self,
        run: Run,
        on_commit: Callable[[int], None] = lambda n_rows: None,
        every_s: float = 20.0,
        max_bytes: int = COMMIT_BYTES,
    ):
        self._run, self._on_commit = run, on_commit
        self._every_s, self._max_bytes = every_s, max_bytes
        self._waiting: list[tuple[pa.Table, pa.Table]] = []
        self._n_bytes = 0
        self._since = math.inf  # When the oldest waiting work began.
        self._begun = -math.inf  # When writing the last file began.
        self._write_s = 0.0  # How long writing the last file took.
        self._closed = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="raypipe-committer", daemon=True)

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if kind is None:
            self._check()

    def add(self, clips: pa.Table, age_s: float = 0.0, frames: pa.Table | None = None) -> None:
        """Take rows of whole segments; wait while more than two files' worth of rows is unwritten.

        Parameters
        ----------
        clips
            An `embeddings_schema` table.
        age_s
            Seconds since work on them began.
        frames
            Pictures of these clips, a `schema.FRAMES` table; none by default.

        Raises
        ------
        RaypipeError
            If an earlier file could not be written; no further rows are taken then.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._n_bytes < 2 * self._max_bytes or self._failure)
            self._check()
            self._since = min(self._since, time.monotonic() - age_s)
            frames = FRAMES.empty_table() if frames is None else frames
            self._waiting.append((clips, frames))
            self._n_bytes += clips.nbytes + frames.nbytes
            self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        """Write files as they fall due, until closed."""
        try:
            while (taken := self._take()) is not None:
                clips, frames = taken
                self._begun = time.monotonic()
                name = self._run.next_name(EMBEDDINGS_FOLDER)
                # Clips count from the moment that they are written, so what belongs to them is there before.
                write_frames(self._run, name, frames)
                self._run.write_table(name, clips)
                self._on_commit(clips.num_rows)
                self._write_s = time.monotonic() - self._begun
        except Exception as error:  # It is raised again by the next `add`, or on leaving the context.
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _take(self) -> tuple[pa.Table, pa.Table] | None:
        """Wait until a file is due, and return its clips and their pictures; None when no more will come."""
        with self._changed:
            while not (self._closed or self._n_bytes >= self._max_bytes or (self._waiting and self._left_s() <= 0)):
                self._changed.wait(self._left_s() if self._waiting else None)
            taken, self._waiting, self._n_bytes, self._since = self._waiting, [], 0, math.inf
            self._changed.notify_all()
        if not taken:
            return None
        return pa.concat_tables(clips for clips, _ in taken), pa.concat_tables(frames for _, frames in taken)

    def _left_s(self) -> float:
        due = self._since + self._every_s - self._write_s
        return max(due, self._begun + self._every_s * _CLOSEST) - time.monotonic()
