"""WebDataset shards: tars whose files belong together by their names, read where they lie and never unpacked.

A sample's key is a file's name up to the first dot of its last part, and its field what follows (webdataset,
``tariterators.base_plus_ext``). Each field that is a video is one. ``txt`` beside it is its caption, ``cls`` its label,
and the keys of ``json`` are further columns, as are the columns of a Parquet file beside the shard with a column
``key`` (video2dataset). A text that is named as a video but for the suffix (``left.txt`` and ``left.mp4``) is that
video's alone. Where videos lie in a folder ``video`` and tars of the same names in a folder ``metas`` beside it, the
``json`` is looked for there too (Cosmos Curate's shards).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.errors import SourceError
from raypipe.ranges import read_parquet
from raypipe.sources.captions import join_captions, window_captions
from raypipe.sources.columns import UnlikeError, merge_fields, plain, to_columns, to_objects, writable
from raypipe.sources.files import VIDEO_SUFFIXES, have_suffix, map_files
from raypipe.sources.tar_names import TAR, Shard, Tars, pair_shards
from raypipe.sources.tars import read_tar
from raypipe.sources.videos import Videos, conform, make_video_id, tabulate
from raypipe.storage import TarMember, shown, suffix

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_TEXTS = ("json", "txt", "cls")
_MOST_NOTES = 5


@dataclass
class _Content:
    """What was found in a shard."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    extra: list[dict[str, Any]] = field(default_factory=list)
    n_others: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def count(self, what: str, name: str) -> None:
        """Count something that is left out, and remember the first."""
        self.counts[what] += 1
        self.first.setdefault(what, name)


def take_tars(found: Videos, source: str) -> Videos:
    """Return the videos among the files of a source that are videos or tars.

    Where there are no videos but in tars, they are these; else tars are files beside the videos, and ignored.
    """
    is_tar = have_suffix(found.table["uri"], frozenset((TAR,)))
    if not is_tar.any():
        return found
    tars = found.take(np.flatnonzero(is_tar)).table
    if is_tar.all():
        videos = read_tars(list(zip(tars["uri"].to_pylist(), tars["group"].to_pylist(), strict=True)), source)
        videos.n_ignored += found.n_ignored
        return videos
    videos = found.take(np.flatnonzero(~is_tar))
    videos.n_ignored = found.n_ignored + len(tars)
    first = shown(tars["uri"][0].as_py())
    videos.notes = (f"tars beside the videos that are not read: {len(tars):,} (the first: {first}); name them alone",)
    return videos


def read_tars(tars: Tars, source: str) -> Videos:
    """Find the videos in the tars of a source, by their headers alone.

    Raises
    ------
    SourceError
        If a tar cannot be read, or none holds a video.
    """
    shards = pair_shards(tars)
    parts = [_to_tables(content) for content in map_files(_read_shard, shards)]
    contents = [content for content, _, _ in parts]
    n_videos = sum(found.num_rows for _, found, _ in parts)
    if not n_videos:
        cut = next(chain.from_iterable(content.notes for content in contents), "")
        told = f" ({cut})" if cut else ""
        raise SourceError(
            f"no video in the {len(shards)} tars of {shown(source)}: looked for names with a video's suffix{told}"
        )
    extra = _common_schema([more.schema for _, _, more in parts])
    videos = Videos.from_tables(((found, conform(more, extra)) for _, found, more in parts if found.num_rows), extra)
    videos.n_ignored = sum(content.n_others for content in contents)
    videos.notes = tuple(_summarize(contents, n_videos))
    return videos


def _summarize(contents: Sequence[_Content], n_videos: int) -> Iterator[str]:
    yield f"videos in tars: {n_videos:,} (in {len(contents):,})"
    for each in sorted({what for content in contents for what in content.first}):
        n = sum(content.counts[each] for content in contents)
        first = next(content.first[each] for content in contents if each in content.first)
        yield f"{each}: {n:,} (the first: {first})"
    notes = list(chain.from_iterable(content.notes for content in contents))
    yield from notes[:_MOST_NOTES]
    if len(notes) > _MOST_NOTES:
        yield f"and the like of {len(notes) - _MOST_NOTES:,} more tars"


def _read_shard(shard: Shard) -> _Content:
    index = read_tar(shard.archive, _is_text)
    content = _Content(notes=index.notes)
    samples = _group_members(index.members, content)
    metas = _read_metas(shard, content)
    table = _read_table(shard, content)
    for key, fields in samples.items():
        videos = {name: member for name, member in fields.items() if suffix(f"x.{name}") in VIDEO_SUFFIXES}
        stems = dict.fromkeys(("", *(name.rpartition(".")[0] for name in videos)))
        names = {_text_of(stem, kind) for stem in stems for kind in _TEXTS}
        content.n_others += len(fields) - len(videos) - len(names & fields.keys())
        if not videos:
            content.count("samples without a video", f"{key} of {shown(shard.archive)}")
            continue
        for name, member in fields.items():
            if name not in names and _is_text(member.name):
                content.count("texts that have the name of no video, and are not read", member.name)
        common = table.pop(key.rpartition("/")[2], {}) | metas.get(key, {})
        texts = {stem: _take_texts(stem, fields, index.contents, content) for stem in stems}
        parsed = {stem: _parse(each.get("json"), key, content) for stem, each in texts.items()}
        group = key.rpartition("/")[0] or shard.group
        for name, member in videos.items():
            stem = name.rpartition(".")[0]
            columns = common | parsed[""] | parsed[stem]
            known = _take_known(columns, texts[""] | texts[stem])
            content.rows.append((make_video_id(member.uri), member.uri, group, *known, None, None))
            content.extra.append({**columns, "key": key})
    for key in samples if shard.metas is not None else ():
        if key not in metas:
            content.count("samples without metadata in the tar of metas", key)
    for key in table:
        content.count("rows without a video in the Parquet files beside the tars", key)
    return content


def _group_members(members: Iterable[TarMember], content: _Content) -> dict[str, dict[str, TarMember]]:
    """Return the files of each sample by field, by the sample's key."""
    samples: dict[str, dict[str, TarMember]] = {}
    for member in members:
        key, name = _split_name(member.name)
        if not name:
            content.n_others += 1
            continue
        fields = samples.setdefault(key, {})
        if name in fields:
            content.count(
                "files that bear the name of a later one in their tar, capitals aside, which counts", member.name
            )
        fields[name] = member
    return samples


def _take_texts(
    stem: str, fields: dict[str, TarMember], contents: dict[TarMember, bytes], content: _Content
) -> dict[str, bytes]:
    """Return the texts of a sample by kind: those of its videos of one stem, or under "" those of all its videos."""
    texts = {}
    for kind in _TEXTS:
        name = _text_of(stem, kind)
        if name in fields and fields[name] in contents:
            texts[kind] = contents[fields[name]]
        elif name in fields:
            content.count("texts that are too long to be read", fields[name].name)
    return texts


def _split_name(name: str) -> tuple[str, str]:
    """Return the key and the field of a file in a tar; both are empty if it belongs to no sample."""
    found = _NAME.fullmatch(name.removeprefix("./"))
    if found is None:
        return "", ""
    readable = found[1].encode(errors="surrogateescape").decode(errors="backslashreplace")
    return readable, found[2].lower()


def _text_of(stem: str, kind: str) -> str:
    """Return the field in which a text of this kind is looked for."""
    return f"{stem}.{kind}" if stem else kind


def _is_text(name: str) -> bool:
    return _split_name(name)[1].rpartition(".")[2] in _TEXTS


def _read_metas(shard: Shard, content: _Content) -> dict[str, dict[str, Any]]:
    """Return the metadata of each key that a tar of its own holds."""
    if shard.metas is None:
        return {}
    index = read_tar(shard.metas, _is_text)
    content.notes += index.notes
    found = {}
    for member, data in index.contents.items():
        key, name = _split_name(member.name)
        if name == "json":
            found[key] = _parse(data, key, content)
    return found


def _read_table(shard: Shard, content: _Content) -> dict[str, dict[str, Any]]:
    """Return the rows of the Parquet file beside a tar, by key."""

    def read(parquet: Any) -> list[dict[str, Any]] | None:
        names = parquet.schema_arrow.names
        if "key" not in names or len(set(names)) < len(names):
            return None
        columns = map(to_objects, parquet.read().columns)
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    if shard.table is None:
        return {}
    rows = read_parquet(shard.table, read)
    if rows is None:
        content.count("Parquet files beside tars that have no column key and are left out", shown(shard.table))
        return {}
    return {str(row["key"]): {name: plain(value) for name, value in row.items()} for row in rows}


def _parse(data: bytes | None, key: str, content: _Content) -> dict[str, Any]:
    """Return the columns of a sample's ``json``."""
    if data is None:
        return {}
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        content.count("samples whose json holds no object", key)
        return {}
    caption = found.pop("caption", None) or window_captions(found)
    if isinstance(caption, list):
        caption = join_captions(map(str, caption))
    if caption is not None:  # Where there is none, one of another file of the sample must stay.
        found["caption"] = caption
    return {name: plain(value) for name, value in found.items()}


def _take_known(columns: dict[str, Any], texts: dict[str, bytes]) -> tuple[str | None, str | None]:
    """Return a sample's label and caption, which are taken out of its columns unless there is a better one."""

    def take(name: str, kind: str) -> str | None:
        text, value = texts.get(kind, b"").decode(errors="replace").strip(), columns.get(name)
        if not text or value is None or str(value).strip() == text:
            columns.pop(name, None)
        return text or (None if value is None else writable(str(value)))

    return take("label", "cls"), take("caption", "txt")


def _to_tables(content: _Content) -> tuple[_Content, pa.Table, pa.Table]:
    """Turn the rows of a shard into tables, which take a tenth of the memory."""
    found, more = tabulate(content.rows), pa.table(to_columns(content.extra))
    content.rows, content.extra = [], []
    return content, found, more


def _common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    fields: dict[str, list[pa.Field]] = {}
    for schema in schemas:
        for each in schema:
            fields.setdefault(each.name, []).append(each)
    return pa.schema([_common_field(name, each) for name, each in fields.items()])


def _common_field(name: str, fields: Sequence[pa.Field]) -> pa.Field:
    try:
        return reduce(merge_fields, fields).with_nullable(True)
    except UnlikeError:
        return pa.field(name, pa.string())
