"""Names of files that are made of other files' names."""

from __future__ import annotations


def free_name(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, ``a-2.mp4`` for a second ``a.mp4``, and take it.

    Names that differ in capitals alone are one, as on some file systems; and none has a slash.
    """
    name = name.replace("/", "_").replace("\0", "_")
    stem, dot, end = name.rpartition(".")
    stem, end = (stem, dot + end) if stem else (name, "")
    number, tried = 1, f"{stem}{end}"
    while tried.casefold() in taken:
        number += 1
        tried = f"{stem}-{number}{end}"
    taken.add(tried.casefold())
    return tried
