"""What is wrong with a dataset of episodes: what its tables say, held against one another and against its files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raypipe.progress import counted
from raypipe.schema import Failure, Probe

KINDS = (
    "unreadable",
    "no place",
    "beyond the file",
    "other frames",
    "overlap",
    "hole",
    "length",
    "frozen camera",
    "duplicate",
    "one frame",
    "frame rate",
    "no task",
    "no statistics",
    "count",
)
"""The kinds of faults, the worst first."""

SLACK = 0.5  # Of a frame: times are rounded, and a span's edge may lie within the frame that it is meant for.
# The part by which frame rates may differ: 29.97 is taken for 30, as an episode's frames are counted.
FPS_SLACK = 0.005
SHOWN = 20  # So many faults of a kind are in a table; JSON has all.
STILL = 0.5  # Grey levels of 255: a live camera's noise changes the picture by more, whatever the codec leaves of it.


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a dataset.

    Attributes
    ----------
    kind
        One of `KINDS`.
    says
        What is wrong, in words.
    episode, camera, file
        Where; None where it is of more than one.
    amount
        By how much, in frames or seconds: of faults of one kind the greatest is the worst.
    """

    kind: str
    says: str
    episode: int | None = None
    camera: str | None = None
    file: str | None = None
    amount: float = 0.0


@dataclass(frozen=True)
class Stream:
    """The videos of one camera, an episode each: arrays of n, in the order of the dataset.

    Attributes
    ----------
    camera
        Its name.
    episodes, lengths
        int64, the number of each episode, and how many frames it has by the table of episodes; -1 where that is not
        known.
    files
        The camera's files.
    of_file
        int64, which of them each lies in.
    start_s, end_s
        float64, from when to when in its file; not a number where the file is the episode.
    """

    camera: str
    episodes: np.ndarray
    lengths: np.ndarray
    files: Sequence[str]
    of_file: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray


def worst_first(faults: Sequence[Fault]) -> list[Fault]:
    """Return faults in the order of `KINDS`, of each kind the greatest first."""
    return sorted(faults, key=lambda fault: (KINDS.index(fault.kind), -fault.amount, fault.episode or 0))


def lay_out_faults(faults: Sequence[Fault]) -> list[str]:
    """Return faults in their order as the lines of a table, of each kind the first."""
    if not faults:
        return ["nothing is wrong with the dataset"]
    counts = Counter(fault.kind for fault in faults)
    rows = [["what", "episode", "camera", ""]]
    listed: Counter[str] = Counter()
    for fault in faults:
        listed[fault.kind] += 1
        if listed[fault.kind] <= SHOWN:
            episode = "" if fault.episode is None else str(fault.episode)
            rows.append([fault.kind, episode, fault.camera or "", fault.says])
        elif listed[fault.kind] == counts[fault.kind]:
            rows.append([fault.kind, "", "", f"… and {counts[fault.kind] - SHOWN} more: --json has all"])
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = [f"  {row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:{widths[2]}}  {row[3]}".rstrip() for row in rows]
    return [f"what is wrong: {counted(len(faults), 'finding')}, the worst first", *table]


def check_files(stream: Stream, probes: Mapping[str, Probe | Failure], fps: float) -> Iterator[Fault]:
    """Yield the files that cannot be read, and those whose frame rate is another than the dataset's."""
    for number, file in enumerate(stream.files):
        probe = probes[file]
        inside = stream.episodes[stream.of_file == number]
        of = int(inside[0]) if len(inside) == 1 else None
        if isinstance(probe, Failure):
            n = "" if len(inside) == 1 else f", and {len(inside)} episodes with it"
            yield Fault("unreadable", f"{probe.error}{n}", of, stream.camera, file, float(len(inside)))
        elif probe.fps and abs(probe.fps / fps - 1) > FPS_SLACK:
            says = f"the file has {probe.fps:.5g} frames a second, and info.json says {fps:g}"
            yield Fault("frame rate", says, of, stream.camera, file, abs(probe.fps / fps - 1))


def check_spans(
    stream: Stream, probes: Mapping[str, Probe | Failure], fps: float, is_whole: bool = True
) -> Iterator[Fault]:
    """Yield spans that end beyond their file, do not fit their episode's length, overlap, or leave holes.

    Where the stream is not the whole of the camera's, a file's beginning and end may be of other episodes.
    """
    durations = np.array([_length_s(probes[file]) for file in stream.files])
    if not len(stream.episodes):
        return
    lasts = durations[stream.of_file]
    is_part = ~np.isnan(stream.start_s)
    start_s, end_s = np.where(is_part, stream.start_s, 0.0), np.where(is_part, stream.end_s, lasts)
    over = (end_s - lasts) * fps
    for row in np.flatnonzero(over > SLACK):
        says = f"to_timestamp is {end_s[row]:.4f} s, and the file lasts {lasts[row]:.4f} s"
        yield _of(stream, int(row), "beyond the file", says, over[row])
    off = (end_s - start_s) * fps - stream.lengths
    for row in np.flatnonzero((np.abs(off) > SLACK) & (stream.lengths >= 0)):
        what = "its span lasts" if is_part[row] else "its file lasts"
        span = end_s[row] - start_s[row]
        says = f"{what} {span:.4f} s, {span * fps:.1f} frames, and its length is {stream.lengths[row]} frames"
        yield _of(stream, int(row), "length", says, abs(off[row]))
    order = np.lexsort((stream.start_s, stream.of_file))
    order = order[is_part[order]]
    before, after = _pair_spans(order, stream.of_file, end_s).T
    gaps = (start_s[after] - end_s[before]) * fps
    left = np.maximum(lasts[after] - end_s[before], 0.0) * fps  # What the file has behind the span before.
    gaps = np.where(gaps > 0, np.fmin(gaps, left), gaps)
    for place in np.flatnonzero(np.abs(gaps) > SLACK).tolist():
        gap, other, later = gaps[place], stream.episodes[before[place]], int(after[place])
        if gap < 0:
            says = f"its span begins {-gap / fps:.4f} s before that of episode {other} ends"
            yield _of(stream, later, "overlap", says, -gap)
        else:
            says = f"between its span and that of episode {other} no episode shows {gap / fps:.4f} s of the file"
            yield _of(stream, later, "hole", says, gap)
    if is_whole and len(order):
        firsts = order[np.unique(stream.of_file[order], return_index=True)[1]]
        ends = np.zeros(len(stream.files))
        np.maximum.at(ends, stream.of_file[order], end_s[order])
        for row in firsts.tolist():
            file = stream.of_file[row]
            for lost_s, where in ((start_s[row], "begins"), (durations[file] - ends[file], "ends")):
                if lost_s * fps > SLACK:
                    says = f"the file {where} with {lost_s:.4f} s that no episode shows"
                    yield Fault("hole", says, None, stream.camera, stream.files[file], float(lost_s * fps))


def _pair_spans(order: np.ndarray, of_file: np.ndarray, end_s: np.ndarray) -> np.ndarray:
    """Return of each span but a file's first that before it which ends last, as others may lie within it, and itself.

    The result is (n, 2) int64.
    """
    furthest: dict[int, int] = {}
    pairs = []
    for row in order.tolist():
        before = furthest.setdefault(of_file[row], row)
        if before != row:
            pairs.append((before, row))
        if end_s[row] > end_s[before]:
            furthest[of_file[row]] = row
    return np.array(pairs, np.int64).reshape(-1, 2)


def _length_s(probe: Probe | Failure) -> float:
    """Return how long a file lasts; not a number where that is not known, as of a single picture of no rate."""
    if isinstance(probe, Failure) or (probe.n_frames == 1 and not probe.fps):
        return float("nan")
    return probe.duration_s


def check_edges(stream: Stream, times_s: Mapping[str, np.ndarray], fps: float) -> Iterator[Fault]:
    """Yield spans that show frames of other episodes, or not as many as their episode has.

    Where a file has as many frames as its episodes together, which frames are whose follows from the lengths.

    Parameters
    ----------
    stream
        The camera's videos.
    times_s
        By file, when each frame is presented, (n,) float64; files that are not there are passed over.
    fps
        The dataset's frames a second.
    """
    for number, file in enumerate(stream.files):
        times = times_s.get(file)
        rows = np.flatnonzero(stream.of_file == number)
        if times is None or (stream.lengths[rows] < 0).any():
            continue
        if np.isnan(stream.start_s[rows]).any():
            for row in rows.tolist():
                if len(times) != stream.lengths[row]:
                    says = f"its file has {len(times)} frames, and its length is {stream.lengths[row]} frames"
                    yield _of(stream, row, "length", says, abs(len(times) - stream.lengths[row]))
            continue
        rows = rows[np.argsort(stream.start_s[rows], kind="stable")]
        lengths = stream.lengths[rows]
        hair = SLACK / 2 / fps  # `raypipe.segments.sampling.align_span` moves an edge so far at most.
        first, after = (np.searchsorted(times, edges[rows] - hair) for edges in (stream.start_s, stream.end_s))
        meant = np.cumsum([0, *lengths])
        fits = meant[-1] == len(times)
        for place, row in enumerate(rows.tolist()):
            begins, ends = int(first[place] - meant[place]), int(after[place] - meant[place + 1])
            shown = int(after[place] - first[place])
            if fits and begins:
                n, other = abs(begins), stream.episodes[rows[max(place - 1, 0)]]
                how = "late and misses them" if begins > 0 else f"early and shows episode {other}"
                yield _of(stream, row, "other frames", f"its span begins {counted(n, 'frame')} too {how}", n)
            elif fits and ends:
                n, other = abs(ends), stream.episodes[rows[min(place + 1, len(rows) - 1)]]
                how = f"late and shows episode {other}" if ends > 0 else "early and misses them"
                yield _of(stream, row, "other frames", f"its span ends {counted(n, 'frame')} too {how}", n)
            elif not fits and shown != lengths[place]:
                says = f"its span shows {shown} frames, and its length is {lengths[place]} frames"
                yield _of(stream, row, "other frames", says, abs(shown - lengths[place]))


def check_lengths(episodes: np.ndarray, lengths: np.ndarray) -> Iterator[Fault]:
    """Yield episodes of one frame or none, and numbers that two episodes have."""
    for row in np.flatnonzero((lengths >= 0) & (lengths < 2)):
        says = "it has a single frame" if lengths[row] else "it has no frame"
        yield Fault("one frame", says, int(episodes[row]), amount=float(2 - lengths[row]))
    numbers, counts = np.unique(episodes, return_counts=True)
    for number, n in zip(numbers[counts > 1], counts[counts > 1], strict=True):
        yield Fault("count", f"the table of episodes has {n} rows of it", int(number), amount=float(n))


def is_frozen(pixels: np.ndarray) -> bool:
    """Whether frames spread over a video, (n, h, w, 3) uint8, all show the same picture; of one frame nobody can say.

    What a codec changes of a still picture is less than `STILL` on average.
    """
    if len(pixels) < 2:
        return False
    apart = np.abs(pixels[1:].astype(np.int16) - pixels[0].astype(np.int16))
    return bool(apart.mean(axis=(1, 2, 3)).max() < STILL)


def digest(values: np.ndarray) -> str | None:
    """Return what tells arrays apart, or None of one that does not change along its first axis: many may look so."""
    if len(values) < 2 or (values == values[:1]).all():
        return None
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def find_twins(digests: Mapping[int, str | None]) -> dict[int, int]:
    """Return the episodes that have an earlier one's digest, and which that is."""
    first: dict[str, int] = {}
    twins = {}
    for episode in sorted(digests):
        own = digests[episode]
        if own is not None and (earlier := first.setdefault(own, episode)) != episode:
            twins[episode] = earlier
    return twins


def check_twins(by_signals: Mapping[int, int], by_pictures: Mapping[str, Mapping[int, int]]) -> Iterator[Fault]:
    """Yield episodes that are others' copies.

    Parameters
    ----------
    by_signals
        By episode, the earlier one whose signals it has.
    by_pictures
        By camera, the same for pictures.
    """
    for episode in sorted({*by_signals, *(each for found in by_pictures.values() for each in found)}):
        cameras = {camera: found[episode] for camera, found in by_pictures.items() if episode in found}
        others = sorted({*cameras.values(), *([by_signals[episode]] if episode in by_signals else [])})
        what = [*(["signals"] if episode in by_signals else []), *(["pictures"] if cameras else [])]
        says = f"it has the {' and '.join(what)} of episode {', '.join(map(str, others))}"
        camera = next(iter(cameras)) if len(cameras) == 1 and episode not in by_signals else None
        yield Fault("duplicate", says, episode, camera, amount=float(len(what)))


def _of(stream: Stream, row: int, kind: str, says: str, amount: float) -> Fault:
    file = stream.files[stream.of_file[row]]
    return Fault(kind, says, int(stream.episodes[row]), stream.camera, file, float(amount))
