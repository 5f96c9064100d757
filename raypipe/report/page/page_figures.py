"""The figures of the page: its plots with their captions."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from raypipe.report.facts import Facts
from raypipe.report.page.hover import draw_hover

if TYPE_CHECKING:
    from raypipe.report.figures.plots import VideoMap

_WIDE = ("trajectories", "fingerprints")


def render_pictures(facts: Facts, plots: Mapping[str, bytes], video_map: VideoMap) -> str:
    """Return the map as pictures, in a fold, and the figures that follow it."""
    place = "on a 2-D map" if facts.is_pooled else "at the mean of its path on a 2-D map"
    hover, n_told = draw_hover(facts, video_map)
    told = "each" if n_told == len(facts.members) else f"{n_told:,} of {len(facts.members):,}"
    is_more = facts.n_dimensions is None or facts.n_dimensions > 2
    more = "Clusters were found in more dimensions than the two drawn here. " if is_more else ""
    captions = {
        "points": f"Each mark is a video, {place} ({facts.map_name}) of the embeddings. The map keeps what is near "
        "together; how far apart two distant groups lie on it means little. Rings are outliers"
        f"{', crosses centers' if facts.is_pooled else ''}{', gray marks noise' if facts.noise else ''}. Under the "
        f"pointer {told} says its name and its caption.",
        "trajectories": "The paths themselves: each thin line is a video from its start (dot) to its end (arrow), the "
        f"bold line its cluster's soft-DTW barycenter on the map. {more}Paths of unlike order can share the same "
        "ground.",
        "fingerprints": "Videos that are as unlike one another as can be, by dynamic time warping of their paths on "
        "the map: each path from its start (ring) to its end (arrow), over all videos' steps (gray), and beside it "
        "what frames there are at their times, numbered as the points of the path where they lie. A path that is small "
        "on the map is enlarged.",
        "sizes": "How many videos each cluster has"
        + (f", and how its videos' {facts.mix_column}s mix." if facts.mix_column else "."),
        "outliers": "How far the videos lie off, and the threshold beyond which they are outliers. "
        + (
            "Shown is the distance to the own center."
            if facts.outliers_by == "distance"
            else "Shown is the distance to the nearest center that other videos support."
        ),
    }
    figures = {
        name: _figure(plots[name], told, name in _WIDE, hover if name == "points" else "")
        for name, told in captions.items()
        if name in plots
    }
    maps = "\n".join(figures.pop(name) for name in ("points", "trajectories") if name in figures)
    # They need no script, and can be printed.
    return fold("The map as pictures", maps) + "\n".join(figures.values())


def render_learning(plots: Mapping[str, bytes]) -> str:
    """Return what was learned of the trajectories, and whether that is done; nothing where they are not learned."""
    captions = {
        "states": "The states of the learned decoder over time, on their two principal axes: a line is a video, from "
        "its start (ring) to its end (dot). Where lines of one colour run together, what was learned tells them apart.",
        "learning": "Whether learning is done: the loss should have become flat, and the silhouette (how far apart the "
        "states of clusters are) no longer rise. The gray bar is the epoch whose weights were kept.",
    }
    figures = "\n".join(_figure(plots[name], told) for name, told in captions.items() if name in plots)
    return figures and f"<h2>What was learned</h2>\n{figures}"


def _figure(png: bytes, told: str, is_wide: bool = False, over: str = "") -> str:
    return (
        f'<figure><div class="paper"><div class="map{"" if is_wide else " narrow"}">'
        f'<img src="{data_uri(png, "png")}" alt="{escape(told)}">{over}'
        f"</div></div><figcaption>{escape(told)}</figcaption></figure>"
    )


def fold(title: str, content: str) -> str:
    """Return HTML that is unfolded by a click."""
    return f"<details><summary>{title}</summary>{content}</details>"


def scroll(table: str, name: str) -> str:
    """Return a table in a box that scrolls, by the keyboard too; ``name`` says what it holds."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">{table}</div>'


def data_uri(content: bytes, kind: str) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
