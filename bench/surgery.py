"""Changes to the bytes of video files that no muxer makes: edit lists, fragment times, files cut and joined."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

_PARENTS = {b"moov", b"trak", b"mdia", b"edts", b"moof", b"traf", b"mvex"}
_TS_BYTES, _PS_BYTES = 188, 2048


def boxes_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each box of MP4 that ``data`` is a row of."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + size]
        at += size


def make_box(kind: bytes, content: bytes) -> bytes:
    """Return a box of MP4."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def change_boxes(data: bytes, change: Callable[[bytes, bytes], bytes | None]) -> bytes:
    """Rewrite MP4: ``change`` takes each box's type and content, and returns the new content, or None to drop the box.

    A parent's children are changed first. Offsets into the file are not mended: what changes its size has to lie
    behind the media.
    """
    out = []
    for kind, content in boxes_of(data):
        changed = change(kind, change_boxes(content, change) if kind in _PARENTS else content)
        if changed is not None:
            out.append(make_box(kind, changed))
    return b"".join(out)


def find_box(data: bytes, wanted: bytes) -> bytes | None:
    """Return the content of the first box of a type, however deep, or None."""
    for kind, content in boxes_of(data):
        found = content if kind == wanted else find_box(content, wanted) if kind in _PARENTS else None
        if found is not None:
            return found
    return None


def set_edits(data: bytes, edits: Sequence[tuple[float, float | None]]) -> bytes:
    """Replace the edit list of an MP4 file of one track.

    Parameters
    ----------
    edits
        Pairs (duration, start in the media) in seconds; without a start nothing is shown.
    """
    header, media, present = (find_box(data, kind) for kind in (b"mvhd", b"mdhd", b"elst"))
    assert header is not None and media is not None
    movie_scale, media_scale = (struct.unpack_from(">I", content, 12)[0] for content in (header, media))
    first = struct.unpack_from(">i", present, 12)[0] if present else 0  # Where B-frames put the first frame's time.
    table = struct.pack(">II", 0, len(edits))
    for duration_s, start_s in edits:
        start = -1 if start_s is None else first + round(start_s * media_scale)
        # Rounded down, so that nothing of the next frame is left in the edit.
        table += struct.pack(">Iihh", int(duration_s * movie_scale + 1e-6), start, 1, 0)

    def change(kind: bytes, content: bytes) -> bytes | None:
        if kind == b"edts":
            return None
        return content + make_box(b"edts", make_box(b"elst", table)) if kind == b"trak" else content

    return change_boxes(data, change)


def delay_fragments(data: bytes, seconds: float) -> bytes:
    """Add some seconds to the times of all fragments of an MP4 file of one track, and drop its index."""
    media = find_box(data, b"mdhd")
    assert media is not None
    ticks = round(seconds * struct.unpack_from(">I", media, 12)[0])

    def change(kind: bytes, content: bytes) -> bytes | None:
        if kind == b"tfdt":
            shape = ">Q" if content[0] else ">I"
            return content[:4] + struct.pack(shape, struct.unpack_from(shape, content, 4)[0] + ticks)
        return None if kind == b"mfra" else content

    return change_boxes(data, change)


def cut_off(data: bytes, share: float = 0.6) -> bytes:
    """Return the first part of a file. MP4 is cut within its media, because FFmpeg opens none that ends in a header."""
    end = int(len(data) * share)
    if data[4:8] == b"ftyp":
        at = 0
        for kind, content in boxes_of(data):
            if kind == b"mdat" and at < int(len(data) * share):
                end = at + len(content) // 2
            at += 8 + len(content)
    return data[:end]


def cut_ts(data: bytes, n_frames: int) -> bytes:
    """Drop all packets of a transport stream before those of the video's ``n_frames``-th frame."""
    n = 0
    for at in range(0, len(data), _TS_BYTES):
        pid, begins = int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF, data[at + 1] & 0x40
        n += pid == 0x100 and bool(begins)
        if n > n_frames:
            return data[at:]
    raise ValueError(f"there are only {n} frames")


def cut_ps(data: bytes, share: float = 0.4) -> bytes:
    """Drop the first packs of a program stream."""
    return data[int(len(data) * share) // _PS_BYTES * _PS_BYTES :]


def hide_vp8(frame: bytes) -> bytes:
    """Return a frame of VP8 that is decoded but not shown, as alternate references are."""
    return bytes([frame[0] & ~0x10]) + frame[1:]
