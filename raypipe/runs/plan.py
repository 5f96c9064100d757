"""What still holds of an earlier run in the same directory, and what there is left to do.

However many videos a source has, no more than a portion of its plan and of its ledger is in memory, and some bytes of
each further video; the videos themselves are on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import Config
from raypipe.errors import RaypipeError, UsageError
from raypipe.runs.accounting import account, failed_before
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Catalogue, Ledger
from raypipe.schema import AWAY, PLAN
from raypipe.sources.spool import Spool
from raypipe.sources.videos import Videos
from raypipe.storage import shown

PLAN_FILE = "plan.parquet"
PROBED = "plan"  # a folder: what has been probed since the plan was written
VIDEOS_FILE = "videos.parquet"


class _Group(NamedTuple):
    """A row group of one of the plan's files, and the place of each row's video in the source."""

    name: str
    number: int
    file: int
    places: np.ndarray


class Plan:
    """A run's plan for the videos of a source, read from its files a portion at a time.

    Of a video that is in several files the newest counts: those of ``plan/`` are newer than ``plan.parquet``.

    Parameters
    ----------
    run
        The run; it need not have a plan yet.
    videos
        The source. Of other videos nothing is read.
    """

    def __init__(self, run: Run, videos: Videos):
        self._run = run
        self._groups: list[_Group] = []
        self._file = np.full(len(videos), -1, np.int32)  # that each video's rows are in
        planned = [PLAN_FILE] if run.exists(PLAN_FILE) else []
        for file, name in enumerate([*planned, *run.files(PROBED, ".parquet")]):
            for number in range(run.n_groups(name)):
                places = videos.places(run.read_table(name, ["video_id"], number)["video_id"])
                self._groups.append(_Group(name, number, file, places))
                self._file[places[places >= 0]] = file

    def lacking(self) -> np.ndarray:
        """Return the places of the videos that it has no rows of, ascending."""
        return np.flatnonzero(self._file < 0)

    def drop(self, places: np.ndarray) -> None:
        """Forget the rows of these videos."""
        self._file[places] = -1

    def read(
        self, columns: list[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Yield its rows, a file's row group at a time: the places of their videos, and the columns asked for."""
        stop = len(self._file) if stop is None else stop
        for group in self._groups:
            wanted = (group.places >= start) & (group.places < stop)
            wanted[wanted] = self._file[group.places[wanted]] == group.file
            if wanted.any():
                rows = self._run.read_table(group.name, columns, group.number)
                yield group.places[wanted], rows.filter(pa.array(wanted))

    def portion(self, start: int, stop: int) -> pa.Table:
        """Return the rows of these videos in the order of the source: a `PLAN` table."""
        parts = list(self.read(None, start, stop))
        places = np.concatenate([np.empty(0, np.int32), *(places for places, _ in parts)])
        rows = pa.concat_tables([PLAN.empty_table(), *(rows for _, rows in parts)])
        return rows if (np.diff(places) >= 0).all() else rows.take(pa.array(np.argsort(places, kind="stable")))


def known_plan(run: Run, config: Config, kind: dict[str, Any], chosen: Videos, versions: Spool) -> Plan:
    """Return what still holds of an earlier run's plan; refuse to mix embeddings of two kinds or of changed files."""
    before, again = run.info(), config.source.re_embed
    same = before.get("encoder") == kind and before["config"]["sample"] == config.sample.model_dump(mode="json")
    if not same and again:
        run.remove(PLAN_FILE)
        run.remove(PROBED)
    elif not same and (run.exists(PLAN_FILE) or run.exists(PROBED)):
        raise UsageError(
            f"{run.url} holds embeddings made with another encoder or sampling: choose another -o, or --re-embed"
        )
    plan = Plan(run, chosen)
    changed, lost = np.zeros(len(chosen), bool), np.zeros(len(chosen), bool)
    for places, rows in plan.read(["version", "error_stage", "error"]):
        differs = pc.fill_null(pc.not_equal(rows["version"], versions.take(places)["version"]), False)
        changed[places[pc.and_(differs, rows["error"].is_null()).to_numpy()]] = True
        unread = rows["error"].is_valid() if config.source.retry_failed else pc.equal(rows["error_stage"], AWAY)
        lost[places[pc.fill_null(unread, False).to_numpy()]] = True
    if changed.any() and not again:
        raise UsageError(
            f"{changed.sum()} of {len(chosen)} videos changed since they were embedded, such as "
            f"{shown(chosen[int(changed.argmax())].uri)}: --re-embed embeds them again"
        )
    plan.drop(np.flatnonzero(changed | lost))
    return plan


def quarantined(run: Run, config: Config, found: Videos) -> np.ndarray:
    """Tell which videos failed in an earlier run and are not wanted again: (n_videos,) bool."""
    held = np.zeros(len(found), bool)
    if not config.source.retry_failed and run.exists(VIDEOS_FILE):
        for group in range(run.n_groups(VIDEOS_FILE)):
            before = run.read_table(VIDEOS_FILE, ["video_id", "status", "error_stage"], group)
            places = found.places(failed_before(before))
            held[places[places >= 0]] = True
    return held


@dataclass(frozen=True)
class Todo:
    """What of a run's plan there is left to embed.

    Attributes
    ----------
    run
        The run.
    rows
        For each row group of ``plan.parquet``, which of its rows: (n,) bool.
    n_videos
        Of how many videos these are.
    """

    run: Run
    rows: tuple[np.ndarray, ...]
    n_videos: int

    @property
    def n_segments(self) -> int:
        """How many rows these are."""
        return int(sum(rows.sum() for rows in self.rows))

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows themselves, a row group at a time."""
        for number, rows in enumerate(self.rows):
            if rows.any():
                yield self.run.read_table(PLAN_FILE, group=number).filter(pa.array(rows))


class Portions:
    """What of a plan has been embedded, a portion of the source at a time.

    Parameters
    ----------
    run
        The run.
    chosen
        The videos to embed, each of which has been probed. Their plan is written as ``plan.parquet``, in their order,
        a row group a portion; what else the run has of a plan goes.
    size
        Videos a portion.
    """

    def __init__(self, run: Run, chosen: Videos, size: int):
        self._run, self._chosen, self._size = run, chosen, size
        self._bounds = [(start, min(start + size, len(chosen))) for start in range(0, max(len(chosen), 1), size)]
        self._catalogue = Catalogue(run, chosen)
        plan = Plan(run, chosen)
        run.write_tables(PLAN_FILE, (plan.portion(start, stop) for start, stop in self._bounds))
        for name in run.files(PROBED, ".parquet"):  # oldest first: none may be left that is older than another
            run.remove(name)
        run.remove(PROBED)

    def remaining(self, retry_failed: bool) -> Todo:
        """Find out what there is left to do; what failed is, if it is wanted."""
        rows, n_videos = [], 0
        for number in range(len(self._bounds)):
            ledger = self._ledger(number)
            rows.append(ledger.is_remaining(retry_failed))
            n_videos += np.logical_or.reduceat(rows[-1], ledger.first).sum() if len(ledger.first) else 0
        return Todo(self._run, tuple(rows), int(n_videos))

    def account(
        self, found: Videos, quarantine: np.ndarray, dim: int, tell: Callable[[str], None]
    ) -> Iterator[pa.Table]:
        """Compact ``embeddings/``, and yield a `schema.VIDEOS` table of each portion, in the order of the source.

        Parameters
        ----------
        found
            The source: the chosen videos, and perhaps more behind them.
        quarantine
            See `raypipe.runs.accounting.account`.
        dim
            Numbers a vector.
        tell
            Called with a line on files that could not be compacted, which are as good as before.
        """
        for number, (start, stop) in enumerate(self._bounds):
            ledger = self._ledger(number)
            try:
                ledger.compact(dim)
            except RaypipeError as error:  # it is a matter of order: nothing is lost
                self._run.log("not compacted", reason=str(error))
                tell(f"small files of embeddings/ stay as they are: {error}")
            yield account(found[start:stop], ledger, quarantine[start:stop])
        unplanned = Ledger(self._run, PLAN.empty_table(), [])
        for start in range(len(self._chosen), len(found), self._size):
            stop = start + self._size
            yield account(found[start:stop], unplanned, quarantine[start:stop])

    def _ledger(self, number: int) -> Ledger:
        files = None if len(self._bounds) == 1 else self._catalogue.touching(*self._bounds[number])
        return Ledger(self._run, self._run.read_table(PLAN_FILE, group=number), files)
