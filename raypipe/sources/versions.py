"""What identifies the present content of a file, to notice a change: its size, and its ETag or time of change."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from raypipe.errors import SourceError
from raypipe.schema import memory_mapped
from raypipe.sources.videos import Videos
from raypipe.storage import file_of, local_path, open_filesystem, patiently

_REMOTE_THREADS = 32  # So many requests are under way at once, since each of them waits for the network.
_VERSIONS = pa.schema([("version", pa.string())])
_BATCH = 10_000  # So many URIs at a time are Python objects.
_IDENTIFYING = ("ETag", "etag", "Content-MD5", "LastModified", "mtime", "updated", "last_modified", "created")


def read_versions(videos: Videos) -> pa.ChunkedArray:
    """Ask for the present version of each video's file.

    Returns
    -------
    A string a video, which changes when the file does; null where it is unknown because the file or its server is not
    there. Those of many videos are memory-mapped.
    """
    kinds: dict[str, str] = {}

    def ask() -> Iterator[pa.Table]:
        with ThreadPoolExecutor(_REMOTE_THREADS) as threads:
            for start in range(0, len(videos), _BATCH):
                uris = videos[start : start + _BATCH].table["uri"].to_pylist()
                of = [file_of(uri) for uri in uris]
                files = list(dict.fromkeys(of))  # One file may hold many videos.
                known = dict(zip(files, threads.map(version_of_file, files), strict=True))
                kinds.update({uri.partition("://")[0]: uri for uri in files if local_path(uri) is None})
                yield pa.table({"version": [known[file] for file in of]}, schema=_VERSIONS)

    versions = memory_mapped(ask(), _VERSIONS)["version"]
    for uri in kinds.values():
        with contextlib.suppress(SourceError):
            open_filesystem(uri)[0].invalidate_cache()  # Nobody asks for its listing again, and it takes memory.
    return versions


def version_of_file(uri: str) -> str | None:
    """Return the present version of a video's file, or None where it is unknown."""
    uri = file_of(uri)
    path = local_path(uri)
    return _remote_version(uri) if path is None else _local_version(path)


def _local_version(path: str) -> str | None:
    try:
        status = os.stat(path)  # noqa: PTH116 – Path objects would take three times as long for a million files
    except (OSError, ValueError):
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"


def _remote_version(uri: str) -> str | None:
    try:
        file_system, path = open_filesystem(uri)
        info = patiently(uri, lambda: file_system.info(path))  # Where the source was listed, this asks nobody.
    except Exception:  # Each file system raises its own kinds, and probing the video will say what is wrong.
        return None
    return version_of(info)


def version_of(info: dict[str, Any]) -> str | None:
    """Return the version of a file that an fsspec file system tells of so; None where it does not say enough."""
    identity = next((info[name] for name in _IDENTIFYING if info.get(name)), None)
    if identity is None and info.get("size") is None:
        return None
    return f"{info.get('size')}-{str(identity).strip(chr(34)) if identity is not None else ''}"


def full_version_of(info: dict[str, Any]) -> str | None:
    """Return the version as `version_of` does, but None where only the size is known, which tells of few changes."""
    version = version_of(info)
    return None if version is None or version.endswith("-") else version
