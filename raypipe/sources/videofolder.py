"""Videos in folders beside tables of what they are about, as the ``videofolder`` of Hugging Face datasets has them.

A ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` lies in the folder or in one below, and names each video
by its path from there, in a column ``file_name`` or one that ends so. It is read as a manifest is, but which videos
there are, and in which order, the files say: a row without a file is no video.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SourceError
from raypipe.sources.files import VIDEO_SUFFIXES, find_files, have_suffix
from raypipe.sources.manifest import MANIFEST_SUFFIXES, read_manifest
from raypipe.sources.tar_names import TAR
from raypipe.sources.videos import Videos, make_video_id
from raypipe.sources.webdataset import take_tars
from raypipe.storage import shown_place, without_query

_TABLES = frozenset(MANIFEST_SUFFIXES)
_NAMES = tuple(f"/metadata{kind}" for kind in MANIFEST_SUFFIXES)


def find_described(source: str) -> Videos:
    """Find the videos of a file, folder or glob, or of the tars there, with what tables among the files say of them.

    A table that cannot be read is left out, and a note says why.
    """
    found = find_files(source, VIDEO_SUFFIXES | {TAR}, beside=_TABLES)
    is_table = have_suffix(found.table["uri"], _TABLES)
    if not is_table.any():
        return take_tars(found, source)
    files = found.take(np.flatnonzero(~is_table))
    files.n_ignored = found.n_ignored + int(is_table.sum())
    videos = take_tars(files, source)
    tables = [uri for uri in found.table["uri"].filter(is_table).to_pylist() if without_query(uri).endswith(_NAMES)]
    read, notes = [], []
    for name in tables:
        try:
            read.append(read_manifest(name, group_by_folder=False))
        except SourceError as error:
            notes.append(f"{shown_place(name)} is not read: {error}")
    try:
        described = _describe(videos, Videos.concat(read)) if read else videos
    except SourceError as error:  # The tables have columns that do not go together.
        described, read = videos, []
        notes.append(f"the tables {shown_place(tables[0])} and others are not read: {error}")
    described.n_ignored = videos.n_ignored - len(read)
    described.notes += tuple(notes)
    return described


def _describe(found: Videos, listed: Videos) -> Videos:
    """Return the videos that were found, with what the rows of tables say of them.

    Rows that name parts of one file are a video each, as in a manifest. Ids and groups are those of the files, unless
    there is a column ``group``: of several tables each may count its rows from 0.
    """
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, uri in enumerate(listed.table["uri"].to_pylist()):
        rows_of[uri].append(row)
    rows, of_file, n_unnamed = [], [], 0
    for i, uri in enumerate(found.table["uri"].to_pylist()):
        own = rows_of.pop(uri, [])
        n_unnamed += not own
        rows += own or [len(listed) + i]
        of_file += [i] * (len(own) or 1)
    joined = Videos.concat([listed, found]).take(rows)
    table, extra = joined.table, joined.extra
    spans = zip(*(table[name].to_pylist() for name in ("uri", "start_s", "end_s")), strict=True)
    ids = [make_video_id(*span) for span in spans]
    groups = pc.coalesce(table["group"], found.table["group"].take(pa.array(of_file)))
    named = pa.table([pa.chunked_array([ids]), table["uri"], groups, *table.columns[3:]], table.column_names)
    first = sorted({own_id: i for i, own_id in reversed(list(enumerate(ids)))}.values())
    described = Videos.from_tables([(named, extra)], extra.schema).take(first)
    first_lacking = shown_place(next(iter(rows_of), ""))
    told = {
        "videos that no table of metadata names": n_unnamed,
        "rows of metadata that name a video again, and are left out": len(ids) - len(first),
        f"files that metadata names and that are no videos here, as {first_lacking}": len(rows_of),
    }
    described.notes = (*found.notes, *listed.notes, *(f"{what}: {n:,}" for what, n in told.items() if n))
    return described
