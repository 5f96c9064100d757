"""Names of files that are made of other files' names."""

from __future__ import annotations

import os

from raypipe.storage import cut_name

_LONGEST = 255  # Bytes.


def free_name(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, ``a-2.mp4`` for a second ``a.mp4``, and take it.

    Names that differ in capitals alone are one, as on some file systems; and none has a slash.
    """
    name = name.replace("/", "_").replace("\0", "_")
    stem, dot, end = name.rpartition(".")
    stem, end = (stem, dot + end) if stem else (name, "")
    number, tried = 1, _join(stem, end)
    while tried.casefold() in taken:
        number += 1
        tried = _join(stem, f"-{number}{end}")
    taken.add(tried.casefold())
    return tried


def _join(stem: str, end: str) -> str:
    """Return a name of the two that is no longer than file systems allow."""
    return cut_name(stem, max(1, _LONGEST - len(os.fsencode(end)))) + end
