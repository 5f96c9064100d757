"""Arrays and texts in one run of bytes, as the page's script reads them (``raypipe/report/page/script/data.js``).

A header of JSON, in which ``arrays`` says where each array lies, is followed by the arrays, each from a multiple of
eight bytes on, so that a browser takes them without copying. Many texts are one array: each ends in a zero byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_TEXTS = "s"  # What is packed as bytes are texts; the other kinds are numpy's.
Packed = Mapping[str, "np.ndarray | bytes"]


def pack(header: Mapping[str, Any], arrays: Packed) -> bytes:
    """Return the header's length (4 bytes), the header, and the arrays; `bytes` among them are joined texts."""
    body, places = bytearray(), {}
    for name, array in arrays.items():
        if isinstance(array, bytes):
            places[name], content = [_TEXTS, len(body), len(array)], array
        else:
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            places[name], content = [little.dtype.str[1:], len(body), little.size], little.tobytes()
        body += content + bytes(-len(content) % 8)
    text = json.dumps({**header, "arrays": places}, separators=(",", ":"), allow_nan=False).encode()
    return len(text).to_bytes(4, "little") + text + bytes(-(4 + len(text)) % 8) + bytes(body)


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays that `pack` has joined; texts are arrays of uint8, and nothing is copied.

    Raises
    ------
    ValueError
        If the bytes are no such thing.
    """
    length = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + length])
    begin = 4 + length + -(4 + length) % 8
    arrays = {
        name: np.frombuffer(content, np.uint8 if kind == _TEXTS else f"<{kind}", size, begin + offset)
        for name, (kind, offset, size) in header.pop("arrays").items()
    }
    return header, arrays


def join_texts(texts: Iterable[str | None]) -> bytes:
    """Join texts for `pack`; None is as the empty text. What is no Unicode, such as half a surrogate, becomes "?"."""
    return "".join(f"{(text or '').replace(chr(0), ' ')}\0" for text in texts).encode(errors="replace")
