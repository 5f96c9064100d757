"""A run's results in the forms that other tools read. Nothing of the videos, or of the run's own files, is changed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import UsageError, check_type
from raypipe.progress import counted
from raypipe.report.exporting.naming import free_name
from raypipe.runs.accounting import free_names
from raypipe.runs.clips import iter_clip_paths, read_origins
from raypipe.runs.comparison import check_embedded
from raypipe.runs.contents import CLUSTERS_FILE, EMBEDDINGS_FOLDER, EXPORTS_FOLDER, PLAN_FILE, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.lookup import name_of
from raypipe.runs.results import read_reasons
from raypipe.runs.run_version import of_one_clustering
from raypipe.schema import CLUSTERS, inert
from raypipe.sources.columns import to_objects
from raypipe.sources.files import VIDEO_SUFFIXES
from raypipe.storage import local_path, shown, suffix

FORMS = ("lerobot", "fiftyone", "npz", "csv", "links")

_BATCH = 10_000  # So many rows at a time are Python objects.
_FOUND = ["cluster", "distance", "outlier_score", "outlier", "x", "y"]
_TOLD = [*_FOUND, "from_s", "to_s", "reason", "odd_from_s", "odd_to_s"]


def export(
    run: Run, to: str, output: str | Path | None = None, *, keep: int | None = None, dry_run: bool = False
) -> list[str]:
    """Write a run's results in a form that other tools read.

    Parameters
    ----------
    run
        A clustered run; for "npz" an embedded one.
    to
        "lerobot", "fiftyone", "npz", "csv" or "links".
    output
        A folder or URL to write to; by default ``exports/`` and the form's name in the run directory. For "fiftyone" it
        is the name of the dataset.
    keep
        With "lerobot": the cluster whose episodes the edited dataset shall have; None for all but the outliers.
    dry_run
        With "links": say what would be linked, and write nothing.

    Returns
    -------
    Lines that say what was written, and of "lerobot" the command that edits the dataset.

    Raises
    ------
    UsageError
        If the form is unknown, the run is not clustered or embedded, or the output cannot be of that form.
    """
    check_type("run", run, Run, "what embed_videos returns, or Run.open(...)")
    check_type("output", output, (str, os.PathLike, type(None)))
    output = None if output is None else os.fspath(output)
    if to not in FORMS:
        raise UsageError(f"unknown form {to!r}; choose one of: {', '.join(FORMS)}")
    if keep is not None and to != "lerobot":
        raise UsageError("--keep goes with --to lerobot")
    if dry_run and to != "links":
        raise UsageError("--dry-run goes with --to links")
    if to != "npz" and not run.exists(CLUSTERS_FILE):
        raise UsageError(f"{run} is not clustered: run raypipe cluster {run} first")
    if to == "npz" and not run.files(EMBEDDINGS_FOLDER, ".parquet"):
        raise UsageError(f"{run} has no embeddings to export: run raypipe embed SOURCE -o {run}")
    check_embedded(run)
    with of_one_clustering(run):
        return _write(run, to, output, keep, dry_run)


def _write(run: Run, to: str, output: str | None, keep: int | None, dry_run: bool) -> list[str]:
    if to == "fiftyone":
        from raypipe.report.exporting.fiftyone import write_samples

        return write_samples(run, output)
    place = Run(output or f"{run.url.rstrip('/')}/{EXPORTS_FOLDER}/{to}")
    path = local_path(place.url)
    if path is not None and Path(path).is_file():
        raise UsageError(f"{place} is a file: name a folder by -o")
    if to == "links":
        from raypipe.report.exporting.links import write_links

        return write_links(run, place, dry_run)
    if to == "lerobot":
        from raypipe.report.exporting.lerobot_edits import write_edits

        return write_edits(run, place, keep)
    return _write_npz(run, place) if to == "npz" else _write_csv(run, place)


def _write_npz(run: Run, place: Run) -> list[str]:
    """Write a file a video: ``embeddings`` (n_clips, dim), and ``frame_indexes`` (n_clips,) int64.

    ``video_id`` and ``uri`` (texts, 0-d) say whose they are: the videos that one file holds have one name. A
    frame's index is counted from the video's first frame, at the container's frame rate: that of each clip's first
    frame. Where the rate is not known, it is the clip's number.
    """
    videos = run.read_table(VIDEOS_FILE, ["video_id", "uri", "fps"])
    rows = zip(*(videos[name].to_pylist() for name in videos.column_names), strict=True)
    taken: set[str] = set()
    known = {video_id: (free_name(f"{_stem(uri)}.npz", taken), uri, fps) for video_id, uri, fps in rows}
    origins = read_origins(run)
    n = 0
    for clips in iter_clip_paths(run):
        name, uri, fps = known[clips.video_id]
        times_s = clips.start_s - origins[clips.video_id]
        indexes = np.rint(times_s * fps).astype(np.int64) if fps else np.arange(len(times_s))
        sink = io.BytesIO()
        np.savez(sink, video_id=clips.video_id, uri=uri, embeddings=clips.values, frame_indexes=indexes)
        place.write_bytes(name, sink.getvalue())
        n += 1
    return [f"wrote {counted(n, 'file')} of embeddings and frame_indexes to {shown(place.place())}"]


def _stem(uri: str) -> str:
    """Return a video's name, without the suffix of a video; what else follows a dot may be its camera or its id."""
    name = name_of(uri)
    stem = name.rpartition(".")[0]
    return stem if stem and suffix(name) in VIDEO_SUFFIXES else name


def _write_csv(run: Run, place: Run) -> list[str]:
    """Write ``videos.csv``: a row a found video, all that is known of it, its cluster and why it is odd."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    n = 0
    for table in _iter_results(run):
        if n == 0:
            writer.writerow([inert(name) for name in table.column_names])
        writers = [_cell_writer(field.type) for field in table.schema]
        for row in zip(*map(to_objects, table.columns), strict=True):
            writer.writerow(["" if v is None else write(v) for write, v in zip(writers, row, strict=True)])
        n += table.num_rows
    place.write_bytes("videos.csv", sink.getvalue().encode("utf-8", "backslashreplace"))
    return [f"wrote {counted(n, 'row')} to {shown(place.place('videos.csv'))}"]


def _iter_results(run: Run) -> Iterator[pa.Table]:
    """Yield all that a clustered run knows of each video, some thousand rows at a time, in source order.

    The columns are those of ``videos.parquet``, then ``from_s, to_s``, where the video lies in its file, ``cluster,
    distance, outlier_score, outlier, x, y`` of ``clusters.parquet``, and ``reason, odd_from_s, odd_to_s`` of
    ``outliers.csv``; null where there is nothing to tell. A column of the source that is called like one of these has
    ``source_`` before its name.
    """
    clusters = run.read_table(CLUSTERS_FILE, ["video_id", *_FOUND])
    ids = clusters["video_id"].combine_chunks()
    plan = run.read_table(PLAN_FILE, ["video_id", "origin_s", "span_s"])
    planned = plan["video_id"].combine_chunks()
    reasons = read_reasons(run)
    for group in range(run.n_groups(VIDEOS_FILE)):
        whole = run.read_table(VIDEOS_FILE, group=group)
        for start in range(0, whole.num_rows, _BATCH):
            table = whole.slice(start, _BATCH)
            table = table.rename_columns(free_names(table.column_names, _TOLD, "source_"))
            place = pc.index_in(table["video_id"], value_set=planned)
            from_s, span_s = (plan[name].take(place) for name in ("origin_s", "span_s"))
            table = table.append_column("from_s", from_s).append_column("to_s", pc.add(from_s, span_s))
            place = pc.index_in(table["video_id"], value_set=ids)
            for name in _FOUND:
                table = table.append_column(CLUSTERS.field(name), clusters[name].take(place))
            said = [reasons.get(video_id, (None, None, None)) for video_id in table["video_id"].to_pylist()]
            for i, (name, kind) in enumerate(
                (("reason", pa.string()), ("odd_from_s", pa.float64()), ("odd_to_s", pa.float64()))
            ):
                table = table.append_column(name, pa.array([each[i] for each in said], kind))
            yield table


def _cell_writer(kind: pa.DataType) -> Callable[[Any], str]:
    """Return what writes a type's values as cells: text that no spreadsheet runs, numbers in full, others as JSON."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return inert
    if pa.types.is_boolean(kind):
        return lambda value: str(value).lower()
    if pa.types.is_floating(kind):
        return lambda value: repr(value) if np.isfinite(value) else ""
    if pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
        return lambda value: inert(value if isinstance(value, str) else json.dumps(value, default=str))
    return lambda value: inert(str(value)) if not isinstance(value, int) else str(value)
