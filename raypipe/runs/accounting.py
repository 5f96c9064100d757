"""What became of every video: found = ok + failed + skipped, always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import RaypipeError
from raypipe.progress import counted
from raypipe.runs.contents import VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.runs.lookup import column_of_episodes, own_id
from raypipe.schema import AWAY, EMBEDDED, FAILED, OK, PLAN, SKIPPED, VIDEOS
from raypipe.sources.videos import Videos
from raypipe.storage import shown, shown_place

LIMIT = "limit"
"""The stage of a video that was skipped because it lies beyond ``--limit``."""
_HELD = "failed in an earlier run (--retry-failed tries again)"
_TOLD = 3  # So many failures are told with the counts.
_ROUNDED_S = 1.0  # Times that people note, or that a container's rounded ones add up to, differ by less.

_DECIDED = ("video_id", "uri", "decoder", "error_stage", "error")
_FROM_PLAN = [name for name in VIDEOS.names if name in PLAN.names and name not in _DECIDED]
"""Columns of `VIDEOS` that are copied from the plan: those of the same name, unless they are decided here."""


def account(found: Videos, ledger: Ledger, quarantine: np.ndarray | None = None) -> pa.Table:
    """Make ``videos.parquet``: a row a found video, in source order.

    Parameters
    ----------
    found
        Videos of the source. One without a row in the ledger's plan lies beyond ``--limit`` and is skipped.
    ledger
        What has been committed of the plan.
    quarantine
        (n_videos,) bool, which videos failed in an earlier run and were not tried again: they are skipped, unless they
        have a clip.

    Returns
    -------
    A `schema.VIDEOS` table, with the manifest's further columns behind.
    """
    table = found.table
    columns: dict[str, Any] = {name: table[name] for name in ("video_id", "uri", "group", "label", "caption")}
    # The place of each video among those that are planned.
    place = pc.index_in(columns["video_id"], value_set=ledger.video_ids.combine_chunks())
    first = pa.array(ledger.first).take(place)
    columns |= {name: ledger.plan[name].take(first) for name in _FROM_PLAN}
    columns["decoder"] = pc.coalesce(_decoders(ledger).take(place), ledger.plan["decoder"].take(first))
    made = np.add.reduceat(np.maximum(ledger.n_clips, 0), ledger.first) if len(ledger.first) else np.empty(0, int)
    stage, error = (column.take(place) for column in _problems(ledger, made))
    is_ok = pc.fill_null(pa.array(made > 0).take(place), False)
    is_beyond = pc.is_null(place)
    columns["status"] = pc.if_else(is_ok, OK, pc.if_else(is_beyond, SKIPPED, FAILED))
    columns["error_stage"] = pc.if_else(is_beyond, LIMIT, stage)
    columns["error"] = pc.if_else(is_beyond, "beyond --limit", error)
    if quarantine is not None:
        held = pc.and_(pa.array(quarantine), pc.equal(columns["status"], FAILED))
        reason = pc.binary_join_element_wise(_HELD, error, ": ")
        columns["status"] = pc.if_else(held, SKIPPED, columns["status"])
        columns["error"] = pc.if_else(held, reason, columns["error"])
    return _append_extra(pa.table(columns).select(VIDEOS.names).cast(VIDEOS), found)


def failed_before(videos: pa.Table) -> pa.Array:
    """Return the ids of the videos that a ``videos.parquet`` lists as failed, in that run or before it.

    Those beyond ``--limit`` did not fail, and those whose server was away are tried again.
    """
    excused = pc.fill_null(pc.is_in(videos["error_stage"], value_set=pa.array([LIMIT, AWAY])), False)
    failed = pc.and_(pc.not_equal(videos["status"], OK), pc.invert(excused))
    return videos["video_id"].filter(failed).combine_chunks()


def write_accounts(run: Run, videos: Iterable[pa.Table], n_ignored: int, say: Callable[[str], None]) -> None:
    """Write ``videos.parquet``, and record and say the counts: the run is embedded now.

    Parameters
    ----------
    run
        The run.
    videos
        Tables such as `account` makes, one in memory at a time.
    n_ignored
        How many files beside the videos were ignored.
    say
        Called with a line of the counts, and with those of some failures.

    Raises
    ------
    RaypipeError
        If no video at all is ok; the accounts are written nevertheless.
    """
    statuses: Counter[str] = Counter()
    skipped: Counter[str | None] = Counter()  # by their error_stage
    decoders: Counter[str] = Counter()
    first_error: str | None = None
    failures: list[dict[str, Any]] = []

    def count() -> Iterator[pa.Table]:
        nonlocal first_error
        for table in videos:
            statuses.update(table["status"].to_pylist())
            skipped.update(table["error_stage"].filter(pc.equal(table["status"], SKIPPED)).to_pylist())
            is_ok = pc.equal(table["status"], OK)
            decoders.update(table["decoder"].filter(is_ok).drop_null().to_pylist())
            if first_error is None and len(errors := table["error"].drop_null()):
                first_error = errors[0].as_py()
            if len(failures) < _TOLD:
                told = table.select(["video_id", "uri", "group", "error", *column_of_episodes(table.schema)])
                of_failed = told.filter(pc.equal(table["status"], FAILED))
                failures.extend(of_failed[: _TOLD - len(failures)].to_pylist())
            yield table

    run.write_tables(VIDEOS_FILE, count())
    counts = {"found": statuses.total(), **{status: statuses[status] for status in (OK, FAILED, SKIPPED)}}
    counts["ignored"] = n_ignored
    by = ", ".join(f"{name} ({n})" for name, n in decoders.most_common())
    run.record(state=EMBEDDED, counts=counts, **({"implementations": {"decode": by}} if by else {}))
    say("{found} found = {ok} ok + {failed} failed + {skipped} skipped".format(**counts))
    if n_held := skipped.total() - skipped[LIMIT]:
        say(f"skipped: {counted(n_held, 'video')} {_HELD}")
    if not counts[OK]:
        raise RaypipeError(f"none of {counts['found']} videos could be embedded; the first says: {first_error}")
    for each in failures:
        place = shown_place(each["uri"])
        error = each["error"].replace(shown(each["uri"]), place)  # A path is read more easily than its escapes.
        own = own_id(each)  # Many failed episodes may lie in one file.
        say(f"failed: {f'{own}: ' if own else ''}{error if place in error else f'{place}: {error}'}")
    if n_more := counts[FAILED] - len(failures):
        say(f"{counted(n_more, 'more video')} failed: {VIDEOS_FILE} says why")


def describe_ends(run: Run, found: Videos) -> list[str]:
    """Return a line that says how many videos of an embedded run should have ended well behind the end of their file.

    They end with it, as is right for times that were rounded, and wrong for milliseconds or frames.
    """
    if found.table["end_s"].null_count == len(found):
        return []
    videos = run.read_table(VIDEOS_FILE, ["duration_s", "status"])
    is_behind = pc.greater(found.table["end_s"], pc.add(videos["duration_s"], _ROUNDED_S))
    is_cut = pc.and_(is_behind, pc.equal(videos["status"], OK))
    if not (n := pc.sum(is_cut).as_py()):
        return []
    first = found[pc.index(is_cut, True).as_py()]
    ends = counted(n, "video ends", "videos end")
    return [
        f"{ends} with the file, before end_s, such as {shown_place(first.uri)}, end_s={first.end_s:g}: it is in seconds"
    ]


def _decoders(ledger: Ledger) -> pa.Array:
    """Return the decoder of each planned video: several names are joined by "+", and null is unknown."""
    names = ledger.outcome["decoder"].combine_chunks().dictionary_encode()
    n, n_names = len(ledger.first), max(len(names.dictionary), 1)
    each = pc.fill_null(names.indices, -1).to_numpy().astype(np.int64)
    video = np.repeat(np.arange(n), np.diff(ledger.first, append=len(each)))
    video, name = np.divmod(np.unique((video * n_names + each)[each >= 0]), n_names)  # Each pair counts once.
    used = names.dictionary.cast(pa.string()).take(pa.array(name))
    starts, counts = np.searchsorted(video, np.arange(n)), np.bincount(video, minlength=n)
    first = used.take(pa.array(starts, mask=counts == 0))
    several = ["+".join(sorted(used.slice(starts[row], counts[row]).to_pylist())) for row in np.flatnonzero(counts > 1)]
    return pc.replace_with_mask(first, pa.array(counts > 1), pa.array(several, pa.string()))


def _problems(ledger: Ledger, made: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Return stage and text of each planned video's first problem; a video without a clip always has one."""
    has_error = ledger.outcome["error"].is_valid().to_numpy()
    rows = np.arange(len(has_error))
    row = np.minimum.reduceat(np.where(has_error, rows, len(has_error)), ledger.first) if len(ledger.first) else rows
    has = row < len(has_error)
    at = pa.array(np.where(has, row, 0), mask=~has)
    found = [
        pc.coalesce(ledger.outcome[name].take(at), ledger.plan[name].take(pa.array(ledger.first)))
        for name in ("error_stage", "error")
    ]
    bare = pc.and_(pc.is_null(found[1]), pa.array(made == 0))
    return pc.if_else(bare, "plan", found[0]), pc.if_else(bare, "no clip starts within the video", found[1])


def _append_extra(table: pa.Table, found: Videos) -> pa.Table:
    extra = found.extra
    names = free_names(extra.column_names, VIDEOS.names, "manifest_")
    for name, field, column in zip(names, extra.schema, extra.columns, strict=True):
        table = table.append_column(field.with_name(name), column)
    return table


def free_names(names: Sequence[str], ours: Collection[str], prefix: str) -> list[str]:
    """Return what the source's columns are called beside ours, which keep their names: one of ours behind a prefix."""
    taken, free = {*ours, *names}, []
    for name in names:
        if name in ours:
            while name in taken:
                name = prefix + name
            taken.add(name)
        free.append(name)
    return free
