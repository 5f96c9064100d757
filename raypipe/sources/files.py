"""Finding videos that are files: one file, a folder, a glob, or any of these behind an fsspec URL."""

import os
import re
import stat
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote_from_bytes, unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SourceError
from raypipe.progress import counted
from raypipe.sources.videos import Video, Videos, make_video_id
from raypipe.storage import (
    absolute,
    canonical_uri,
    check_unchained,
    failure,
    find_patiently,
    is_bucket,
    is_http,
    local_path,
    open_filesystem,
    patiently,
    shown,
    shown_place,
    split_member,
    suffix,
    url_below,
)

VIDEO_SUFFIXES = frozenset(
    (
        ".264 .265 .3g2 .3gp .asf .avi .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m2t .m2ts .m2v .m4v .mjpeg .mkv .mov"
        " .mp4 .mpeg .mpg .mts .mxf .nut .ogv .ts .vob .webm .wmv .y4m"
    ).split()
)
"""The suffixes, in upper or lower case, by which a file in a folder counts as a video.

A file that is named on its own or in a manifest counts as a video whatever its suffix; one of `_OTHERS` in a manifest
only.
"""

_OTHERS = (
    (
        r"\.(t?gz|tbz2?|bz2|t?xz|t?zst|lz4|zip|7z|rar)",
        "a compressed archive, which is not read: unpack it, or make it a plain .tar, which is read where it lies",
    ),
    (
        r"\.(arrow|feather|parquet|lance)",
        "a table, such as one of Hugging Face datasets, of which no videos are read: write each video to a file, and "
        "their paths to a column path of a .csv, .jsonl or .parquet",
    ),
    (
        r"\.(hdf5|h5|tfrecord.*|zarr|bag|db3|mcap|rrd)",
        "a recording of robots, of which no videos are read: convert it to a LeRobot dataset, or write a video file "
        "for each camera",
    ),
    (
        r"\.(npy|npz|pickle|pkl|pt|pth|safetensors|mat|arff|skeleton|bvh|c3d)",
        "a file of numbers: embeddings that were computed elsewhere are read from one .npz that is named itself, with "
        "an array (clips, numbers) for each video under its name, as numpy.savez writes it",
    ),
    (r"\.(csv|jsonl)", "a table: if it lists videos, in a column path, name it as the source"),
)
"""The suffixes of what people keep videos in that is not read, and what to do instead."""


_THREADS = 16  # Each of them waits for a server; on a disk there is nothing to wait for.

T = TypeVar("T")
R = TypeVar("R")

_Counts = Callable[[str], bool]  # Whether a file counts as what is looked for, by its suffix.

_ANY, _ZARR = re.compile(".*", re.DOTALL), re.compile(r".+\.zarr")
_PICTURES = frozenset(".bmp .exr .jpeg .jpg .png .tif .tiff .webp".split())


def _describe_other(own: str) -> str | None:
    """Return what a file with a suffix of `_OTHERS` is, and what to do; None of any other file."""
    return next((said for pattern, said in _OTHERS if re.fullmatch(pattern, own)), None)


def names_file(name: str, suffixes: Container[str]) -> bool:
    """Return whether a name has one of some suffixes, and is no folder of this machine, which may have one too."""
    path = local_path(name)
    if suffix(name) not in suffixes:
        return False
    return path is None or not os.path.isdir(path)  # noqa: PTH112 – Path.is_dir raises if its folder may not be entered


def unquoted(part: str, uri: str) -> str:
    r"""Return a part of a URI as it reads, percent-encoded or not; bytes that are not UTF-8 become \xNN."""
    return unquote(part, errors="backslashreplace") if uri.startswith("file:") or is_http(uri) else part


def group_name(parents: str, uri: str) -> str | None:
    """Return a video's group: the relative folders of its ``uri``, as they read."""
    return unquoted(parents, uri) or None


def list_folder(name: str, wanted: re.Pattern[str] = _ANY) -> dict[str, str]:
    """Return the path or URI of what lies directly in a folder, by its name there; nothing if it is no such folder.

    They come in natural order, clip2 before clip10. A web server has no listing that could be relied on, so of ``http``
    there is nothing either.

    Parameters
    ----------
    name
        Path or URL of the folder.
    wanted
        What the whole of a name must match; a folder may have millions of others.
    """
    path = local_path(name)
    try:
        if path is not None:
            with os.scandir(os.path.expanduser(path)) as entries:  # noqa: PTH111 – as `_find_local` has it
                found = {each.name: each.path for each in entries if wanted.fullmatch(each.name)}
        elif is_http(name):
            return {}
        else:
            filesystem, inner = open_filesystem(name)
            paths = patiently(name, lambda: filesystem.ls(inner.rstrip("/"), detail=False))
            below = (each.rstrip("/") for each in paths if each.strip("/") != inner.strip("/"))
            named = ((each.rpartition("/")[2], each) for each in below)
            found = {own: url_below(name, filesystem, inner, each) for own, each in named if wanted.fullmatch(own)}
    except Exception:  # Each filesystem raises errors of its own. Whoever reads the source will say what is wrong.
        return {}
    return dict(sorted(found.items(), key=lambda each: path_order(each[0])))


def find_files(source: str, suffixes: frozenset[str] = VIDEO_SUFFIXES, beside: frozenset[str] = frozenset()) -> Videos:
    """Find the videos of a file, folder or glob, local or remote.

    Nothing is opened: a FIFO or a broken link with a video's suffix is found here and fails when it is probed.

    Parameters
    ----------
    source
        The file, folder or glob.
    suffixes
        Those by which a file in a folder counts; another kind of files than videos can be found by theirs.
    beside
        Those of files that are found too where there are others.

    Raises
    ------
    SourceError
        If the source does not exist, cannot be listed, holds no video, or is a file of another kind.
    """
    find = _find_local if local_path(source) is not None else _find_remote
    videos = find(source, (suffixes | beside).__contains__)
    if not all(suffix(uri.as_py()) in beside for uri in videos.table["uri"]):
        return videos
    looked_for, n_others = " ".join(sorted(suffixes)), videos.n_ignored + len(videos)
    if not suffixes & VIDEO_SUFFIXES:
        raise SourceError(f"no file of this kind in {shown(source)}: looked for {looked_for}")
    told = f"looked for {looked_for}; {counted(n_others, 'other file')} ignored{_describe_others(source, find)}"
    raise SourceError(f"no video in {shown(source)}: {told}")


def _describe_others(source: str, find: Callable[[str, _Counts], Videos]) -> str:
    """Return what there is where no video is, and what to do; nothing where that is not known."""
    if _describe_other(suffix(source.rstrip("/"))) is not None:  # A folder, as Zarr's are.
        others = [source]
    else:
        others = [*list_folder(source, _ZARR).values()]
        others = others or [video.uri for video in find(source, lambda own: _describe_other(own) is not None)[:1]]
    if others:
        return f"; {shown_place(others[0])} is {_describe_other(suffix(others[0].rstrip('/')))}"
    if n_pictures := len(find(source, _PICTURES.__contains__)):
        return (
            f"; {counted(n_pictures, 'picture')} among them: make a video of each folder of pictures first, as by "
            "ffmpeg -framerate 30 -pattern_type glob -i '*.png' video.mp4"
        )
    return ""


def map_files(read: Callable[[T], R], files: Iterable[T]) -> Iterator[R]:
    """Call a function for each of some files, several at a time, and yield the results in the files' order."""
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(read, files)


def have_suffix(uris: pa.ChunkedArray, suffixes: frozenset[str]) -> np.ndarray:
    """Return which of many URIs have one of some suffixes: (n,) bool. The query of a URL is no part of its name."""
    found = np.zeros(len(uris), bool)
    kinds = "|".join(map(re.escape, sorted(suffixes)))
    for row in np.flatnonzero(pc.match_substring_regex(uris, kinds, ignore_case=True)).tolist():
        found[row] = suffix(uris[row].as_py()) in suffixes
    return found


class _Glob:
    """A pattern below a root without wildcards, matched one part of a path at a time.

    So a walk skips the folders in which nothing can match. A state is the set of pattern parts that the next part of a
    path may match.
    """

    def __init__(self, parts: tuple[str, ...]):
        self.parts = (*parts, "*") if parts[-1] == "**" else parts
        self.start = self._closed({0})
        # Where the whole folder is meant, its hidden files count as ignored.
        self.covers_hidden = self.parts == ("**", "*")
        self.max_depth = None if {"**", ""} & {*self.parts} else len(self.parts)

    def enter(self, state: frozenset[int], folder: str) -> frozenset[int]:
        """Return the state inside ``folder``; an empty one means that nothing there can match."""
        after = {i if self.parts[i] == "**" else i + 1 for i in state if self._matches(folder, self.parts[i])}
        return self._closed({i for i in after if i < len(self.parts)})

    def accepts(self, state: frozenset[int], file: str) -> bool:
        """Return whether ``file``, in a folder of that state, matches the whole pattern."""
        return len(self.parts) - 1 in state and self._matches(file, self.parts[-1])

    def _closed(self, state: set[int]) -> frozenset[int]:
        # '**' also stands for no folder at all, so the part after it can match at once.
        for i in range(len(self.parts) - 1):
            if i in state and self.parts[i] == "**":
                state.add(i + 1)
        return frozenset(state)

    @staticmethod
    def _matches(name: str, part: str) -> bool:
        return fnmatchcase(name, part) and (not name.startswith(".") or part.startswith("."))


_EVERYTHING = _Glob(("**",))


class _Folder(NamedTuple):
    path: str
    relative: str  # The path below the root, "" for the root itself.
    state: frozenset[int]
    above: frozenset[tuple[int, int]]  # The device and inode of each folder that this one lies in.


def _find_local(source: str, counts: _Counts) -> Videos:
    path = os.path.expanduser(local_path(source) or "")  # noqa: PTH111 – Path.expanduser raises if '~name' is no user
    try:
        status = os.lstat(path)
    except (OSError, ValueError) as error:
        if not has_wildcard(path):
            raise failure("find", path, error) from error
        parts = Path(absolute(path)).parts
        first = next(i for i, part in enumerate(parts) if has_wildcard(part))
        return _list_local(str(Path(*parts[:first])), _Glob(parts[first:]), counts)
    if stat.S_ISDIR(status.st_mode) or (stat.S_ISLNK(status.st_mode) and Path(path).is_dir()):
        return _list_local(absolute(path), _EVERYTHING, counts)
    return Videos((_lone_video(path),))


def _lone_video(name: str) -> Video:
    """Make the `Video` of one file that was named explicitly."""
    if (other := _describe_other(suffix(name))) is not None:
        raise SourceError(f"{shown(name)} is {other}")
    uri = canonical_uri(name)
    return Video(make_video_id(uri), uri)


def _list_local(root: str, pattern: _Glob, counts: _Counts) -> Videos:
    n_ignored = 0

    def walk() -> Iterator[Video]:
        nonlocal n_ignored
        folders = [_Folder(root, "", pattern.start, frozenset())]
        while folders:
            folder = folders.pop()
            files, inner, n_others = _scan(folder, pattern, counts)
            n_ignored += n_others
            base = Path(folder.path).as_uri().removesuffix("/")
            group = group_name(quote_from_bytes(os.fsencode(folder.relative)), base)
            for name in files:
                uri = f"{base}/{quote_from_bytes(os.fsencode(name))}"
                yield Video(make_video_id(uri), uri, group)
            folders.extend(reversed(inner))

    videos = Videos(walk())
    videos.n_ignored = n_ignored
    return videos


def _scan(folder: _Folder, pattern: _Glob, counts: _Counts) -> tuple[list[str], list[_Folder], int]:
    """Return a folder's videos and the folders to enter, both in order, and the number of all other files."""
    files, folders, n_others = [], [], 0
    try:
        here = Path(folder.path).stat()
        above = folder.above | {(here.st_dev, here.st_ino)}
        with os.scandir(folder.path) as entries:
            for entry in entries:
                is_folder = _is_folder(entry)
                is_meant = pattern.accepts(folder.state, entry.name)
                if is_meant and counts(suffix(entry.name)):
                    files.append(entry.name)
                elif not is_folder:
                    n_others += is_meant or pattern.covers_hidden
                if is_folder and (state := pattern.enter(folder.state, entry.name)) and not _loops(entry, above):
                    relative = f"{folder.relative}/{entry.name}" if folder.relative else entry.name
                    folders.append(_Folder(entry.path, relative, state, above))
    except OSError as error:
        raise failure("list", folder.path, error) from error
    files.sort(key=path_order)
    folders.sort(key=lambda inner: path_order(inner.relative))
    return files, folders, n_others


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # The entry is a link to itself, or into a folder that may not be entered.
        return False


def _loops(entry: os.DirEntry, above: frozenset[tuple[int, int]]) -> bool:
    """Return whether the entry is a link to a folder that the walk is inside of already."""
    if not entry.is_symlink():
        return False
    target = entry.stat()
    return (target.st_dev, target.st_ino) in above


def _find_remote(url: str, counts: _Counts) -> Videos:
    if split_member(url) is not None:
        return Videos((_lone_video(url),))
    check_unchained(url)  # Of a chain with a wildcard only a part would be opened.
    scheme_end = url.index("://") + 3
    # In an http URL only '*' is a wildcard: '?' begins its query, and real URLs contain brackets.
    wild = "*" in url.partition("?")[0] if is_http(url) else has_wildcard(url[scheme_end:])
    if wild and ("*" in url or not _remote_kind(url, missing_ok=True)):
        parts = url[scheme_end:].split("/")
        first = next(i for i, part in enumerate(parts) if ("*" in part if is_http(url) else has_wildcard(part)))
        if is_bucket(url) and "" in parts[:first]:  # In a key two slashes are not one, and fsspec takes them for one.
            first = parts.index("")
        return _list_remote(url[:scheme_end] + "/".join([*parts[:first], ""]), _Glob(tuple(parts[first:])), counts)
    if is_http(url):
        return _list_remote(url, _EVERYTHING, counts) if url.endswith("/") else Videos((_lone_video(url),))
    if _remote_kind(url) == "directory":
        return _list_remote(url, _EVERYTHING, counts)
    return Videos((_lone_video(url),))


def _remote_kind(url: str, missing_ok: bool = False) -> str | None:
    """Return "file" or "directory"; or, with ``missing_ok``, None if neither exists."""
    filesystem, path = open_filesystem(url)
    try:
        return patiently(url, lambda: filesystem.info(path))["type"]
    except Exception as error:  # Each filesystem raises errors of its own.
        if missing_ok and isinstance(error, FileNotFoundError):
            return None
        raise failure("find", url, error) from error


def _list_remote(url: str, pattern: _Glob, counts: _Counts) -> Videos:
    filesystem, root = open_filesystem(url)
    try:
        filesystem.invalidate_cache()  # A second listing must show what was uploaded since the first.
        paths = find_patiently(url, filesystem, root, pattern.max_depth)
        if not paths:
            filesystem.ls(root, detail=False)  # This raises if the root cannot be listed, where find() is silent.
    except Exception as error:  # Each filesystem raises errors of its own.
        raise failure("list", url, error) from error
    below = [(path.removeprefix(root).removeprefix("/"), path) for path in paths if not path.endswith("/")]
    n_ignored = 0

    def choose() -> Iterator[Video]:
        nonlocal n_ignored
        for relative, path in sorted(below, key=lambda pair: path_order(pair[0])):
            *parents, name = relative.split("/")
            state = pattern.start
            for parent in parents:
                state = pattern.enter(state, parent)
            if counts(suffix(name)) and pattern.accepts(state, name):
                uri = url_below(url, filesystem, root, path)
                yield Video(make_video_id(uri), uri, group_name("/".join(parents), uri))
            elif state:
                n_ignored += pattern.accepts(state, name) or pattern.covers_hidden

    videos = Videos(choose())
    videos.n_ignored = n_ignored
    return videos


def path_order(relative: str) -> tuple[str, str]:
    """Return a key that sorts relative paths: a folder's files before its folders, and clip2 before clip10."""
    parents, _, name = relative.rpartition("/")
    key = "\x01" + parents.replace("/", "\x01") + "\x00" + name if parents else "\x00" + name
    return re.sub(r"[0-9]+", lambda number: number[0].zfill(20), key), relative


def has_wildcard(name: str) -> bool:
    """Return whether a path or URL is a pattern, or would be one if it named no file."""
    return any(character in name for character in "*?[")
