"""What became of every video: found = ok + failed + skipped, always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.runs.ledger import Ledger
from raypipe.schema import AWAY, FAILED, OK, SKIPPED, VIDEOS
from raypipe.sources.videos import Videos

LIMIT = "limit"  # the stage at which a video was left out that lies beyond --limit
_PROBED = ("duration_s", "width", "height", "fps", "codec")


def account(found: Videos, ledger: Ledger, quarantine: np.ndarray | None = None) -> pa.Table:
    """Make ``videos.parquet``: a row a found video, in source order.

    Parameters
    ----------
    found
        All videos of the source. One that the ledger's plan has no row of is skipped: it lies beyond ``--limit``.
    ledger
        What has been embedded.
    quarantine
        (n_videos,) bool: which failed in an earlier run and were not tried again. Without a clip, they are skipped.

    Returns
    -------
    A `schema.VIDEOS` table, with the manifest's further columns behind.
    """
    table = found.table
    columns: dict[str, Any] = {name: table[name] for name in ("video_id", "uri", "group", "label", "caption")}
    place = pc.index_in(columns["video_id"], value_set=ledger.video_ids.combine_chunks())  # among the planned videos
    first = pa.array(ledger.first).take(place)
    columns |= {name: ledger.plan[name].take(first) for name in _PROBED}
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
        told = pc.binary_join_element_wise("failed in an earlier run (--retry-failed tries again)", error, ": ")
        columns["status"] = pc.if_else(held, SKIPPED, columns["status"])
        columns["error"] = pc.if_else(held, told, columns["error"])
    return _append_extra(pa.table(columns).select(VIDEOS.names).cast(VIDEOS), found)


def failed_before(videos: pa.Table) -> pa.Array:
    """Return the ids of those that failed in the run that a ``videos.parquet`` tells of, or had failed before it.

    Those beyond ``--limit`` did not, nor those whose server was away: they are tried again.
    """
    excused = pc.fill_null(pc.is_in(videos["error_stage"], value_set=pa.array([LIMIT, AWAY])), False)
    failed = pc.and_(pc.not_equal(videos["status"], OK), pc.invert(excused))
    return videos["video_id"].filter(failed).combine_chunks()


class Tally:
    """Counts what tables such as `account` makes tell, as they pass.

    Attributes
    ----------
    n_found
        Videos.
    statuses, decoders
        How many there are of each; decoders of those that are ok.
    first_error
        The first that any of them tells of, or None.
    """

    def __init__(self) -> None:
        self.n_found = 0
        self.statuses: Counter[str] = Counter()
        self.decoders: Counter[str] = Counter()
        self.first_error: str | None = None

    def over(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass tables on."""
        for videos in tables:
            self.n_found += videos.num_rows
            self.statuses += Counter(videos["status"].to_pylist())
            ok = pc.equal(videos["status"], OK)
            self.decoders += Counter(videos["decoder"].filter(ok).drop_null().to_pylist())
            if self.first_error is None and len(errors := videos["error"].drop_null()):
                self.first_error = errors[0].as_py()
            yield videos

    def counts(self, n_ignored: int) -> dict[str, int]:
        """Return ``counts`` for ``run.json``."""
        tallied = {status: self.statuses[status] for status in (OK, FAILED, SKIPPED)}
        return {"found": self.n_found, **tallied, "ignored": n_ignored}


def _decoders(ledger: Ledger) -> pa.Array:
    """Name what decoded each planned video: null where nothing is known, several names joined by "+"."""
    names = ledger.told["decoder"].combine_chunks().dictionary_encode()
    n, n_names = len(ledger.first), max(len(names.dictionary), 1)
    each = pc.fill_null(names.indices, -1).to_numpy().astype(np.int64)
    video = np.repeat(np.arange(n), np.diff(ledger.first, append=len(each)))
    video, name = np.divmod(np.unique((video * n_names + each)[each >= 0]), n_names)  # what decoded any part of each
    used = names.dictionary.cast(pa.string()).take(pa.array(name))
    starts, counts = np.searchsorted(video, np.arange(n)), np.bincount(video, minlength=n)
    first = used.take(pa.array(starts, mask=counts == 0))
    several = ["+".join(sorted(used.slice(starts[row], counts[row]).to_pylist())) for row in np.flatnonzero(counts > 1)]
    return pc.replace_with_mask(first, pa.array(counts > 1), pa.array(several, pa.string()))


def _problems(ledger: Ledger, made: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Return stage and text of each planned video's first problem, if it has one; a video without a clip does."""
    told = ledger.told["error"].is_valid().to_numpy()
    rows = np.arange(len(told))
    row = np.minimum.reduceat(np.where(told, rows, len(told)), ledger.first) if len(ledger.first) else rows
    has = row < len(told)
    at = pa.array(np.where(has, row, 0), mask=~has)
    found = [
        pc.coalesce(ledger.told[name].take(at), ledger.plan[name].take(pa.array(ledger.first)))
        for name in ("error_stage", "error")
    ]
    bare = pc.and_(pc.is_null(found[1]), pa.array(made == 0))
    return pc.if_else(bare, "plan", found[0]), pc.if_else(bare, "no clip starts within the video", found[1])


def _append_extra(table: pa.Table, found: Videos) -> pa.Table:
    for name, column in found.extra.items():
        free = f"manifest_{name}" if name in table.column_names else name  # what we found out keeps its own name
        table = table.append_column(free, column)
    return table
