"""What a file is known by, to notice that it has changed: its size, and its ETag or time of change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raypipe.sources.files import local_path, open_filesystem
from raypipe.sources.remote import patiently

_REMOTE_THREADS = 32  # requests under way at once: each waits for the network
_TOLD_BY = ("ETag", "etag", "Content-MD5", "LastModified", "mtime", "updated", "last_modified", "created")


def read_versions(uris: Sequence[str]) -> list[str | None]:
    """Ask for the present version of each file.

    Returns
    -------
    A short string for each of ``uris`` that changes when the file does; None where it cannot be told, because the file
    or its server is not there.
    """
    local = {uri: path for uri in uris if (path := local_path(uri)) is not None}
    remote = list(dict.fromkeys(uri for uri in uris if uri not in local))
    known = {uri: _local_version(path) for uri, path in local.items()}
    with ThreadPoolExecutor(_REMOTE_THREADS) as threads:
        known |= zip(remote, threads.map(_remote_version, remote), strict=True)
    return [known[uri] for uri in uris]


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
