"""What a sweep's figures recommend, and why; and the same as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raypipe.progress import counted

STABLE = 0.75  # The Jaccard index from which a cluster counts as stable, by Hennig.
MIN_GAIN = 0.1  # Silhouettes of collections without structure, however shaped, exceed the reference's by less.
MIN_DEVIATIONS = 3.0  # And the gain is so many standard deviations of the references, which are large in small runs.

COLUMNS = {
    "k": ("k", "d"),
    "groups": ("groups", "d"),
    "gamma": ("γ", ".4g"),
    "silhouette_softdtw": ("silhouette", ".3f"),
    "reference": ("reference", ".3f"),
    "gain": ("gain", ".3f"),
    "stability_weakest": ("weakest", ".2f"),
    "stability_halves": ("halves", ".2f"),
    "stability_seeds": ("seeds", ".2f"),
    "silhouette": ("of means", ".3f"),
    "davies_bouldin": ("Davies–Bouldin", ".2f"),
    "objective": ("objective", ".4g"),
    "smallest": ("smallest", "d"),
}
"""The figures of a sweep in the order of its tables: the title of each, and how it is written."""


def recommend(rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any] | None, str]:
    """Choose one of the rows of `raypipe.analysis.sweep.sweep_clusters`, or none, and say why.

    Of each γ that k is taken of whose clusters the most are groups, more than a few odd videos, if all of these are
    stable and lie further apart than without structure; of several such k the least, and of several γ the one with the
    largest gain.
    """
    known = [row for row in rows if row["gain"] is not None and row["noise"] is not None]
    noise = float(np.sqrt(np.mean([row["noise"] ** 2 for row in known]))) if known else 0.0
    least = max(MIN_GAIN, MIN_DEVIATIONS * noise)
    found = [row for row in known if row["stability_weakest"] >= STABLE and row["gain"] >= least]
    if not found:
        return None, _explain_none(known, least)
    most = {row["gamma"]: row for row in sorted(found, key=lambda row: (row["groups"], -row["k"]))}
    chosen = max(most.values(), key=lambda row: row["gain"])
    k, n_groups = chosen["k"], chosen["groups"]
    said = f"{k} clusters are recommended: it is the largest number"
    if n_groups < k:
        odd = counted(k - n_groups, "cluster holds", "clusters hold")
        said = f"{k} clusters are recommended: {odd} a few odd videos, and {n_groups} is the largest number of others"
    larger = [row for row in rows if row["gamma"] == chosen["gamma"] and row["k"] > k]
    following = min((row for row in larger if row["groups"] > n_groups), key=lambda row: row["k"], default=None)
    if following is None:
        then = "a larger one only sets more odd videos apart" if larger else "no larger number was tried"
    elif following["stability_weakest"] >= STABLE:
        then = f"with {following['k']} clusters the silhouette is not far enough above that without structure"
    else:
        then = f"with {following['k']} clusters they do not (the weakest has {following['stability_weakest']:.2f})"
    return chosen, (
        f"{said} for which fits of half of the videos find every cluster again (the weakest has a Jaccard index of "
        f"{chosen['stability_weakest']:.2f}; {STABLE:g} is stable); {then}. "
        f"The silhouette is {chosen['silhouette_softdtw']:.2f}, and {chosen['reference']:.2f} without structure."
    )


def _explain_none(rows: Sequence[Mapping[str, Any]], least: float) -> str:
    if not rows:
        return "no structure found: all videos fall into one cluster"
    stable = max(rows, key=lambda row: row["stability_weakest"])
    apart = max(rows, key=lambda row: row["gain"])
    is_stable = (
        f"with {stable['k']} clusters, the most stable number, fits of half of the videos "
        f"{'find' if stable['stability_weakest'] >= STABLE else 'do not find'} every cluster again (Jaccard "
        f"{stable['stability_weakest']:.2f}; {STABLE:g} is stable)"
    )
    lies = (
        f"the silhouette is {stable['silhouette_softdtw']:.2f} there, and {stable['reference']:.2f} without structure"
    )
    digits = 2 if f"{apart['gain']:.2f}" != f"{least:.2f}" else 3  # Else what is not enough may look like what is.
    most = (
        f"it exceeds the latter the most with {apart['k']} clusters, by {apart['gain']:.{digits}f}; "
        f"{least:.{digits}f} is needed"
    )
    if apart["gain"] < least:
        return f"no structure found: {is_stable}; {lies}; {most}."
    highest = max(rows, key=lambda row: row["silhouette_softdtw"])
    choose = (
        f"if a number must be chosen, the silhouette is the highest with {highest['k']} clusters "
        f"({highest['silhouette_softdtw']:.2f})"
    )
    return f"no stable structure found: {is_stable}; {lies}; {most}; {choose}."


def describe_sweep(sweep: Mapping[str, Any]) -> str:
    """Return the table of a sweep's rows, and the recommendation, as text."""
    rows = [{**row, "smallest": min(row["sizes"])} for row in sweep["rows"]]
    lines = [[title for title, _ in COLUMNS.values()]]
    lines += [
        ["–" if row[name] is None else format(row[name], form) for name, (_, form) in COLUMNS.items()] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    chosen = sweep["recommended"]
    marks = [""] + [" ◀" if chosen == {"k": row["k"], "gamma": row["gamma"]} else "" for row in rows]
    table = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + mark
        for line, mark in zip(lines, marks, strict=True)
    ]
    few = sweep.get("n_compared", 0) < sweep.get("n_videos", 0)
    sampled = [f"computed on {sweep['n_compared']} of {sweep['n_videos']} videos, chosen at random"] if few else []
    return "\n".join([*table, "", *sampled, sweep["reason"]])
