"""What still holds of an earlier run in the same directory, and what must not be mixed with it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.accounting import failed_before
from raypipe.config import Config
from raypipe.errors import UsageError
from raypipe.planning import find_changed, in_order_of, refuse_changed, without_videos
from raypipe.runs import Run
from raypipe.schema import AWAY, PLAN, Videos


def known_plan(run: Run, config: Config, kind: dict[str, Any], chosen: Videos, versions: pa.ChunkedArray) -> pa.Table:
    """Return what still holds of an earlier run's plan; refuse to mix embeddings of two kinds or of changed files."""
    before, again = run.info(), config.source.re_embed
    if not run.exists("plan.parquet"):
        return PLAN.empty_table()
    same = before.get("encoder") == kind and before["config"]["sample"] == config.sample.model_dump(mode="json")
    if not (same or again):
        raise UsageError(
            f"{run.url} holds embeddings made with another encoder or sampling: choose another -o, or --re-embed"
        )
    known = in_order_of(chosen, run.read_table("plan.parquet")) if same else PLAN.empty_table()
    changed = find_changed(known, chosen, versions)
    if not again:
        refuse_changed(changed, chosen)
    known = without_videos(known, changed)
    lost = known["error"].is_valid() if config.source.retry_failed else pc.equal(known["error_stage"], AWAY)
    return known.filter(pc.invert(pc.fill_null(lost, False)))


def quarantined(run: Run, config: Config) -> pa.Array | None:
    """Return the ids of videos that failed in an earlier run and are not wanted again."""
    if config.source.retry_failed or not run.exists("videos.parquet"):
        return None
    return failed_before(run.read_table("videos.parquet", ["video_id", "status", "error_stage"]))
