"""MSR-VTT, and what is written as it is: videos with captions, categories and splits in JSON, the files beside it.

Three forms are read. ``train_val_videodatainfo.json`` and ``test_videodatainfo.json`` (the challenge's, and
``MSRVTT_data.json``) are an object with ``videos`` and ``sentences``; ``MSR_VTT.json`` (as CLIP4Clip and Frozen in Time
take it) one with ``images`` and ``annotations``; and ``msrvtt_train_7k.json`` and its like (the Hub's) a list of videos
with a ``caption`` or several, or with a ``label`` (Something-Something).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raypipe.errors import SourceError
from raypipe.ranges import read_range
from raypipe.sources.captions import join_captions
from raypipe.sources.columns import plain, to_columns, writable
from raypipe.sources.files import VIDEO_SUFFIXES, find_files, has_wildcard, list_folder, unquoted
from raypipe.sources.precomputed import holds_records
from raypipe.sources.videos import Videos, make_video_id, tabulate
from raypipe.storage import canonical_uri, failure, open_file, shown, suffix

_FILES = re.compile(r"(.*videodatainfo|msr[-_]?vtt).*\.jsonl?", re.IGNORECASE)
_FOLDERS = re.compile(r"annotations?|.*_annotation", re.IGNORECASE)
_SPLITS = (("train", "train"), ("val", "validate"), ("test", "test"))
_NAMES = ("video_id", "video", "file", "image_id", "id")
_CAPTIONS = ("caption", "captions", "sentences")
_CONSUMED = {"split", *_CAPTIONS}

CATEGORIES = (
    "music", "people", "gaming", "sports/actions", "news/events/politics", "education", "tv shows", "movie/comedy",
    "animation", "vehicles/autos", "howto", "travel", "science/technology", "animals/pets", "kids/family",
    "documentary", "food/drink", "cooking", "beauty/fashion", "advertisement",
)  # fmt: skip
"""What MSR-VTT's numbers of categories stand for (its ``category.txt``)."""


@dataclass
class _Record:
    """What the files say of a video."""

    stem: str
    split: str | None
    captions: list[str] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)


def find_annotations(source: str) -> list[str]:
    """Return the JSON files with captions that a source means: one, or those of a folder; none if it means others."""
    if suffix(source) == ".json":
        return [source] if holds_records(source) else []
    if has_wildcard(source):
        return []
    folders = [source, *list_folder(source, _FOLDERS).values()]
    found = [path for folder in folders for path in list_folder(folder, _FILES).values()]
    return [path for path in found if holds_records(path) and not _is_manifest(path)]


def _is_manifest(path: str) -> bool:
    """Return whether a ``.jsonl`` that lies beside videos is a manifest of raypipe's, by the keys of its first line."""
    if suffix(path) != ".jsonl":
        return False
    line = read_range(path, 0, 4096).partition(b"\n")[0]
    return bool(re.search(rb'"(uri|path)"\s*:', line)) and not re.search(rb'"(video|video_id)"\s*:', line)


def read_annotations(files: Sequence[str], source: str) -> Videos:
    """Find the videos that JSON files describe, beside these files or below, by their names without suffix.

    Returns
    -------
    In the order of the files. The group is the split, the label the category's name or else ``label``, and the caption
    all captions in one; ``captions`` has them as a list, and the other values of a video are columns too. Videos whose
    files are missing are left out, and a note says how many.

    Raises
    ------
    SourceError
        If a file is of no form that is known, or none of its videos is there.
    """
    by_file = [list(_read_records(name)) for name in files]
    paths = {path for each in by_file for _, record in each if (path := _path_of(record))}
    names = Counter(path.rpartition("/")[2] for path in paths if "/" in path)
    ambiguous = {name for name, n in names.items() if n > 1}
    records: dict[str, _Record] = {}
    for each in by_file:
        _merge(records, each, ambiguous)
    folders = _folders_to_search(files, source)
    found = (_find_below(records, folder) for folder in folders)
    there, n_ignored = next(filter(None, found), ({}, 0))
    missing = [record for stem, record in records.items() if stem not in there]
    if len(missing) == len(records):
        first = missing[0].stem if missing else "nothing"
        raise SourceError(
            f"none of the {len(records):,} videos of {shown(files[0])} is there: looked for {shown(first)} with a "
            f"video's suffix in {' and '.join(map(shown, folders))} and below"
        )
    chosen = {there[stem]: record for stem, record in records.items() if stem in there}
    videos = _to_videos(chosen, _read_categories(files))
    videos.n_ignored = n_ignored
    if missing:
        splits = Counter(record.split or "no split" for record in missing)
        told = ", ".join(f"{split} ({n:,})" for split, n in splits.items())
        n, first = f"{len(missing):,} of {len(records):,}", shown(missing[0].stem)
        videos.notes = (f"missing videos: {n} (the first: {first}); by split: {told}",)
    return videos


def _find_below(stems: Collection[str], folder: str) -> tuple[dict[str, str], int] | None:
    """Return the URIs of the videos of some stems below a folder, and the number of other files; None if none is there.

    A stem may name folders before the file's own name.
    """
    try:
        found = find_files(folder)
    except SourceError:  # It holds no video, or cannot be listed: then all videos are missing, which the caller says.
        return None
    depths = sorted({stem.count("/") for stem in stems}, reverse=True)
    there: dict[str, str] = {}
    for uri in reversed(found.table["uri"].to_pylist()):
        if (stem := next((own for depth in depths if (own := _stem(uri, depth)) in stems), None)) is not None:
            there[stem] = uri
    return (there, found.n_ignored + len(found) - len(there)) if there else None


def _folders_to_search(files: Sequence[str], source: str) -> list[str]:
    """Return where the videos may lie: in the source, or else in the folder above that of the annotations."""
    if suffix(source) != ".json":
        return [source]
    beside = canonical_uri(files[0]).rpartition("/")[0]
    return [beside, beside.rpartition("/")[0]]


def _stem(uri: str, depth: int = 0) -> str:
    """Return the name of a file without its suffix, behind so many of the folders that it lies in."""
    *folders, name = uri.rsplit("/", depth + 1)[-depth - 1 :]
    return unquoted("/".join([*folders, name.rpartition(".")[0] or name]), uri)


def _read_records(name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the split that the file's name tells, and each record of a video or of one of its captions."""
    with open_file(name) as file:
        data = file.read()
    try:
        content = _parse(data.decode(json.detect_encoding(data), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise failure("read", name, error) from error
    if isinstance(content, dict):
        lists = [content.get(key) for key in ("videos", "images", "sentences", "annotations")]
        records = [record for each in lists if isinstance(each, list) for record in each]
    else:
        records = content
    if not records or not all(isinstance(record, dict) for record in records):
        raise SourceError(
            f"{shown(name)} has neither videos and sentences, nor images and annotations, nor is it a list of videos "
            "with captions"
        )
    stem = _stem(name).lower()
    split = next((split for mark, split in _SPLITS if mark in stem and "train_val" not in stem), "")
    for number, record in enumerate(records):
        if _path_of(record) is None:
            raise SourceError(
                f"{shown(name)}: record {number} names no video: none of {', '.join(_NAMES)} is a text; "
                "a list of paths is a .jsonl, an object with path a line"
            )
        yield split, record


def _parse(text: str) -> Any:
    """Return what JSON says; of JSON Lines, a list of what each line says."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return [json.loads(line) for line in text.split("\n") if line.strip()]


def _path_of(record: Mapping[str, Any]) -> str | None:
    """Return the name of a record's video without a suffix, with the folders that it names."""
    text = next((record[key] for key in _NAMES if isinstance(record.get(key), str) and record[key]), None)
    if text is None:
        return None
    path = posixpath.normpath(text).lstrip("/")
    return path.rpartition(".")[0] if suffix(path) in VIDEO_SUFFIXES else path


def _merge(
    records: dict[str, _Record], found: Iterable[tuple[str, Mapping[str, Any]]], ambiguous: Container[str]
) -> None:
    """Add a file's records to those of the files before; what they have said of a video stays.

    A video is known by its name, wherever it lies, but those of one name by their folders too.
    """
    known = {stem: set(record.captions) for stem, record in records.items()}
    for split, told in found:
        path = _path_of(told) or ""
        name = path.rpartition("/")[2]
        stem = path if name in ambiguous else name
        own = told.get("split")
        record = records.setdefault(stem, _Record(stem, None))
        record.split = record.split or (writable(str(own)) if own else split or None)
        for key in _CAPTIONS:
            values = told.get(key)
            texts = values if isinstance(values, list) else [values]
            # Several people may have said the same of a video; the same in a further file is a copy.
            told_texts = (writable(text) for text in texts if isinstance(text, str))
            record.captions += [text for text in told_texts if text not in known.get(stem, ())]
        if "sen_id" not in told and "image_id" not in told:
            record.columns = {key: plain(value) for key, value in told.items() if key not in _CONSUMED} | record.columns


def _read_categories(files: Sequence[str]) -> Mapping[str, str]:
    """Return the name of each category, by its number; a ``category.txt`` beside the annotations comes first."""
    for folder in dict.fromkeys(canonical_uri(name).rpartition("/")[0] for name in files):
        path = list_folder(folder).get("category.txt")
        if path is not None:
            with open_file(path) as file:
                lines = file.read().decode(errors="replace").splitlines()
            pairs = [line.rsplit(None, 1) for line in lines if line.strip()]
            return {pair[1]: pair[0].strip() for pair in pairs if len(pair) == 2}
    return {str(number): name for number, name in enumerate(CATEGORIES)}


def _to_videos(records: Mapping[str, _Record], categories: Mapping[str, str]) -> Videos:
    rows = []
    for uri, record in records.items():
        number = record.columns.get("category")
        name = record.columns.pop("label", None) if number is None else categories.get(str(number), number)
        label = None if name is None else writable(str(name)) or None
        rows.append((make_video_id(record.stem), uri, record.split, label, join_captions(record.captions), None, None))
    columns = to_columns([record.columns for record in records.values()])
    captions = pa.array([record.captions for record in records.values()], pa.list_(pa.string()))
    extra = pa.table({**columns, "captions": captions})
    return Videos.from_tables([(tabulate(rows), extra)], extra.schema)
