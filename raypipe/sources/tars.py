"""What lies in a tar and where, by its headers alone: contents are passed over, and those of small members read."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from raypipe.errors import SourceError
from raypipe.ranges import open_parts
from raypipe.storage import TarMember, failure, patiently, shown, shown_place

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
"""How the formats begin that have no place of a member to jump to."""

# Texts of a sample lie behind its video, and its next header behind them: so much is fetched of a server at a time.
_AHEAD_BYTES = 1 << 14
_MOST_BYTES = 1 << 24  # A text is never longer; a member that is named like one may be.
_PADDING = 1 << 16  # Zeros behind the end mark that fill the last record: of 10 kB by default.
_KEPT = "what is whole before that is taken"

_Link = tuple[int, str, str]  # Behind how many files it stands, its name, and that of what it names.


@dataclass(frozen=True)
class TarIndex:
    """The files of a tar, in its order.

    Attributes
    ----------
    members
        Where each whole file lies.
    contents
        What those hold that were to be read.
    notes
        What is to be said of the tar, such as where it was cut off.
    """

    members: tuple[TarMember, ...]
    contents: dict[TarMember, bytes]
    notes: tuple[str, ...] = ()


def read_tar(archive: str, is_read: Callable[[str], bool] = lambda name: False) -> TarIndex:
    """Index a tar by its headers: ustar, GNU's and pax's long names.

    Parameters
    ----------
    archive
        The canonical URI of a tar.
    is_read
        Whether the content of the member of a name is read too; one of more than 16 MiB is not.

    Returns
    -------
    The regular files that are there whole, and links to such files as if they were these. One that the end of the tar
    cuts off is none, and a note says so.

    Raises
    ------
    SourceError
        If there is no such file, or it is no tar, though it is long enough for one, or a compressed one.
    """
    where = shown_place(archive)
    with _open_tar(archive) as file:
        try:
            size = file.seek(0, 2)
            file.seek(0)
            _check_plain(file.read(8), where)
            if size < tarfile.BLOCKSIZE:  # One shard of a thousand, whose writing had hardly begun, costs a line.
                return TarIndex((), {}, (f"{where} was cut off at byte {size:,}, within its first header",))
            file.seek(0)
            return _walk(file, size, archive, where, is_read)
        except tarfile.TarError as error:
            raise SourceError(f"{where} is no tar: {error}") from error
        except SourceError:
            raise
        except Exception as error:  # Each file system raises errors of its own.
            raise failure("read", archive, error) from error


def _walk(file: IO[bytes], size: int, archive: str, where: str, is_read: Callable[[str], bool]) -> TarIndex:
    members: list[TarMember] = []
    contents: dict[TarMember, bytes] = {}
    last, notes = "", []
    n_sparse = 0
    links: list[_Link] = []

    def take(name: str, offset: int, n_bytes: int) -> TarMember:
        member = TarMember(archive, offset, n_bytes, name)
        if n_bytes <= _MOST_BYTES and is_read(name):
            file.seek(offset)
            contents[member] = file.read(n_bytes)
        return member

    tar: Any
    with tarfile.open(fileobj=file, mode="r:") as tar:
        try:
            while (found := tar.next()) is not None:
                tar.members.clear()  # It would keep them all.
                last = found.name
                if found.issparse():
                    n_sparse += 1
                elif found.isreg() and found.offset_data + found.size <= size:
                    members.append(take(found.name, found.offset_data, found.size))
                elif linked := _file_of(found):
                    links.append((len(members), found.name, linked))
        except tarfile.ReadError:  # It ends within a member, which may be a pax header.
            notes.append(f"{where} was cut off at byte {size:,}, after the header of {shown(last)}: {_KEPT}")
        else:
            notes += _describe_end(file, tar.offset, size, where)
    if n_sparse:
        notes.append(f"sparse files in {where}, which do not lie in one piece and are left out: {n_sparse}")
    notes += _follow(links, members, take, where)
    return TarIndex(tuple(members), contents, tuple(notes))


def _file_of(found: tarfile.TarInfo) -> str | None:
    """Return the name of what a link names; None of what is none. A file's second name is kept as a hard link."""
    if found.issym():
        return posixpath.join(posixpath.dirname(found.name), found.linkname)
    return found.linkname if found.islnk() else None


def _follow(
    links: list[_Link], members: list[TarMember], take: Callable[[str, int, int], TarMember], where: str
) -> list[str]:
    """Put links in their places among the files, with the contents of those that they name; say how many name none."""
    files = {posixpath.normpath(member.name): member for member in members} if links else {}
    n_lost = 0
    for place, name, linked in reversed(links):
        if (whole := files.get(posixpath.normpath(linked))) is None:
            n_lost += 1
        else:
            members.insert(place, take(name, whole.offset, whole.size))
    return [f"links in {where} to what is no file in it, which are left out: {n_lost}"] if n_lost else []


def _describe_end(file: IO[bytes], end: int, size: int, where: str) -> list[str]:
    """Return what is wrong with the end of a tar, which should be a block of zeros at byte ``end``."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return [f"{where} has no end mark at byte {end:,} of {size:,}, and may have been cut off there: {_KEPT}"]
    if block.strip(b"\0"):
        return [f"{where} has a damaged header at byte {end:,} of {size:,}: {_KEPT}"]
    if size - end > _PADDING:  # Two tars that were joined byte by byte look so.
        return [f"{where} ends at byte {end:,} of {size:,}: what lies behind its end mark is not read"]
    return []


def _check_plain(start: bytes, where: str) -> None:
    for mark, kind in _COMPRESSED.items():
        if start.startswith(mark):
            raise SourceError(
                f"{where} is compressed ({kind}), so that no video in it can be read by its place: unpack it to a "
                "plain .tar, in which videos take no more room"
            )


@contextmanager
def _open_tar(archive: str) -> Iterator[Any]:
    """Open a tar for jumping from header to header; of a remote one little more than these is fetched."""
    with open_parts(archive, _AHEAD_BYTES) as file:
        if hasattr(file, "cache"):  # A local file has none, nor has one in memory.
            fetch = file.cache.fetcher
            file.cache.fetcher = lambda start, end: patiently(archive, partial(fetch, start, end))
        yield file
