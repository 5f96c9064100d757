"""What the map of videos says under the pointer: an SVG over the picture, without any script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from raypipe.clustering.result import name_cluster
from raypipe.progress import shorten

if TYPE_CHECKING:
    from raypipe.report.facts import Facts, Member
    from raypipe.report.figures.plots import VideoMap

MAX_TOLD = 3000  # Videos that say something: each takes about 200 bytes of the page.
_CAPTION = 160  # Characters of a caption at most.
_LEAST_RADIUS = 6.0  # Pixels of the picture: a smaller mark would be hard to point at.


def draw_hover(facts: Facts, video_map: VideoMap) -> tuple[str, int]:
    """Return an SVG to lay over the map, with a circle at each video that has its name and caption as its title.

    A browser shows an SVG's title under the pointer. Of more than `MAX_TOLD` videos so many are chosen at random.

    Returns
    -------
    The SVG, and of how many videos it tells.
    """
    there = [member for member in facts.members if member.video_id in video_map.spots]
    if len(there) > MAX_TOLD:
        chosen = np.random.default_rng(0).choice(len(there), MAX_TOLD, replace=False)
        there = [there[i] for i in np.sort(chosen)]
    radius = max(video_map.radius, _LEAST_RADIUS)
    circles = []
    for member in there:
        x, y = video_map.spots[member.video_id]
        circles.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{radius:.0f}"><title>{_tell(member)}</title></circle>')
    width, height = video_map.size
    svg = f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(circles)}</svg>'
    return svg, len(there)


def _tell(member: Member) -> str:
    caption = shorten(member.caption or "", _CAPTION)
    heading = " · ".join(filter(None, (member.name[:_CAPTION], name_cluster(member.cluster), member.label)))
    return escape(f"{heading}\n{caption}" if caption else heading)
