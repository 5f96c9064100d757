"""A long video parted into spans, by what stays the same within a span and changes from one to the next.

Windows slide over a video, and each has a state. Most of what states vary in is what goes on within a span; that is no
news. So they are first mapped to their slow features (Wiskott & Sejnowski 2002, "Slow Feature Analysis"): the
directions in which states a window apart differ least, compared with how much they differ on the whole. In these a span
is nearly a point, and the best partition into spans of constant means is found exactly, by dynamic programming with a
penalty for each change (Jackson et al. 2005, "An algorithm for optimal partitioning of data on an interval").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_PRINCIPAL = 32  # In more dimensions, slow directions are found in noise: there are only so many windows.
_SLOW = 1.0  # What a slow feature's difference a window apart has of its variance at most; noise alone has 2.
_MAX_WINDOWS = 4000  # A partition takes the square of a video's windows; of more, every second one counts, and so on.


class KindSpan(NamedTuple):
    """A span of a video: its first window, the one behind its last, and its kind."""

    start: int
    stop: int
    kind: int


@dataclass(frozen=True)
class Segmenter:
    """What was learned of the windows of many videos: their slow features, and the kinds of spans.

    Attributes
    ----------
    mean, basis
        (d,) and (d, q): states less the mean, times the basis, are the q slow features. Within a span their variance
        is about 1.
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

    def part(self, states: np.ndarray, lag: int) -> list[KindSpan]:
        """Part a video, (n, d) states of its windows, into spans of at least ``lag`` windows each."""
        features = (states - self.mean) @ self.basis
        bounds = _partition(features, lag)
        means = [features[start:stop].mean(axis=0) for start, stop in bounds]
        apart = ((np.array(means)[:, None] - self.kinds[None]) ** 2).sum(axis=2)
        return [KindSpan(*bound, kind) for bound, kind in zip(bounds, apart.argmin(axis=1).tolist(), strict=True)]


def fit_segmenter(videos: Sequence[np.ndarray], lag: int, n_kinds: int | None = None) -> Segmenter:
    """Learn slow features and kinds of spans.

    Parameters
    ----------
    videos
        The states of each video's windows, (n_i, d), in order of time.
    lag
        After so many windows two of them have nothing in common.
    n_kinds
        Kinds of spans; by default spans are of one kind if a change between them would not be worth its penalty.
    """
    states = np.concatenate(videos).astype(np.float64)
    mean = states.mean(axis=0)
    basis = _find_slow(states - mean, [len(video) for video in videos], lag)
    features = [(video - mean) @ basis for video in videos]
    bounds = [_partition(each, lag) for each in features]
    parts = [each[start:stop] for each, own in zip(features, bounds, strict=True) for start, stop in own]
    return Segmenter(mean, basis, _find_kinds(parts, lag, n_kinds))


def _find_slow(centered: np.ndarray, lengths: Sequence[int], lag: int) -> np.ndarray:
    """Return the (d, q) basis of slow features of states, (n, d), of videos one after another."""
    spread, principal = np.linalg.eigh(centered.T @ centered / len(centered))
    kept = np.flatnonzero(spread > 1e-9 * spread[-1])[::-1][:_PRINCIPAL]
    if not len(kept):  # All windows are alike.
        return np.zeros((centered.shape[1], 1))
    white = principal[:, kept] / np.sqrt(spread[kept])
    ends = np.cumsum(lengths)
    points = np.split(centered @ white, ends[:-1])
    steps = np.concatenate([each[lag:] - each[:-lag] for each in points if len(each) > lag] or [np.zeros((1, 1))])
    if steps.shape[1] != len(kept):  # No video is longer than a window: there is nothing to part.
        return white[:, :1]
    speed, turned = np.linalg.eigh(steps.T @ steps / len(steps))
    n_slow = max(int((speed < _SLOW).sum()), 1)
    # Two independent states differ by twice the variance within a span.
    return white @ turned[:, :n_slow] / np.sqrt(np.maximum(speed[:n_slow], 1e-9) / 2)


def _penalty(n_windows: int, n_features: int, lag: int) -> float:
    """Return what a change costs: it gains n_features means, and as overlapping windows say the same, lag-fold."""
    return n_features * lag * float(np.log(max(n_windows, 2)))


def _partition(features: np.ndarray, lag: int) -> list[tuple[int, int]]:
    """Return the first window of each span of a video and the one behind its last, of (n, q) features."""
    stride = -(-len(features) // _MAX_WINDOWS)
    thinned = features[::stride]
    n, least = len(thinned), max(-(-lag // stride), 1)
    penalty = _penalty(len(features), features.shape[1], lag) / stride
    sums = np.concatenate([np.zeros((1, thinned.shape[1])), np.cumsum(thinned, axis=0)])
    squares = np.concatenate([[0.0], np.cumsum((thinned**2).sum(axis=1))])
    best, before = np.full(n + 1, np.inf), np.zeros(n + 1, int)
    best[0] = -penalty
    for stop in range(least, n + 1):
        starts = np.arange(stop - least + 1)
        within = squares[stop] - squares[starts] - ((sums[stop] - sums[starts]) ** 2).sum(axis=1) / (stop - starts)
        costs = best[starts] + within + penalty
        before[stop] = costs.argmin()
        best[stop] = costs[before[stop]]
    stops, stop = [n], n
    while np.isfinite(best[stop]) and (stop := int(before[stop])) > 0:
        stops.append(stop)
    edges = [0, *(stride * stop for stop in stops[:0:-1]), len(features)]
    return list(pairwise(edges))


def _find_kinds(parts: Sequence[np.ndarray], lag: int, n_kinds: int | None) -> np.ndarray:
    """Return the centers of kinds of spans, (k, q): spans are joined as long as that costs less than a change."""
    means = [part.mean(axis=0) for part in parts]
    sizes = [float(len(part)) for part in parts]
    penalty = _penalty(int(sum(sizes)), len(means[0]), lag)
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
