"""Sources: which videos there are, found without opening one."""

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from raypipe.errors import RaypipeError, SourceError, UsageError
from raypipe.sources.captions import read_texts
from raypipe.sources.curate import find_output, read_output
from raypipe.sources.episodes import check_numbers, find_episodes
from raypipe.sources.files import VIDEO_SUFFIXES, names_file
from raypipe.sources.lerobot import open_lerobot
from raypipe.sources.manifest import MANIFEST_SUFFIXES, read_manifest
from raypipe.sources.msrvtt import find_annotations, read_annotations
from raypipe.sources.precomputed import Precomputed, is_precomputed, read_precomputed
from raypipe.sources.tar_names import name_tars
from raypipe.sources.versions import read_versions
from raypipe.sources.videofolder import find_described
from raypipe.sources.videos import Videos
from raypipe.sources.webdataset import read_tars
from raypipe.storage import is_http, shown, shown_place, suffix

__all__ = ["find_videos", "is_precomputed", "read_precomputed", "read_source", "read_versions"]

_LISTS = (".txt", ".tsv", ".ndjson", ".pq", ".xlsx")  # Lists of videos often are.


def read_source(
    source: str | Path | Iterable[str | Path] | Videos, allow_pickle: bool = False, camera: str = "all"
) -> tuple[Videos, Precomputed | None]:
    """Find a source's videos, and read their trajectories if it holds these instead of videos.

    Parameters
    ----------
    source
        What `find_videos` takes, or has returned; or what `read_precomputed` takes; or an output folder of Cosmos
        Curate or NeMo Curator, see `raypipe.sources.curate`.
    allow_pickle
        See `read_precomputed`.
    camera
        See `find_videos`.

    Returns
    -------
    videos
        In the order of the source.
    paths
        The clips of each video, if they were computed elsewhere; else None.
    """
    if isinstance(source, Videos):
        return source, None
    names = _as_names(source)
    if is_precomputed(names):
        videos, clips = read_precomputed(names[0], allow_pickle)
        return videos, Precomputed(clips)
    if len(names) != 1:
        return find_videos(names, camera), None
    output = find_output(names[0])
    return (_find(names, camera), None) if output is None else read_output(output)


def find_videos(source: str | Path | Iterable[str | Path], camera: str = "all") -> Videos:
    """Find a source's videos, in a stable order, without opening any of them.

    Parameters
    ----------
    source
        A folder (searched recursively; see `raypipe.sources.videofolder`), a glob (``**`` too), one file of any suffix,
        an fsspec URL of any of these (``s3://``, ``gs://``, ``https://``, ``hf://`` …), a manifest (``.csv``,
        ``.parquet``, ``.jsonl``; see `raypipe.sources.manifest`), the folder of a LeRobot dataset, v2.0 to v3.x (see
        `raypipe.sources.episodes`), or a list of such sources. Hidden files and folders are left out; links to folders
        are followed, but never in a circle.
    camera
        The only camera of a LeRobot dataset that is wanted, or "all".

    Returns
    -------
    Videos
        In a folder: its files before its inner folders, numbers in names by their value; in a manifest: its rows.

    Raises
    ------
    SourceError
        If a source is not there, cannot be read or holds no video, or if two videos have one id.
    UsageError
        If it is something else, such as a table, or a camera is named that is not there.
    """
    names = _as_names(source)
    if not names:
        raise SourceError("no source given: name a folder, a glob, a video, a URL or a manifest")
    for name in names:
        if is_precomputed(name) or find_output(name) is not None:
            raise SourceError(f"{shown(name)} holds trajectories, not videos: it must be the only source of a run")
    return _find(names, camera)


def _find(names: list[str], camera: str) -> Videos:
    parts = [_find_one(name, camera) for name in names]
    found = parts[0] if len(parts) == 1 else Videos.concat(parts, names)
    _check_ids(found, names, [len(part) for part in parts])
    return found


def _as_names(source: Any) -> list[str]:
    sources = [source] if isinstance(source, str | os.PathLike) else source
    is_table = isinstance(source, Mapping) or hasattr(type(source), "columns")
    if is_table or isinstance(source, bytes) or not isinstance(sources, Iterable):
        what = ", not a table: write it as a .parquet manifest" if is_table else f", not {type(source).__name__}"
        raise UsageError(f"a source is a path, a URL, a list of these, or what find_videos returned{what}")
    names = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in sources]
    if (odd := [one for one in names if not isinstance(one, str)]) != []:
        raise UsageError(f"a list of sources holds paths and URLs, not {type(odd[0]).__name__}")
    if "" in names:
        raise UsageError("a source is a path or a URL, and this one is empty")
    return names


def _find_one(name: str, camera: str) -> Videos:
    if (dataset := open_lerobot(name)) is not None:
        episodes = find_episodes(dataset, camera)
        check_numbers(dataset, episodes)
        return episodes
    if camera != "all":
        raise UsageError(f"camera {camera}: {shown(name)} is no LeRobot dataset, and has no cameras to choose from")
    if names_file(name, MANIFEST_SUFFIXES):
        return read_manifest(name)
    if annotations := find_annotations(name):
        return read_annotations(annotations, name)
    if (tars := name_tars(name)) is not None:
        return read_tars(tars, name)
    found = read_texts(find_described(name), name)
    found.notes += tuple(_note_others(name, found))
    return found


def _note_others(name: str, found: Videos) -> Iterator[str]:
    """Yield what to say where a source that was taken for videos may have been meant for something else."""
    if names_file(name, _LISTS):
        yield f"{shown(name)} is taken for a video; a list of videos is a .csv, .jsonl or .parquet with a column path"
    elif is_http(name) and not suffix(name) and not name.endswith("/"):
        yield f"{shown(name)} is taken for a video; the URL of a folder ends with /"
    elif suffix(name) not in VIDEO_SUFFIXES or "*" in name:
        yield from _note_dataset(found)


def _note_dataset(found: Videos) -> Iterator[str]:
    """Yield what to say where files were found within a LeRobot dataset, which many episodes share."""
    uris = found.table["uri"]
    place = pc.index(pc.match_substring(uris, "/videos/"), True).as_py()
    if place < 0:
        return
    try:
        dataset = open_lerobot(uris[place].as_py().rpartition("/videos/")[0])
    except RaypipeError:  # It is not to be read as such here, so nothing needs to be right with it.
        return
    if dataset is not None:
        what = "is a LeRobot dataset, and its files are taken as they are: name it itself for its episodes"
        yield f"{dataset.name} {what}"


def _check_ids(videos: Videos, names: list[str], sizes: list[int]) -> None:
    if not videos.has_duplicate_ids():
        return
    first: dict[str, int] = {}
    for i, video in enumerate(videos):
        if (earlier := first.setdefault(video.video_id, i)) != i:
            raise SourceError(
                f"two videos with one id: {_place(earlier, videos, names, sizes)} and "
                f"{_place(i, videos, names, sizes)}; drop one, or give each its own id in a manifest"
            )


def _place(index: int, videos: Videos, names: list[str], sizes: list[int]) -> str:
    """Say where a video was listed, as someone looks for it: ``list.csv row 3 (/data/a.mp4)``."""
    part = next(part for part, end in enumerate(accumulate(sizes)) if index < end)
    file = shown_place(videos[index].uri)
    if not names_file(names[part], MANIFEST_SUFFIXES):
        return file
    return f"{shown(names[part])} row {index - sum(sizes[:part]) + 1} ({file})"
