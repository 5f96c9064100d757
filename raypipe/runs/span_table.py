"""The spans of long videos in a run directory: ``spans.csv``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from raypipe.runs.contents import SPANS_FILE, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.schema import inert


class VideoSpan(NamedTuple):
    """A span of a video, in seconds of its file, and the number of its kind."""

    video_id: str
    start_s: float
    end_s: float
    label: int


def write_spans(run: Run, spans: Iterable[VideoSpan]) -> None:
    """Write ``spans.csv``: a row a span, with its video's URI."""
    videos = run.read_table(VIDEOS_FILE, ["video_id", "uri"])
    uris = dict(zip(videos["video_id"].to_pylist(), videos["uri"].to_pylist(), strict=True))
    rows: list[Sequence[Any]] = [["video_id", "uri", "start_s", "end_s", "label"]]
    for span in spans:
        times = (f"{time_s:.3f}" for time_s in (span.start_s, span.end_s))
        rows.append([span.video_id, inert(uris[span.video_id]), *times, span.label])
    run.write_csv(SPANS_FILE, rows)


def read_spans(run: Run) -> dict[str, list[VideoSpan]]:
    """Return the spans of each video that has some, by its ``video_id``."""
    found: dict[str, list[VideoSpan]] = {}
    if run.exists(SPANS_FILE):
        for row in run.read_csv(SPANS_FILE):
            span = VideoSpan(row["video_id"], float(row["start_s"]), float(row["end_s"]), int(row["label"]))
            found.setdefault(span.video_id, []).append(span)
    return found
