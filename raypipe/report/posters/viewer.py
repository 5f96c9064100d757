"""A page that shows a deep-zoom pyramid: one HTML file beside it, which a browser opens from a disk, offline."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any

from raypipe.clustering.result import name_cluster
from raypipe.progress import shorten
from raypipe.report.page.page_script import read_text
from raypipe.report.posters.poster_layout import PosterLayout
from raypipe.runs.lookup import name_of, own_id

TILE, OVERLAP = 254, 1
"""What libvips' ``dzsave`` makes: tiles of 256 pixels, of which one on each inner side is the neighbour's."""
_CAPTION = 200  # Characters of a caption at most.


def describe_poster(
    name: str, layout: PosterLayout, videos: Mapping[str, Mapping[str, Any]], row_of: Mapping[str, int]
) -> dict[str, Any]:
    """Return what a viewer must know of a poster: its size, and which frame of which video each of its tiles is.

    Parameters
    ----------
    name
        That of the poster's file. The tiles of a pyramid, ``NAME.dzi``, lie in ``NAME_files/`` beside it; any other
        picture is taken as a pyramid of one level and one tile.
    layout
        The poster.
    videos
        What `describe_videos` returned of those that it shows.
    row_of
        The row of ``clusters.parquet``, which is the video's number in the page, by ``video_id``.
    """
    order = {video_id: number for number, video_id in enumerate(videos)}
    frames = layout.frames
    times_s = frames.time_s.round(2).tolist()
    of_frames = [order[frames.video_ids[video]] for video in frames.video.tolist()]
    side = max(layout.width, layout.height)
    stem, _, kind = name.rpartition(".")
    is_pyramid = kind.lower() == "dzi"
    return {
        "name": stem,
        "file": name,
        "width": layout.width,
        "height": layout.height,
        "tile": TILE if is_pyramid else side,
        "overlap": OVERLAP if is_pyramid else 0,
        "levels": math.ceil(math.log2(side)) if is_pyramid else 0,
        "grid": {"margin": layout.margin, "tile": layout.tile, "columns": layout.columns},
        "rows": [row_of.get(video_id) for video_id in videos],
        "videos": list(map(_tell, videos.values())),
        "frames": dict(zip(layout.tiles.tolist(), zip(of_frames, times_s, strict=True), strict=True)),
    }


def render_viewer(facts: Mapping[str, Any]) -> str:
    """Return the page of a pyramid as HTML; `describe_poster` returned the facts."""
    # In a script element nothing but "</script" and "<!--" ends or bends the text, so no "<" is left in it.
    data = json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"TITLE": escape(facts["name"]), "DATA": data, "SCRIPT": read_text("script/deep_zoom.js")}
    page = resources.files("raypipe.report.posters").joinpath("viewer.html").read_text(encoding="utf-8")
    return re.sub("@(TITLE|DATA|SCRIPT)@", lambda found: parts[found[1]], page)


def _tell(video: Mapping[str, Any]) -> str:
    caption = shorten(video["caption"] or "", _CAPTION)
    cluster = None if video["cluster"] is None else name_cluster(video["cluster"])
    return " · ".join(filter(None, (own_id(video) or name_of(video["uri"]), cluster, video["label"], caption)))
