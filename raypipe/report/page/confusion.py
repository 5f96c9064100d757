"""How the clusters and the known labels meet: a table for the page."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from raypipe.progress import shorten
from raypipe.report.page.page_figures import scroll
from raypipe.report.page.short_answers import say_mixture
from raypipe.sources.files import path_order

if TYPE_CHECKING:
    from raypipe.report.facts import Facts

MAX_VALUES = 24  # A wider table could not be read; the sizes' plot shows the mix of more.


def render_confusions(facts: Facts) -> str:
    """Return tables of what the clusters are compared with, and of the groups where that is the labels."""
    columns = dict.fromkeys(filter(None, (facts.mix_column, "label", "group")))
    return "".join(_render_confusion(facts, column) for column in columns)


def _render_confusion(facts: Facts, column: str) -> str:
    """Return a table with a row a label and a column a cluster, or "" if there is one label at most, or too many.

    A cell is the darker, the larger the part of its label that lies in its cluster.
    """
    counts = Counter((getattr(member, column), member.cluster) for member in facts.members if getattr(member, column))
    sizes: Counter[str] = Counter()
    for (value, _), count in counts.items():
        sizes[value] += count
    groups = facts.clusters_and_noise
    if not 1 < len(sizes) <= MAX_VALUES or len(groups) > MAX_VALUES:
        return ""
    head = "".join(f'<th scope="col">{group.short_name}</th>' for group in groups)
    rows = []
    for value in sorted(sizes, key=lambda name: (-sizes[name], path_order(name))):
        cells = "".join(_cell(counts[value, group.number], sizes[value]) for group in groups)
        rows.append(f'<tr><th scope="row" title="{escape(value)}"><bdi>{escape(shorten(value))}</bdi></th>{cells}</tr>')
    table = scroll(
        f"<table><caption>Each {column}, by cluster</caption><tr><td></td>{head}</tr>{''.join(rows)}</table>",
        f"each {column}, by cluster",
    )
    said = f'<p class="said" dir="auto">{escape(say_mixture(facts, column))}</p>'
    return f'<div class="card below"><div class="confusion">{table}{said}</div></div>'


def _cell(count: int, of: int) -> str:
    return f'<td style="--part:{100 * count / of:.0f}%">{count or ""}</td>'
