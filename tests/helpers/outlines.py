"""What a video file is made of: MP4 atoms, Matroska elements, RIFF chunks, transport packets."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Element:
    """An MP4 atom, Matroska element, RIFF chunk or transport packet.

    ``data[start:end]`` is all of it and ``data[body:end]`` what it holds; its size is written in ``size_bytes`` bytes
    at ``size_at``.
    """

    kind: bytes
    parent: int
    start: int
    body: int
    end: int
    size_at: int = 0
    size_bytes: int = 0


def outline(data: bytes) -> list[Element]:
    """List a container's elements, parents before children."""
    found: list[Element] = []
    if data[:4] == b"\x1aE\xdf\xa3":
        _walk(found, data, -1, 0, len(data), _ebml_element, EBML_MASTERS)
    elif data[:4] == b"RIFF":
        _walk(found, data, -1, 0, len(data), _riff_chunk, {b"RIFF", b"LIST"})
    elif data[:1] == b"G":
        found += [Element(b"packet", -1, at, at + 4, at + 188) for at in range(0, len(data) - 187, 188)]
    else:
        _walk(found, data, -1, 0, len(data), _mp4_atom, ATOMS_OF_ATOMS)
    return found


ATOMS_OF_ATOMS = set(b"moov trak mdia minf stbl edts dinf udta mvex moof traf".split())
EBML_MASTERS = {
    bytes.fromhex(each) for each in "1a45dfa3 18538067 1f43b675 1654ae6b ae e0 1549a966 1c53bb6b bb b7 a0".split()
}
Parser = Callable[[bytes, int, int], tuple[bytes, int, int, int, int]]  # kind, body, size_at, size_bytes, end


def _walk(
    found: list[Element], data: bytes, parent: int, at: int, end: int, parse: Parser, masters: set[bytes]
) -> None:
    while at + 8 <= end:
        kind, body, size_at, size_bytes, stop = parse(data, at, end)
        if not at < body <= stop <= end:
            return
        found.append(Element(kind, parent, at, body, stop, size_at, size_bytes))
        if kind in masters:
            _walk(found, data, len(found) - 1, body, stop, parse, masters)
        at = stop


def _mp4_atom(data: bytes, at: int, end: int) -> tuple[bytes, int, int, int, int]:
    (size,) = struct.unpack_from(">I", data, at)
    kind = data[at + 4 : at + 8]
    if size == 1:  # the size proper follows
        return kind, at + 16, at + 8, 8, at + int.from_bytes(data[at + 8 : at + 16])
    return kind, at + 8, at, 4, at + size if size else end


def _riff_chunk(data: bytes, at: int, end: int) -> tuple[bytes, int, int, int, int]:
    (size,) = struct.unpack_from("<I", data, at + 4)
    kind = data[at : at + 4]
    named = 4 if kind in (b"RIFF", b"LIST") else 0
    return kind, at + 8 + named, at + 4, 4, min(end, at + 8 + size + size % 2)


def _ebml_element(data: bytes, at: int, end: int) -> tuple[bytes, int, int, int, int]:
    id_bytes = 9 - data[at].bit_length()
    size_at = at + id_bytes
    size_bytes = 9 - data[size_at].bit_length()
    body = size_at + size_bytes
    size = int.from_bytes(data[size_at:body]) & ((1 << 7 * size_bytes) - 1)
    unknown = size == (1 << 7 * size_bytes) - 1
    return data[at:size_at], body, size_at, size_bytes, end if unknown else body + size
