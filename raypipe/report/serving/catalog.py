"""The videos of a run as the page's server tells of them, by their ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.runs.contents import CLUSTERS_FILE, PLAN_FILE, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.lookup import name_part, with_episode
from raypipe.schema import finite_or_none
from raypipe.sources.lerobot import EPISODE
from raypipe.storage import shown

_VIDEOS = ["video_id", "uri", "group", "label", "caption", "duration_s", "width", "height", "codec", "status", "error"]
_UNTOLD = ("origin_s", "span_s", "is_shared")
_CLUSTERED = ["cluster", "distance", "outlier_score", "outlier", "x", "y"]


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
        row = {name: value for name, value in self.row.items() if name not in (*_UNTOLD, EPISODE)}
        end_s = None if self.span_s is None else self.origin_s + self.span_s
        told = {**row, "uri": shown(row["uri"]), "name": self.name, "start_s": self.origin_s, "end_s": end_s}
        return {name: finite_or_none(value) for name, value in told.items()}


class Catalog:
    """Every video that a run has found, in source order; those that are clustered with their row in the page.

    It is read once, into memory: some hundred bytes a video, and its caption.

    Parameters
    ----------
    run
        A clustered run.
    """

    def __init__(self, run: Run) -> None:
        videos = run.read_table(VIDEOS_FILE, with_episode(run, _VIDEOS)).combine_chunks()
        clusters = run.read_table(CLUSTERS_FILE, ["video_id", *_CLUSTERED]).combine_chunks()
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

    def __len__(self) -> int:
        """Return the number of videos."""
        return self._table.num_rows

    def find(self, video_id: str) -> Entry | None:
        """Return the video of an id, or None if the run has none."""
        row = pc.index(self._table["video_id"], video_id).as_py()
        return None if row < 0 else self._entry(row)

    def _entry(self, row: int) -> Entry:
        (values,) = self._table.slice(row, 1).to_pylist()
        origin_s, span_s = values["origin_s"], values["span_s"]
        if span_s is None:
            origin_s, span_s = 0.0, values["duration_s"]
        name = name_part(values, origin_s, span_s, values["is_shared"])
        return Entry(values, name, origin_s or 0.0, span_s)


def _join(table: pa.Table, more: pa.Table, columns: list[str]) -> pa.Table:
    """Append columns of another table, by ``video_id``; the first row of an id counts."""
    place = pc.index_in(table["video_id"], value_set=more["video_id"].combine_chunks())
    for name in columns:
        table = table.append_column(name, more[name].take(place))
    return table
