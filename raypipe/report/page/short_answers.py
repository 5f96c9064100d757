"""What a reader asks of the page first: how many clusters there are, what they hold, what mixes, and what is odd."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any
from unicodedata import bidirectional

from raypipe.analysis.sizes import LEAST_SWEPT
from raypipe.clustering.result import name_cluster
from raypipe.progress import shorten
from raypipe.runs.results import is_predicted

if TYPE_CHECKING:
    from raypipe.report.facts import Cluster, Facts

MOST_ODD = 3  # As many odd videos are named in the head of the page; their own part has all.
MOST_SAID = 6  # A sentence with more clusters or labels in it would not be read; the table has them all.
_SHORT = 28  # Characters of a name beside a chip.


def say_number(facts: Facts) -> str:
    """Return in HTML whether the number of clusters was asked for or found; "" where there is no question.

    Clusters by density are found, and those of a run that another one predicts are that run's.
    """
    config = facts.info.get("config", {}).get("cluster", {})
    if config.get("method") == "density" or not facts.clusters or is_predicted(facts.info):
        return ""
    command = f"<code>raypipe sweep {escape(shlex.quote(facts.url))}</code> finds out how many there are."
    of_sweep = facts.sweep.get("config") if facts.sweep else None
    if of_sweep and _what_counts(of_sweep) != _what_counts(facts.info.get("config", {})):
        return f"The sweep was of other trajectories, or by another method, than these clusters: {command}"
    if facts.sweep:
        return f"Of the number of clusters the sweep says: {escape(facts.sweep['reason'].partition(': ')[0])}."
    n = len(facts.metrics.get("sizes", facts.clusters))  # Some may be empty.
    there = "there is 1 cluster" if n == 1 else f"there are {n} clusters"
    found = f": {command}" if len(facts.members) >= LEAST_SWEPT else "."
    return f"That {there} was asked for (5 is the default), not found{found}"


def _what_counts(config: Mapping[str, Any]) -> list[Any]:
    """Return the parameters of a run or of a sweep on which the number of clusters depends."""
    reduction = config.get("reduce", {})
    how = [reduction.get(name) for name in ("method", "n_components", "n_neighbors", "min_dist", "metric")]
    return [config.get("trajectory"), config.get("learn"), how, config.get("cluster", {}).get("method")]


def say_cameras(facts: Facts) -> str:
    """Return in HTML what is to be known of cameras: that they are joined, or that no cluster has two; else ""."""
    if facts.is_joined:
        return (
            "joined, so that each row is an episode: names, pictures and videos are those of "
            f"{escape(str(facts.members[0].group))}, and what is odd may be in another camera"
        )
    of_each = [{member.group for member in cluster.members} for cluster in facts.clusters]
    if facts.dataset is None or len(set().union(*of_each)) < 2 or max(map(len, of_each)) > 1:
        return ""
    command = f"<code>raypipe cluster {escape(shlex.quote(facts.url))} --set trajectory.join=camera</code>"
    return f"apart: no cluster has videos of two. {command} groups episodes instead, whatever their cameras look like"


def say_odd(facts: Facts) -> str:
    """Return which videos are odd, and why, the farthest first; "" where nobody has judged, or there is no outlier."""
    judged = [member for member in facts.outliers if member.reason]
    odd = [f"{_isolate(member.name)} ({member.reason})" for member in judged if member.stands_out]
    if not odd:
        return f"No {facts.noun} stands out: the outliers are hardly farther than others." if judged else ""
    more = [f"{len(odd) - MOST_ODD} more"] if len(odd) > MOST_ODD else []
    named = [*odd[:MOST_ODD], *more]
    return f"Odd: {_join(named) if named[1:] else named[0]}."


def name_content(cluster: Cluster, facts: Facts) -> str:
    """Return what a cluster has most of: its two most frequent labels or groups, else two of its words, else ""."""
    mix = cluster.mix(facts.mix_column)
    names = [name for name, _ in mix] or list(facts.keywords.get(cluster.number, ()))
    return ", ".join(shorten(name, _SHORT) for name in names[:2]) + (" …" if mix and len(names) > 2 else "")


def say_mixture(facts: Facts, column: str) -> str:
    """Return which labels share a cluster, and which are spread over several, with the numbers of videos."""
    groups = {name_cluster(group.number): group.mix(column) for group in facts.clusters_and_noise}
    shared = [f"{name} mixes {_join(_count(*each) for each in mix)}" for name, mix in groups.items() if mix[1:]]
    places: dict[str, list[str]] = {}
    for name, mix in groups.items():
        for value, count in mix:
            places.setdefault(value, []).append(_count(name, count))
    spread = [f"{_isolate(value)} is spread over {_join(of)}" for value, of in places.items() if of[1:]]
    if not shared and not spread:
        return f"Nothing mixes: each cluster has one {column}, and each {column} lies in one cluster."
    said, more = [*shared, *spread][:MOST_SAID], max(len(shared) + len(spread) - MOST_SAID, 0)
    return f"What mixes: {'; '.join(said)}{f'; and {more} more' if more else ''}."


def _count(name: str, count: int) -> str:
    return f"{_isolate(name)} ({count:,})"


def _isolate(name: str) -> str:
    """Return a name in short, which, if written from right to left, does not draw what follows to its other side."""
    name = shorten(name)
    return f"\u2068{name}\u2069" if any(bidirectional(letter) in ("R", "AL") for letter in name) else name


def _join(parts: Iterable[str]) -> str:
    *first, last = parts
    shown = first[: MOST_SAID - 1]
    more = f" and {len(first) - len(shown)} more," if len(first) > len(shown) else ""
    return f"{', '.join(shown)},{more} and {last}" if more else f"{', '.join(shown)} and {last}"
