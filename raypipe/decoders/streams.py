"""Files that FFmpeg cannot open by itself: remote ones, and the members of a tar, which are never unpacked."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raypipe.decoders import check_file, decode_error
from raypipe.errors import DecodeError
from raypipe.ranges import Fetch, open_ranges, open_remote, open_window
from raypipe.sources.versions import full_version_of
from raypipe.storage import TarMember, local_path, open_filesystem, patiently, shown, split_member

_BLOCK_BYTES = 1 << 20
_BLOCKS = 32
_SHARED_BLOCKS = 64
_shared_blocks: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
"""The last blocks of remote files that this process has read, by URI, version and place.

Many videos may be spans of one file, which is opened anew for each of them: its index and the blocks at the edges of
spans would be fetched again and again.
"""


@contextmanager
def open_stream(uri: str) -> Iterator[Any]:
    """Open a remote file or a tar's member; blocks are fetched when they are read, and the last few kept in memory.

    Raises
    ------
    DecodeError
        If the file cannot be opened, or some of its bytes could not be fetched.
    """
    failures: list[DecodeError] = []
    member = split_member(uri)
    try:
        file = _open_remote(uri, failures) if member is None else _open_member(uri, member, failures)
    except DecodeError:
        raise
    except Exception as error:  # Each file system raises errors of its own.
        raise decode_error(error, uri) from error
    with file:
        if not file.seek(0, io.SEEK_END):
            raise DecodeError(f"{shown(uri)}: the file is empty (0 bytes)")
        file.seek(0)
        try:
            yield file
        finally:  # With bytes missing the result is incomplete, whatever FFmpeg reports.
            if failures:
                raise failures[0]


def _open_remote(uri: str, failures: list[DecodeError]) -> Any:
    from fsspec.caching import BlockCache

    file = open_remote(uri, block_size=_BLOCK_BYTES, cache_type="none")
    if hasattr(file, "cache"):  # A file in memory has no cache.
        details = getattr(file, "details", None)
        version = full_version_of(details) if isinstance(details, dict) else None
        fetch = _make_fetcher(uri, file.cache.fetcher, file.size, failures, version)
        # It is set here, because not every filesystem lets its files be opened with a cache that one names.
        file.cache = BlockCache(_BLOCK_BYTES, fetch, file.size, _BLOCKS)
    elif not isinstance(file, io.IOBase):  # SFTP's files do not say where a seek() has led to.
        file.close()
        filesystem, inner = open_filesystem(uri)
        size = filesystem.info(inner)["size"]
        return open_window(_make_fetcher(uri, open_ranges(uri), size, failures), size, _BLOCK_BYTES, _BLOCKS)
    return file


def _open_member(uri: str, member: TarMember, failures: list[DecodeError]) -> Any:
    archive, offset, size, _ = member
    path, version = local_path(archive), None
    if path is not None:
        check_file(path, uri)
        if Path(path).stat().st_size < offset + size:
            raise DecodeError(f"{shown(uri)}: the tar ends before it does")
    else:
        file_system, inner = open_filesystem(archive)
        version = full_version_of(patiently(uri, lambda: file_system.info(inner)))
    read = open_ranges(archive)

    def fetch(start: int, end: int) -> bytes:
        return read(offset + start, offset + end)

    return open_window(_make_fetcher(uri, fetch, size, failures, version), size, _BLOCK_BYTES, _BLOCKS)


def _make_fetcher(uri: str, fetch: Fetch, size: int, failures: list[DecodeError], version: str | None = None) -> Fetch:
    """Return a function that fetches blocks of a file of ``size`` bytes whole, with retries.

    The error with which it fails in the end is appended to ``failures``. Blocks of a file whose version is known are
    shared with those who open it later.
    """

    def fetch_whole(start: int, end: int) -> bytes:
        block = fetch(start, end)
        if len(block) != end - start:
            raise ConnectionError(f"only {len(block)} of {end - start} bytes came")
        return block

    def fetch_patiently(start: int, end: int) -> bytes:
        if failures:  # FFmpeg reads again what could not be read.
            raise failures[0]
        key = (uri, version or "", start)
        block = _shared_blocks.get(key) if version else None
        if block is None:
            try:
                block = patiently(uri, lambda: fetch_whole(start, min(end, size)))
            except Exception as error:
                failures.append(decode_error(error, uri))
                raise failures[0] from error
        if version and end - start <= _BLOCK_BYTES:
            _shared_blocks[key] = block
            _shared_blocks.move_to_end(key)
            while len(_shared_blocks) > _SHARED_BLOCKS:
                _shared_blocks.popitem(last=False)
        return block

    return fetch_patiently
