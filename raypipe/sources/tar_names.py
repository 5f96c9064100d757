"""Which tars a source means: one, a folder of them, a pattern in braces, a text list; and what lies beside each."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

from raypipe.errors import SourceError
from raypipe.ranges import read_range
from raypipe.sources.files import list_folder
from raypipe.storage import beside, canonical_uri, local_path, open_file, shown, suffix, without_query

TAR = ".tar"

Tars = list[tuple[str, str | None]]
"""The canonical URI of each tar, and its group: its folder below the source."""

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?")
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4|Z))$", re.IGNORECASE)
_LISTS = (".txt", ".list", ".lst")


class Shard(NamedTuple):
    """A tar of a source, and the files that are joined to it.

    Attributes
    ----------
    archive
        Its canonical URI.
    group
        Its folder below the source.
    metas
        The tar of the same keys that holds their ``json``, if there is one.
    table
        The Parquet file of the same name, if there is one.
    """

    archive: str
    group: str | None = None
    metas: str | None = None
    table: str | None = None


def name_tars(source: str) -> Tars | None:
    """Return the tars that a pattern in braces or a text list names, without groups; None if the source is neither.

    Raises
    ------
    SourceError
        If the source is a compressed tar, or a list holds something else than tars.
    """
    if _COMPRESSED.search(without_query(source)):
        raise SourceError(f"{shown(source)} is compressed, and no video in it can be read by its place: make it a .tar")
    path = local_path(source)
    # Path.exists raises if the folder may not be entered.
    is_file = path is not None and os.path.exists(path)  # noqa: PTH110
    if suffix(source) == TAR and "{" in source and not is_file:
        return _locate(expand_braces(source))
    if suffix(source) in _LISTS and _lists_tars(source):
        return _locate(_read_list(source))
    return None


def expand_braces(pattern: str) -> list[str]:
    """Return the names that ``{000..123}``, ``{0..8..2}`` and ``{a,b}`` in a pattern stand for, in order."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices: list[Sequence[str]] = [[part] for part in parts]
    for i in range(1, len(parts), 2):
        choices[i] = _expand(parts[i])
    return ["".join(chosen) for chosen in product(*choices)]


def _expand(inner: str) -> Sequence[str]:
    found = _RANGE.fullmatch(inner)
    if found is None:
        return inner.split(",") if "," in inner else [f"{{{inner}}}"]
    first, last, step = int(found[1]), int(found[2]), int(found[3] or 1) or 1
    padded = any(len(text.lstrip("-")) > 1 and text.lstrip("-").startswith("0") for text in found.groups()[:2])
    width = max(len(found[1]), len(found[2])) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [f"{number:0{width}d}" for number in numbers]


def _locate(names: Iterable[str]) -> Tars:
    return [(canonical_uri(posixpath.expanduser(name) if local_path(name) == name else name), None) for name in names]


def _lists_tars(source: str) -> bool:
    try:
        start = read_range(source, 0, 4096).decode(errors="replace")
    except Exception:
        # Each file system raises errors of its own. Whoever takes the name for a video says what is wrong.
        return False
    return any(line.endswith(TAR) for line in _lines(start)[:1])


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _read_list(source: str) -> list[str]:
    with open_file(source) as file:
        lines = _lines(file.read().decode(errors="replace"))
    tars = []
    folder = without_query(source).rpartition("/")[0]
    for number, line in enumerate(lines, 1):
        if suffix(line) != TAR:
            raise SourceError(f"{shown(source)}: line {number}, {shown(line)}, names no .tar, and the first one does")
        own = line if "://" in line or line.startswith("/") or not folder else beside(folder, line)
        tars += expand_braces(own)
    return tars


def pair_shards(tars: Tars) -> list[Shard]:
    """Return the shards with videos among tars, given by URI and group, each with the files that are joined to it."""
    groups = dict(tars)
    listed = cache(list_folder)

    def exists(uri: str) -> bool:
        folder, _, name = uri.rpartition("/")
        return uri in groups or name in listed(folder)

    siblings = {_beside(uri, kind) for uri in groups for kind in ("metas", "t5_xxl")}
    shards = []
    for uri, group in groups.items():
        if uri in siblings:
            continue
        metas, table = _beside(uri, "metas"), uri[: -len(TAR)] + ".parquet"
        if metas is not None and exists(metas):
            group = re.split(r"(?:^|/)video(?:/|$)", group or "")[0] or None
        else:
            metas = None
        shards.append(Shard(uri, group, metas, table if exists(table) else None))
    return shards


def _beside(uri: str, kind: str) -> str | None:
    """Return where the tar of a kind lies that goes with one in a folder ``video``; None if it lies in no such one."""
    above, mark, below = uri.rpartition("/video/")
    return f"{above}/{kind}/{below}" if mark else None
