"""The page: one HTML file that carries its pictures, its style, its data and its one script, and loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

import yaml

from raypipe.analysis.sizes import describe_empty, describe_noise
from raypipe.clustering.result import NOISE, name_cluster
from raypipe.progress import counted, shorten
from raypipe.report.facts import Cluster, Facts, Member, Problem
from raypipe.report.figures.contact_sheets import TILE, Filmstrip, join_pictures
from raypipe.report.page.confusion import render_confusions
from raypipe.report.page.page_figures import data_uri, fold, render_learning, render_pictures, scroll
from raypipe.report.page.page_script import policy_of, read_script, read_text, render_explorer
from raypipe.report.page.page_sections import (
    format_figure,
    link_headings,
    link_video,
    mark_video,
    render_checks,
    render_lead,
    render_poster,
    render_search,
    render_sweep,
    render_words,
)
from raypipe.report.page.short_answers import name_content, say_cameras, say_number, say_odd
from raypipe.report.page.span_bars import draw_timelines
from raypipe.report.style import color_of, ink_on

if TYPE_CHECKING:
    from raypipe.report.figures.plots import VideoMap

STRIP_BYTES = 2_600_000  # All film strips together take about this many bytes, so that the page stays below 5 MB.
MAX_TILES = 2400  # With more pictures on the page, each would be too small to show anything.
MAX_PROBLEMS = 500  # The table of failures has at most this many rows; videos.parquet has them all.
MAX_PILLS = 16

_METRICS = {
    "silhouette_softdtw": "How much nearer a video is to its own cluster than to the next, by soft-DTW, so that order "
    "in time counts: −1 to 1, higher is better.",
    "silhouette": "The same by the videos' means, which forget the order in time: −1 to 1.",
    "davies_bouldin": "Spread within clusters over the distance between them, on the means: 0 is best.",
    "inertia": "What k-means made small: the mean of soft-DTW (or else of the squared distance) to the nearest center. "
    "Lower is better, and it may be negative; comparable only on the same trajectories with the same gamma.",
    "ari": "Agreement with the {column}s, corrected for chance (adjusted Rand index): 1 is identical, 0 is chance.",
    "nmi": "Information that clusters and {column}s share (normalised): 0 to 1, higher is better.",
    "v_measure": "How far each cluster has one {column} only, and each {column} one cluster only: 0 to 1.",
    "gamma": "How smooth soft-DTW is: a small value follows the best alignment, a large one blurs over many.",
}


@dataclass(frozen=True)
class Shown:
    """A video on the page: its strip as a JPEG, the times of its pictures, its form, and why pictures are missing.

    The width is the part that the strip takes of the row: a short video may have few pictures, which are no larger.
    The aspect is a picture's width over its height.
    """

    member: Member
    strip: bytes | None
    times_s: tuple[float, ...]
    width: float
    aspect: float
    note: str


@dataclass(frozen=True)
class Card:
    """A cluster's part of the page: its most central videos (or random ones), and its farthest."""

    cluster: Cluster
    central: Sequence[Shown]
    farthest: Shown | None


def layout(n_clusters: int, n_videos: int, n_frames: int) -> tuple[int, int]:
    """Return how many central videos of a cluster the page shows, and the side of their pictures in pixels.

    The page shows the videos of the cluster's sheet, but no more pictures than `MAX_TILES`. The pictures are as large
    as `STRIP_BYTES` allows at 0.3 bytes a pixel.
    """
    per_row = n_clusters * n_frames
    n_rows = max(1, min(n_videos, MAX_TILES // max(per_row, 1) - 1))
    side = math.sqrt(STRIP_BYTES / (0.3 * max(per_row * (n_rows + 1), 1)))
    return n_rows, int(min(max(side, 48), TILE))


def show(strip: Filmstrip, tile: int, n_frames: int) -> Shown:
    """Encode a film strip for the page, with pictures of ``tile`` pixels a side, in a row for ``n_frames`` of them."""
    aspect = strip.tile_size[0] / strip.tile_size[1]
    width = len(strip.pictures) / n_frames * min(aspect, 1.0)  # Tall ones are as high as wide ones are wide.
    return Shown(strip.member, join_pictures(strip, tile), strip.times_s, width, aspect, strip.note)


def render_page(
    facts: Facts,
    plots: Mapping[str, bytes],
    cards: Sequence[Card],
    outliers: Sequence[tuple[Member, bytes | None]],
    written: datetime,
    video_map: VideoMap,
    explorer: str,
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    facts
        The run's facts.
    plots
        PNG bytes of ``points``, ``trajectories``, ``fingerprints``, ``sizes`` and ``outliers``, of ``sweep`` where the
        facts have one, and of ``learning`` and ``states`` where trajectories are learned; those that are missing are
        not shown.
    cards
        A card for each cluster, and for the noise.
    outliers
        The outliers to show, the farthest first, each with a JPEG or None. The run may have more.
    written
        The time in the head of the page.
    video_map
        Where ``points`` shows which video.
    explorer
        The data that `raypipe.report.page.explorer.write_data` wrote.
    """
    style, script = "".join(map(read_text, ("page.css", "explorer.css", "sections.css"))), read_script()
    body = "\n".join(
        [
            _counts(facts),
            render_lead(facts) + render_explorer(explorer),
            render_search(facts),
            "<h2>Pictures</h2>\n" + render_pictures(facts, plots, video_map),
            render_poster(facts),
            render_learning(plots),
            draw_timelines(facts),
            _metrics(facts),
            "<h2>Clusters</h2>" + "\n".join(_card(card, facts) for card in cards) + render_words(facts),
            _outliers(facts, outliers),
            render_sweep(facts, plots),
            render_checks(facts),
            _problems(facts.problems),
            _record(facts),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy_of(script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_title(facts))}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{_head(facts, written)}\n{link_headings(body)}\n</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _title(facts: Facts) -> str:
    n_clusters = len(facts.clusters)
    videos = counted(len(facts.members), facts.noun)
    if facts.noise and not n_clusters:
        return f"{videos}, all of them noise"
    return f"{videos} in {counted(n_clusters, 'cluster')}{' and noise' if facts.noise else ''}"


def _head(facts: Facts, written: datetime) -> str:
    version = facts.info.get("versions", {}).get("raypipe")
    where = f"<code>{escape(facts.folder)}</code>, g" if facts.folder else "G"
    notices = "".join(
        f'<p class="notice"><b>{escape(stage)}</b> fell back: {escape(str(reason))}</p>'
        for stage, reason in facts.info.get("fallbacks", {}).items()
    )
    if empty := describe_empty(facts.metrics):
        notices += f'<p class="notice"><b>cluster</b> left some empty: {escape(empty)}</p>'
    if noise := describe_noise(facts.metrics):
        notices += f'<p class="notice"><b>cluster</b> by density: {escape(noise)}</p>'
    if cameras := say_cameras(facts):
        notices += f'<p class="notice"><b>cameras</b> are {cameras}.</p>'
    jumps = " ".join(
        f'<a href="#cluster-{c.short_name}">{_chip(c.number)} <bdi>{escape(name_content(c, facts))}</bdi></a>'
        for c in facts.clusters_and_noise
    )
    number, odd = say_number(facts), say_odd(facts)
    said = f'<p class="lead below">{escape(odd)}</p>\n' if odd else ""
    by = "what the videos show on the whole" if not facts.has_order else "the paths that the videos take through time"
    return (
        f'<header>\n<div class="eyebrow">raypipe report{escape(f" · {version}" if version else "")}</div>\n'
        f"<h1>{escape(_title(facts))}</h1>\n"
        f'<p class="lead">{where}rouped by {by}. '
        f"Written {written:%Y-%m-%d %H:%M} UTC.{f' {number}' if number else ''}</p>\n"
        f'<nav class="jump" aria-label="clusters">{jumps}</nav>\n{said}{notices}</header>'
    )


def _counts(facts: Facts) -> str:
    counts = facts.info.get("counts", {})
    tiles = {name: f"{counts.get(name, 0):,}" for name in ("found", "ok", "failed", "skipped", "ignored")}
    tiles["outliers"] = f"{len(facts.outliers):,}"
    tiles["all stages"] = _duration(facts.wall_s)
    cells = "".join(
        f'<div class="tile {"bad" if name == "failed" and value != "0" else ""}">'
        f"<b>{value}</b><span>{name}</span></div>"
        for name, value in tiles.items()
    )
    return f'<div class="tiles">{cells}</div>'


def _metrics(facts: Facts) -> str:
    rows = "".join(
        f'<tr><td class="value">{_metric(facts.metrics[name])}</td>'
        f'<td class="name"><code>{name}</code></td><td class="muted">{escape(_explain(name, facts))}</td></tr>'
        for name in _METRICS
        if name in facts.metrics and not (name in ("ari", "nmi", "v_measure") and facts.metrics[name] is None)
    )
    return (
        f'<h2>How good the clusters are</h2>\n<div class="card"><table class="metrics">{rows}</table></div>'
        + render_confusions(facts)
    )


def _explain(name: str, facts: Facts) -> str:
    return _METRICS[name].format(column=facts.mix_column or "label")


def _card(card: Card, facts: Facts) -> str:
    cluster = card.cluster
    share = len(cluster) / len(facts.members)
    n_odd = len(cluster.outliers)
    odd = f", {counted(n_odd, 'outlier')}" if n_odd else ""
    rows = "\n".join(_row(shown) for shown in card.central)
    last = _row(card.farthest) if card.farthest else ""
    far = f'<div class="far"><h4>Farthest from the center</h4>{last}</div>' if last else ""
    every = [*card.central, *([card.farthest] if card.farthest else [])]
    # Where no row has a picture, for one reason, the rows stand side by side, and the style shows the first's reason.
    bare = " bare" if {(shown.strip, shown.note) for shown in every} == {(None, every[0].note)} else ""
    return (
        f'<section class="card cluster{bare}" id="cluster-{cluster.short_name}">\n<header>{_chip(cluster.number)}'
        f"<h3>{cluster.title}</h3>"
        f'<span class="muted">{counted(len(cluster), facts.noun)} ({share:.0%}){odd}</span>'
        f"{_pills(cluster, facts)}{_keywords(cluster, facts)}"
        f'<div class="slot" data-slot></div></header>\n{rows}\n{far}\n</section>'
    )


def _pills(cluster: Cluster, facts: Facts) -> str:
    mix = cluster.mix(facts.mix_column)
    if not mix:
        return ""
    items = [f"<li><bdi>{escape(shorten(name))}</bdi> <b>{count:,}</b></li>" for name, count in mix[:MAX_PILLS]]
    if len(mix) > MAX_PILLS:
        items.append(f"<li>and {len(mix) - MAX_PILLS:,} more</li>")
    return f'<ul class="pills">{"".join(items)}</ul>'


def _keywords(cluster: Cluster, facts: Facts) -> str:
    words = facts.keywords.get(cluster.number)
    if not words:
        return ""
    return f'<p class="keywords" title="What sets it apart">{escape(shorten(" · ".join(words), 200))}</p>'


def _row(shown: Shown) -> str:
    if shown.strip is None:
        picture = f'<div class="none">No picture: {escape(shown.note)}</div>'
    else:
        step = math.ceil(0.6 / min(shown.aspect, 1.0))  # Below narrow pictures there is no room for each time.
        hidden = ' style="visibility:hidden"'
        each = (f"<span{hidden if i % step else ''}>{time_s:.2f} s</span>" for i, time_s in enumerate(shown.times_s))
        times = "".join(each)
        note = f'<p class="muted small">Some pictures are missing: {escape(shown.note)}</p>' if shown.note else ""
        width = f"width:{shown.width:.2%}"
        picture = (
            f'<img src="{data_uri(shown.strip, "jpeg")}" alt="{counted(len(shown.times_s), "frame")} of the video" '
            f'style="{width}">'
            f'<div class="times" style="{width};--aspect:{shown.aspect:.4g};'
            f'grid-template-columns:repeat({len(shown.times_s)},minmax(0,1fr))">{times}</div>'
            f"{note}"
        )
    who = f'<div class="who">{_who(shown.member)}</div>'
    return f'<div class="row"{_mark(shown.member)}>{who}<div class="strip">{picture}</div></div>'


def _mark(member: Member) -> str:
    """Return the attributes by which the player of a served page knows a video, and the moment to show."""
    at = f' data-at="{member.odd_s[0]:.3f}"' if member.odd_s else ""
    return mark_video(member) + at


def _who(member: Member) -> str:
    said = " · ".join(
        f"<bdi>{escape(shorten(text))}</bdi>" for text in dict.fromkeys((member.label, member.group)) if text
    )
    caption = "" if member.caption == member.label else member.caption  # Of LeRobot's episodes both are the task.
    return (
        f'<div class="clip" title="{escape(member.uri)}">{link_video(member.name, member.uri)}</div>'
        + (f'<div class="muted">{said}</div>' if said else "")
        + (f'<div class="muted clip">{escape(shorten(caption, 120))}</div>' if caption else "")
        + (f'<div class="muted">distance {format_figure(member.distance)}</div>' if member.cluster != NOISE else "")
        + ('<span class="tag">outlier</span>' if member.outlier else "")
    )


def _outliers(facts: Facts, outliers: Sequence[tuple[Member, bytes | None]]) -> str:
    if not outliers:
        none = f"No {facts.noun} lies farther from its center than the threshold"
        return f'<h2>Outliers</h2>\n<p class="muted">{none if facts.clusters else "There are no clusters"}.</p>'
    more = len(facts.outliers) - len(outliers)
    rest = f" The {len(outliers)} farthest of {len(facts.outliers):,} are shown." if more else ""
    cells = "\n".join(
        f'<div{_mark(member)}>{_thumbnail(jpeg)}<div class="text">'
        f'<div class="clip" title="{escape(member.uri)}">{link_video(member.name, member.uri)}</div>'
        f"{_chip(member.cluster)} "
        f'<span class="muted">{facts.outliers_by} {format_figure(member.oddness(facts.outliers_by))}</span>'
        f"{_reason(member)}</div></div>"
        for member, jpeg in outliers
    )
    others = f"what groups of other {facts.noun}s do"
    far = "the center of their own cluster" if facts.outliers_by == "distance" else others
    return (
        f'<h2>Outliers</h2>\n<p class="lead">{facts.noun.title()}s that lie unusually far from {far}. The pictures are '
        f"of the part that is odd, where the run has kept them; outliers.csv has all.{rest}</p>\n"
        f'<div class="gallery{"" if any(jpeg for _, jpeg in outliers) else " bare"}">{cells}</div>'
    )


def _reason(member: Member) -> str:
    if not member.reason:
        return ""
    where = ""
    if member.odd_s and f"{member.odd_s[0]:.1f} s" not in member.reason:  # Most reasons say themselves where.
        where = f'<br><span class="muted">{member.odd_s[0]:.1f} to {member.odd_s[1]:.1f} s</span>'
    return f"<div>{escape(member.reason)}{where}</div>"


def _thumbnail(jpeg: bytes | None) -> str:
    return f'<img src="{data_uri(jpeg, "jpeg")}" alt="">' if jpeg else '<div class="none">No picture</div>'


def _problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return ""
    rows = "".join(
        f'<tr><td title="{escape(p.uri)}">{link_video(p.name, p.uri)}</td>'
        f'<td class="name">{"in part" if p.status == "ok" else p.status}</td>'
        f'<td class="name">{escape(p.stage)}</td><td>{escape(p.reason)}</td></tr>'
        for p in problems[:MAX_PROBLEMS]
    )
    more = len(problems) - MAX_PROBLEMS
    rest = f'<p class="muted small">And {more:,} more, in videos.parquet.</p>' if more > 0 else ""
    return (
        '<h2>What could not be read</h2>\n<div class="card">'
        + scroll(
            f"<table><tr><th>video</th><th>result</th><th>stage</th><th>why</th></tr>{rows}</table>",
            "what could not be read",
        )
        + f"{rest}</div>"
    )


def _record(facts: Facts) -> str:
    info = facts.info
    config = yaml.safe_dump(info.get("config", {}), sort_keys=False, allow_unicode=True)
    seconds = info.get("seconds", {})
    longest = max(seconds.values(), default=0) or 1
    times = "".join(
        f'<tr><td class="name">{escape(stage)}</td><td class="number">{_duration(value)}</td>'
        f'<td style="width:70%"><span class="meter" style="width:{100 * value / longest:.1f}%"></span></td></tr>'
        for stage, value in seconds.items()
    )
    return (
        "<h2>How it was made</h2>"
        + fold("Time a stage", f"<table>{times}</table>")
        + fold("Implementations", _pairs({**info.get("implementations", {}), **_encoder(info)}))
        + fold("Configuration", f"<pre>{escape(config)}</pre>")
        + fold("Versions", _pairs(info.get("versions", {})))
        + f"<footer>Run directory: <code>{escape(facts.url)}</code></footer>"
    )


def _encoder(info: Mapping[str, Any]) -> dict[str, Any]:
    return {f"encoder {key}": value for key, value in info.get("encoder", {}).items()}


def _pairs(pairs: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in pairs.items())
    return f"<table>{rows}</table>"


def _chip(cluster: int) -> str:
    color = color_of(cluster)
    return f'<span class="chip" style="background:{color};color:{ink_on(color)}">{name_cluster(cluster, "")}</span>'


def _metric(value: Any) -> str:
    return f"{value:.4g}".replace("-", "−") if isinstance(value, (int, float)) else "–"


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
