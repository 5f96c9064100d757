"""What became of every video: found = ok + failed + skipped, always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from raypipe.schema import FAILED, OK, SKIPPED, VIDEOS, Videos

CLIP_COLUMNS = ["video_id", "segment", "embedding", "decoder", "error_stage", "error"]


def account(found: Videos, plan: pa.Table, clips: Iterable[pa.Table]) -> pa.Table:
    """Make ``videos.parquet``: a row a found video, in source order.

    Parameters
    ----------
    found
        All videos of the source. One without a row in the plan is skipped: it lies beyond ``--limit``.
    plan
        A `schema.PLAN` table.
    clips
        Tables of ``embeddings/`` with ``CLIP_COLUMNS``.

    Returns
    -------
    A `schema.VIDEOS` table, with the manifest's further columns behind.
    """
    made, problems, decoders = _read_clips(clips)
    planned = {row["video_id"]: row for row in reversed(plan.drop_columns(["uri"]).to_pylist())}
    rows = []
    for video in found:
        row: dict[str, Any] = {"video_id": video.video_id, "uri": video.uri}
        row.update(group=video.group, label=video.label, caption=video.caption)
        probed = planned.get(video.video_id)
        if probed is None:
            row.update(status=SKIPPED, error_stage="plan", error="beyond --limit")
        else:
            row.update({name: probed[name] for name in ("duration_s", "width", "height", "fps", "codec")})
            row["decoder"] = decoders.get(video.video_id) or probed["decoder"]
            row["status"] = OK if made[video.video_id] else FAILED
            stage, error = problems.get(video.video_id) or (probed["error_stage"], probed["error"])
            if row["status"] == FAILED and error is None:
                stage, error = "plan", "no clip starts within the video"
            row.update(error_stage=stage, error=error)
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=VIDEOS)
    return _append_extra(table, found)


def count(videos: pa.Table, n_ignored: int) -> dict[str, int]:
    """Return ``counts`` for ``run.json``."""
    tally = Counter(videos.column("status").to_pylist())
    counts = {"found": videos.num_rows, **{status: tally[status] for status in (OK, FAILED, SKIPPED)}}
    return {**counts, "ignored": n_ignored}


def _read_clips(clips: Iterable[pa.Table]) -> tuple[Counter, dict[str, tuple[str, str]], dict[str, str]]:
    """Return, by video: the number of clips, the first segment's problem, and the decoders that were used."""
    made: Counter = Counter()
    problems: dict[str, tuple[int, str, str]] = {}
    decoders: dict[str, set[str]] = {}
    for table in clips:
        valid = table.column("embedding").is_valid().to_pylist()
        rows = table.drop_columns(["embedding"]).to_pylist()
        for row, has_clip in zip(rows, valid, strict=True):
            video_id = row["video_id"]
            made[video_id] += has_clip
            if row["decoder"]:
                decoders.setdefault(video_id, set()).add(row["decoder"])
            if row["error"] and row["segment"] <= problems.get(video_id, (row["segment"],))[0]:
                problems[video_id] = (row["segment"], row["error_stage"], row["error"])
    used = {video_id: "+".join(sorted(names)) for video_id, names in decoders.items()}
    return made, {video_id: problem[1:] for video_id, problem in problems.items()}, used


def _append_extra(table: pa.Table, found: Videos) -> pa.Table:
    names = dict.fromkeys(name for video in found for name in video.extra)
    for name in names:
        free = f"manifest_{name}" if name in table.column_names else name  # what we found out keeps its own name
        table = table.append_column(free, pa.array([video.extra.get(name) for video in found]))
    return table
