"""What is odd about an outlier, and where in the video: in words, from the path itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raypipe.analysis.outliers import Scores, distances_to_centers
from raypipe.analysis.repairs import Pieces, Repair, undo_reversal, undo_swap
from raypipe.progress import counted
from raypipe.schema import ClipPath
from raypipe.softdtw.alignment import align_pairs

Span = tuple[float | None, float | None]

PER_CENTER = 30  # So many videos of each center say what is usual there.
NEAREST_CENTERS = 3  # An outlier is compared with so many centers at most.
CALM_PART = 0.05  # So large a part of the moves from clip to clip belongs to pauses.
RESTLESS = 4.0  # A pause lasts while moves are at most so many times theirs: some cameras have more noise.
WIDEST = 4.0  # What is usual is at most so many times the median distance.
LONGER = 1.5  # A picture is frozen that rests more than so many times as long as any other.
TOO_SHORT = 0.25  # A video is too short if it has no more than this part of the usual number of clips, or only one.
_STILL = 1e-6  # A path that moves by no more than this part of its numbers, in float32, stands still.
UNDONE = 1.5  # A fault is found if what is left without it is at most so many times what is usual.
HALVED = 0.5  # It is then at most this part of what there was, too.
# The best of many guesses leaves little by chance alone, so what it leaves weighs more where there is more to choose.
FREEDOM = {"reversed": 1.0, "cut off": 1.0, "late": 1.0, "strayed": 1.25, "swapped": 1.5}


@dataclass(frozen=True)
class Finding:
    """What is odd about a video.

    Attributes
    ----------
    reason
        In words.
    start_s, end_s
        Where it is, in seconds of the file; None if that is not known.
    is_fault
        False if the video is no farther from the others than some of them are.
    """

    reason: str
    start_s: float | None
    end_s: float | None
    is_fault: bool


@dataclass(frozen=True)
class Usual:
    """What is usual among the videos of one center.

    Attributes
    ----------
    distance
        The largest usual distance from the center.
    steps
        (T_z,) float64, how far videos usually are from each step of the center, squared.
    n_clips
        The median number of clips.
    """

    distance: float
    steps: np.ndarray
    n_clips: float


@dataclass(frozen=True)
class Pauses:
    """How videos rest: the embeddings' moves from one clip to the next.

    Attributes
    ----------
    calm
        A move that is no larger belongs to a pause.
    least
        Half of the smallest move.
    longest
        How many moves the longest pause has, of a camera with whatever noise.
    """

    calm: float
    least: float
    longest: int


def choose_ordinary(scores: Scores, flags: np.ndarray) -> np.ndarray:
    """Choose the videos that say what is usual: (m,) int64, at most `PER_CENTER` of each center, no outliers."""
    chosen = []
    for center in np.unique(scores.nearest):
        rows = np.flatnonzero((scores.nearest == center) & ~flags)
        chosen.append(rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), PER_CENTER)).astype(int))])
    return np.sort(np.concatenate(chosen))


class Examiner:
    """Says of outliers what is odd, having learned from ordinary videos what is usual.

    Parameters
    ----------
    values
        The trajectories that were clustered: (n, T, c), or a list of (T_i, c) arrays.
    scores
        What `raypipe.analysis.outliers.score_outliers` returned of them.
    centers, gamma
        As there.
    ordinary
        What `choose_ordinary` returned.
    clips
        The clips of the ordinary videos, by row.
    time_axis
        How the trajectories were interpolated, as in `raypipe.config.TrajectoryConfig`.
    threshold
        The distance beyond which videos are far, where no ordinary video says it; inf if it is not known.
    """

    def __init__(
        self,
        values: Any,
        scores: Scores,
        centers: np.ndarray,
        gamma: float | None,
        ordinary: np.ndarray,
        clips: Mapping[int, ClipPath],
        time_axis: Literal["time", "index"] = "time",
        threshold: float = np.inf,
    ) -> None:
        self.values, self.scores, self.centers, self.gamma = values, scores, centers, gamma
        self.clips, self.time_axis = clips, time_axis
        self.usual = {
            int(center): self._learn(int(center), ordinary[scores.nearest[ordinary] == center])
            for center in np.unique(scores.nearest[ordinary])
            if center >= 0
        }
        # A small cluster may have a narrow idea of what is usual.
        distances = [each.distance for each in self.usual.values()] or [threshold]
        self.least_usual = float(np.median(distances))
        near = [row for row in ordinary if scores.values[row] <= np.median(scores.values[ordinary])]
        self.pauses = learn_pauses([clips[row].values for row in near if row in clips])

    def _learn(self, center: int, rows: np.ndarray) -> Usual:
        paths = [np.asarray(self.values[row], np.float64) for row in rows]
        steps = np.array([spread_of(path, self.centers[center], self.gamma)[1] for path in paths])
        lengths = [len(self.clips[row].start_s) for row in rows if row in self.clips]
        far = self.scores.values[rows]
        return Usual(
            # The median bounds it, because among the videos that are not flagged there may be odd ones too.
            distance=float(min(np.quantile(far, 0.95), WIDEST * np.median(far))),
            steps=np.quantile(steps, 0.9, axis=0),
            n_clips=float(np.median(lengths)) if lengths else 0.0,
        )

    def examine(self, path: np.ndarray, clips: ClipPath | None, center: int, distance: float) -> Finding:
        """Say what is odd about a video, which need be none of those that were clustered.

        Parameters
        ----------
        path
            Its trajectory, (T, c).
        clips
            Its clips, if they are known.
        center, distance
            The nearest center that others support, or -1, and how far that is.
        """
        path = np.asarray(path, np.float64)
        usual = self.usual.get(center)
        if clips is not None and usual is not None and is_too_short(len(clips.start_s), usual.n_clips):
            said = f"too short: {counted(len(clips.start_s), 'clip')}, where {usual.n_clips:g} are usual"
            return Finding(said, float(clips.start_s[0]), float(clips.end_s[-1]), True)
        if clips is not None and (still := find_still(clips.values, self.pauses)):
            return self._say_frozen(clips, *still)
        edges = edges_of(clips, len(path), self.time_axis)
        if usual is None and (center < 0 or distance <= UNDONE * self.least_usual):
            return Finding("far from its own center; there is no other to compare it with", None, None, False)
        repair = self._undo(path, distance)
        if repair is not None:
            span = _cut_out(edges, repair.start, repair.end)
            return Finding(_say(repair, span), *span, True)
        if usual is None:
            span = _cut_out(edges, 0, len(path))
            return Finding(f"unlike any cluster{_from_to(span)}", *span, True)
        start, end = self._find_excess(path, center, usual)
        span = _cut_out(edges, start, end)
        if distance <= UNDONE * max(usual.distance, self.least_usual):
            return Finding(f"far from cluster {center}'s center, but hardly farther than others", *span, False)
        return Finding(f"unlike any cluster{_from_to(span)}", *span, True)

    def _undo(self, path: np.ndarray, distance: float) -> Repair | None:
        """Return the repair that makes the path like others, or None."""
        if self.gamma is None or not self.usual:
            return None
        numbers = self._nearest(path)
        repairs = [undo_reversal(path, self.centers, numbers, self.gamma)]
        repairs += Pieces(path, self.centers, numbers, self.gamma).repairs()
        if (swap := undo_swap(path, self.centers, numbers, self.gamma)) is not None:
            repairs.append(swap)
        good = [repair for repair in repairs if self._is_like_others(repair.left, repair.centers, distance)]
        return min(good, key=lambda repair: FREEDOM[repair.kind] * repair.left, default=None)

    def _is_like_others(self, left: float, centers: Sequence[int], distance: float) -> bool:
        """Whether what a repair leaves of the distance from some centers is usual there."""
        usual = max(self.least_usual, *(self.usual[center].distance for center in centers))
        return left <= min(UNDONE * usual, HALVED * distance)

    def _nearest(self, path: np.ndarray) -> np.ndarray:
        """Return the numbers of the centers that are nearest to a path, of those that it may be like."""
        numbers = np.array(sorted(self.usual))
        apart = distances_to_centers([path], self.centers[numbers], self.gamma)[0]
        return numbers[np.argsort(apart, kind="stable")[:NEAREST_CENTERS]]

    @np.errstate(under="ignore")  # Such shares, times what is usual, are 0 too.
    def _find_excess(self, path: np.ndarray, center: int, usual: Usual) -> tuple[int, int]:
        """Return the steps in which the path is farther from the center than is usual there, ``start ≤ step < end``."""
        if np.ptp(path, axis=0).max() <= _STILL * np.abs(path).max():  # No step is odder than another.
            return 0, len(path)
        far, _, share = spread_of(path, self.centers[center], self.gamma)
        normal = share @ usual.steps
        least = 1e-12 + 1e-3 * float(np.mean(usual.steps))
        return find_high(np.log((far + least) / (normal + least)))

    def _say_frozen(self, clips: ClipPath, start: int, end: int) -> Finding:
        span = float(clips.start_s[start]), float(clips.end_s[end - 1])
        if start == 0 and end == len(clips.start_s):
            return Finding("frozen: its picture never moves", *span, True)
        until = "" if end == len(clips.start_s) else f" to {span[1]:.1f} s"
        return Finding(f"frozen from {span[0]:.1f} s{until}", *span, True)


def is_too_short(n_clips: int, usual: float) -> bool:
    """Whether a video has too few clips to go any way, where so many are usual."""
    return n_clips <= max(1.0, TOO_SHORT * usual) and n_clips < usual


@np.errstate(under="ignore")  # Steps that lie far apart are aligned with probability 0.
def spread_of(path: np.ndarray, center: np.ndarray, gamma: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how far a path and a center are apart at each step of either, squared, along their alignment.

    Returns
    -------
    far
        (T_x,), at each step of the path.
    off
        (T_z,), at each step of the center.
    share
        (T_x, T_z), how each step of the path divides among the center's; rows sum to 1.
    """
    if gamma is not None:
        found = align_pairs(path[None], center[None], gamma)
        apart, expected = found.apart[0], found.expected[0]
    else:
        apart = ((center[:, None, :] - path[None, :, :]) ** 2).sum(axis=2)
        expected = np.ones_like(apart) if len(center) == 1 else np.eye(len(center), len(path))
    share = (expected / expected.sum(axis=0)).T
    far = (share * apart.T).sum(axis=1)
    off = (expected * apart).sum(axis=1) / expected.sum(axis=1)
    return far, off, share


def _measure_moves(values: np.ndarray) -> np.ndarray:
    """Return how far each clip's embedding is from the one before: (n − 1,) float64."""
    return np.linalg.norm(np.diff(np.asarray(values, np.float64), axis=0), axis=1)


def learn_pauses(videos: Sequence[np.ndarray]) -> Pauses:
    """Learn from the embeddings of some videos' clips, (n_i, dim) each, what their pauses are like."""
    moves = [_measure_moves(values) for values in videos]
    every = np.concatenate([*moves, np.empty(0)])
    if not len(every):
        return Pauses(-1.0, 0.0, 0)
    calm = float(np.quantile(every, CALM_PART))
    stretches = [stop - start for each in moves for start, stop in find_stretches(each <= RESTLESS * calm)]
    return Pauses(calm, float(every.min()) / 2, max(stretches, default=0))


def find_stretches(marked: np.ndarray) -> list[tuple[int, int]]:
    """Return the stretches of marked places, (n,) bool, each as its first place and the one behind its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def find_still(values: np.ndarray, pauses: Pauses) -> tuple[int, int] | None:
    """Return the longest stretch of clips, (n, dim), in which the picture stands still as in no pause, or None.

    It is calm, and longer than any pause; or two of its moves are smaller than any that a live camera shows, even of a
    scene that rests, because its noise changes the picture.

    Returns
    -------
    Its first clip, and the one behind its last.
    """
    moves = _measure_moves(values)
    still = [
        (start, stop)
        for start, stop in find_stretches(moves <= pauses.calm)
        if stop - start > max(LONGER * pauses.longest, 1) or np.count_nonzero(moves[start:stop] < pauses.least) > 1
    ]
    start, stop = max(still, key=lambda stretch: stretch[1] - stretch[0], default=(0, 0))
    return (start, stop + 1) if stop else None


def find_high(values: np.ndarray) -> tuple[int, int]:
    """Return the one stretch that best divides values into high ones within and low ones around.

    It leaves the least sum of squares about the two means (Levin & Kline, Statistics in Medicine 1985), so that it
    needs no threshold.

    Parameters
    ----------
    values
        (n,) float64.

    Returns
    -------
    The stretch, ``start ≤ place < end``; of equal values, or of one, all.
    """
    n = len(values)
    sums = np.concatenate([[0.0], np.cumsum(values - values.mean())])
    start, end = np.triu_indices(n + 1, 1)
    inside = end - start
    rise = np.where(inside < n, sums[end] - sums[start], 0.0)
    gain = np.maximum(rise, 0) ** 2 / (inside * np.maximum(n - inside, 1))
    best = int(gain.argmax())
    return (int(start[best]), int(end[best])) if gain[best] > 0 else (0, n)


def edges_of(clips: ClipPath | None, n_steps: int, time_axis: str) -> np.ndarray | None:
    """Return where the steps of a trajectory begin and end, in seconds of the file: (n_steps + 1,)."""
    if clips is None or not len(clips.start_s):
        return None
    first, last = float(clips.start_s[0]), float(clips.end_s[-1])
    if len(clips.start_s) == 1 or n_steps == 1:
        return np.linspace(first, last, n_steps + 1)
    steps = times_of_steps(clips, n_steps, time_axis)
    return np.concatenate([[first], (steps[1:] + steps[:-1]) / 2, [last]])


def times_of_steps(clips: ClipPath, n_steps: int, time_axis: str) -> np.ndarray:
    """Return the times at which a trajectory was interpolated, in seconds of the file: (n_steps,)."""
    middles = (clips.start_s + clips.end_s) / 2
    numbers = np.arange(len(middles))
    at = np.linspace(0, len(middles) - 1, n_steps)
    return np.interp(at, numbers, middles) if time_axis == "index" else np.linspace(middles[0], middles[-1], n_steps)


def _cut_out(edges: np.ndarray | None, start: int, end: int) -> Span:
    return (None, None) if edges is None else (float(edges[start]), float(edges[end]))


def _from_to(span: Span) -> str:
    return "" if span[0] is None else f" from {span[0]:.1f} s to {span[1]:.1f} s"


def _say(repair: Repair, span: Span) -> str:
    of = f"cluster {repair.centers[-1]}"
    if repair.kind == "reversed":
        return f"runs backwards: reversed it is like {of}"
    if repair.kind == "cut off":
        return f"ends in the middle: after {repair.part:.0%} of {of}'s way"
    if repair.kind == "late":
        return f"begins in the middle: {repair.part:.0%} of {of}'s way is missing"
    if repair.kind == "swapped":
        return f"does two parts of {of}'s way in the other order{_from_to(span)}"
    where = "" if span[0] is None else f" from {span[0]:.1f} s"
    return f"goes to {of}'s end{where}"
