"""The poster of a run: frames laid on a grid by their place on the map, as a picture of any size or for deep zoom."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raypipe.errors import RaypipeError, UsageError
from raypipe.progress import Advance, Progress, counted
from raypipe.report.posters.canvas import Canvas
from raypipe.report.posters.poster_layout import PosterForm, PosterLayout, lay_out
from raypipe.report.posters.viewer import describe_poster, render_viewer
from raypipe.runs.contents import CLUSTERS_FILE, POSTER_FACTS_FILE, POSTER_FILE
from raypipe.runs.directory import Run
from raypipe.runs.frames import FrameIndex, fetch_frames
from raypipe.runs.lookup import describe_videos
from raypipe.schema import Frames
from raypipe.storage import shown

OriginalsOf = Callable[[str, np.ndarray, int], Frames]

SUFFIXES = (".png", ".jpg", ".jpeg", ".dzi")
_GROUND = (23, 25, 30)
_STEM = POSTER_FILE.partition(".")[0]
_BYTES_AT_ONCE = 32 << 20  # A request's frames are held three times: by the child, between, and here.
_PICTURES_AT_ONCE = 512  # Small pictures, of some 5 KB


@dataclass
class _Lacking:
    """The frames that the originals did not give, as rows of the layout, and why those of each video were lost."""

    rows: list[int] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def write_poster(run: Run, output: str | None, form: PosterForm, frames_of: OriginalsOf, progress: Progress) -> str:
    """Write a poster of a run.

    Parameters
    ----------
    run
        A clustered run that has ``frames/``.
    output
        A path or URL that ends with ``.png``, ``.jpg`` or ``.dzi``; None for ``poster.png`` in the run directory.
        Beside ``NAME.dzi`` come its tiles, ``NAME_files/``, and ``NAME.html``, which shows them. A poster of the run
        directory's own, ``poster.*``, is described by ``poster.json``, by which the served page shows it.
    form
        What it shall show, and how large.
    frames_of
        A function ``(uri, times_s (n,) float64 ascending, side) -> Frames`` of whole frames, squashed to squares; for
        ``form.originals``.
    progress
        Where progress is shown, and what could not be decoded.

    Returns
    -------
    Where the poster lies; of a deep-zoom pyramid the page.

    Raises
    ------
    UsageError
        If the output has another suffix, or the run is not clustered, or as `lay_out` does.
    RaypipeError
        If it cannot be written.
    """
    place, name = _split_output(run, output)
    if not run.exists(CLUSTERS_FILE):
        raise UsageError(f"{run} has no map, as it is not clustered: run raypipe cluster {run}")
    clustered = run.read_table(CLUSTERS_FILE, ["video_id"])["video_id"].to_pylist()
    layout = lay_out(run, form)
    n = len(layout.frames)
    progress.say(
        f"{n:,} of {layout.n_found:,} frames on {layout.columns} × {layout.rows} tiles of "
        f"{layout.tile[0]} × {layout.tile[1]}: {layout.width:,} × {layout.height:,} px"
    )
    videos = describe_videos(run, sorted({layout.frames.video_ids[i] for i in np.unique(layout.frames.video)}))
    with place.scratch() as folder:
        made = folder / f"poster{Path(name).suffix.lower()}"
        with Canvas(folder, layout.width, layout.height, _GROUND) as canvas:
            with progress.count("frames", n, "frames") as advance:
                small: Sequence[int] = range(n)
                if form.originals:
                    lost = _paste_originals(run, layout, videos, frames_of, canvas, advance)
                    small = lost.rows
                _paste_kept(run, layout, small, canvas, advance)
            if form.originals and lost.rows:
                progress.say(_tell(lost, n))
            progress.say("encoding")
            canvas.encode(made)
        facts = describe_poster(name, layout, videos, {video_id: row for row, video_id in enumerate(clustered)})
        stem = facts["name"]
        if made.suffix == ".dzi":
            place.put(f"{stem}_files", made.with_name("poster_files"))
            place.write_bytes(f"{stem}.html", render_viewer(facts).encode())
        place.put(name, made)
        if place.path() == run.path() and stem == _STEM:
            run.write_json(POSTER_FACTS_FILE, facts)  # By it the served page shows the run's own poster.
        return place.place(f"{stem}.html" if made.suffix == ".dzi" else name)


def _split_output(run: Run, output: str | None) -> tuple[Run, str]:
    """Return the folder of the output and its name there."""
    folder, slash, name = (output or f"{run.url.rstrip('/')}/{POSTER_FILE}").rpartition("/")
    if not name.lower().endswith(SUFFIXES) or name.lower() in SUFFIXES:
        raise UsageError(f"{shown(output or '')}: a poster is a file whose name ends with {', '.join(SUFFIXES)}")
    return Run(folder or slash or "."), name


def _paste_originals(
    run: Run,
    layout: PosterLayout,
    videos: dict[str, dict[str, Any]],
    frames_of: OriginalsOf,
    canvas: Canvas,
    advance: Advance,
) -> _Lacking:
    """Paste frames of the videos, decoded at the size of a picture; return those that cannot be had.

    Decoders give whole frames only as squares, squashed. A frame's own shape is that of its small picture.
    """
    frames, lost = layout.frames, _Lacking()
    shapes = _read_shapes(run, layout)
    for rows in _by_video(frames):
        video = int(frames.video[rows[0]])
        uri, side = videos[frames.video_ids[video]]["uri"], max(_cover(shapes[video], layout.picture))
        at_once = max(1, _BYTES_AT_ONCE // (3 * side**2))
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            try:
                found = frames_of(uri, frames.time_s[some], side)
            except UsageError:
                raise
            except RaypipeError as error:
                lost.rows += some.tolist()
                lost.reasons.setdefault(uri, str(error))
                continue
            for pixels, index in zip(found.pixels, found.requested.tolist(), strict=True):
                picture = _fill(Image.fromarray(pixels), shapes[video], layout.picture)
                canvas.paste(picture, *layout.corner(some[index]))
            if len(missing := np.delete(some, found.requested)):
                lost.rows += missing.tolist()
                lost.reasons.setdefault(uri, found.error or "the decoder returned no picture")
            advance(len(some) - len(missing))
    return lost


def _by_video(frames: FrameIndex) -> list[np.ndarray]:
    """Return the rows of each video in order of time."""
    order = np.lexsort((frames.time_s, frames.video))
    return np.split(order, np.flatnonzero(np.diff(frames.video[order])) + 1)


def _read_shapes(run: Run, layout: PosterLayout) -> dict[int, float]:
    """Return the width of each video's frames over their height, as displayed, from one small picture of each."""
    firsts = np.array([rows[0] for rows in _by_video(layout.frames)])
    shapes = {}
    for row, jpeg in _iter_kept(run, layout.frames, firsts):
        with Image.open(io.BytesIO(jpeg)) as image:
            shapes[int(layout.frames.video[row])] = image.width / image.height
    return shapes


def _paste_kept(run: Run, layout: PosterLayout, rows: Sequence[int], canvas: Canvas, advance: Advance) -> None:
    """Paste small pictures of ``frames/``, scaled."""
    for row, jpeg in _iter_kept(run, layout.frames, np.array(rows, np.int64)):
        with Image.open(io.BytesIO(jpeg)) as image:
            picture = _fill(image.convert("RGB"), image.width / image.height, layout.picture)
        canvas.paste(picture, *layout.corner(row))
        advance(1)


def _iter_kept(run: Run, frames: FrameIndex, rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yield rows and their small pictures, in the order in which they lie in ``frames/``."""
    rows = rows[np.lexsort((frames.row[rows], frames.group[rows], frames.file[rows]))]
    for start in range(0, len(rows), _PICTURES_AT_ONCE):
        some = rows[start : start + _PICTURES_AT_ONCE]
        places = frames.take(some).places()
        jpegs = fetch_frames(run, places)
        yield from ((row, jpegs[place]) for row, place in zip(some.tolist(), places, strict=True))


def _cover(shape: float, size: tuple[int, int]) -> tuple[int, int]:
    """Return the least width and height of a picture of some shape that covers a size."""
    width, height = size
    return (max(width, round(height * shape)), height) if shape * height > width else (width, round(width / shape))


def _fill(image: Image.Image, shape: float, size: tuple[int, int]) -> np.ndarray:
    """Give a picture its shape, and return its middle, scaled to fill a size: (h, w, 3) uint8."""
    cover = _cover(shape, size)
    if image.size != cover:
        image = image.resize(cover, Image.Resampling.LANCZOS)
    left, top = (cover[0] - size[0]) // 2, (cover[1] - size[1]) // 2
    return np.asarray(image.crop((left, top, left + size[0], top + size[1])))


def _tell(lost: _Lacking, n: int) -> str:
    uri, reason = next(iter(lost.reasons.items()))
    n_videos = len(lost.reasons)
    reason = reason.removeprefix(f"{shown(uri)}: ")
    return (
        f"{len(lost.rows):,} of {n:,} frames, of {counted(n_videos, 'video')}, cannot be decoded from the "
        f"originals and show their small picture; the first: {shown(uri)}: {' '.join(reason.split())}"
    )
