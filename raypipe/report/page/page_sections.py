"""Parts of the page around the map and the clusters: contents, search, poster, checks, words, the sweep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape, unescape
from shlex import quote
from typing import Any

from raypipe.analysis.dataset_faults import SHOWN
from raypipe.analysis.recommendation import COLUMNS
from raypipe.report.facts import Facts, Member, link_of
from raypipe.report.page.page_figures import data_uri, fold, scroll
from raypipe.runs.comparison import PRECOMPUTED, why_no_words
from raypipe.schema import finite_or_none

MAX_GROUPS, MAX_COPIES = 100, 12  # So many groups of near-duplicates are listed, and so many videos of each.
_HEADING = re.compile(r'<h2( class="served")?>(.*?)</h2>')
_SWEPT = {name: title for name, (title, _) in COLUMNS.items() if name not in ("objective", "smallest")}
_SWEPT["k"] = "clusters"


def link_headings(body: str) -> str:
    """Return HTML with an anchor at each heading, and before it the contents: links to all of them.

    What only a served page has, a heading of the class ``served``, has its link hidden, until the script shows both.
    """
    links: list[str] = []

    def anchor(found: re.Match[str]) -> str:
        served, title = found.groups()
        name = re.sub(r"\W+", "-", unescape(title).lower()).strip("-")
        hidden = ' class="served" hidden' if served else ""
        links.append(f'<a href="#{name}"{hidden}>{title}</a>')
        return f'<h2 id="{name}">{title}</h2>'

    body = _HEADING.sub(anchor, body)
    return f'<nav class="contents" aria-label="contents">{"".join(links)}</nav>\n{body}'


def mark_video(member: Member) -> str:
    """Return the attribute by which the player of a served page knows a video; "" of what it cannot play."""
    return f' data-video="{escape(member.video_id)}"' if member.has_video else ""


def link_video(name: str, uri: str) -> str:
    """Return a video's name in bold, or as a link where a browser may follow it."""
    # A long name may break after a separator. The entities that escape() makes contain no separator.
    text = re.sub(r"([_/.-]+)(?=.)", r"\1<wbr>", escape(name))
    target = link_of(uri)
    return f'<a href="{escape(target)}">{text}</a>' if target else f"<b>{text}</b>"


def format_figure(value: Any) -> str:
    """Return a figure in three digits; a dash where there is none."""
    if finite_or_none(value) is None:
        return "–"
    return (f"{value:.3g}" if isinstance(value, float) else str(value)).replace("-", "−")


def render_lead(facts: Facts) -> str:
    """Return the heading of the map, and what it shows and by which method it was drawn."""
    what = "Each video is a point" if facts.is_pooled else "Each video is a path through time"
    how = {"autoencoder": "an autoencoder that was trained on these videos"}.get(facts.map_name, facts.map_name)
    return (
        f'<h2>The map</h2>\n<p class="lead">{what}, drawn in two dimensions by {escape(how)}: what lies '
        "near each other looks and goes alike.</p>\n"
    )


def render_search(facts: Facts) -> str:
    """Return the place where the script of a served page puts the search; a page from disk has nobody to ask."""
    why = why_no_words(facts.info.get("encoder", {}))
    reason = f' data-no-words="{escape(why)}"' if why else ""
    return f'<section id="finder" class="served" hidden{reason}>\n<h2 class="served">Search</h2>\n</section>'


def render_poster(facts: Facts) -> str:
    """Return the part on the poster, in which the script of a served page shows it; nothing where it can have none."""
    from_elsewhere = facts.info.get("encoder", {}).get("name") == PRECOMPUTED
    if from_elsewhere and not (facts.poster or facts.has_frames):
        return ""
    make = (
        f"<code>raypipe poster {escape(quote(facts.url))}</code> lays frames of all videos out by their place on the "
        "map, as one picture."
    )
    if facts.poster:
        name = escape(facts.poster)
        make = f'The run\'s poster lies beside this page: <a href="{name}">{name}</a>.'
    return f'<section id="poster">\n<h2>Poster</h2>\n<p class="lead">{make}</p>\n</section>'


def render_checks(facts: Facts) -> str:
    """Return what is wrong with the dataset, and which videos are copies; nothing where neither was looked for."""
    parts = [_render_dataset(facts), _render_duplicates(facts)]
    return "<h2>Checks of the data</h2>\n" + "\n".join(filter(None, parts)) if any(parts) else ""


def _render_dataset(facts: Facts) -> str:
    if facts.dataset is None:
        return ""
    name, faults = facts.dataset["dataset"], facts.dataset["faults"]
    told = (
        "What the dataset's tables say, held against one another and against the lengths of its files. "
        f"<code>raypipe inspect {escape(quote(name))}</code> also reads every frame's time and looks at pictures, and "
        "finds more."
    )
    if not faults:
        return f'<h3>The dataset</h3>\n<p class="lead">Nothing is wrong in it so far. {told}</p>'
    row_of = {member.video_id: row for row, member in enumerate(facts.members)}
    listed: Counter[str] = Counter()
    rows = []
    for fault in faults:
        listed[fault["kind"]] += 1
        if listed[fault["kind"]] <= SHOWN:
            rows.append(_fault_row(fault, row_of))
    more = len(faults) - len(rows)
    rest = f'<p class="muted small">And {more:,} more, in dataset_faults.json.</p>' if more else ""
    head = "<tr><th>what</th><th>episode</th><th>camera</th><th>why</th><td></td></tr>"
    table = scroll(f"<table>{head}{''.join(rows)}</table>", "what is wrong with the dataset")
    return f'<h3>The dataset</h3>\n<p class="lead">{told}</p>\n<div class="card">{table}{rest}</div>'


def _fault_row(fault: Mapping[str, Any], row_of: Mapping[str, int]) -> str:
    episode = "" if fault["episode"] is None else str(fault["episode"])
    return (
        f'<tr><td class="name">{escape(fault["kind"])}</td><td>{episode}</td>'
        f'<td class="name">{escape(fault["camera"] or "")}</td>'
        f"<td>{escape(fault['says'])}</td><td{_show(fault['videos'], row_of)}></td></tr>"
    )


def _render_duplicates(facts: Facts) -> str:
    head = "<h3>Near-duplicates</h3>\n"
    if facts.duplicates is None:
        return ""
    groups = facts.duplicates["groups"]
    if groups is None:
        search = f"<code>raypipe search {escape(quote(facts.url))} --duplicates</code>"
        return f'{head}<p class="lead">Of so many videos, copies are looked for only when asked: {search}.</p>'
    if not groups:
        return f'{head}<p class="lead">No two videos are so much alike that they could be copies.</p>'
    members = {member.video_id: member for member in facts.members}
    known = [[members[each] for each in group if each in members] for group in groups]
    row_of = {video_id: row for row, video_id in enumerate(members)}
    items = "\n".join(_group(group, row_of) for group in known[:MAX_GROUPS])
    more = len(known) - MAX_GROUPS
    rest = (
        f" The {MAX_GROUPS} largest of {len(known):,} groups are listed; duplicates.json has all." if more > 0 else ""
    )
    return (
        f'{head}<p class="lead">Videos whose paths are the same at the same times, a quarter as far apart as others '
        f"usually are: copies that were encoded again, or takes that hardly differ.{rest}</p>\n"
        f'<ol class="groups card">{items}</ol>'
    )


def _group(group: Sequence[Member], row_of: Mapping[str, int]) -> str:
    names = "".join(f"<li{mark_video(m)}>{link_video(m.name, m.uri)}</li>" for m in group[:MAX_COPIES])
    more = f'<li class="muted">and {len(group) - MAX_COPIES:,} more</li>' if len(group) > MAX_COPIES else ""
    return f"<li{_show((m.video_id for m in group), row_of)}><ul>{names}{more}</ul></li>"


def _show(ids: Iterable[str], row_of: Mapping[str, int]) -> str:
    """Return the attribute by which the page's script adds a button that selects videos, by their rows, on the map."""
    rows = [str(row_of[each]) for each in ids if each in row_of]
    return f' data-show="{".".join(rows)}"' if rows else ""


def render_words(facts: Facts) -> str:
    """Return how the clusters' words were found, with their scores; or why there are none."""
    told = facts.descriptions
    if not told:
        return ""
    clusters = [cluster for cluster in told["clusters"] if cluster["keywords"]]
    if not clusters:
        why = escape(str(told.get("reason") or "describe.method is none"))
        return f'<p class="muted small">The clusters have no words: {why}.</p>'
    rows = "".join(
        f"<tr><td>{cluster['cluster']}</td><td>"
        + ", ".join(
            f"<bdi>{escape(each['keyword'])}</bdi> {format_figure(each['score'])}" for each in cluster["keywords"]
        )
        + "</td></tr>"
        for cluster in clusters
    )
    head = "<tr><th>cluster</th><th>words, with their scores</th></tr>"
    by = f'<p class="muted small">By {escape(told["implementation"])}; a higher score sets a cluster further apart.</p>'
    return fold("The clusters' words", f"{by}<table>{head}{rows}</table>")


def render_sweep(facts: Facts, plots: Mapping[str, bytes]) -> str:
    """Return how many clusters there are, where the run has been swept: the picture, and the figures in a fold."""
    if not facts.sweep:
        return ""
    reason = escape(facts.sweep["reason"])
    return (
        f'<h2>How many clusters there are</h2>\n<p class="lead">{reason}</p>\n<figure><div class="paper">'
        f'<img class=narrow src="{data_uri(plots["sweep"], "png")}" alt="{reason}"></div></figure>'
        + _sweep_table(facts.sweep)
    )


def _sweep_table(sweep: Mapping[str, Any]) -> str:
    """Return the figures of a sweep as a table, in a fold; the recommended row is marked."""
    rows, chosen = sweep["rows"], sweep["recommended"] or {}
    columns = [name for name in _SWEPT if any(row.get(name) is not None for row in rows)]
    if not sweep["several_gammas"]:
        columns = [name for name in columns if name != "gamma"]
    head = "".join(f'<th scope="col">{_SWEPT[name]}</th>' for name in columns)
    lines = []
    for row in rows:
        is_chosen = (row["k"], row["gamma"]) == (chosen.get("k"), chosen.get("gamma"))
        cells = "".join(f"<td>{format_figure(row.get(name))}</td>" for name in columns)
        lines.append(f"<tr{' class=chosen' if is_chosen else ''}>{cells}</tr>")
    return fold("The figures", scroll(f'<table class="figures">{head}{"".join(lines)}</table>', "figures of the sweep"))
