"""Parts of files over HTTP, by ranges (RFC 9110, §13 and §14), a bounded piece in memory at a time."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from raypipe.errors import SourceError
from raypipe.ranges import open_ranges
from raypipe.sources.versions import full_version_of
from raypipe.storage import failure, local_path, open_filesystem, patiently, shown, split_member

_PIECE = 256 << 10  # Bytes of a local file that are read at once.
_REMOTE_PIECE = 1 << 20  # A request to a server costs more than the bytes.
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)

# Reading may wait for a disk or a server, and each stream reads a piece at a time.
_readers = ThreadPoolExecutor(32, "raypipe-read")


@dataclass(frozen=True)
class Content:
    """Bytes that can be read from any place.

    Attributes
    ----------
    size
        How many there are.
    etag
        A strong entity tag, which changes with the content; None where nothing tells of changes.
    modified
        When the file was changed, as HTTP writes it, or None.
    piece
        How many bytes to read at once.
    read
        Returns the bytes from one place to another.
    close
        Frees what it holds.
    """

    size: int
    etag: str | None
    modified: str | None
    piece: int
    read: Callable[[int, int], bytes]
    close: Callable[[], None]


def open_content(uri: str) -> Content:
    """Open a local or remote file, or a member of a tar, for reading by ranges.

    A local file stays open, so that a file that takes its place meanwhile is not mixed with it.

    Raises
    ------
    SourceError
        If it is not there, is no regular file, or cannot be read.
    """
    member = split_member(uri)
    name, offset, size = (uri, 0, None) if member is None else (member.archive, member.offset, member.size)
    path = local_path(name)
    try:
        return _open_remote(name, offset, size) if path is None else _open_local(path, offset, size)
    except SourceError:
        raise
    except Exception as error:  # Each file system raises errors of its own.
        raise failure("read", uri, error) from error


def _open_local(path: str, offset: int, size: int | None) -> Content:
    # Opening a FIFO would wait for its writer otherwise.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise SourceError(f"cannot read {shown(path)}: not a regular file")
    whole = max(status.st_size - offset, 0)
    etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{offset:x}"'

    def read(start: int, end: int) -> bytes:
        return os.pread(handle, end - start, offset + start)

    n = whole if size is None else min(size, whole)
    return Content(n, etag, formatdate(status.st_mtime, usegmt=True), _PIECE, read, lambda: os.close(handle))


def _open_remote(url: str, offset: int, size: int | None) -> Content:
    file_system, path = open_filesystem(url)
    info = patiently(url, lambda: file_system.info(path))
    whole = info.get("size")
    if whole is None:
        raise SourceError(f"cannot read {shown(url)}: its server does not say how long it is")
    fetch = open_ranges(url)
    version = full_version_of(info)
    etag = version and f'"{sha256(f"{version}@{offset}".encode()).hexdigest()[:32]}"'

    def read(start: int, end: int) -> bytes:
        return patiently(url, lambda: fetch(offset + start, offset + end))

    n = max(whole - offset, 0)
    return Content(n if size is None else min(size, n), etag, None, _REMOTE_PIECE, read, lambda: None)


def find_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes that a header ``Range`` asks for, ``start ≤ place < end``; None if it asks for all.

    Several ranges, other units and what cannot be understood count as no range, as the standard allows.

    Raises
    ------
    ValueError
        If the range lies outside of the content.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(size - int(found[2]), 0), size
    else:
        start, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= end:
        raise ValueError("the range lies outside of the content")
    return start, end


class RangeResponse(Response):
    """Answers a request for a file, or for a range of it; closes the file at the end, whatever ends it."""

    def __init__(self, request: Request, content: Content, media_type: str) -> None:
        self._content, self._span = content, (0, content.size)
        headers = {"accept-ranges": "bytes", "content-type": media_type, "cache-control": "private, no-cache"}
        headers |= {"etag": content.etag} if content.etag else {}
        headers |= {"last-modified": content.modified} if content.modified else {}
        status = 200
        if content.etag and content.etag in _tags(request.headers.get("if-none-match", "")):
            status, self._span = 304, (0, 0)
        else:
            asked = request.headers.get("range")
            # The rest of another version must not be joined to what the client has.
            if request.headers.get("if-range", content.etag) not in (content.etag, content.modified):
                asked = None
            try:
                found = find_range(asked, content.size)
            except ValueError:
                status, self._span = 416, (0, 0)
                headers["content-range"] = f"bytes */{content.size}"
            else:
                if found is not None:
                    status, self._span = 206, found
                    headers["content-range"] = f"bytes {found[0]}-{found[1] - 1}/{content.size}"
        if status != 304:
            headers["content-length"] = str(self._span[1] - self._span[0])
        self._stated = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self.status_code, self.background = status, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it piece by piece, no faster than the client takes it."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self._stated})
            place, end = self._span
            if scope["method"] == "HEAD":
                end = place
            loop, gone = asyncio.get_running_loop(), asyncio.ensure_future(wait_gone(receive))
            try:
                while place < end and not gone.done():
                    until = min(place + self._content.piece, end)
                    piece = await loop.run_in_executor(_readers, self._content.read, place, until)
                    if not piece:
                        return  # The file was cut off meanwhile. The broken connection tells the client.
                    place += len(piece)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            finally:
                gone.cancel()
            await send({"type": "http.response.body", "body": b""})
        except (OSError, SourceError):
            return  # The client has gone, or the file's server has.
        finally:
            self._content.close()


async def wait_gone(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _tags(header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]
