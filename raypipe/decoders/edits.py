"""The edit list of an MP4 or QuickTime track, where FFmpeg takes it for something else than it says.

FFmpeg applies edit lists, but plays from the start where an edit in the middle shows nothing, and hides every frame of
an edit of duration 0, which means the rest of the track (ISO/IEC 14496-12, 8.6.6).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_KINDS = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_MOST_BYTES = 1 << 20  # An edit list is never longer; a broken one may claim so.


@dataclass(frozen=True)
class Edits:
    """What FFmpeg must be told of a track's edit list.

    Attributes
    ----------
    gaps_s
        The stretches of the presentation during which nothing new is shown, as pairs (start, end) in seconds.
    rest_from
        The time, in ticks of the track, from which everything is shown, if one edit of duration 0 says so; else None.
    """

    gaps_s: tuple[tuple[float, float], ...] = ()
    rest_from: int | None = None


def read_edits(file: Any) -> dict[int, Edits]:
    """Return the edits of each track, by its number, of a file that is open for reading bytes.

    Only tracks are listed of which FFmpeg gets the edits wrong; for a file of another kind there are none.
    """
    file.seek(0)
    if file.read(8)[4:] not in _KINDS:
        return {}
    size = file.seek(0, 2)
    moov = next((span for kind, *span in _boxes(file, 0, size) if kind == b"moov"), None)
    if moov is None:
        return {}
    scale, found = 0, {}
    for kind, start, end in _boxes(file, *moov):
        if kind == b"mvhd":
            scale = _read_number(file, start, end, 12, 20)
        elif kind == b"trak":
            number, entries = _read_track(file, start, end)
            if edits := _interpret(entries, scale):
                found[number] = edits
    return found


def _interpret(entries: list[tuple[int, int]], scale: int) -> Edits | None:
    """Return what FFmpeg must be told of pairs (duration in the movie's scale, media time), or None."""
    if not scale:
        return None
    playing = [entry for entry in entries if entry[1] >= 0]
    if len(playing) == 1 and playing[0][0] == 0 and entries[-1] == playing[0]:
        return Edits(rest_from=playing[0][1])
    gaps, clock = [], 0
    for duration, media_time in entries:
        if media_time < 0 and clock:  # An empty edit at the start only delays the track.
            gaps.append((clock / scale, (clock + duration) / scale))
        clock += duration
    return Edits(tuple(gaps)) if gaps else None


def _read_track(file: Any, start: int, end: int) -> tuple[int, list[tuple[int, int]]]:
    number, entries = 0, []
    for kind, body, stop in _boxes(file, start, end):
        if kind == b"tkhd":
            number = _read_number(file, body, stop, 12, 20)
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


def _read_number(file: Any, start: int, end: int, at: int, at_if_long: int) -> int:
    """Read a number of a box whose first byte, its version, says how long the numbers before it are."""
    file.seek(start)
    data = file.read(min(end - start, at_if_long + 4))
    at = at_if_long if data[:1] == b"\x01" else at
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
