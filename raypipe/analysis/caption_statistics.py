"""Statistics of captions: how many, how long, and of how many different words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALL = "all"
"""The name of the row that counts every video."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class CaptionStatistics:
    """The videos of a group, such as a split, and their captions.

    Attributes
    ----------
    group
        Its name, or `ALL`.
    n_videos, n_captions
        How many there are.
    words_per_caption
        Their mean number; 0 without captions.
    vocabulary
        How many different words there are, in upper or lower case.
    mean_duration_s
        Of the videos whose duration is known; not a number if that is none.
    n_labels
        How many different labels the videos have.
    """

    group: str
    n_videos: int
    n_captions: int
    words_per_caption: float
    vocabulary: int
    mean_duration_s: float
    n_labels: int


def count_captions(
    groups: Sequence[str | None],
    captions: Sequence[Sequence[str]],
    durations_s: Sequence[float],
    labels: Sequence[str | None],
) -> list[CaptionStatistics]:
    """Count captions and their words by group.

    Parameters
    ----------
    groups, captions, durations_s, labels
        Of each video. A duration that is not known is not a number.

    Returns
    -------
    A row for each group, in the order in which they come, and one for all videos if there are several groups.
    """
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows_of[group or "(none)"].append(row)
    if len(rows_of) > 1:
        rows_of[ALL] = list(range(len(groups)))
    found = []
    for group, rows in rows_of.items():
        words = [_WORD.findall(text.lower()) for row in rows for text in captions[row]]
        known_s = np.array([durations_s[row] for row in rows])
        known_s = known_s[np.isfinite(known_s)]
        found.append(
            CaptionStatistics(
                group,
                len(rows),
                len(words),
                float(np.mean([len(each) for each in words])) if words else 0.0,
                len(set().union(*words)),
                float(known_s.mean()) if len(known_s) else float("nan"),
                len({labels[row] for row in rows} - {None}),
            )
        )
    return found


def lay_out_captions(statistics: Sequence[CaptionStatistics]) -> list[str]:
    """Return statistics as the lines of a table."""
    width = max(14, *(len(each.group) for each in statistics))
    names = ("videos", "captions", "a video", "words each", "vocabulary", "seconds", "labels")
    lines = [f"{'captions of':{width}}" + "".join(f"{name:>12}" for name in names)]
    for each in statistics:
        a_video = each.n_captions / each.n_videos
        counts = (each.n_videos, each.n_captions, a_video, each.words_per_caption, each.vocabulary)
        numbers = (*counts, each.mean_duration_s, each.n_labels)
        cells = (f"{n:12,.2f}" if isinstance(n, float) else f"{n:12,}" for n in numbers)
        lines.append(f"{each.group:{width}}" + "".join(cells))
    return lines
