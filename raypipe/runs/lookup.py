"""Single videos of a run, looked up without reading all of it into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote_from_bytes, unquote

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SourceError, UsageError
from raypipe.runs.contents import CLUSTERS_FILE, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.schema import OK
from raypipe.sources.lerobot import EPISODE
from raypipe.sources.videos import make_video_id
from raypipe.storage import canonical_uri, shown, split_member

WEB = ("file://", "http://", "https://")
"""What a URI begins with that a browser may follow, and whose name is escaped."""

_SHOWN = ["video_id", "uri", "group", "label", "caption"]


def find_id(run: Run, name: str) -> str | None:
    """Return the id of the video that an id, a URI, a path or the end of one names, or None if the run has none.

    An id is the run's ``video_id``, or the source's own that it was made of, as a manifest or LeRobot gives one. An
    end, such as the name that the report shows, counts only where neither the run nor this machine has it whole.

    Raises
    ------
    UsageError
        If the video is not ok, or if several videos are named: spans of one file, or files whose paths end alike.
    """
    ids, uris = [name], [name]
    with suppress(SourceError):
        uris.append(canonical_uri(name))
    with suppress(SourceError):
        ids.append(make_video_id(name))

    def is_named(table: pa.Table) -> Any:
        return pc.or_(*(pc.is_in(table[of], pa.array(some)) for of, some in (("video_id", ids), ("uri", uris))))

    found = _find_one(run, name, is_named)
    if found is None and name and not os.path.exists(name):  # noqa: PTH110 – Path.exists raises for a name too long
        plain, escaped = (f"/{end}" for end in (name.lstrip("/"), quote_from_bytes(os.fsencode(name.lstrip("/")))))
        found = _find_one(
            run, name, lambda table: pc.or_(pc.ends_with(table["uri"], plain), pc.ends_with(table["uri"], escaped))
        )
    return found


def _find_one(run: Run, name: str, is_named: Callable[[pa.Table], Any]) -> str | None:
    rows = []
    for table in _video_tables(run, with_episode(run, ["video_id", "uri", "group", "status", "error"])):
        rows += table.filter(is_named(table)).to_pylist()
    if len(rows) > 1:
        first = own_id(rows[0]) or rows[0]["video_id"]
        raise UsageError(
            f"{shown(name)} holds {len(rows)} videos of {run}: give one's id, such as {first}"
            if len({row["uri"] for row in rows}) == 1
            else f"{len(rows)} videos of {run} end in {shown(name)}: give more of one's path"
        )
    if rows and rows[0]["status"] != OK:
        raise UsageError(f"{shown(name)} has no clips in {run}: {rows[0]['error']}")
    return rows[0]["video_id"] if rows else None


def describe_videos(run: Run, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return ``video_id, uri, group, label, caption, cluster`` of some videos by id; one without a cluster has None.

    Of a LeRobot dataset they have their ``episode_index`` too.
    """
    wanted = pa.array(ids, pa.string())
    found: dict[str, dict[str, Any]] = {}
    for table in _video_tables(run, with_episode(run, _SHOWN)):
        for row in table.filter(pc.is_in(table["video_id"], value_set=wanted)).to_pylist():
            found[row["video_id"]] = {**row, "cluster": None}
    if run.exists(CLUSTERS_FILE):
        table = run.read_table(CLUSTERS_FILE, ["video_id", "cluster"])
        for row in table.filter(pc.is_in(table["video_id"], value_set=wanted)).to_pylist():
            found[row["video_id"]]["cluster"] = row["cluster"]
    return found


def _video_tables(run: Run, columns: list[str]) -> Iterator[pa.Table]:
    for group in range(run.n_groups(VIDEOS_FILE)):
        yield run.read_table(VIDEOS_FILE, columns, group)


def name_of(uri: str) -> str:
    """Return the last part of a URI, a readable name for the video."""
    return split_uri(uri)[1] or uri


def with_episode(run: Run, columns: Sequence[str]) -> list[str]:
    """Return columns of ``videos.parquet`` with the number of the episode, if it has one: see `own_id`."""
    return [*columns, *column_of_episodes(run.read_parquet(VIDEOS_FILE, lambda file: file.schema_arrow))]


def column_of_episodes(schema: pa.Schema) -> list[str]:
    """Return the name of the column that LeRobot's episodes have their numbers in; nothing where there is none.

    A manifest's column of that name may be of any type, for some of which Arrow cannot choose rows.
    """
    return [EPISODE] if EPISODE in schema.names and schema.field(EPISODE).type == pa.int64() else []


def own_id(video: Mapping[str, Any]) -> str | None:
    """Return the id that a LeRobot dataset gives a video, ``episode/camera``, which `find_id` takes; None for others.

    ``video`` has ``video_id`` and ``group``, and ``episode_index`` if its run does.
    """
    name = f"{video.get(EPISODE)}/{video['group']}"
    return name if make_video_id(name) == video["video_id"] else None


def name_part(video: Mapping[str, Any], origin_s: float, span_s: float | None, is_shared: bool) -> str:
    """Return a readable name for a video: of one in a shared file its own id, or its part of it."""
    if not is_shared:
        return name_of(video["uri"])
    return own_id(video) or name_of(video["uri"]) + say_part(origin_s, span_s)


def say_part(origin_s: float, span_s: float | None) -> str:
    """Return what follows the name of a file for a part of it; nothing where its length is not known."""
    return f" [{origin_s:g}–{origin_s + span_s:g} s]" if span_s else ""


def split_uri(uri: str) -> tuple[str, str]:
    """Return a URI's folder and name in readable form: web and file URLs without query and escapes.

    The keys of object stores have neither and are left alone. A fragment belongs to the name, because it tells apart
    the videos of a file that holds several.
    """
    if (member := split_member(uri)) is not None:
        folder, _, name = member.name.rpartition("/")
        return "/".join(filter(None, ("/".join(split_uri(member.archive)), folder))), name
    if not uri.startswith(WEB):
        folder, _, name = uri.rpartition("/")
        return folder, name
    path, mark, fragment = uri.partition("#")
    folder, _, name = path.partition("?")[0].rpartition("/")
    return unquote(folder, errors="backslashreplace"), unquote(name + mark + fragment, errors="backslashreplace")
