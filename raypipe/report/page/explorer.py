"""The data of the page's explorer: what its map, table and panes show, as one compressed text for the page.

`raypipe.report.packing` joins its parts. Coordinates are 16 bits a number: a 65,535th of the map is finer than any
screen.
"""

from __future__ import annotations

import base64
import gzip
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, WebPImagePlugin  # noqa: F401 – saving as WebP would import all formats otherwise

from raypipe.clustering.parameters import constraint_of
from raypipe.errors import RaypipeError, message_of
from raypipe.report.facts import Cluster, Facts, Member, link_of
from raypipe.report.figures.contact_sheets import fit, join_tiles, middles_of
from raypipe.report.packing import join_texts, pack
from raypipe.report.strips import part_pictures
from raypipe.report.style import COLORS, color_of
from raypipe.runs.contents import CENTERS_FILE, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.runs.frames import read_frames
from raypipe.runs.results import iter_trajectories, path_column, read_model
from raypipe.sources.lerobot import EPISODE, whole_numbers

# So many videos have pictures in the page at most, and fewer where these bytes do not hold them: a strip has some 4 KB.
MAX_STRIPS, FILM_BYTES = 1000, 5_000_000
STRIP_PICTURES, STRIP_SIDE = 8, 64
MAX_REDUCED = 4_000_000  # Bytes of reduced paths: 10,000 videos of 16 steps in 12 dimensions.
MAX_CENTERS = 200_000  # Numbers in all centers, which are text.
Arrays = dict[str, np.ndarray | bytes]
NAMED = 3  # So many central and odd videos of each cluster have buttons.
_OWN = {"video_id", "uri", "group", "label", "caption", "duration_s", "status", "error_stage", "error"}


def write_data(run: Run, facts: Facts, paths: Mapping[str, np.ndarray], centers: Mapping[int, np.ndarray]) -> str:
    """Return the explorer's data as base64 of gzip, the same for the same run.

    Parameters
    ----------
    run
        A clustered run.
    facts
        Its facts; a video's number in the page is its place among their members.
    paths
        The path of each ``video_id`` on the map, (n_steps, 2).
    centers
        The path of each cluster on the map, by its number.
    """
    header, arrays = _describe(facts, centers)
    _add_columns(run, facts, header, arrays)
    flat = [np.asarray(paths.get(m.video_id, np.empty((0, 2))), np.float64) for m in facts.members]
    arrays["starts"], arrays["points"], header["pointBox"] = _join_paths(flat, 2)
    _add_reduced(run, facts, header, arrays)
    _add_film(run, facts, arrays)
    _add_lerobot(run, facts, header, arrays)
    return base64.b64encode(gzip.compress(pack(header, arrays), 6, mtime=0)).decode()


def _describe(facts: Facts, centers: Mapping[int, np.ndarray]) -> tuple[dict[str, Any], Arrays]:
    members = facts.members
    row_of = {member.video_id: row for row, member in enumerate(members)}
    clusters = [_cluster(cluster, facts, row_of, centers) for cluster in facts.clusters_and_noise]
    has_videos = any(member.has_video for member in members)
    header: dict[str, Any] = {"clusters": clusters, "palette": list(COLORS), "hasVideos": has_videos}
    odd = [m.odd_s or (math.nan, math.nan) for m in members]
    arrays: Arrays = {
        "names": join_texts(m.name for m in members),
        "ids": join_texts(m.video_id for m in members),
        "uris": join_texts(m.uri for m in members),
        "links": join_texts(link_of(m.uri) for m in members),
        "captions": join_texts(m.caption for m in members),
        "reasons": join_texts(m.reason for m in members),
        "cluster": np.array([m.cluster for m in members], np.int16),
        "outlier": np.array([m.outlier for m in members], np.uint8),
        "origin": _floats(m.origin_s for m in members),
        "span": _floats(math.nan if m.span_s is None else m.span_s for m in members),
        "oddStart": _floats(start for start, _ in odd),
        "oddEnd": _floats(end for _, end in odd),
    }
    return header, arrays


def _cluster(
    cluster: Cluster, facts: Facts, row_of: Mapping[str, int], centers: Mapping[int, np.ndarray]
) -> dict[str, Any]:
    central = [] if cluster.is_noise else cluster.members[:NAMED]
    path = centers.get(cluster.number, np.empty((0, 2)))
    return {
        "number": cluster.number,
        "color": color_of(cluster.number),
        "path": _as_text(path),
        "central": [row_of[m.video_id] for m in central],
        "odd": [row_of[m.video_id] for m in _oddest(cluster, facts)],
    }


def _as_text(path: np.ndarray) -> list[float]:
    """Return a path's numbers for JSON, without the steps of NaN behind the end of a shorter center."""
    return [float(f"{value:.6g}") for value in path[~np.isnan(path).any(axis=1)].ravel()]


def _oddest(cluster: Cluster, facts: Facts) -> list[Member]:
    known = [m for m in cluster.members if math.isfinite(m.oddness(facts.outliers_by))]
    return sorted(known, key=lambda m: -m.oddness(facts.outliers_by))[:NAMED]


def _add_columns(run: Run, facts: Facts, header: dict[str, Any], arrays: Arrays) -> None:
    """Add what the videos can be coloured, sorted and searched by: our own figures, and the manifest's columns.

    The lists are plain, because an Arrow array of a list would import pandas.
    """
    columns: list[dict[str, Any]] = []

    def add_numbers(name: str, title: str, values: Iterable[float | None]) -> None:
        array = f"column {name}"
        arrays[array] = _floats(math.nan if value is None else value for value in values)
        if np.isfinite(arrays[array]).any():
            columns.append({"name": name, "title": title, "kind": "number", "array": array})

    def add_texts(name: str, texts: Sequence[Any]) -> None:
        distinct = list(dict.fromkeys(str(text) for text in texts if text not in (None, "")))
        code = {text: number + 1 for number, text in enumerate(distinct)}
        if distinct:
            codes = [code.get(str(text), 0) for text in texts]
            arrays[f"column {name}"] = np.array(codes, np.uint16 if len(distinct) < 65536 else np.uint32)
            told = {"name": name, "title": name, "kind": "text", "values": distinct, "array": f"column {name}"}
            columns.append(told)

    members = facts.members
    add_texts("group", [m.group for m in members])
    add_texts("label", [m.label for m in members])
    add_numbers("distance", "distance", (m.distance for m in members))
    add_numbers("outlier_score", "outlier score", (m.outlier_score for m in members))
    add_numbers("duration_s", "seconds", (m.span_s for m in members))
    videos = run.read_table(VIDEOS_FILE)
    row_of = {video_id: row for row, video_id in enumerate(videos["video_id"].to_pylist())}
    for name in videos.column_names:
        kind = videos.schema.field(name).type
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
        if name in _OWN or not (is_number or is_text):
            continue
        column = videos[name].to_pylist()
        values = [column[row_of[member.video_id]] for member in members]
        if len(set(values)) < 2:  # What all videos share tells none from another.
            continue
        if is_number:
            add_numbers(name, name, values)
        else:
            add_texts(name, values)
    header["columns"] = columns


def _add_reduced(run: Run, facts: Facts, header: dict[str, Any], arrays: Arrays) -> None:
    """Add the paths that were clustered and their centers, if soft-DTW clustered them, for their alignment."""
    gamma = facts.metrics.get("gamma")
    if gamma is None or facts.is_pooled or not run.exists(CENTERS_FILE) or path_column(run) != "reduced":
        return
    model = read_model(run)
    if constraint_of(model.config.cluster):  # The page aligns without bounds.
        return
    centers = model.centers
    found: dict[str, np.ndarray] = {}
    for part in iter_trajectories(run, "reduced"):
        found.update(zip(part.video_ids, part.values, strict=True))
    dim = centers.shape[2]
    values = [np.asarray(found.get(m.video_id, np.empty((0, dim))), np.float64) for m in facts.members]
    fits = 2 * sum(each.size for each in values) <= MAX_REDUCED and centers.size <= MAX_CENTERS
    if not fits or any(each.shape[1] != dim for each in values):
        return
    arrays["reducedStarts"], arrays["reduced"], header["reducedBox"] = _join_paths(values, dim)
    header |= {"dim": dim, "gamma": float(gamma)}
    header["centers"] = [_as_text(center) for center in centers]


def _add_film(run: Run, facts: Facts, arrays: Arrays) -> None:
    """Add film strips of the videos that matter most, and of others evenly, as WebP."""
    shown = _choose_film(facts)
    kept = read_frames(run, {m.video_id: middles_of(m, STRIP_PICTURES) for m in shown if m.span_s})
    film: list[bytes] = []
    aspects: list[float] = []
    times: list[np.ndarray] = []
    row_of = {member.video_id: row for row, member in enumerate(facts.members)}
    strip_of = np.full(len(facts.members), -1, np.int16)
    for member in shown:
        pictures = kept.get(member.video_id)
        if pictures is None or not len(pictures.jpegs):
            continue
        strip, aspect = _encode_film(pictures.jpegs)
        if sum(map(len, film)) + len(strip) > FILM_BYTES:
            break
        strip_of[row_of[member.video_id]] = len(film)
        film.append(strip)
        aspects.append(aspect)
        times.append(pictures.times_s)
    arrays["stripOf"] = strip_of
    arrays["film"] = np.frombuffer(b"".join(film), np.uint8)
    arrays["filmAspect"] = np.array(aspects, np.float32)
    arrays["filmStarts"] = _starts([len(each) for each in film])
    arrays["filmTimes"] = np.concatenate([np.empty(0), *times]).astype(np.float32)
    arrays["filmTimeStarts"] = _starts([len(each) for each in times])


def _choose_film(facts: Facts) -> list[Member]:
    """Choose at most `MAX_STRIPS` videos: each cluster's most central and oddest, outliers, then others evenly."""
    first = [m for c in facts.clusters_and_noise for m in (*c.members[:NAMED], *_oddest(c, facts))]
    chosen = {m.video_id: m for m in (*first, *facts.outliers[: MAX_STRIPS // 4])}
    others = [m for m in facts.members if m.video_id not in chosen]
    room = max(min(MAX_STRIPS - len(chosen), len(others)), 0)
    even = [others[i] for i in np.linspace(0, len(others) - 1, room).astype(int)] if room else []
    return [*chosen.values(), *even][:MAX_STRIPS]


def _encode_film(jpegs: Sequence[bytes]) -> tuple[bytes, float]:
    """Return a strip of pictures as WebP, and the width of one over its height."""
    joined = join_tiles([_open_small(jpeg) for jpeg in jpegs], columns=len(jpegs))
    part_pictures(joined, joined.width // len(jpegs))
    sink = io.BytesIO()
    joined.save(sink, "WEBP", quality=62, method=2)
    return sink.getvalue(), joined.width / len(jpegs) / joined.height


def _open_small(jpeg: bytes) -> Image.Image:
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (STRIP_SIDE, STRIP_SIDE))  # A JPEG can be decoded at a half or a quarter of its size.
        return fit(image, STRIP_SIDE, Image.Resampling.BILINEAR)


def _add_lerobot(run: Run, facts: Facts, header: dict[str, Any], arrays: Arrays) -> None:
    """Add each video's episode and the command that edits their dataset, or why there is none, if they are of one."""
    if EPISODE not in run.column_names(VIDEOS_FILE):
        return
    videos = run.read_table(VIDEOS_FILE, ["video_id", "uri", EPISODE])
    # It imports what a report of other videos does not need.
    from raypipe.report.exporting.lerobot_edits import edit_command

    try:
        command, notes = edit_command(run, videos["uri"])
        numbers = whole_numbers(videos, EPISODE).tolist()
    except RaypipeError as error:  # Such as a dataset that is not where it was: the other exports need none of it.
        header["lerobot"] = {"problem": message_of(error)}
        return
    header["lerobot"] = {"flags": command, "notes": notes}
    episodes = dict(zip(videos["video_id"].to_pylist(), numbers, strict=True))
    # As float64 they may be as large as what was recorded at a time, such as 20261130194300.
    arrays["episodes"] = np.array([episodes.get(member.video_id, -1) for member in facts.members], np.float64)


def _join_paths(paths: Sequence[np.ndarray], dim: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Join paths, (n_steps, dim) each: where each starts, all steps as 16 bits a number, and their box."""
    steps = np.concatenate([np.empty((0, dim)), *paths])
    low = steps.min(axis=0) if len(steps) else np.zeros(dim)
    scale = float((steps - low).max() / 65535) if len(steps) else 0.0
    whole = np.rint((steps - low) / (scale or 1.0)).astype(np.uint16)
    return _starts([len(path) for path in paths]), whole.ravel(), {"origin": low.tolist(), "scale": scale}


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.uint32)


def _floats(values: Any) -> np.ndarray:
    return np.array(list(values), np.float32)
