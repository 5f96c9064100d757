"""The videos of a run as the page's server lists them: a table that is filtered, sorted and cut into pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import UsageError
from raypipe.report.tables import name_of
from raypipe.runs.accounting import VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.plan import PLAN_FILE
from raypipe.storage import shown

_VIDEOS = ["video_id", "uri", "group", "label", "caption", "duration_s", "width", "height", "codec", "status", "error"]
_CLUSTERED = ["cluster", "distance", "outlier_score", "outlier", "x", "y"]
_TEXTS = ("uri", "label", "group", "caption")
SORTS = ("uri", "label", "group", "duration_s", "cluster", "distance", "outlier_score", "status")
EXACT = ("cluster", "outlier", "label", "group", "status")
MOST_ROWS, MOST_POINTS = 500, 20_000


@dataclass(frozen=True)
class Entry:
    """A video of the run: its row, and the part of its file that it covers.

    ``span_s`` is None if its length is not known.
    """

    row: Mapping[str, Any]
    name: str
    origin_s: float
    span_s: float | None

    def describe(self) -> dict[str, Any]:
        """Return what the page is told of it; URLs without the credentials that they may hold."""
        row = {name: value for name, value in self.row.items() if name not in ("origin_s", "span_s", "is_shared")}
        end_s = None if self.span_s is None else self.origin_s + self.span_s
        told = {**row, "uri": shown(row["uri"]), "name": self.name, "start_s": self.origin_s, "end_s": end_s}
        return {name: _finite(value) for name, value in told.items()}


class Catalog:
    """Every video that a run has found, in source order, with its cluster and place where it has one.

    It is read once, into memory: some hundred bytes a video, and its caption.

    Parameters
    ----------
    run
        A clustered run.
    """

    def __init__(self, run: Run) -> None:
        videos = run.read_table(VIDEOS_FILE, _VIDEOS).combine_chunks()
        clusters = run.read_table("clusters.parquet", ["video_id", *_CLUSTERED]).combine_chunks()
        clusters = clusters.append_column("row", pa.array(np.arange(clusters.num_rows)))
        videos = _join(videos, clusters, [*_CLUSTERED, "row"])
        if run.exists(PLAN_FILE):
            plan = run.read_table(PLAN_FILE, ["video_id", "origin_s", "span_s"])
            plan = plan.filter(pc.is_valid(plan["span_s"])).combine_chunks()
            videos = _join(videos, plan, ["origin_s", "span_s"])
        else:
            none = pa.nulls(videos.num_rows, pa.float64())
            videos = videos.append_column("origin_s", none).append_column("span_s", none)
        uris = pc.dictionary_encode(videos["uri"].combine_chunks())
        numbers = uris.indices.to_numpy(zero_copy_only=False)
        is_shared = np.bincount(numbers, minlength=1)[numbers] > 1
        self._table = videos.append_column("is_shared", pa.array(is_shared))
        self._ordered = lru_cache(8)(self._find_rows)

    def __len__(self) -> int:
        """Return the number of videos."""
        return self._table.num_rows

    def find(self, video_id: str) -> Entry | None:
        """Return the video of an id, or None if the run has none."""
        row = pc.index(self._table["video_id"], video_id).as_py()
        return None if row < 0 else self._entry(row)

    def list_page(
        self, offset: int, limit: int, sort: str | None, words: str, exact: Mapping[str, str]
    ) -> tuple[int, list[dict[str, Any]]]:
        """Return how many videos fit, and those from ``offset`` on, ``limit`` or `MOST_ROWS` at most.

        Parameters
        ----------
        offset, limit
            The page.
        sort
            One of `SORTS`, with a "-" before it for the largest first; None for the source's order.
        words
            Texts that all occur in a video's URI, label, group or caption, whatever the case.
        exact
            Values that columns of `EXACT` have.

        Raises
        ------
        UsageError
            If there is no such column.
        """
        rows = self._ordered(sort, words, tuple(sorted(exact.items())))
        chosen = rows[max(offset, 0) :][: min(max(limit, 0), MOST_ROWS)]
        return len(rows), [self._entry(int(row)).describe() for row in chosen]

    def points(self, box: tuple[float, float, float, float], n: int) -> dict[str, Any]:
        """Return at most ``n`` of the points on the map that lie in a box, spread as the points are seen.

        The box is cut into about ``n`` cells: of each cell one point is taken before any cell has two, so that lone
        points stay, and where they are dense none is missed. The order of the source decides, so a place shows the
        same points each time.

        Parameters
        ----------
        box
            ``x0, y0, x1, y1`` of the map.
        n
            At most; `MOST_POINTS` bounds it.
        """
        x, y = (self._table[name].to_numpy(zero_copy_only=False).astype(float) for name in ("x", "y"))
        x0, y0, x1, y1 = box
        inside = np.flatnonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
        n = min(max(n, 1), MOST_POINTS)
        rows = inside if len(inside) <= n else inside[_thin_out(x[inside], y[inside], n)]
        taken = self._table.take(pa.array(rows))
        return {
            "total": len(inside),
            "video_id": taken["video_id"].to_pylist(),
            "x": x[rows].tolist(),
            "y": y[rows].tolist(),
            "cluster": taken["cluster"].to_pylist(),
            "outlier": taken["outlier"].to_pylist(),
        }

    def _entry(self, row: int) -> Entry:
        (values,) = self._table.slice(row, 1).to_pylist()
        origin_s, span_s = values["origin_s"], values["span_s"]
        if span_s is None:
            origin_s, span_s = 0.0, values["duration_s"]
        part = f" [{origin_s:g}–{origin_s + span_s:g} s]" if values["is_shared"] and span_s else ""
        return Entry(values, name_of(values["uri"]) + part, origin_s or 0.0, span_s)

    def _find_rows(self, sort: str | None, words: str, exact: tuple[tuple[str, str], ...]) -> np.ndarray:
        fits = np.ones(len(self), bool)
        for column, value in exact:
            if column not in EXACT:
                raise UsageError(f"videos are not chosen by {column}: {', '.join(EXACT)}")
            texts = pc.cast(self._table[column], pa.string())
            fits &= pc.fill_null(pc.equal(texts, value), False).to_numpy(zero_copy_only=False)
        for word in words.split():
            found = [pc.match_substring(self._table[name], word, ignore_case=True) for name in _TEXTS]
            hits = [pc.fill_null(each, False).to_numpy(zero_copy_only=False) for each in found]
            fits &= np.logical_or.reduce(hits)
        rows = np.flatnonzero(fits)
        if not sort:
            return rows
        name = sort.removeprefix("-")
        if name not in SORTS:
            raise UsageError(f"videos are not sorted by {name}: {', '.join(SORTS)}")
        column = self._table[name].take(pa.array(rows))
        order = "descending" if sort.startswith("-") else "ascending"
        return rows[pc.sort_indices(column, sort_keys=[("", order)]).to_numpy()]


def _join(table: pa.Table, more: pa.Table, columns: list[str]) -> pa.Table:
    """Append columns of another table, by ``video_id``; the first row of an id counts."""
    place = pc.index_in(table["video_id"], value_set=more["video_id"].combine_chunks())
    for name in columns:
        table = table.append_column(name, more[name].take(place))
    return table


def _thin_out(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """Return the places of ``n`` points, ascending: the first of each cell, then the second of each, and so on."""
    side = max(int(np.sqrt(n)), 1)

    def number(values: np.ndarray) -> np.ndarray:
        low, width = values.min(), max(float(np.ptp(values)), np.finfo(float).tiny)
        return np.minimum(((values - low) / width * side).astype(np.int64), side - 1)

    cells = number(x) * side + number(y)
    order = np.argsort(cells, kind="stable")
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return np.sort(order[np.lexsort((order, rank))[:n]])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
