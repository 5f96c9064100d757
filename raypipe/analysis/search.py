"""Which videos are like a given one, and where in them the same thing happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from raypipe.errors import UsageError
from raypipe.schema import ClipPath, Trajectories
from raypipe.softdtw import auto_gamma, cdist_soft_dtw

BUDGET = 1e10
"""Operations that a search may take to compare the query with all videos, about a second's on two cores. A cell of
soft-DTW takes 8 and one for each dimension."""
POOLED_STEPS = 8
"""Steps of the pooled paths that a larger collection is sifted by."""
_SIFTED = 50  # For each video wanted, so many are compared in full after sifting, ...
_LEAST_SIFTED = 1_000  # ... and so many at least.
_REFINED = 4  # Of comparisons in float32, so many times the videos wanted are compared again in float64.
POINTS = 4
"""Points for each clip, between which a piece may begin and end."""
# A path with free ends leaves out what costs more than it must, and a small γ so finds pieces that are too short: see
# bench/search.py. This many times the γ that suits whole paths, ends are where they should be on average.
_SOFT_ENDS = 20
_TELLING = 50  # So many other videos are looked at for how far clips lie apart.
_STEPS_AT_ONCE = 1 << 18  # The steps of so many clips are searched at a time.


@dataclass(frozen=True)
class Match:
    """A video that was found.

    Attributes
    ----------
    video_id
        The video.
    distance
        How far it is from the query, in the search's measure. The lower the more alike.
    start_s, end_s
        The part of the video that was found, in seconds of its file; None if it is the whole.
    """

    video_id: str
    distance: float
    start_s: float | None = None
    end_s: float | None = None


def rank_paths(
    query: np.ndarray,
    parts: Iterable[Trajectories],
    gamma: float,
    n: int,
    *,
    least: bool = False,
    skip: str | None = None,
    pooled: bool = False,
) -> list[Match]:
    """Find the videos whose paths are nearest to a query's by the soft-DTW divergence, or farthest from it.

    Parameters
    ----------
    query
        (T, c), a path.
    parts
        All videos, some at a time. No more of them are kept than are compared in the end.
    gamma
        γ of soft-DTW.
    n
        How many videos to return.
    least
        Return the farthest.
    skip
        The id of a video that is left out: the query's own.
    pooled
        Sift all videos by paths of `POOLED_STEPS` steps, each the mean of some, and compare in full those that are
        nearest by these: fifty for each that is wanted, and a thousand at least. See `is_affordable`.

    Returns
    -------
    The videos in order, `Match.distance` being the divergence in float64.
    """
    n_kept = max(_SIFTED * n, _LEAST_SIFTED) if pooled else _REFINED * n
    sign = -1.0 if least else 1.0
    ids: list[str] = []
    paths: list[np.ndarray] = []
    keys = np.empty(0)
    rough = pool_path(query) if pooled else query
    for part in parts:
        found = sign * divergences(rough, _pool_paths(part.values) if pooled else part.values, gamma)
        near = [i for i in np.argsort(found, kind="stable")[: n_kept + 1] if part.video_ids[i] != skip]
        ids += [part.video_ids[i] for i in near]
        paths += [np.array(part.values[i]) for i in near]
        keys = np.concatenate([keys, found[near]])
        best = np.argsort(keys, kind="stable")[:n_kept]
        ids, paths, keys = [ids[i] for i in best], [paths[i] for i in best], keys[best]
    if not ids:
        return []
    exact = divergences(query, paths, gamma, "float64")
    order = np.argsort(sign * exact, kind="stable")[:n]
    return [Match(ids[i], float(exact[i])) for i in order]


def is_affordable(n_videos: int, n_steps: int, dim: int) -> bool:
    """Return whether the paths of so many videos can all be compared with a query in some seconds."""
    return n_videos * n_steps**2 * (dim + 8.0) <= BUDGET or n_steps <= POOLED_STEPS


def divergences(query: np.ndarray, values: Any, gamma: float, precision: str = "float32") -> np.ndarray:
    """Return the soft-DTW divergence of each path from a query's, (n,) float64; only rounding makes any negative."""
    found = cdist_soft_dtw(values, [query], gamma, divergence=True, precision=precision, backend="numba")
    return np.maximum(found[:, 0].astype(np.float64), 0)


def pool_path(path: np.ndarray, n_steps: int = POOLED_STEPS) -> np.ndarray:
    """Pool a path of (T, c) to at most ``n_steps`` steps, the means of as many parts of its steps."""
    return _pool_paths(path[None], n_steps)[0]


def _pool_paths(values: Any, n_steps: int = POOLED_STEPS) -> Any:
    """Pool many paths, (n, T, c) or a list of (T_i, c), as `pool_path` does."""
    if not isinstance(values, np.ndarray):
        return [pool_path(path, n_steps) for path in values]
    n_steps = min(n_steps, values.shape[1])
    starts = np.arange(n_steps) * values.shape[1] // n_steps
    lengths = np.diff(starts, append=values.shape[1])
    return np.add.reduceat(values, starts, axis=1) / lengths[:, None].astype(values.dtype)


def rank_pieces(
    query: ClipPath,
    part_s: tuple[float, float],
    videos: Iterable[ClipPath],
    n: int,
    *,
    least: bool = False,
) -> list[Match]:
    """Find where in other videos the same thing happens: the pieces that are nearest to a query by soft-DTW.

    The videos with the nearest pieces are found clip by clip, and then where these pieces lie between the clips, by
    `POINTS` for each clip. What is aligned is what lies between the middles of the part's first and last clip, since
    these clips alone are of nothing else; what lies before and behind it lasts as long, in proportion, in the piece.
    γ is a fifth of the median squared distance between the query's clips, or if they are all the same, between those
    of other videos.

    Parameters
    ----------
    query
        The clips of a whole video. It is left out of what is found.
    part_s
        Where the part of it that is looked for begins and ends, in seconds of its file.
    videos
        The clips of each video.
    n
        How many pieces to return; no two overlap, but several may lie in one video.
    least
        Return instead the best piece of each of the videos in which the query happens least.

    Returns
    -------
    The pieces, in the order of `Match.distance`: the soft-DTW divergence of the piece from the part, for each step of
    the part.

    Raises
    ------
    UsageError
        If no clip lies in the part.
    """
    from raypipe.softdtw.subsequence import find_best_ends

    sign = -1.0 if least else 1.0
    part = query.within(*part_s)
    if not len(part.values):
        first_s, last_s = float(query.start_s[0]), float(query.end_s[-1])
        if part_s[0] < last_s and part_s[1] > first_s:
            raise UsageError(
                f"the part from {part_s[0]:g} s to {part_s[1]:g} s holds the middle of no clip: make it longer"
            )
        raise UsageError(
            f"no clip of the video lies between {part_s[0]:g} s and {part_s[1]:g} s: it has clips from {first_s:g} s "
            f"to {last_s:g} s"
        )
    gamma: float | None = None
    kept: list[tuple[float, ClipPath]] = []
    for some in _batches(video for video in videos if video.video_id != query.video_id):
        gamma = gamma or _SOFT_ENDS * auto_gamma(_tell_distances(query, some))
        edges = np.cumsum([0, *(len(video.values) for video in some)])
        distances, _ = find_best_ends(part.values, np.concatenate([video.values for video in some]), edges, gamma)
        kept += zip(sign * distances, some, strict=True)
        kept = sorted(kept, key=lambda pair: pair[0])[:n]
    if gamma is None:
        return []  # There is no other video.
    # By soft-DTW the n best pieces of all lie in the n videos whose best piece is best.
    found = [match for _, video in kept for match in _find_in(video, part, part_s, gamma, 1 if least else n)]
    return sorted(found, key=lambda match: sign * match.distance)[:n]


def _tell_distances(query: ClipPath, others: list[ClipPath]) -> list[np.ndarray]:
    """Return clips that tell how far clips lie apart: the query's, or if it has one or stands still, some others'."""
    stands_still = bool((query.values == query.values[0]).all())
    return [video.values for video in others[:_TELLING]] if stands_still else [query.values]


def _find_in(video: ClipPath, part: ClipPath, part_s: tuple[float, float], gamma: float, n: int) -> list[Match]:
    """Find the best pieces of one video that do not overlap."""
    from raypipe.softdtw.subsequence import find_pieces

    asked_s, asked = part.sampled(POINTS)
    times_s, values = video.sampled(POINTS)
    found: list[Match] = []
    for piece in find_pieces(asked, values, gamma, n):
        first_s, last_s = times_s[[piece.first, piece.after - 1]]
        rate = (last_s - first_s) / (asked_s[-1] - asked_s[0]) if len(asked) > 1 else 1.0
        start_s = max(first_s - rate * (asked_s[0] - part_s[0]), video.start_s[0])
        end_s = min(last_s + rate * (part_s[1] - asked_s[-1]), video.end_s[-1])
        if start_s >= end_s:  # A moment is like the whole part: it is that of a clip.
            clip = int(np.abs((video.start_s + video.end_s) / 2 - first_s).argmin())
            start_s, end_s = video.start_s[clip], video.end_s[clip]
        if all(end_s <= other.start_s or start_s >= other.end_s for other in found):
            away = divergences(asked, [values[piece.first : piece.after]], gamma, "float64")[0] / len(asked)
            found.append(Match(video.video_id, float(away), float(start_s), float(end_s)))
    return found


def _batches(videos: Iterator[ClipPath]) -> Iterator[list[ClipPath]]:
    some: list[ClipPath] = []
    n_steps = 0
    for video in videos:
        some.append(video)
        n_steps += len(video.values)
        if n_steps >= _STEPS_AT_ONCE:
            yield some
            some, n_steps = [], 0
    if some:
        yield some


def rank_by_direction(direction: np.ndarray, videos: Iterable[ClipPath], n: int, *, least: bool = False) -> list[Match]:
    """Find the videos with a clip that lies nearest to a direction, such as a text's.

    Parameters
    ----------
    direction
        (dim,), of any length.
    videos
        The clips of each video.
    n
        How many videos to return.
    least
        Return the videos in which even the best clip is far from it.

    Returns
    -------
    The videos in order, with the time of their best clip; `Match.distance` is 1 less the cosine.
    """
    sign = -1.0 if least else 1.0
    unit = direction / np.linalg.norm(direction)
    kept: list[Match] = []
    rest = iter(videos)
    for some in iter(lambda: list(islice(rest, 1000)), []):
        for video in some:
            norms = np.linalg.norm(video.values, axis=1)
            away = 1 - video.values @ unit / np.where(norms > 0, norms, 1)
            at = int(np.argmin(away))
            distance = max(float(away[at]), 0.0)  # Only rounding makes any negative.
            kept.append(Match(video.video_id, distance, float(video.start_s[at]), float(video.end_s[at])))
        kept = sorted(kept, key=lambda match: sign * match.distance)[:n]
    return kept


def spread_out(values: Any, gamma: float, n: int) -> list[tuple[int, float]]:
    """Choose videos that are as unlike one another as can be: farthest-point order (Gonzalez 1985).

    The first is the one nearest to the mean of all; each further one is that whose nearest among those already chosen
    is farthest. So the first few of a long list are an overview of their own.

    Parameters
    ----------
    values
        Paths: (N, T, c), or a list of (T_i, c) arrays.
    gamma
        γ of soft-DTW.
    n
        How many to choose.

    Returns
    -------
    Indices of ``values`` in order, and for each its divergence from the nearest before it; for the first 0.
    """
    is_array = isinstance(values, np.ndarray)
    pooled = values.mean(axis=1) if is_array else np.stack([np.mean(path, axis=0) for path in values])
    at = int(np.square(pooled - pooled.mean(axis=0)).sum(axis=1).argmin())
    chosen = [(at, 0.0)]
    nearest = divergences(values[at], values, gamma)
    nearest[at] = -1
    while len(chosen) < min(n, len(values)):
        at = int(nearest.argmax())
        chosen.append((at, float(nearest[at])))
        nearest = np.minimum(nearest, divergences(values[at], values, gamma))
        nearest[at] = -1
    return chosen
