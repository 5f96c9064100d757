"""The edit list of an MP4 or QuickTime track, where FFmpeg takes it for something else than it says.

FFmpeg applies edit lists, but plays from the start where an edit in the middle shows nothing, places the next one a
frame late, and hides every frame of an edit of duration 0, which means the rest of the track (ISO/IEC 14496-12, 8.6.6).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_KINDS = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_MOST_BYTES = 1 << 20  # An edit list is never longer; a broken one may claim so.


@dataclass(frozen=True)
class Edit:
    """A piece of a track that is shown.

    Attributes
    ----------
    shown_s
        When it is shown, in seconds of the presentation.
    first
        Its beginning in the track, in ticks of the track.
    length_s
        How long it lasts, in seconds.
    """

    shown_s: float
    first: int
    length_s: float


def read_edits(file: Any) -> dict[int, tuple[Edit, ...]]:
    """Return the edits of each track, by its number, of a file that is open for reading bytes.

    If FFmpeg gets those of no track wrong, or the file is of another kind, there are none.
    """
    file.seek(0)
    if file.read(8)[4:] not in _KINDS:
        return {}
    size = file.seek(0, 2)
    moov = next((span for kind, *span in _boxes(file, 0, size) if kind == b"moov"), None)
    if moov is None:
        return {}
    scale, entries = 0, {}
    for kind, start, end in _boxes(file, *moov):
        if kind == b"mvhd":
            scale = _read_number(file, start, end)
        elif kind == b"trak":
            number, pairs = _read_track(file, start, end)
            entries[number] = pairs
    if not scale or not any(map(_is_misread, entries.values())):
        return {}
    return {number: _lay_out(pairs, scale) for number, pairs in entries.items()}


def _is_misread(entries: list[tuple[int, int]]) -> bool:
    """Return whether FFmpeg gets pairs (duration, media time) wrong; -1 is the media time of a gap, 0 means "the rest".

    Where pieces are played again or in another order, FFmpeg's way is kept.
    """
    is_gap = [media_time < 0 for _, media_time in entries]
    has_gap = False in is_gap and True in is_gap[is_gap.index(False) :]
    has_rest = bool(entries) and entries[-1][0] == 0 and not is_gap[-1]
    played = [media_time for _, media_time in entries if media_time >= 0]
    return (has_gap or has_rest) and all(first < later for first, later in pairwise(played))


def _lay_out(entries: list[tuple[int, int]], scale: int) -> tuple[Edit, ...]:
    edits, clock = [], 0
    for duration, media_time in entries:
        if media_time >= 0:
            # Durations are rounded, and a frame that begins with the last unit was not meant.
            edits.append(Edit(clock / scale, media_time, (duration - 1) / scale if duration else math.inf))
        clock += duration
    return tuple(edits)


def _read_track(file: Any, start: int, end: int) -> tuple[int, list[tuple[int, int]]]:
    number, entries = 0, []
    for kind, body, stop in _boxes(file, start, end):
        if kind == b"tkhd":
            number = _read_number(file, body, stop)
        elif kind == b"edts":
            for inner, first, last in _boxes(file, body, stop):
                if inner == b"elst":
                    entries = _read_list(file, first, last)
    return number, entries


def _read_list(file: Any, start: int, end: int) -> list[tuple[int, int]]:
    file.seek(start)
    data = file.read(min(end - start, _MOST_BYTES))
    form = ">QqI" if data[:1] == b"\x01" else ">IiI"
    data = data[8 : 8 + struct.unpack(">I", data[4:8])[0] * struct.calcsize(form)] if len(data) >= 8 else b""
    data = data[: len(data) // struct.calcsize(form) * struct.calcsize(form)]
    return [(duration, media_time) for duration, media_time, _ in struct.iter_unpack(form, data)]


def _read_number(file: Any, start: int, end: int) -> int:
    """Read the number behind two times of a box whose first byte, its version, says how long these are."""
    file.seek(start)
    data = file.read(min(end - start, 24))
    at = 20 if data[:1] == b"\x01" else 12
    return struct.unpack(">I", data[at : at + 4])[0] if len(data) >= at + 4 else 0


def _boxes(file: Any, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes of a stretch of the file: kind, and where the content starts and ends."""
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        body = start + 8
        if size == 1 and len(head) == 16:
            size, body = struct.unpack(">Q", head[8:])[0], start + 16
        stop = end if size == 0 else start + size
        if stop < body:
            return
        yield kind, body, min(stop, end)
        start = stop
