"""What exact decoding shows of a numbered video: all frames from the start, in the decoder's order of output.

This shares no code with raypipe's decoders. Nothing is sought and nothing skipped, so order and pictures are FFmpeg's.
The first frame is at 0 s, and the others at the container's times of display. Where these go back by little they are
times of decoding (AVI, and ASF and MXF as FFmpeg writes them), and the frames take them in ascending order. Where they
go back by much a second clock begins, and goes on from the first. A frame without a time of its own lies between its
neighbours.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Colorspace

from bench.numbered import read_number
from bench.surgery import find_box

_NEW_CLOCK_S = 1.0


@dataclass(frozen=True)
class Shown:
    """The numbers of the frames that are shown, (n,) int64, and when each is, (n,) float64 in seconds."""

    numbers: np.ndarray
    times_s: np.ndarray


def decode_exactly(path: Path) -> Shown:
    """Decode a numbered video from start to end."""
    edits = _read_edits(path) if path.suffix in (".mp4", ".mov", ".3gp") else []
    # FFmpeg shows hidden frames of a second edit, and none of an edit of duration 0, which means the rest.
    by_hand = sum(start_s is not None for _, start_s in edits) > 1 or any(not duration_s for duration_s, _ in edits)
    numbers: list[int] = []
    ticks: list[int | None] = []
    decode_ticks: list[int] = []
    with av.open(str(path), options={"ignore_editlist": "1"} if by_hand else {}) as container:
        stream: Any = container.streams.best("video")
        stream.thread_count = 1
        try:
            for packet in _own_times(container.demux(stream), container.format.name == "mpeg"):
                if packet.dts is not None and packet.size:
                    decode_ticks.append(packet.dts)
                for frame in _decode(packet):
                    numbers.append(read_number(_upright(frame)))
                    ticks.append(frame.pts)
        except FFmpegError:  # The file ends in the middle.
            pass
        rate = stream.codec_context.framerate or stream.average_rate or stream.guessed_rate
        base, period_s = float(stream.time_base), float(1 / rate)
    times_s = _times(ticks, decode_ticks, base, period_s)
    shown = Shown(np.array(numbers, np.int64), times_s)
    return _apply(edits, shown, period_s) if by_hand else shown


def _own_times(packets: Iterator[Any], is_ps: bool) -> Iterator[Any]:
    """Take from the packets the times that are not their own.

    In MPEG-PS a packet's header has the time of the first frame that begins there. FFmpeg gives it also to the frame
    that ends there, and makes up those of the frames that follow, which may be wrong by two frames.
    """
    held: Any = None
    for packet in packets:
        is_twin = held is not None and packet.pts is not None and packet.pts == held.pts
        if is_twin:
            held.pts = None
        elif is_ps and packet.pos is None:
            packet.pts = None
        if held is not None:
            yield held
        held = packet
    if held is not None:
        yield held


def _decode(packet: Any) -> list[Any]:
    try:
        return packet.decode()
    except FFmpegError:  # The decoder goes on with the next packet.
        return []


def _upright(frame: Any) -> np.ndarray:
    """Return the picture as the display matrix shows it."""
    frame.colorspace = Colorspace.ITU709  # Colours do not matter, and libswscale refuses some of them.
    picture = frame.to_ndarray(format="gray")
    there = (frame.side_data[i] for i in range(len(frame.side_data)))  # PyAV 19 iterates over the kinds.
    matrix = next((bytes(each) for each in there if each.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return picture
    a, b, _, c, d, *_ = struct.unpack("<9i", matrix)
    if a == 0:  # Columns of the picture become rows.
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _times(ticks: Sequence[int | None], decode_ticks: list[int], base: float, period_s: float) -> np.ndarray:
    """Return the frames' times in seconds, by the rules at the top."""
    times = np.array([np.nan if tick is None else tick * base for tick in ticks])
    if np.isnan(times).all():
        return np.arange(len(times)) * period_s
    known = np.flatnonzero(~np.isnan(times))
    steps = np.diff(times[known])
    if np.any((steps < 0) & (steps > -_NEW_CLOCK_S)):
        times = np.sort(np.array(decode_ticks))[: len(times)] * base
        return times - times[0]
    for i in np.flatnonzero(steps <= -_NEW_CLOCK_S):
        last, first = known[i], known[i + 1]
        times[first:] += times[last] + (first - last) * period_s - times[first]
    times[known[1:][np.diff(times[known]) == 0]] = np.nan
    known = np.flatnonzero(~np.isnan(times))
    everywhere = np.arange(len(times))
    between = np.interp(everywhere, known, times[known])
    between -= np.maximum(known[0] - everywhere, 0) * period_s
    between += np.maximum(everywhere - known[-1], 0) * period_s
    return between - between[0]


def _read_edits(path: Path) -> list[tuple[float, float | None]]:
    """Return the edit list of the only track of an MP4 file: durations and starts in the media, in seconds."""
    try:
        header, media, table = (find_box(path.read_bytes(), kind) for kind in (b"mvhd", b"mdhd", b"elst"))
    except struct.error:  # The file is cut off.
        return []
    if header is None or media is None or table is None or table[0] or header[0] or media[0]:
        return []
    movie_scale, media_scale = (struct.unpack_from(">I", content, 12)[0] for content in (header, media))
    rows = [struct.unpack_from(">Ii", table, 8 + 12 * i) for i in range(struct.unpack_from(">I", table, 4)[0])]
    return [(duration / movie_scale, start / media_scale if start >= 0 else None) for duration, start in rows]


def _apply(edits: Sequence[tuple[float, float | None]], media: Shown, period_s: float) -> Shown:
    """Play the edits (ISO/IEC 14496-12, 8.6.6) of a media of which each frame is shown from its time on."""
    tolerance_s = period_s / 100
    first_s = min(start_s for _, start_s in edits if start_s is not None)
    numbers, times, at_s = [], [], 0.0
    for duration_s, start_s in edits:
        if start_s is not None:
            offset_s = media.times_s - (start_s - first_s)
            ends_s = duration_s or np.inf
            inside = (offset_s > -tolerance_s) & (offset_s < ends_s - tolerance_s)
            numbers.append(media.numbers[inside])
            times.append(at_s + offset_s[inside])
        at_s += duration_s
    return Shown(np.concatenate(numbers), np.concatenate(times) - times[0][0])
