"""A page that shows a deep-zoom pyramid: one HTML file beside it, which a browser opens from a disk, offline."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any

from raypipe.report.poster_layout import PosterLayout
from raypipe.report.tables import name_of

TILE, OVERLAP = 254, 1
"""What libvips' ``dzsave`` makes: tiles of 256 pixels, of which one on each inner side is the neighbour's."""
_CAPTION = 200  # Characters of a caption at most.


def render_viewer(name: str, layout: PosterLayout, videos: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    name
        That of the pyramid, without its suffix: its tiles lie in ``NAME_files/``, beside the page.
    layout
        The poster, of which the page says what is under the pointer.
    videos
        ``uri``, ``label``, ``caption`` and ``cluster`` by ``video_id``.
    """
    order = {video_id: number for number, video_id in enumerate(videos)}
    frames = layout.frames
    times_s = frames.time_s.round(2).tolist()
    of_frames = [order[frames.video_ids[video]] for video in frames.video.tolist()]
    facts = {
        "name": name,
        "width": layout.width,
        "height": layout.height,
        "tile": TILE,
        "overlap": OVERLAP,
        "levels": math.ceil(math.log2(max(layout.width, layout.height))),
        "grid": {"margin": layout.margin, "tile": layout.tile, "columns": layout.columns},
        "videos": [_tell(video) for video in videos.values()],
        "frames": dict(zip(layout.tiles.tolist(), zip(of_frames, times_s, strict=True), strict=True)),
    }
    # In a script element nothing but "</script" and "<!--" ends or bends the text, so no "<" is left in it.
    data = json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")
    page = resources.files("raypipe.report").joinpath("viewer.html").read_text(encoding="utf-8")
    parts = {"TITLE": escape(name), "DATA": data}
    return re.sub("@(TITLE|DATA)@", lambda found: parts[found[1]], page)


def _tell(video: Mapping[str, Any]) -> str:
    caption = " ".join((video["caption"] or "").split())
    caption = caption if len(caption) <= _CAPTION else f"{caption[: _CAPTION - 1]}…"
    cluster = {None: None, -1: "noise"}.get(video["cluster"], f"cluster {video['cluster']}")
    return " · ".join(filter(None, (name_of(video["uri"]), cluster, video["label"], caption)))
