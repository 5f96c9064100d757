"""What a run has to embed, and what of it is left.

The plan has a row a segment. While videos are probed it grows in files of ``plan/``; then it is settled as
``plan.parquet``, in the order of the source, a row group a *portion* of the videos. However many videos there are, only
one portion of the plan and of its ledger is in memory at a time, and some bytes of every other video.

What is left to do is found in two steps. `Plan.lacking` are the videos without rows: new ones, and those whose rows
`open_plan` dropped because their file has changed or their server was away. Then `Plan.find_remaining` finds the
segments that have not been committed, as `Ledger.is_remaining` says. Videos that failed before are found by
`find_quarantined`, and are skipped until they shall be tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import Config
from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.accounting import account, failed_before
from raypipe.runs.comparison import PRECOMPUTED, is_same_encoder
from raypipe.runs.contents import EMBEDDINGS_FOLDER, PLAN_FILE, PLAN_FOLDER, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.frames import remove_orphans
from raypipe.runs.ledger import Ledger
from raypipe.schema import AWAY, PLAN, UNIT, take_rows
from raypipe.sources.videos import Videos
from raypipe.storage import shown_place

PORTION_A_CPU = 5_000  # Each portion starts the actors anew, so a larger Ray cluster takes larger portions.
LARGEST_PORTION = 500_000  # A portion's plan and ledger must fit the driver's memory.


class Plan:
    """The segments of a run's videos, and which of them are left to embed.

    First `lacking` are probed and their segments added by `add`. Then `settle` orders the plan, `find_remaining` finds
    out what is left, `remaining` yields it, and `account` says what became of every video.

    Parameters
    ----------
    run
        The run, which need not have a plan yet. Of a video that several files have rows of, the newest file counts:
        those of ``plan/`` are newer than ``plan.parquet``.
    videos
        The videos to embed. Rows of other videos are left out.
    portion_size
        Videos a portion; it may be set later, but not after `settle`.

    Attributes
    ----------
    n_segments, n_videos
        What `find_remaining` found left: segments, and the videos that they are of.
    """

    def __init__(self, run: Run, videos: Videos, portion_size: int = LARGEST_PORTION):
        self.run, self.videos, self.portion_size = run, videos, portion_size
        self.n_segments = self.n_videos = 0
        self._groups: list[_RowGroup] = []
        self._file_of = np.full(len(videos), -1, np.int32)  # The number of the file that holds the rows of each video.
        self._is_left: list[np.ndarray] = []  # Of each portion, which of its rows are left: (n,) bool.
        self._spans: dict[str, tuple[int, int]] = {}  # The first and last video in a file of embeddings/.
        settled = [PLAN_FILE] if run.exists(PLAN_FILE) else []
        for file, name in enumerate([*settled, *run.files(PLAN_FOLDER, ".parquet")]):
            for number in range(run.n_groups(name)):
                places = videos.places(run.read_table(name, ["video_id"], number)["video_id"])
                self._groups.append(_RowGroup(name, number, file, places))
                self._file_of[places[places >= 0]] = file

    def lacking(self) -> np.ndarray:
        """Return the places of the videos that the plan has no rows of, ascending."""
        return np.flatnonzero(self._file_of < 0)

    def drop(self, places: np.ndarray) -> None:
        """Forget the rows of the videos in these places."""
        self._file_of[places] = -1

    def rows(
        self, columns: list[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Yield rows of the videos from ``start`` to ``stop`` as the files hold them, a row group at a time.

        Yields
        ------
        The place of each row's video, and the columns asked for.
        """
        stop = len(self.videos) if stop is None else stop
        for group in self._groups:
            counts = (group.places >= start) & (group.places < stop)
            counts[counts] = self._file_of[group.places[counts]] == group.file
            if counts.any():
                rows = self.run.read_table(group.name, columns, group.number)
                yield group.places[counts], rows.filter(pa.array(counts))

    def portion(self, start: int, stop: int) -> pa.Table:
        """Return the rows of the videos from ``start`` to ``stop`` in the order of the source: a `PLAN` table."""
        parts = list(self.rows(None, start, stop))
        places = np.concatenate([np.empty(0, np.int32), *(places for places, _ in parts)])
        # A plan that was written before `PLAN` gained a column has nulls there.
        tables = [PLAN.empty_table(), *(rows for _, rows in parts)]
        rows = pa.concat_tables(tables, promote_options="default")
        return rows if (np.diff(places) >= 0).all() else rows.take(pa.array(np.argsort(places, kind="stable")))

    def add(self, rows: pa.Table) -> None:
        """Write the rows of videos that have just been probed to ``plan/``: a `PLAN` table."""
        self.run.write_table(self.run.next_name(PLAN_FOLDER), rows)

    def settle(self) -> None:
        """Write the rows of all videos, each of which has been probed, as ``plan.parquet``; remove ``plan/``."""
        whole = Plan(self.run, self.videos)
        self.run.write_tables(PLAN_FILE, (whole.portion(start, stop) for start, stop in self._bounds()))
        for name in self.run.files(PLAN_FOLDER, ".parquet"):  # The oldest goes first, since the newest counts.
            self.run.remove(name)
        self.run.remove(PLAN_FOLDER)
        self._groups = []

    def find_remaining(self, retry_failed: bool) -> None:
        """Find out which segments of the settled plan are left; those that failed are, if they shall be retried."""
        self._is_left, self.n_videos = [], 0
        for number, _ in enumerate(self._bounds()):
            committed = self._ledger(number)
            is_left = committed.is_remaining(retry_failed)
            self._is_left.append(is_left)
            self.n_videos += int(np.logical_or.reduceat(is_left, committed.first).sum()) if len(is_left) else 0
        self.n_segments = int(sum(is_left.sum() for is_left in self._is_left))

    def remaining(self) -> Iterator[pa.Table]:
        """Yield the segments that `find_remaining` found, a portion at a time: `PLAN` tables."""
        for number, is_left in enumerate(self._is_left):
            if is_left.any():
                yield self.run.read_table(PLAN_FILE, group=number).filter(pa.array(is_left))

    def account(
        self, found: Videos, quarantine: np.ndarray, dim: int, say: Callable[[str], None]
    ) -> Iterator[pa.Table]:
        """Compact ``embeddings/``, and yield what became of every video: a `schema.VIDEOS` table a portion.

        Parameters
        ----------
        found
            All videos of the source: those of the plan, and behind them those beyond ``--limit``.
        quarantine
            See `raypipe.runs.accounting.account`.
        dim
            Numbers a vector.
        say
            Called with a line about files that could not be compacted. They hold the same as before.
        """
        for number, (start, stop) in enumerate(self._bounds()):
            committed = self._ledger(number)
            try:
                committed.compact(dim)
            except RaypipeError as error:  # Small files are untidy, but nothing is lost.
                self.run.log("not compacted", reason=str(error))
                say(f"small files of embeddings/ stay as they are: {error}")
            yield account(found[start:stop], committed, quarantine[start:stop])
        remove_orphans(self.run)
        nothing = Ledger(self.run, PLAN.empty_table(), [])
        for start in range(len(self.videos), len(found), self.portion_size):
            stop = start + self.portion_size
            yield account(found[start:stop], nothing, quarantine[start:stop])

    def _bounds(self) -> list[tuple[int, int]]:
        """Return the first video of each portion, and the one after its last; without videos there is one, empty."""
        n, size = len(self.videos), self.portion_size
        return [(start, min(start + size, n)) for start in range(0, max(n, 1), size)]

    def _ledger(self, number: int) -> Ledger:
        """Read what of a portion has been committed."""
        bounds = self._bounds()
        files = None if len(bounds) == 1 else self.files_touching(*bounds[number])
        return Ledger(self.run, self.run.read_table(PLAN_FILE, group=number), files)

    def files_touching(self, start: int, stop: int) -> list[str]:
        """Return the files of ``embeddings/`` with clips of the videos from ``start`` to ``stop``, in their order."""
        names = self.run.files(EMBEDDINGS_FOLDER, ".parquet")
        new = [name for name in names if name not in self._spans]
        self._spans |= dict(zip(new, self.run.for_each(new, self._span_of), strict=True))
        spans = ((name, *self._spans[name]) for name in names)
        return [name for name, first, last in spans if first < stop and last >= start]

    def _span_of(self, name: str) -> tuple[int, int]:
        places = self.videos.places(self.run.read_table(name, ["video_id"])["video_id"].unique())
        places = places[places >= 0]
        return (int(places.min()), int(places.max())) if len(places) else (len(self.videos), -1)


class _RowGroup(NamedTuple):
    """A row group of one of the plan's files, and the place in the source of each row's video, -1 where it has none."""

    name: str
    number: int
    file: int
    places: np.ndarray


def portion_size(n_cpus: float) -> int:
    """Return how many videos a portion holds on a Ray cluster of so many CPUs."""
    return min(PORTION_A_CPU * max(int(n_cpus), 1), LARGEST_PORTION)


def open_plan(run: Run, config: Config, encoder_id: dict[str, Any], videos: Videos, versions: pa.ChunkedArray) -> Plan:
    """Open a run's plan, and drop from it what no longer holds.

    Parameters
    ----------
    run, config
        The run, and what it is to be made with now.
    encoder_id
        The encoder's name, dim and fingerprint.
    videos, versions
        The videos to embed, and the present version of each one's file.

    Raises
    ------
    UsageError
        If the run's embeddings were made with another encoder or sampling, or of files that have changed since, and
        ``source.re_embed`` does not ask for them to be made again.
    """
    before, again = run.info(), config.source.re_embed
    theirs = before.get("encoder", {})
    is_same = is_same_encoder(encoder_id, theirs)
    same = is_same and before["config"]["sample"].items() >= config.sample.pattern().items()
    if not same and again:
        run.remove(PLAN_FILE)
        run.remove(PLAN_FOLDER)
    elif not same and (run.exists(PLAN_FILE) or run.exists(PLAN_FOLDER)):
        are_given = not is_same and encoder_id["name"] == PRECOMPUTED == theirs.get("name")
        what = "other trajectories" if are_given else "embeddings made with another encoder or sampling"
        raise UsageError(f"{run} holds {what}: choose another -o, or --re-embed")
    plan = Plan(run, videos)
    is_changed, is_lost = np.zeros(len(videos), bool), np.zeros(len(videos), bool)
    for places, rows in plan.rows(["version", "error_stage", "error"]):
        differs = pc.fill_null(pc.not_equal(rows["version"], take_rows(versions, places)), False)
        is_changed[places[pc.and_(differs, rows["error"].is_null()).to_numpy()]] = True
        failed = rows["error"].is_valid() if config.source.retry_failed else pc.equal(rows["error_stage"], AWAY)
        is_lost[places[pc.fill_null(failed, False).to_numpy()]] = True
    if is_changed.any() and not again:
        raise UsageError(
            f"{is_changed.sum()} of {len(videos)} videos changed since they were embedded, such as "
            f"{shown_place(videos[int(is_changed.argmax())].uri)}: --re-embed embeds them again"
        )
    plan.drop(np.flatnonzero(is_changed | is_lost))
    return plan


def read_ledger(run: Run, video_ids: Collection[str] | None = None) -> Ledger:
    """Read what has been committed of an embedded run's plan: of all of its videos, or of those with these ids."""
    plan = run.read_table(PLAN_FILE, [*UNIT, "error"])
    if video_ids is not None:
        plan = plan.filter(pc.is_in(plan["video_id"], value_set=pa.array(list(video_ids), pa.string())))
    return Ledger(run, plan)


def find_quarantined(run: Run, config: Config, found: Videos) -> np.ndarray:
    """Return which videos failed in an earlier run and shall not be tried again: (n_videos,) bool."""
    is_held = np.zeros(len(found), bool)
    if not config.source.retry_failed and run.exists(VIDEOS_FILE):
        for group in range(run.n_groups(VIDEOS_FILE)):
            before = run.read_table(VIDEOS_FILE, ["video_id", "status", "error_stage"], group)
            places = found.places(failed_before(before))
            is_held[places[places >= 0]] = True
    return is_held
