"""Local files and fsspec URLs: how they are spelled, and opened and read with retries and one-line errors."""

from __future__ import annotations

import logging
import os
import posixpath
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, quote_from_bytes, unquote, unquote_to_bytes

from raypipe.errors import RaypipeError, SourceError
from raypipe.packages import require

_URL = re.compile(r"((?:\w+::)*[A-Za-z][A-Za-z0-9+.-]*)://")  # The links of a chain come before the protocol.
# An object's URL that matches is spelled as fsspec spells it already.
_OBJECT = re.compile(r"((?:s3|gs)://[A-Za-z0-9._-]+)(?:/[A-Za-z0-9._=+,@ -]+)+")
# The last such part of a URI counts, because a member's own name is quoted and has no "@".
_MEMBER = re.compile(r"tar\+(.+)/@(\d+)\+(\d+)/([^@]*)", re.DOTALL)
_IMAGE_COLUMN = re.compile(r"(.+)#episode=(\d+)&column=([^#&]+)", re.DOTALL)
_BUCKET = re.compile("(s3a?|gc?s)://")  # In the key of an object a question mark is a letter, and so are two colons.
_QUERY = re.compile(rf"((?<!\w)(?!{_BUCKET.pattern})\w+://[^\s?'\"]*)\?[^\s'\"]*?(/@\d+\+\d+/[^\s'\"]*)?(?![^\s'\"])")
_LONGEST_REASON = 300

PATIENCE_S = 10.0
"""Seconds for which a failed request is repeated: half of what a probe may take (``decode.deadline_s``)."""

_FIRST_WAIT_S = 0.25
_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504, 509}
# Errors of lost connections that are none of Python's own: gcsfs raises those of requests, the Hub those of httpx.
_LOST = {"requests": ("ConnectionError", "Timeout"), "httpx": ("TransportError",)}
# A sandbox logs to its parent, which reports the last line when the deadline passes.
_log = logging.getLogger(__name__)

T = TypeVar("T")


def local_path(uri: str) -> str | None:
    """Return the path that a ``file://`` URI or plain path names, or None for a remote URL.

    Bytes of a name that are not UTF-8 are kept, as the surrogates of `os.fsdecode`.
    """
    url = _URL.match(uri)
    if url is None:
        return uri
    if url[1].lower() not in ("file", "local"):
        return None
    path = uri[url.end() :].removeprefix("localhost")
    if not path.startswith("/"):
        raise SourceError(f"{shown(uri)} names no absolute path: write file:///folder/video.mp4")
    return os.fsdecode(unquote_to_bytes(path))


class TarMember(NamedTuple):
    """A file within an uncompressed tar: where its bytes lie.

    Its URI is ``tar+ARCHIVE/@OFFSET+SIZE/NAME``, ARCHIVE being the tar's own URI, and NAME quoted.

    Attributes
    ----------
    archive
        The URI of the tar.
    offset, size
        Where its content begins, and how long it is, in bytes.
    name
        Its name in the tar.
    """

    archive: str
    offset: int
    size: int
    name: str

    @property
    def uri(self) -> str:
        """The URI that `split_member` takes apart."""
        return f"tar+{self.archive}/@{self.offset}+{self.size}/{self._quoted}"

    @property
    def identity(self) -> str:
        """The tar and the name in it, which stay when the tar is written again with other members."""
        return f"{self.archive}/{self._quoted}"

    @property
    def _quoted(self) -> str:
        return quote(self.name, safe="/", errors="surrogateescape")


def split_member(uri: str) -> TarMember | None:
    """Return which part of which tar a URI names, or None if it names a file of its own."""
    found = _MEMBER.fullmatch(uri) if uri.startswith("tar+") else None
    if found is None:
        return None
    return TarMember(found[1], int(found[2]), int(found[3]), unquote(found[4], errors="surrogateescape"))


def file_of(uri: str) -> str:
    """Return the URI of the file that lies on the disk or server: a tar for its member, a table for its pictures."""
    if (member := split_member(uri)) is not None:
        return member.archive
    pictures = parse_image_column(uri)
    return uri if pictures is None else pictures.file


class ImageColumn(NamedTuple):
    """The pictures of one episode in one column of a Parquet file, which are a video though no file of their own.

    ``file:///data/file-000.parquet#episode=3&column=observation.images.front`` stands for those of episode 3. In a
    canonical ``file://`` URI a ``#`` of a file's own name is percent-encoded, so this one can stand for nothing else.

    Attributes
    ----------
    file
        URI of the Parquet file.
    episode
        The rows whose ``episode_index`` is this.
    column
        The column: structs of ``bytes`` (PNG or JPEG) and ``path``.
    """

    file: str
    episode: int
    column: str

    @property
    def uri(self) -> str:
        """The URI, which `parse_image_column` reads."""
        return f"{self.file}#episode={self.episode}&column={quote(self.column, safe='')}"


def parse_image_column(uri: str) -> ImageColumn | None:
    """Return which pictures a URI stands for, or None if it is that of a file."""
    found = _IMAGE_COLUMN.fullmatch(uri)
    return ImageColumn(found[1], int(found[2]), unquote(found[3])) if found else None


def canonical_uri(name: str) -> str:
    """Return the one spelling of a video's location, from which its id is made; the video need not exist.

    A local path becomes an absolute, percent-encoded ``file://`` URI (``..`` folded, symbolic links kept);
    http(s) URLs stay as they are; any other URL becomes what its fsspec filesystem calls it, as in `url_below`.
    """
    if (member := split_member(name)) is not None:
        return member._replace(archive=canonical_uri(member.archive)).uri
    path = local_path(name)
    if path is not None:
        # This is Path.as_uri() in a third of the time.
        return f"file://{quote_from_bytes(os.fsencode(absolute(path)))}"
    if is_http(name):
        return name
    if (plain := _OBJECT.fullmatch(name)) is not None:
        _open_once(plain[1])
        return name
    filesystem, inner = open_filesystem(name)
    return url_below(name, filesystem, inner, inner)


def url_below(url: str, filesystem: Any, root: str, path: str) -> str:
    """Return the URL of a path at or below ``root``, which is what the filesystem that a URL has opened calls the URL.

    It is the filesystem's own, unless the URL tells more than its paths do: the server of FTP, an account of Azure.
    """
    if not filesystem._get_kwargs_from_urls(url):
        return filesystem.unstrip_protocol(path)
    below = path.removeprefix(root).strip("/")
    return f"{url.rstrip('/')}/{below}" if below else url


@cache
def _open_once(url: str) -> None:
    """Raise `SourceError` if a bucket's file system cannot be made, tried once for all of the bucket's objects."""
    open_filesystem(url)


def beside(folder: str, path: str) -> str:
    """Return the path or URL that a relative path leads to from a folder; ``..`` does not lead out of a server."""
    if (local := local_path(f"{folder}/")) is not None:
        return posixpath.join(local, path)
    scheme, _, rest = folder.partition("://")
    host, _, inner = rest.partition("/")
    return f"{scheme}://{host}{posixpath.normpath(posixpath.join('/', inner, path))}"


def absolute(path: str) -> str:
    """Return ``path`` as an absolute path, with ``..`` folded.

    Symbolic links stay: two links to one file are two videos, and a moved mount keeps its ids.
    """
    return os.path.abspath(path)  # noqa: PTH100 – resolve() follows links, absolute() keeps '..'


def suffix(name: str) -> str:
    """Return the lower-case suffix of a path or URL; the query of an http(s) URL is not part of it."""
    if is_http(name):
        name = re.split(r"[?#]", name, maxsplit=1)[0]
    name = name.rpartition("/")[2]
    return name[name.rfind(".") :].lower() if "." in name else ""


def is_bucket(name: str) -> bool:
    """Return whether a name is a URL of S3 or Google Cloud Storage, which have keys and no folders."""
    return _BUCKET.match(name) is not None


def is_http(name: str) -> bool:
    """Return whether a name is an http or https URL."""
    return name[:8].lower().startswith(("http://", "https://"))


def without_query(name: str) -> str:
    """Return an http(s) URL without its query; in any other name a question mark is a letter as others."""
    return name.partition("?")[0] if is_http(name) else name


def shown(name: str) -> str:
    """Return a name as an error may print it: on one line, and without the credentials in a URL."""
    name = _QUERY.sub(r"\1?…\3", name)
    name = re.sub(r"(\w+://)[^\s/]*@", r"\1", name)
    return name if name.isprintable() else repr(name)


def shown_place(uri: str) -> str:
    """Return where a file lies, as an error may print it: the path of a local one, the URL of a remote one."""
    return shown(local_path(uri) or uri)


def failure(doing: str, name: str, error: Exception) -> SourceError:
    """Make the one-line error that says what could not be done, with which file, and why."""
    reason = _reason(error)
    for secret in _secrets(name):  # Libraries repeat a URL in their messages, whole or in part.
        reason = reason.replace(secret, "…")
    reason = shown(" ".join(reason.split()))
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[:_LONGEST_REASON]}…"
    return SourceError(f"cannot {doing} {shown(name)}: {reason}")


def cut_name(name: str, n_bytes: int) -> str:
    """Return the beginning of a file's name that takes so many bytes at most."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= n_bytes else encoded[:n_bytes].decode(errors="ignore")


def _reason(error: Exception) -> str:
    """Say what went wrong, without the names of libraries' classes where their messages are sentences."""
    said = str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in said:
        return "it is not UTF-8 text: save it as UTF-8"
    if isinstance(getattr(error, "status", None), int) and (answer := getattr(error, "message", "")):
        return f"the server answers {error.status} {answer}"  # type: ignore[attr-defined]
    if isinstance(error, ValueError | NotImplementedError) and said:  # Arrow's are these.
        return said
    return f"{type(error).__name__}: {said}".removesuffix(": ")


def _secrets(name: str) -> list[str]:
    """Return the parts of a URL that may be credentials, longest first: user and password, the query and its values."""
    name = file_of(name)
    if local_path(name) is not None:
        return []
    base, _, query = (name, "", "") if is_bucket(name) else name.partition("?")
    user = base.partition("://")[2].partition("/")[0].rpartition("@")[0]
    values = [value for _, value in parse_qsl(query) if len(value) >= 8]
    return sorted(filter(None, {user, user.partition(":")[2], query, *values}), key=len, reverse=True)


def check_unchained(url: str) -> None:
    """Raise `SourceError` if a URL is one of fsspec's chains, such as ``zip://x.mp4::s3://bucket/a.zip``."""
    # In the key of an object and in a URL of HTTP, where they may be of an IPv6 address, two colons are letters.
    if re.search(r"::\w+://" if is_bucket(url) or is_http(url) else "::", url):
        raise SourceError(f"chained URLs are not read: {shown(url)}; give the inner URL, or unpack the archive")


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of a remote URL, and the URL's path in it.

    Raises
    ------
    SourceError
        If the protocol is unknown, or its package missing; the message says what to install. If the URL is chained.
    """
    from fsspec.core import url_to_fs
    from fsspec.registry import get_filesystem_class, known_implementations

    check_unchained(url)
    protocol = url.partition("://")[0].lower()
    known = known_implementations.get(protocol)
    try:
        if known is not None:
            require(known["class"].partition(".")[0])
        if "::" in url:  # fsspec would take it for a chain.
            kind = get_filesystem_class(protocol)
            return kind(**kind._get_kwargs_from_urls(url)), kind._strip_protocol(url)
        return url_to_fs(url)
    except RaypipeError as error:
        raise SourceError(f"{shown(url)}: {shown(str(error))}") from error
    except Exception as error:  # Each filesystem raises errors of its own (botocore's, aiohttp's, the Hub's).
        raise failure("open", url, error) from error


POINTER = "it is a pointer of Git LFS in place of the file: run `git lfs pull` where it was cloned"
"""What is wrong with a file of which `is_pointer` holds."""
_POINTER_BEGINS = b"version https://git-lfs.github.com/spec/"


@contextmanager
def open_file(name: str) -> Iterator[IO[bytes]]:
    """Open a local or remote file for reading; a remote one is fetched whole, because not every server can seek.

    Raises
    ------
    SourceError
        If the file does not exist, is no regular file, or cannot be read.
    """
    path = local_path(name)
    try:
        if path is None:
            filesystem, inner = open_filesystem(name)
            file: IO[bytes] = BytesIO(patiently(name, lambda: filesystem.cat_file(inner)))
        elif stat.S_ISREG(Path(path).stat().st_mode):
            file = Path(path).open("rb")
        else:  # Opening a FIFO would block.
            raise SourceError(f"cannot read {shown(path)}: not a regular file")
    except SourceError:
        raise
    except Exception as error:  # Each filesystem raises errors of its own.
        raise failure("read", name, error) from error
    with file:
        if is_pointer(file):
            raise SourceError(f"cannot read {shown_place(name)}: {POINTER}")
        yield file


def is_pointer(file: IO[bytes]) -> bool:
    """Whether an open file holds in place of its content what Git LFS puts there until that is fetched."""
    found = file.read(len(_POINTER_BEGINS)) == _POINTER_BEGINS
    file.seek(0)
    return found


def patiently(uri: str, call: Callable[[], T]) -> T:
    """Call a function, and repeat the call after pauses that double, as long as its errors are transient.

    A server's ``Retry-After`` is obeyed if it ends within `PATIENCE_S`.

    Parameters
    ----------
    uri
        The file that the call reads or writes, for the log.
    call
        The function. Its last error is raised when the patience is over.
    """
    begun, pause_s = time.monotonic(), _FIRST_WAIT_S
    while True:
        try:
            return call()
        except Exception as raised:  # Each filesystem raises errors of its own.
            error = _unwrap(raised)
        wait_s = max(pause_s, _retry_after_s(error))
        if not is_transient(error) or time.monotonic() - begun + wait_s > PATIENCE_S:
            raise error
        _log.warning("%s; trying again", failure("reach", uri, error))
        time.sleep(wait_s)
        pause_s *= 2


def find_patiently(url: str, filesystem: Any, root: str, max_depth: int | None) -> list[str]:
    """List the paths of all files below ``root``, or of those at most ``max_depth`` levels down (1: in ``root``)."""
    if "http" not in filesystem.protocol:
        return patiently(url, lambda: filesystem.find(root, maxdepth=max_depth))
    # fsspec's own walk leaves out a folder without a word if its listing fails on a lost connection.
    paths, folders = [], [(root, 1)]
    while folders:
        folder, depth = folders.pop()
        for entry in patiently(folder, partial(filesystem.ls, folder, detail=True)):
            if entry["type"] != "directory":
                paths.append(entry["name"])
            elif max_depth is None or depth < max_depth:
                folders.append((entry["name"], depth + 1))
    return paths


def is_transient(error: BaseException) -> bool:
    """Return whether an error may be over in a moment: one of a busy or broken server, or a lost connection."""
    # Importing aiohttp takes long, and importing raypipe must not.
    from aiohttp import ClientConnectionError, ClientPayloadError

    lost: list[type] = [TimeoutError, ConnectionError, ClientConnectionError, ClientPayloadError]
    for module, names in _LOST.items():  # Who has raised one of these has imported them.
        lost += filter(None, (getattr(sys.modules.get(module), name, None) for name in names))
    for each in _chain(error):
        if (status := _status(each)) is not None:
            return status in _TRANSIENT_STATUSES
        if isinstance(each, tuple(lost)):
            return True
    return False


def _unwrap(error: Exception) -> Exception:
    """Return the real error: fsspec's HTTP file system reports every fault of a server as "not found"."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        if is_transient(cause) or (_status(cause) or 404) not in (404, 410):
            return cause
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # botocore raises its errors while it handles aiohttp's, so the context counts too.
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of aiohttp, botocore, requests, httpx or gcsfs, or None."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    names = [(response, "status_code"), (error, "status"), (error, "code")]
    status = next((getattr(each, name) for each, name in names if hasattr(each, name)), None)
    return status if isinstance(status, int) else None


def _retry_after_s(error: BaseException) -> float:
    value = (getattr(error, "headers", None) or {}).get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0  # HTTP allows a date too, but servers hardly ever send one.
