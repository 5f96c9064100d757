"""The videos of a run as samples of a FiftyOne dataset."""

from __future__ import annotations

import os
from typing import Any

from raypipe.clustering.result import name_cluster
from raypipe.errors import RaypipeError, UsageError, one_line
from raypipe.packages import require
from raypipe.progress import counted
from raypipe.report.facts import Member, read_facts
from raypipe.runs.contents import VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.schema import finite_or_none
from raypipe.storage import is_http, local_path, shown


def write_samples(run: Run, name: str | None) -> list[str]:
    """Make a persistent FiftyOne dataset with a sample for each clustered video.

    A sample has the fields ``video_id``, ``cluster`` (a ``Classification``), ``distance``, ``outlier_score``,
    ``outlier``, ``map_x`` and ``map_y``; ``metadata``, without which FiftyOne's app runs ffprobe; ``group``,
    ``ground_truth`` (the label) and ``caption`` where the source has them; and as ``TemporalDetections``, in frames
    that are counted from 1, ``odd`` with the reason of an outlier, and ``part`` where the video is a part of its file.

    Parameters
    ----------
    run
        A clustered run.
    name
        The dataset's name; by default that of the run directory, behind "raypipe-".

    Raises
    ------
    RaypipeError
        If fiftyone is not installed or its database does not start.
    UsageError
        If there is a dataset of that name.
    """
    fo: Any = require("fiftyone")
    name = name or f"raypipe-{run.path().rstrip('/').rpartition('/')[2]}"
    try:
        is_there = fo.dataset_exists(name)
    except Exception as error:  # Its own errors and its database's have no class in common.
        raise RaypipeError(f"FiftyOne's database cannot be used: {one_line(error)}") from error
    if is_there:
        raise UsageError(f"FiftyOne has a dataset {name!r} already: delete it, or name another by -o")
    facts = read_facts(run)
    videos = run.read_table(VIDEOS_FILE, ["video_id", "fps", "duration_s", "width", "height"])
    measures = {
        video_id: (fps or 0.0, *others)
        for video_id, fps, *others in zip(*(column.to_pylist() for column in videos.columns), strict=True)
    }
    samples = [_as_sample(fo, member, *measures[member.video_id]) for member in facts.members]
    places = [local_path(member.uri) or member.uri for member in facts.members]
    n_away = sum(not is_http(place) and not os.path.exists(place) for place in places)  # noqa: PTH110 – as in `sources`
    dataset = fo.Dataset(name, persistent=True)
    try:
        dataset.info = {"run": shown(run.url), "metrics": {k: v for k, v in facts.metrics.items() if _is_plain(v)}}
        dataset.add_samples(samples)
        if any("://" in place for place in places):
            dataset.set_values("filepath", places)  # It took URLs for relative paths; its app plays those of http.
        dataset.save()
    except BaseException:
        dataset.delete()  # Half a dataset would pass for a whole one, and its name would be taken.
        raise
    away = [f"FiftyOne cannot show {n_away} of them, which are not files on this machine"] if n_away else []
    return [
        f"made the FiftyOne dataset {name!r} of {counted(len(samples), 'sample')}: fiftyone app launch {name}",
        *away,
    ]


def _as_sample(
    fo: Any, member: Member, fps: float, duration_s: float | None, width: int | None, height: int | None
) -> Any:
    cluster = name_cluster(member.cluster, "")
    fields: dict[str, Any] = {
        "video_id": member.video_id,
        "cluster": fo.Classification(label=cluster),
        "distance": finite_or_none(member.distance),
        "outlier_score": finite_or_none(member.outlier_score),
        "outlier": member.outlier,
        "map_x": finite_or_none(member.x),
        "map_y": finite_or_none(member.y),
        "group": member.group,
        "caption": member.caption,
        "ground_truth": fo.Classification(label=member.label) if member.label else None,
    }
    if fps and duration_s and width and height:  # Without them its app looks into each file, by an ffprobe of its own.
        n_frames = round(duration_s * fps)
        fields["metadata"] = fo.VideoMetadata(
            frame_width=width, frame_height=height, frame_rate=fps, duration=duration_s, total_frame_count=n_frames
        )
    if member.odd_s and fps:
        fields["odd"] = _temporal(fo, member.reason, *member.odd_s, fps)
    if fps and member.span_s and (member.origin_s or (duration_s and member.span_s < duration_s - 1 / fps)):
        fields["part"] = _temporal(fo, cluster, member.origin_s, member.origin_s + member.span_s, fps)
    # It takes a file for a video by its suffix alone, and refuses a .gif, .ts or .3gp beside an .mp4.
    return fo.Sample(filepath=local_path(member.uri) or member.uri, media_type="video", **fields)


def _temporal(fo: Any, label: str, start_s: float, end_s: float, fps: float) -> Any:
    first = round(start_s * fps) + 1
    support = [first, max(round(end_s * fps), first)]
    return fo.TemporalDetections(detections=[fo.TemporalDetection(label=label, support=support)])


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)
