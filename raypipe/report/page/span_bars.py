"""The spans of long videos on the page: a small timeline each, as SVG, without any script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from raypipe.report.facts import Facts, Member
from raypipe.report.style import color_of, ink_on
from raypipe.runs.span_table import VideoSpan

MAX_TIMELINES = 60  # spans.csv has the spans of all.
_WIDTH, _HEIGHT = 1000, 26
_LEGIBLE = 18  # A span at least so wide has its label written on it.


def draw_timelines(facts: Facts) -> str:
    """Return the page's part on spans; an empty text if no video has any."""
    longest = sorted(
        (member for member in facts.members if member.video_id in facts.spans),
        key=lambda member: -len(facts.spans[member.video_id]),
    )
    if not longest:
        return ""
    rows = "\n".join(_row(member, facts.spans[member.video_id]) for member in longest[:MAX_TIMELINES])
    of = f" The {MAX_TIMELINES} with most spans of {len(longest):,} are shown." if len(longest) > MAX_TIMELINES else ""
    return (
        '<h2>Spans of long videos</h2>\n<p class="lead">Where what a video shows changes from one thing that lasts to '
        "another. A number is a kind of span, the same in all videos; it is no cluster of whole videos. spans.csv has "
        f'all, in seconds.{of}</p>\n<div class="card">{rows}</div>'
    )


def _row(member: Member, spans: Sequence[VideoSpan]) -> str:
    begin, end = spans[0].start_s, spans[-1].end_s
    scale = _WIDTH / max(end - begin, 1e-9)
    parts = []
    for span in spans:
        x, width = (span.start_s - begin) * scale, (span.end_s - span.start_s) * scale
        color = color_of(span.label)
        told = f"{span.start_s:.1f} to {span.end_s:.1f} s: kind {span.label}"
        text = ""
        if width >= _LEGIBLE:
            text = (
                f'<text x="{x + width / 2:.1f}" y="18" text-anchor="middle" font-size="13" font-weight="600" '
                f'fill="{ink_on(color)}">{span.label}</text>'
            )
        parts.append(
            f'<g><title>{escape(told)}</title><rect x="{x:.1f}" y="0" width="{max(width - 2, 1):.1f}" '
            f'height="{_HEIGHT}" rx="4" fill="{color}"/>{text}</g>'
        )
    return (
        f'<div class="row"><div class="who"><div class="clip" title="{escape(member.uri)}">{escape(member.name)}</div>'
        f'<div class="muted">{len(spans)} spans, {begin:.1f} to {end:.1f} s</div></div>'
        f'<div><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" role="img" '
        f'aria-label="{len(spans)} spans">{"".join(parts)}</svg></div></div>'
    )
