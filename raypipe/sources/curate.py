"""What Cosmos Curate and NeMo Curator have made of videos: the embeddings of clips, as trajectories of the videos.

Under the output folder the embeddings lie in ``*_embd*_parquet/`` (``id`` and ``embedding``), and what each clip is in
``metas/v0/*.json`` or ``metas_jsonl/v0/*.jsonl``: its video (``source_video``), its span there in seconds
(``duration_span``), and the captions of its windows. ``cds_parquet/`` has both in one table, but no spans. Written by
Cosmos Curate 1.3 and 1.4 (``metadata_writer_stage.py``) and NeMo Curator 1.3 (``clip_writer.py``). Pickles are not
opened.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SourceError
from raypipe.ranges import read_parquet
from raypipe.sources.captions import join_captions, window_captions
from raypipe.sources.columns import as_rows, is_unicode
from raypipe.sources.files import VIDEO_SUFFIXES, has_wildcard, list_folder, map_files, path_order
from raypipe.sources.precomputed import Precomputed
from raypipe.sources.videos import Video, Videos, make_video_id
from raypipe.storage import canonical_uri, is_transient, open_file, shown, suffix

_EMBEDDINGS = re.compile(r".+_embd(_.+)?_parquet")
_PICKLES, _LANCE = re.compile(r".+_embd(_[^_]+)?"), re.compile(r"clips\.lance|.+_embd(_.+)?_lance")
_CDS = "cds_parquet"
_FOLDERS = re.compile(r"clips\.lance|.+_embd(_.+)?|cds_parquet|metas|metas_jsonl")
"""The folders of an output that matter here."""
_METAS = (("metas", ".json"), ("metas_jsonl", ".jsonl"))


class _Output(NamedTuple):
    """An output folder, and the folder in it whose embeddings are taken."""

    root: str
    embeddings: str


@dataclass(frozen=True, slots=True)
class _Clip:
    """What the metadata says of a clip; one whose span is not known has None."""

    source: str
    span_s: tuple[float, float] | None
    caption: str | None
    is_valid: bool = True


class _Embedded(NamedTuple):
    """The rows of a file of embeddings: ids, (n, dim) float32 or float64, and the ``$meta`` of each, if it has them."""

    ids: list[str]
    values: np.ndarray
    metas: list[str | None] | None


def find_output(source: str) -> _Output | None:
    """Return the embeddings that a source means: an output folder, or one of embeddings in it; else None.

    Raises
    ------
    SourceError
        If the folder has several, or only such as are not read: in Lance or pickled.
    """
    if suffix(source) in VIDEO_SUFFIXES or has_wildcard(source):
        return None
    root, _, name = source.rstrip("/").rpartition("/")
    if name == "clips.lance":
        raise SourceError(_refuse_lance(source, name))
    if (_EMBEDDINGS.fullmatch(name) or name == _CDS) and _files(source, ".parquet"):
        return _Output(root or ("/" if source.startswith("/") else "."), source)
    entries = list_folder(source, _FOLDERS)
    found = [name for name in entries if _EMBEDDINGS.fullmatch(name)] or [name for name in entries if name == _CDS]
    if len(found) > 1:
        raise SourceError(
            f"{shown(source)} holds several kinds of embeddings, {', '.join(found)}: name one of these folders as the "
            f"source, such as {shown(entries[found[0]])}"
        )
    if found:
        return _Output(source.rstrip("/") or "/", entries[found[0]])
    for name in entries:
        if _LANCE.fullmatch(name):
            raise SourceError(_refuse_lance(source, name))
        if _PICKLES.fullmatch(name) and ("metas" in entries or "metas_jsonl" in entries):
            raise SourceError(
                f"{shown(source)} has its embeddings in {name} alone, as pickles, which can run code and are not "
                f"opened: embed its clips, by naming {shown(source.rstrip('/'))}/clips as the source"
            )
    return None


def _refuse_lance(source: str, name: str) -> str:
    return (
        f"{shown(source)}: {name} is a Lance table, which is not read: write its embeddings as Parquet with the "
        "columns id and embedding, or name the folder of its clips as the source"
    )


def _files(folder: str, kind: str) -> list[str]:
    """Return the files of a suffix directly in a folder, in order."""
    return [path for name, path in list_folder(folder).items() if suffix(name) == kind]


def read_output(output: _Output) -> tuple[Videos, Precomputed]:
    """Read the clips of each video, in order of time.

    Returns
    -------
    videos
        In the natural order of their paths. The id is Curate's own for the video, the uuid5 of its path; the caption is
        that of all its clips, and ``clips_left_out`` says how many clips were filtered out, or have no embedding or no
        span.
    paths
        The embeddings of each, and the span of each clip in seconds. A video of which no clip has both is empty.

    Raises
    ------
    SourceError
        If a table cannot be read or its embeddings have unlike lengths, or if nothing says what the clips are.
    """
    parts = [_read_table(path) for path in _files(output.embeddings, ".parquet")]
    values, row_of, n_twice = _gather(parts, output.embeddings)
    clips, problems = _read_metas(output.root)
    if all(clip.span_s is None for clip in clips.values()):
        clips = _read_cds(output, parts)
    if not clips:
        is_lance = "lance" in list_folder(output.root, re.compile("lance"))
        advice = "; its folder lance is not read: write its rows to metas_jsonl/v0/clips.jsonl" if is_lance else ""
        raise SourceError(
            f"nothing says which videos the clips of {shown(output.root)} come from: looked for metas/*/*.json, "
            f"metas_jsonl/*/*.jsonl and cds_parquet/*.parquet{advice}"
        )
    problems["embeddings that are there twice and count once"] = n_twice
    videos, found = _join(clips, row_of, values, problems)
    where = shown(output.embeddings)
    said = [f"{what}: {n:,}" for what, n in problems.items() if n]
    videos.notes = (f"clips from {where}: {sum(map(len, found.clips)):,} (of {len(videos):,} videos)", *said)
    return videos, found


def _join(
    clips: dict[str, _Clip], row_of: dict[str, int], values: np.ndarray, problems: Counter[str]
) -> tuple[Videos, Precomputed]:
    """Bring clips and embeddings together, a path a video.

    Where some clips have spans, the others cannot be put in their places, and are left out.
    """
    of_video: defaultdict[str, list[str]] = defaultdict(list)
    for clip_id, clip in clips.items():
        of_video[clip.source].append(clip_id)
    sources = sorted(of_video, key=path_order)
    is_timed = any(clip.span_s for clip in clips.values())
    videos, paths, spans = [], [], []
    reasons: dict[str, str] = {}
    for source, group in zip(sources, _to_groups(sources), strict=True):
        placed = [clip_id for clip_id in of_video[source] if clips[clip_id].span_s or not is_timed]
        missing = [clips[clip_id] for clip_id in placed if clip_id not in row_of]
        problems["clips that were filtered out, which leaves gaps"] += sum(not clip.is_valid for clip in missing)
        problems["clips without an embedding, which leaves gaps"] += sum(clip.is_valid for clip in missing)
        ordered, times_s = _order([clip_id for clip_id in placed if clip_id in row_of], clips, problems)
        n = len(of_video[source])
        caption = join_captions(text for clip_id in ordered if (text := clips[clip_id].caption))
        extra = {"clips_left_out": n - len(ordered)}
        videos.append(Video(make_video_id(source), _locate(source), group, caption=caption, extra=extra))
        if not ordered:
            reasons[videos[-1].video_id] = f"none of its {n} clips has an embedding and a duration_span"
        paths.append(values[[row_of[clip_id] for clip_id in ordered]])
        spans.append(times_s)
    problems["embeddings of no clip in the metadata"] = len(row_of.keys() - clips.keys())
    return Videos(videos), Precomputed(paths, spans, reasons)


def _to_groups(sources: Sequence[str]) -> list[str | None]:
    """Return the folder of each of some paths, below those that all of them lie in."""
    folders = [source.split("/")[:-1] for source in sources]
    n_common = 0
    while all(len(each) > n_common and each[n_common] == folders[0][n_common] for each in folders):
        n_common += 1
    return ["/".join(each[n_common:]) or None for each in folders]


def _order(ids: list[str], clips: dict[str, _Clip], problems: Counter[str]) -> tuple[list[str], np.ndarray]:
    """Return a video's clips in order of their middles, and their spans, (n, 2); of those with the same middle one.

    Where a span is not known, the clips follow one another as they came, each a second long.
    """
    spans = [clips[clip_id].span_s for clip_id in ids]
    known = np.array([span for span in spans if span is not None], np.float64).reshape(-1, 2)
    if not len(known):
        problems["clips without a span, which lie in their video as they came"] += len(ids)
        return ids, np.arange(len(ids))[:, None] + np.array([0.0, 1.0])
    _, order = np.unique(known.mean(axis=1), return_index=True)
    problems["clips left out, as another one of their video has the same middle"] += len(ids) - len(order)
    return [ids[i] for i in order], known[order]


def _locate(source: str) -> str:
    """Return the URI of a video, which need not be there: its embeddings are."""
    try:
        return canonical_uri(source)
    except SourceError:  # Its server's package is not installed.
        return source


def _read_table(path: str) -> _Embedded:
    def read(parquet: Any) -> pa.Table:
        names = parquet.schema_arrow.names
        if not {"id", "embedding"} <= set(names):
            raise SourceError(f"{shown(path)} has no columns id and embedding, but {shown(', '.join(names))}")
        table = parquet.read([name for name in ("id", "embedding", "$meta") if name in names])
        return table.set_column(table.column_names.index("id"), "id", table["id"].cast(pa.string()))

    table = read_parquet(path, read)
    table = table.filter(table["embedding"].is_valid())
    if isinstance(table.schema.field("embedding").type, pa.ListType | pa.LargeListType):  # An empty list is none.
        table = table.filter(pc.greater(pc.list_value_length(table["embedding"]), 0))
    if not table.num_rows:  # All clips of its video were filtered out; pandas gives such columns no type then.
        return _Embedded([], np.empty((0, 0), np.float32), [])
    values = as_rows(table["embedding"], f"{shown(path)}: embedding")
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)  # Curate computes in float32, and pandas writes its lists as doubles.
    exact = small if np.array_equal(small, values, equal_nan=True) else values
    metas = table["$meta"].to_pylist() if "$meta" in table.column_names else None
    return _Embedded(table["id"].to_pylist(), exact, metas)


def _gather(parts: Sequence[_Embedded], where: str) -> tuple[np.ndarray, dict[str, int], int]:
    """Return all embeddings, (n, dim), the row of each id, and how many ids came more than once."""
    dims = sorted({part.values.shape[1] for part in parts if len(part.ids)})
    if len(dims) != 1:
        told = "no embedding" if not dims else f"embeddings of {dims[0]} numbers and of {dims[-1]}"
        raise SourceError(f"{shown(where)} has {told}")
    values = np.concatenate([part.values for part in parts if len(part.ids)])
    ids = list(chain.from_iterable(part.ids for part in parts))
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        first = ids[int(np.argmin(finite))]
        raise SourceError(f"{shown(where)}: the embedding of clip {shown(first)} holds NaN or infinity")
    row_of = {clip_id: row for row, clip_id in enumerate(ids)}
    return values, row_of, len(ids) - len(row_of)


def _read_metas(root: str) -> tuple[dict[str, _Clip], Counter[str]]:
    """Return the clips that the metadata of an output folder tells of, by id, and what was wrong with it."""
    files = [
        path
        for folder, kind in _METAS
        for version in list_folder(f"{root}/{folder}").values()
        for path in _files(version, kind)
    ]
    clips: dict[str, _Clip] = {}
    problems: Counter[str] = Counter()
    for record in chain.from_iterable(map_files(_read_records, files)):
        clip = _to_clip(record)
        if clip is None or clip.span_s is None:
            problems["records of the metadata without span_uuid, source_video or duration_span"] += 1
        if clip is not None:
            clips[str(record["span_uuid"])] = clip
    return clips, problems


def _read_records(path: str) -> list[Any]:
    """Return the objects of a ``.json`` or ``.jsonl`` file; None for what is no JSON, or does not open."""
    try:
        with open_file(path) as file:
            data = file.read()
    except SourceError as error:
        if is_transient(error):
            raise
        return [None]
    texts = data.splitlines() if suffix(path) == ".jsonl" else [data]
    return list(_parse(texts))


def _parse(texts: Sequence[Any]) -> Iterator[Any]:
    """Yield what each text of JSON says, None if nothing; what is no text, as a struct of Parquet, stays as it is."""
    for text in texts:
        if not isinstance(text, bytes | str):
            yield text
            continue
        try:
            yield json.loads(text) if text and text.strip() else None
        except (ValueError, RecursionError):
            yield None


def _to_clip(record: Any) -> _Clip | None:
    """Return what a record says of a clip; None if it does not say which one, or of which video."""
    if not isinstance(record, dict) or not record.get("span_uuid"):
        return None
    if not isinstance(source := record.get("source_video"), str) or not is_unicode(source):
        return None
    caption = join_captions(window_captions(record))
    return _Clip(source, _to_span(record), caption, bool(record.get("valid", True)))


def _to_span(record: dict[str, Any]) -> tuple[float, float] | None:
    try:
        start_s, end_s = map(float, record["duration_span"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (start_s, end_s) if 0 <= start_s <= end_s < np.inf else None


def _read_cds(output: _Output, parts: Sequence[_Embedded]) -> dict[str, _Clip]:
    """Return the clips that ``cds_parquet`` tells of, by id, in its order; they have no spans."""
    if not any(part.metas for part in parts):
        parts = [_read_table(path) for path in _files(f"{output.root}/{_CDS}", ".parquet")]
    clips = {}
    for part in parts:
        for clip_id, meta in zip(part.ids, _parse(part.metas or []), strict=False):
            if isinstance(meta, dict) and isinstance(meta.get("source_video_location"), str):
                caption = meta.get("caption")
                clips[clip_id] = _Clip(
                    meta["source_video_location"], None, caption if isinstance(caption, str) else None
                )
    return clips
