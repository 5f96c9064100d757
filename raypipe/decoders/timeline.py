"""When each frame of a video is on display: by its packets, or, where these do not tell, by decoding all of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError

from raypipe.decoders.container import (
    REORDERED,
    OpenVideo,
    decode_all,
    find_start,
    open_video,
    read_first_frame,
    reason_of,
)
from raypipe.errors import DecodeError
from raypipe.storage import file_of, local_path, shown

_NONE = -(2**63)  # This stands for a time that a packet does not have.
_MISPLACED = 4  # In the file, a frame of MPEG-PS lies at most so far from where it is shown.
_N_KEPT = 4  # Segments of one video often come one after the other. An hour takes 1 MB.


@dataclass(frozen=True)
class Timeline:
    """The times of a video's frames.

    Attributes
    ----------
    origin
        The first frame's tick, the zero of all times.
    times_s
        (n,) float64, ascending: when each frame that is shown goes on display. No two are equal.
    duration_s
        When the last frame's own duration ends.
    end_s
        The time until which the last frame counts as on display.
    tolerance_s
        By how much a frame may seem to come late, because times are rounded.
    n_hidden
        Number of packets that an edit list hides.
    n_leading
        Number of frames that are shown before the keyframe that they follow in the file, as in open groups of pictures.
    is_sound
        Whether each frame has a time of its own in the container, in order, so that it can be found by it.
    remark
        What a user should know of these times, or None.
    failure
        Why decoding stopped after the last frame, if it was needed to find the times; else None.
    """

    origin: int
    times_s: np.ndarray
    duration_s: float
    end_s: float
    tolerance_s: float
    n_hidden: int = 0
    n_leading: int = 0
    is_sound: bool = True
    remark: str | None = None
    failure: str | None = None

    def find(self, times_s: np.ndarray) -> tuple[np.ndarray, str | None]:
        """Return the frames on display at given times, as (n,) indices, and why later times are left out."""
        reached = np.asarray(times_s, dtype=np.float64)
        reached = reached[reached < self.end_s]
        numbers = np.maximum(np.searchsorted(self.times_s, reached + self.tolerance_s, side="right") - 1, 0)
        if len(reached) == len(times_s):
            return numbers, None
        return numbers, f"ends at {self.times_s[-1]:.1f} s, before {times_s[len(reached)]:.1f} s"


def read_timeline(uri: str) -> Timeline:
    """Return the times of a video's frames, by its packets if these are sound, else by decoding all of it.

    Raises
    ------
    DecodeError
        If the video cannot be opened, or no frame decodes.
    """
    timeline = read_packets(uri)
    return timeline if timeline.is_sound else count_frames(uri)


def read_origin(uri: str) -> int | None:
    """Return the tick of the first frame that is shown, by decoding it if need be; None if it has none.

    Raises
    ------
    DecodeError
        If the video cannot be opened, or no frame decodes.
    """
    with open_video(uri) as video:
        start = find_start(video) if video.is_indexed else None
    if start is not None:
        return start[0]
    with open_video(uri) as video:
        return read_first_frame(video).pts


def read_packets(uri: str) -> Timeline:
    """Read all packets of a video without decoding them; where they are not sound, the times are near the right ones.

    Raises
    ------
    DecodeError
        If the video cannot be opened, or has no packets.
    """
    return _read_packets(uri, _version(uri))


def count_frames(uri: str) -> Timeline:
    """Decode a whole video, and return when each frame is on display, in the decoder's order.

    Raises
    ------
    DecodeError
        If the video cannot be opened, or no frame decodes.
    """
    return _count_frames(uri, _version(uri))


@contextmanager
def open_indexed(uri: str, decoder: str) -> Iterator[tuple[OpenVideo, Timeline]]:
    """Open a video and yield it with its timeline, for a decoder that finds frames by the container's index and times.

    Raises
    ------
    DecodeError
        If the container has no such index, because after a seek in an MPEG or AVI file decord 0.6 and torchcodec 0.17
        return wrong frames; or if frames have no times of their own.
    """
    timeline = read_packets(uri)
    with open_video(uri) as video:
        if not {"mov", "matroska"} & video.formats:
            raise DecodeError(f"{shown(uri)}: {decoder} is not reliable in {video.container.format.name} files")
        if not timeline.is_sound:
            raise DecodeError(f"{shown(uri)}: {decoder} is not reliable where frames have no times of their own")
        yield video, timeline


def lay_out(ticks: np.ndarray, period: float, misplaced: int = _MISPLACED) -> np.ndarray:
    """Give each frame a time of its own, later than the one before.

    Frames are shown in the decoder's order, so within a stretch of one clock they take its times in ascending order. If
    the clock falls back and stays behind for longer than frames are reordered, another begins there, which goes on a
    frame after the last. Frames without a time, or with the time of the one before, are spread between their
    neighbours, at most ``period`` apart. Where frames lack a time of their own, and all the times that there are could
    be those of a steady rate, off by a frame or a few, they are taken for that.

    Parameters
    ----------
    ticks
        (n,) float64, in order of display, or near it; NaN where a frame has no time.
    period
        The usual time from frame to frame, positive.
    misplaced
        Where frames have no time, the others lie at most so many places from where they are shown.
    """
    known = np.flatnonzero(~np.isnan(ticks))
    values = ticks[known]
    if len(np.unique(values)) < len(ticks):
        steady = np.arange(len(ticks)) * period + (values[0] - known[0] * period if len(known) else 0)
        off = misplaced if len(known) < len(ticks) else 1
        if (np.abs(values - steady[known]) <= off * period).all():
            return steady
    edges = [*_find_clocks(values, known), len(values)]
    for start, end in pairwise(edges):
        values[start:end].sort()
        if start:
            n_between = known[start] - known[start - 1]
            values[start:end] += values[start - 1] + n_between * period - values[start]
    first = np.append(True, values[1:] > values[:-1]) if len(values) else np.empty(0, bool)
    known, values = known[first], values[first]
    place = np.arange(len(ticks))
    before = np.searchsorted(known, place, side="right") - 1
    after = np.minimum(before + 1, len(known) - 1)
    left, right = known[np.maximum(before, 0)], known[after]
    room = np.where(right > left, (values[after] - values[np.maximum(before, 0)]) / np.maximum(right - left, 1), period)
    return values[np.maximum(before, 0)] + (place - left) * np.minimum(room, period)


def _find_clocks(values: np.ndarray, places: np.ndarray) -> list[int]:
    """Return where in ``values``, the times of the frames at ``places``, another clock begins."""
    starts = [0]
    falling = np.flatnonzero(np.diff(values) < 0) + 1
    for first in falling.tolist():
        near = np.searchsorted(places, [places[first] - REORDERED, places[first] + REORDERED])
        recent = values[max(starts[-1], min(near[0], first - 2)) : first]  # At least two, if so many are known.
        if values[first] <= recent.min() and values[first : near[1]].max() < recent.max():
            starts.append(first)
    return starts


def _version(uri: str) -> tuple[int, ...]:
    """Return what tells whether a local file has changed; remote files are not asked for it."""
    path = local_path(file_of(uri))
    if path is None:
        return ()
    try:
        status = Path(path).stat()
    except OSError:  # Opening the file will say why.
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino


class _Log:
    """The times of the packets that have been read."""

    def __init__(self, video: OpenVideo) -> None:
        self._video = video
        self._is_vp8 = video.stream.codec_context.name == "vp8"
        self.is_ps = "mpeg" in video.formats
        self.pts, self.dts, self.durations = array("q"), array("q"), array("q")  # An hour of video has 100,000.
        self.is_hidden, self.is_key, self.is_made_up = array("b"), array("b"), array("b")

    def add(self, packet: Any) -> None:
        """Note a packet; the one that flushes the decoder does not count."""
        if packet.size == 0:
            return
        # A header of MPEG-PS has the time of the first frame that begins after it, and only there a position is known.
        # FFmpeg gives the time also to the frame that ends there, and makes up those of the frames that follow.
        is_twin = self.is_ps and packet.pts is not None and packet.pts in self.pts[-1:]
        if is_twin:
            self.is_made_up[-1] = True
        self.is_made_up.append(self.is_ps and packet.pos is None and not is_twin)
        self.pts.append(_NONE if packet.pts is None else packet.pts)
        self.dts.append(_NONE if packet.dts is None else packet.dts)
        self.durations.append(packet.duration or 0)
        # The fifth bit of a VP8 frame says whether it is shown (RFC 6386, 9.1).
        is_reference = self._is_vp8 and not memoryview(packet)[0] & 0x10
        self.is_hidden.append(packet.is_discard or is_reference)
        self.is_key.append(packet.is_keyframe)

    def ticks(self) -> np.ndarray:
        """Return (n,) float64: the packets' times, of decoding where there are no others, NaN where there are none."""
        times = np.array(self.dts if self._video.is_untimed else self.pts, dtype=np.float64)
        times[times == _NONE] = np.nan
        return times

    def own_ticks(self) -> np.ndarray:
        """Return `ticks` without those that were made up."""
        return np.where(np.array(self.is_made_up, dtype=bool), np.nan, self.ticks())


@lru_cache(_N_KEPT)
def _read_packets(uri: str, _version: tuple[int, ...]) -> Timeline:
    origin = read_origin(uri)
    with open_video(uri) as video:
        log = _Log(video)
        try:
            for packet in video.container.demux(video.stream):
                log.add(packet)
        except FFmpegError as error:
            if not log.pts:
                raise DecodeError(f"{shown(uri)}: {reason_of(error)}") from error
        pts, durations = np.array(log.pts), np.array(log.durations)
        is_shown = ~np.array(log.is_hidden, dtype=bool)
        n_hidden = len(pts) - int(is_shown.sum())
        is_sound = video.is_sought and origin is not None and bool((pts != _NONE).all())
        is_sound = is_sound and _is_orderly(pts, np.array(log.dts), is_shown)
        if is_sound:
            assert origin is not None
            is_shown &= pts >= origin
            ticks = pts[is_shown]
            if len(np.unique(ticks)) == len(ticks) > 0:
                order = np.argsort(ticks)
                n_leading = _count_leading(pts, np.array(log.is_key, dtype=bool))
                return _make(video, origin, ticks[order], durations[is_shown][order], n_hidden, n_leading)
        if not video.is_indexed and any(log.is_key):
            is_shown[: log.is_key.index(1)] = False
        ticks, is_edited_in = video.place(log.ticks())
        is_shown &= is_edited_in
        if not is_shown.any():
            raise DecodeError(f"{shown(uri)}: none of its frames is shown")
        return replace(_lay_out(video, ticks[is_shown], durations[is_shown]), n_hidden=n_hidden)


def _is_orderly(pts: np.ndarray, dts: np.ndarray, is_shown: np.ndarray) -> bool:
    """Return whether packets lie in the file as decoders take them: one clock, frames near their places."""
    dts = dts[dts != _NONE]
    places = np.argsort(np.argsort(pts[is_shown], kind="stable"), kind="stable")
    near = np.abs(places - np.arange(len(places))) <= 2 * REORDERED
    return bool((np.diff(dts) >= 0).all() and near.all())


def _count_leading(pts: np.ndarray, is_key: np.ndarray) -> int:
    keys = np.where(is_key, np.arange(len(pts)), 0)
    key_of = np.maximum.accumulate(keys)
    return int((pts < pts[key_of]).sum())


def _make(
    video: OpenVideo, origin: int, ticks: np.ndarray, durations: np.ndarray, n_hidden: int = 0, n_leading: int = 0
) -> Timeline:
    times_s = video.to_seconds(ticks, origin)
    times_s.flags.writeable = False  # Whoever asks again gets the same array.
    last_s = float(durations[-1] * video.stream.time_base)
    last = durations[-1] or _period(video, ticks, durations)
    duration_s = float(video.to_seconds(ticks[-1] + last, origin))
    end_s, tolerance_s = video.find_end(times_s[-1], last_s), video.find_tolerance(origin)
    return Timeline(origin, times_s, duration_s, end_s, tolerance_s, n_hidden, n_leading)


def _period(video: OpenVideo, ticks: np.ndarray, durations: np.ndarray) -> float:
    """Return the ticks from frame to frame: by the average rate, the times themselves, or the packets' durations."""
    steps = np.diff(np.unique(ticks[~np.isnan(ticks)]))
    by_step = float(np.median(steps)) if len(steps) > len(ticks) / 2 else 0.0
    return video.period or by_step or float(np.median(durations)) or 1.0


def _lay_out(video: OpenVideo, ticks: np.ndarray, durations: np.ndarray, misplaced: int = _MISPLACED) -> Timeline:
    usual = _period(video, ticks, durations)
    laid = lay_out(ticks, usual, misplaced)
    origin = int(np.floor(laid[0]))
    own = durations if np.array_equal(laid, ticks) and not video.is_untimed else np.full(len(laid), usual)
    timeline = _make(video, origin, laid - (laid[0] - origin), own)
    return replace(timeline, is_sound=False)


@lru_cache(_N_KEPT)
def _count_frames(uri: str, _version: tuple[int, ...]) -> Timeline:
    shown_packets = array("q")
    failure = None
    with open_video(uri) as video:
        log = _Log(video)

        def number(packet: Any) -> None:
            log.add(packet)
            if packet.size:  # Decoders hand a packet's time on to its frame, whatever they reorder.
                packet.pts = len(log.pts) - 1

        try:
            for frame in decode_all(video, number):
                shown_packets.append(_NONE if frame.pts is None else frame.pts)
        except FFmpegError as error:
            failure = reason_of(error)
        ticks = np.full(len(shown_packets), np.nan)
        numbers = np.array(shown_packets)
        is_known = (0 <= numbers) & (numbers < len(log.pts))
        ticks[is_known] = log.own_ticks()[numbers[is_known]]
        durations = np.zeros(len(ticks))
        durations[is_known] = np.array(log.durations)[numbers[is_known]]
        ticks, is_shown = video.place(ticks)
        # Here frames come in the order of display, and in MPEG-PS all times are their own.
        timeline = _lay_out(video, ticks[is_shown], durations[is_shown], 1 if log.is_ps else _MISPLACED)
        if failure:
            last_s = float(timeline.times_s[-1])
            timeline = replace(timeline, end_s=video.find_end(last_s, timeline.duration_s - last_s, broken=True))
        n_timeless = len(ticks) - int(np.isfinite(log.ticks()[numbers[is_known]]).sum())
        remark = None
        if 0 < n_timeless < len(ticks):
            remark = f"{n_timeless} of {len(ticks)} frames have no time of their own, and lie between their neighbours"
        return replace(timeline, remark=remark, failure=failure)
