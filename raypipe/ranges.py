"""Parts of files: of remote ones no more is fetched, unless their server sends files only whole."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, TypeVar

from raypipe.storage import failure, is_http, local_path, open_file, open_filesystem, patiently, shown

_LARGE_BYTES = 64 << 20  # To copy so many may take some seconds, which wants a word.
_log = logging.getLogger(__name__)

T = TypeVar("T")
Fetch = Callable[[int, int], bytes]
"""Returns the bytes from one place to another, or those of them that there are."""


def read_range(name: str, start: int, end: int) -> bytes:
    """Read the bytes from ``start`` to ``end`` of a local or remote file, or those of them that there are."""
    return open_ranges(name)(start, end)


def open_ranges(name: str) -> Fetch:
    """Return what reads parts of a local or remote file; several threads may call it at once."""
    path = local_path(name)
    if path is not None:
        return partial(_read_local, Path(path))
    if is_http(name):
        return _fetcher_of(name, _open(name, {"cache_type": "none"}))

    def fetch(start: int, end: int) -> bytes:
        # fsspec gives each thread a filesystem of its own where threads cannot share a connection, as SFTP's cannot.
        filesystem, inner = open_filesystem(name)
        return filesystem.cat_file(inner, start=start, end=end)

    return fetch


def open_remote(url: str, may_copy: bool = True, **options: Any) -> Any:
    """Open a remote file of which some parts are read; ``options`` are those of the buffered files of fsspec."""
    file = _open(url, options)
    if not (may_copy and is_http(url)):
        return file
    fetch = _fetcher_of(url, file)
    if file.closed:
        # The system keeps what is read of the copy.
        return open_window(fetch, len(_copy(url)), block_bytes=1 << 16, n_blocks=1)
    file.cache.fetcher = fetch
    return file


@contextmanager
def open_parts(name: str, ahead: int = 0) -> Iterator[Any]:
    """Open a local or remote file of which some parts are read.

    Parameters
    ----------
    name
        Path or URL of the file.
    ahead
        Of a remote file so many bytes more are fetched behind each part, where the next one may begin. Who asks for
        that jumps through a large file, of which no copy is made: a server that sends it only whole is an error.

    Raises
    ------
    SourceError
        If the file does not exist, is no regular file, or cannot be read.
    """
    path = local_path(name)
    if path is not None:
        with open_file(name) as file:
            yield file
        return
    options: dict[str, Any] = {"cache_type": "readahead", "block_size": ahead} if ahead else {"cache_type": "none"}
    try:
        file = open_remote(name, may_copy=not ahead, **options)
    except Exception as error:  # Each filesystem raises errors of its own.
        raise failure("read", name, error) from error
    with file:
        yield file


def read_parquet(uri: str, read: Callable[[Any], T]) -> T:
    """Return what a function reads of an open Parquet file, of which no more than that is fetched.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    def attempt() -> T:
        with open_parts(uri) as file:
            return read(ParquetFile(file, pre_buffer=True))

    try:
        return patiently(uri, attempt)
    except (pa.ArrowException, OSError) as error:  # Arrow raises an OSError for a page that does not decompress.
        raise failure("read", local_path(uri) or uri, error) from error


def describe_server(uri: str) -> list[str]:
    """Return a line if a video's server sends files only whole; none if it sends parts, or does not answer."""
    if not is_http(uri):
        return []
    filesystem, inner = open_filesystem(uri)
    try:
        if filesystem.info(inner).get("size") == 0:  # fsspec opens an empty file as a stream, too.
            return []
        file = filesystem.open(inner, "rb", cache_type="none")
    except Exception:  # Each filesystem raises errors of its own. Whoever reads the video will say what is wrong.
        return []
    with file:
        try:
            if file.size is not None:
                file.cache.fetcher(1, 2)
                return []
        except ValueError:
            pass
        except Exception:  # As above.
            return []
    return [f"{shown(uri)}: its server sends files only whole, so each process that reads one makes a copy of it"]


def open_window(fetch: Fetch, size: int, block_bytes: int, n_blocks: int) -> io.BufferedReader:
    """Make a file of ``size`` bytes out of what fetches blocks of it, the last of which are kept."""
    return io.BufferedReader(_Window(fetch, size, block_bytes, n_blocks))


class _Window(io.RawIOBase):
    def __init__(self, fetch: Fetch, size: int, block_bytes: int, n_blocks: int) -> None:
        def fetch_block(number: int) -> bytes:
            return fetch(number * block_bytes, min((number + 1) * block_bytes, size))

        self._size, self._place, self._block_bytes = size, 0, block_bytes
        self._block = lru_cache(n_blocks)(fetch_block)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place >= self._size:
            return 0
        number, start = divmod(self._place, self._block_bytes)
        part = self._block(number)[start : start + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def _read_local(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _open(url: str, options: dict[str, Any]) -> Any:
    filesystem, inner = open_filesystem(url)
    return patiently(url, lambda: filesystem.open(inner, "rb", **options))


def _fetcher_of(url: str, file: Any) -> Fetch:
    """Return what fetches parts of a file behind HTTP, from a copy of it if the server turns out to know no ranges.

    The file is closed if no part of it can be fetched.
    """
    remote: Fetch | None = file.cache.fetcher
    copy: mmap | bytes = b""
    if file.size is None:  # It is a stream: the server says that it knows no ranges, or not how long the file is.
        remote = None
        file.close()
        copy = _copy(url)

    def fetch(start: int, end: int) -> bytes:
        nonlocal remote, copy
        if remote is not None:
            try:
                return remote(start, end)
            except ValueError:  # The answer was the whole file, of which nothing has been read.
                remote, copy = None, _copy(url)
        return copy[start:end]

    return fetch


def _copy(url: str) -> mmap | bytes:
    filesystem, inner = open_filesystem(url)
    info = patiently(url, lambda: filesystem.info(inner))
    return _copy_version(url, info.get("size") or 0, repr(info))


@lru_cache(1)  # The next video is likely to be another span of the same file.
def _copy_version(url: str, size: int, _version: str) -> mmap | bytes:
    """Copy a remote file as a whole to a file without a name, which goes when nobody reads it any more."""
    if size >= _LARGE_BYTES:
        _log.warning("%s: its server sends files only whole, so it is copied", shown(url))
    filesystem, inner = open_filesystem(url)
    with tempfile.TemporaryFile() as file:

        def copy() -> None:
            file.seek(0)
            file.truncate()
            filesystem.get_file(inner, file)
            file.flush()

        patiently(url, copy)
        return mmap(file.fileno(), 0, access=ACCESS_READ) if file.tell() else b""
