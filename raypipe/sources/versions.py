"""What a file is known by, to notice that it has changed: its size, and its ETag or time of change."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from raypipe.errors import SourceError
from raypipe.sources.spool import Spool
from raypipe.sources.videos import Videos
from raypipe.storage import local_path, open_filesystem, patiently

_REMOTE_THREADS = 32  # requests under way at once: each waits for the network
_VERSIONS = pa.schema([("version", pa.string())])
_AT_ONCE = 10_000  # URIs that are Python's at one time
_TOLD_BY = ("ETag", "etag", "Content-MD5", "LastModified", "mtime", "updated", "last_modified", "created")


def read_versions(videos: Videos) -> Spool:
    """Ask for the present version of each video's file.

    Returns
    -------
    A column ``version``, a row a video: a short string that changes when the file does; null where it cannot be told,
    because the file or its server is not there.
    """
    told = Spool([_VERSIONS.empty_table()])
    kinds: dict[str, str] = {}
    with ThreadPoolExecutor(_REMOTE_THREADS) as threads:
        for start in range(0, len(videos), _AT_ONCE):
            some = videos[start : start + _AT_ONCE].table["uri"].to_pylist()
            files = list(dict.fromkeys(some))  # one may hold many videos
            known = dict(zip(files, threads.map(_version, files), strict=True))
            told.append(pa.table({"version": [known[uri] for uri in some]}, schema=_VERSIONS))
            kinds |= {uri.partition("://")[0]: uri for uri in files if local_path(uri) is None}
    for uri in kinds.values():
        with contextlib.suppress(SourceError):
            open_filesystem(uri)[0].invalidate_cache()  # of its listing, which nobody asks again
    return told


def _version(uri: str) -> str | None:
    path = local_path(uri)
    return _remote_version(uri) if path is None else _local_version(path)


def _local_version(path: str) -> str | None:
    try:
        status = os.stat(path)  # noqa: PTH116 – a million of them: a Path each would take three times as long
    except (OSError, ValueError):
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"


def _remote_version(uri: str) -> str | None:
    try:
        file_system, path = open_filesystem(uri)
        info = patiently(uri, lambda: file_system.info(path))  # from the listing, where the source was listed
    except Exception:  # each file system raises its own kinds, and what is wrong is said when the video is probed
        return None
    return _version_of(info)


def _version_of(info: dict[str, Any]) -> str | None:
    told = next((info[name] for name in _TOLD_BY if info.get(name)), None)
    if told is None and info.get("size") is None:
        return None
    return f"{info.get('size')}-{str(told).strip(chr(34)) if told is not None else ''}"
