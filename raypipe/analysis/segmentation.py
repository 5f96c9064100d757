"""A long video parted into spans, by what stays the same within a span and changes from one to the next.

Windows slide over a video. Each has a learned state, which says what is done in it, and the mean of its clips, which
says what it looks like. Most of what these vary in is what goes on within a span; that is no news. So they are first
mapped to their slow features (Wiskott & Sejnowski 2002, "Slow Feature Analysis"): the directions in which windows that
are next to each other differ least, compared with how much all differ. In these a span is nearly a point, and the best
partition into spans of constant means is found exactly, by dynamic programming with a penalty for each change (Jackson
et al. 2005, "An algorithm for optimal partitioning of data on an interval"). Where a change is to the clip, the clips
themselves then say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_PRINCIPAL = 32  # In more dimensions, slow directions are found in noise: there are only so many windows.
_SLOW = 0.5  # What a slow feature's squared differences have of its variance at most; those of noise alone have 2.
_RIDGE = 0.05  # Added to the variance within two spans, of a variance of 1 on the whole: they may be short.
_MAX_WINDOWS = 4000  # A partition takes the square of a video's windows; of more, every second one counts, and so on.


class KindSpan(NamedTuple):
    """A span of a video: its first clip, the one behind its last, and its kind."""

    start: int
    stop: int
    kind: int


@dataclass(frozen=True)
class Segmenter:
    """What was learned of the windows of many videos: their slow features, and the kinds of spans.

    Attributes
    ----------
    mean, basis
        (d,) and (d, q): a window's state and the mean of its clips, one behind the other, less the mean, times the
        basis, are its q slow features. Within a span their variance is about 1.
    kinds
        (k, q), the center of each kind of span.
    """

    mean: np.ndarray
    basis: np.ndarray
    kinds: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as plain arrays."""
        return {"mean": self.mean, "basis": self.basis, "kinds": self.kinds}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Segmenter:
        """Return the segmenter that `arrays` describe."""
        return cls(arrays["mean"], arrays["basis"], arrays["kinds"])

    def part(self, states: np.ndarray, clips: np.ndarray, width: int) -> list[KindSpan]:
        """Part a video into spans, each half as long again as a window at least.

        Parameters
        ----------
        states
            (n − width + 1, d), of the windows from each clip on.
        clips
            (n, dim).
        width
            Clips of a window.
        """
        features = (_describe(states, clips, width) - self.mean) @ self.basis
        bounds = _partition(features, width)
        means = [part.mean(axis=0) for part in _within(features, bounds, width)]
        apart = ((np.array(means)[:, None] - self.kinds[None]) ** 2).sum(axis=2)
        kinds = apart.argmin(axis=1).tolist()
        return [KindSpan(*bound, kind) for bound, kind in zip(_settle(clips, bounds, width), kinds, strict=True)]


def fit_segmenter(
    states: Sequence[np.ndarray], clips: Sequence[np.ndarray], width: int, n_kinds: int | None = None
) -> Segmenter:
    """Learn slow features and kinds of spans.

    Parameters
    ----------
    states
        Of each video the states of the windows from each of its clips on, (n_i − width + 1, d).
    clips
        Of each video its clips, (n_i, dim).
    width
        Clips of a window: so far apart, two windows have none in common.
    n_kinds
        Kinds of spans; by default spans are of one kind if a change between them would not be worth its penalty.
    """
    videos = [_describe(*each, width) for each in zip(states, clips, strict=True)]
    windows = np.concatenate(videos)
    mean = windows.mean(axis=0)
    scale = _weigh(windows, states[0].shape[1], np.concatenate(clips))
    basis = scale[:, None] * _find_slow((windows - mean) * scale, [len(video) for video in videos], width)
    features = [(video - mean) @ basis for video in videos]
    parts = [part for each in features for part in _within(each, _partition(each, width), width)]
    return Segmenter(mean, basis, _find_kinds(parts, width, n_kinds))


def _describe(states: np.ndarray, clips: np.ndarray, width: int) -> np.ndarray:
    """Return each window's state and the mean of its clips, (n, d + dim) float64."""
    sums = np.concatenate([np.zeros((1, clips.shape[1])), np.cumsum(clips, axis=0, dtype=np.float64)])
    width = min(width, len(clips))
    return np.hstack([states, (sums[width:] - sums[:-width]) / width])


def _weigh(windows: np.ndarray, n_states: int, clips: np.ndarray) -> np.ndarray:
    """Return factors, (d + dim,), by which states and means have the same share, and so has each number of a clip."""
    spread = clips.std(axis=0, dtype=np.float64)
    scale = np.concatenate([np.ones(n_states), np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)])
    variance = windows.var(axis=0) * scale**2
    for own in (slice(n_states), slice(n_states, None)):
        scale[own] /= np.sqrt(variance[own].sum() or 1)
    return scale


def _within(features: np.ndarray, bounds: Sequence[tuple[int, int]], width: int) -> list[np.ndarray]:
    """Return the features of the windows that lie within each span as a whole."""
    return [features[start : max(stop - width + 1, start + 1)] for start, stop in bounds]


def _find_slow(centered: np.ndarray, lengths: Sequence[int], width: int) -> np.ndarray:
    """Return the (d, q) basis of slow features of states, (n, d), of videos one after another."""
    spread, principal = np.linalg.eigh(centered.T @ centered / len(centered))
    kept = np.flatnonzero(spread > 1e-9 * spread[-1])[::-1][:_PRINCIPAL]
    if not len(kept):  # All windows are alike.
        return np.zeros((centered.shape[1], 1))
    white = principal[:, kept] / np.sqrt(spread[kept])
    ends = np.cumsum(lengths)
    points = np.split(centered @ white, ends[:-1])
    steps = np.concatenate([each[width:] - each[:-width] for each in points if len(each) > width] or [np.zeros((1, 1))])
    if steps.shape[1] != len(kept):  # No video is longer than a window: there is nothing to part.
        return white[:, :1]
    speed, turned = np.linalg.eigh(steps.T @ steps / len(steps))
    n_slow = max(int((speed < _SLOW).sum()), 1)
    # Two independent states differ by twice the variance within a span.
    return white @ turned[:, :n_slow] / np.sqrt(np.maximum(speed[:n_slow], 1e-9) / 2)


def _penalty(n_windows: int, n_features: int, width: int) -> float:
    """Return what a change costs: it gains n_features means, and as overlapping windows say the same, width-fold."""
    return n_features * width * float(np.log(max(n_windows, 2)))


def _partition(features: np.ndarray, width: int) -> list[tuple[int, int]]:
    """Return the first clip of each span of a video and the one behind its last, of its windows' (n, q) features.

    A span is judged by the windows that lie within it as a whole, and those across its ends count as much as these do
    on average: so a change is found at the clip where it is, and not where windows begin to see it.
    """
    stride = -(-len(features) // _MAX_WINDOWS)
    thinned = features[::stride]
    across = max(round(width / stride), 1) - 1  # So many windows lie across a change.
    n, least = len(thinned) + across, across + max((across + 1) // 2, 1)
    penalty = _penalty(len(features), features.shape[1], width) / stride
    sums = np.concatenate([np.zeros((1, thinned.shape[1])), np.cumsum(thinned, axis=0)])
    squares = np.concatenate([[0.0], np.cumsum((thinned**2).sum(axis=1))])
    best, before = np.full(n + 1, np.inf), np.zeros(n + 1, int)
    best[0] = -penalty
    for stop in range(min(least, n), n + 1):
        starts = np.arange(max(stop - least, 0) + 1)
        last = stop - across
        within = squares[last] - squares[starts] - ((sums[last] - sums[starts]) ** 2).sum(axis=1) / (last - starts)
        costs = best[starts] + within * (stop - starts) / (last - starts) + penalty
        before[stop] = costs.argmin()
        best[stop] = costs[before[stop]]
    stops, stop = [n], n
    while (stop := int(before[stop])) > 0:
        stops.append(stop)
    edges = [0, *(stride * stop for stop in stops[:0:-1]), len(features) + width - 1]
    return list(pairwise(edges))


def _settle(clips: np.ndarray, bounds: Sequence[tuple[int, int]], width: int) -> list[tuple[int, int]]:
    """Move each change, by a window at most, to where the clips before it are like one span and those after the other.

    That is told by the linear discriminant of the two spans (Fisher 1936), among the principal components of the clips.
    """
    points = _standardise(clips)
    edges = [bounds[0][0]]
    for (start, change), (_, stop) in pairwise(bounds):
        first, last = max(change - width, start + 1, edges[-1] + 1), min(change + width, stop - 1)
        sides = points[start:first], points[max(last, first) : stop]
        means = [side.mean(axis=0) for side in sides]
        within = np.concatenate([side - mean for side, mean in zip(sides, means, strict=True)])
        covariance = within.T @ within / len(within) + _RIDGE * np.eye(points.shape[1])
        direction = np.linalg.solve(covariance, means[0] - means[1])
        nearer_before = (points[first:last] - (means[0] + means[1]) / 2) @ direction
        gain = np.concatenate([[0.0], np.cumsum(nearer_before)])
        edges.append(first + int(gain.argmax()))
    return list(pairwise([*edges, bounds[-1][1]]))


def _standardise(clips: np.ndarray) -> np.ndarray:
    """Return the principal components of a video's clips, each number of which counts the same: (n, c), variance 1."""
    centered = clips - clips.mean(axis=0, dtype=np.float64)
    spread = centered.std(axis=0)
    scaled = np.divide(centered, spread, out=np.zeros_like(centered), where=spread > 0)
    n, dim = scaled.shape
    is_short = n < dim  # Then the clips' products with one another have the same variances, and are the smaller matrix.
    variance, axes = np.linalg.eigh((scaled @ scaled.T if is_short else scaled.T @ scaled) / n)
    kept = np.flatnonzero(variance > 1e-9 * variance[-1])[::-1][:_PRINCIPAL]
    if not len(kept):
        return centered[:, :1]
    return axes[:, kept] * np.sqrt(n) if is_short else scaled @ axes[:, kept] / np.sqrt(variance[kept])


def _find_kinds(parts: Sequence[np.ndarray], width: int, n_kinds: int | None) -> np.ndarray:
    """Return the centers of kinds of spans, (k, q): spans are joined as long as that costs less than a change."""
    means = [part.mean(axis=0) for part in parts]
    sizes = [float(len(part)) for part in parts]
    penalty = _penalty(int(sum(sizes)), len(means[0]), width)
    while len(means) > 1:
        points, weights = np.array(means), np.array(sizes)
        shared = weights[:, None] * weights[None] / (weights[:, None] + weights[None])
        costs = shared * ((points[:, None] - points[None]) ** 2).sum(axis=2)
        np.fill_diagonal(costs, np.inf)
        one, other = divmod(int(costs.argmin()), len(means))
        if len(means) <= n_kinds if n_kinds else costs[one, other] > penalty:
            break
        total = sizes[one] + sizes[other]
        means[one] = (sizes[one] * means[one] + sizes[other] * means[other]) / total
        sizes[one] = total
        del means[other], sizes[other]
    return np.array(means)
