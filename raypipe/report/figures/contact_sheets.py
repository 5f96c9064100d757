"""Contact sheets: a cluster's most central videos over time and its farthest, or a grid of random ones."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raypipe.errors import RaypipeError
from raypipe.progress import counted, end_of_path, is_path
from raypipe.report.facts import Cluster, Facts, Member
from raypipe.report.style import INK, MUTED, color_of, encode_png, ink_on
from raypipe.runs.frames import Pictures
from raypipe.schema import Frames

FramesOf = Callable[[str, np.ndarray, int], Frames]

PICTURE = 192
"""Side in pixels of a decoded picture, and of a thumbnail at most."""
TILE = 144
"""Side in pixels of a picture on a sheet, and on the page at most."""
_GAP, _MARGIN, _SIDE, _HEAD, _CAPTION = 4, 20, 210, 64, 22
_LINES, _LINE = 3, 18  # Lines of a caption in the grid, and the height of one.
_SAMPLE_LINES = 6  # Several captions of one video are worth more room.
_EMPTY, _RULE = "#E9EBEF", "#D5D9E0"


@dataclass(frozen=True)
class Filmstrip:
    """A video's pictures at about equal fractions of its length.

    Attributes
    ----------
    member
        The video.
    pictures
        The picture at each time, (side, side, 3) uint8 RGB, or None if it is missing.
    times_s
        The time of each picture, in seconds of the file; for a missing picture the requested time.
    note
        Why pictures are missing; empty if none is missing.
    """

    member: Member
    pictures: tuple[np.ndarray | None, ...]
    times_s: tuple[float, ...]
    note: str = ""

    @property
    def poster(self) -> np.ndarray | None:
        """The picture nearest to the middle of the video, or None if there is no picture."""
        middle = len(self.pictures) // 2
        there = [i for i, picture in enumerate(self.pictures) if picture is not None]
        return self.pictures[min(there, key=lambda i: abs(i - middle))] if there else None

    @cached_property
    def tiles(self) -> list[Image.Image | None]:
        """The pictures, `TILE` pixels a side."""
        return [None if picture is None else _resize(picture, TILE) for picture in self.pictures]

    @property
    def thumbnail(self) -> bytes | None:
        """The poster as JPEG."""
        return None if self.poster is None else _encode(Image.fromarray(self.poster), "JPEG", quality=85)


def middles_of(member: Member, n: int) -> np.ndarray:
    """Return the times of the middles of ``n`` equal parts of a video: (n,), none if its length is not known."""
    return member.origin_s + (member.span_s or 0.0) * (np.arange(n if member.span_s else 0) + 0.5) / n


def times_in_span(member: Member) -> np.ndarray:
    """Return four times in the part of an outlier that is odd, evenly spread: (4,), or (0,) if no part is known."""
    if member.odd_s is None:
        return np.empty(0)
    start_s, end_s = member.odd_s
    return start_s + (end_s - start_s) * (np.arange(4) + 0.5) / 4


def show_span(kept: Pictures | None, times_s: np.ndarray) -> bytes | None:
    """Return a JPEG of the kept pictures nearest to some times: four in a square, else one; None if there are none."""
    if kept is None or not len(times_s):
        return None
    pictures = [_cut_square(jpeg) for jpeg in kept.nearest_to(times_s).jpegs]
    if len(pictures) < 4:
        return _encode(Image.fromarray(pictures[len(pictures) // 2]), "JPEG", quality=85)
    square = Image.new("RGB", (2 * TILE, 2 * TILE), _EMPTY)
    for i, picture in enumerate(pictures):
        square.paste(_resize(picture, TILE), (i % 2 * TILE, i // 2 * TILE))
    return _encode(square, "JPEG", quality=78)


def join_kept(member: Member, kept: Pictures) -> Filmstrip:
    """Make a strip of the pictures that the run has kept of a video; of a short video it may have few."""
    return Filmstrip(member, tuple(map(_cut_square, kept.jpegs)), tuple(kept.times_s.tolist()))


def decode_filmstrip(member: Member, frames_of: FramesOf, n_frames: int) -> Filmstrip:
    """Decode a video at the middles of ``n_frames`` equal parts of its span; an error becomes the strip's note."""
    asked = middles_of(member, n_frames)
    if not len(asked):
        return Filmstrip(member, (None,) * n_frames, (math.nan,) * n_frames, "the video's length is not known")
    try:
        frames = frames_of(member.uri, asked, PICTURE)
    except RaypipeError as error:
        return Filmstrip(member, (None,) * n_frames, tuple(asked.tolist()), str(error))
    pictures: list[np.ndarray | None] = [None] * n_frames
    times = asked.tolist()
    for picture, time_s, index in zip(frames.pixels, frames.times_s, frames.requested, strict=True):
        pictures[index], times[index] = picture, float(time_s)
    missing = "" if all(picture is not None for picture in pictures) else "the decoder returned no picture"
    # A video of fewer frames than are asked for has each once.
    once = [i for i in range(n_frames) if not i or pictures[i] is None or times[i] != times[i - 1]]
    strip = tuple(pictures[i] for i in once), tuple(times[i] for i in once)
    return Filmstrip(member, *strip, missing and (frames.error or missing))


def draw_sheet(facts: Facts, cluster: Cluster, central: Sequence[Filmstrip], farthest: Filmstrip | None) -> bytes:
    """Draw a cluster's contact sheet as a PNG, with a row for each video and time from left to right."""
    strips = [*central, farthest] if farthest else list(central)
    n_frames = max(len(strip.pictures) for strip in strips)
    row_height = TILE + _CAPTION
    width = 2 * _MARGIN + _SIDE + n_frames * (TILE + _GAP) - _GAP
    height = 2 * _MARGIN + _HEAD + len(strips) * row_height + (_GAP + _CAPTION if farthest else 0)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    _draw_head(draw, facts, cluster, width)
    y = _MARGIN + _HEAD
    for strip in central:
        _draw_row(sheet, draw, strip, y)
        y += row_height
    if farthest:
        draw.line([(_MARGIN, y + _GAP // 2), (width - _MARGIN, y + _GAP // 2)], fill=_RULE, width=1)
        draw.text((_MARGIN, y + _GAP + 3), "The farthest from the center", font=_font(13, bold=True), fill=MUTED)
        _draw_row(sheet, draw, farthest, y + _GAP + _CAPTION)
    return encode_png(np.asarray(sheet))


def draw_grid(facts: Facts, cluster: Cluster, strips: Sequence[Filmstrip]) -> bytes:
    """Draw videos of a cluster as a grid: the picture in the middle of each, and its caption, or else its name."""

    def draw_head(draw: ImageDraw.ImageDraw, width: int) -> None:
        _draw_head(draw, facts, cluster, width)

    return _draw_cells(strips, draw_head, _LINES)


def draw_samples(title: str, strips: Sequence[Filmstrip]) -> bytes:
    """Draw videos of a source as a grid: the picture in the middle of each, and below it what the source says of it."""

    def draw_head(draw: ImageDraw.ImageDraw, width: int) -> None:
        text = _wrap(title, _font(17, bold=True), width - 2 * _MARGIN, lines=2)
        draw.multiline_text((_MARGIN, _MARGIN - 1), text, font=_font(17, bold=True), fill=INK, spacing=4)

    return _draw_cells(strips, draw_head, _SAMPLE_LINES, with_names=True)


def _draw_cells(
    strips: Sequence[Filmstrip],
    draw_head: Callable[[ImageDraw.ImageDraw, int], None],
    lines: int,
    with_names: bool = False,
) -> bytes:
    """Draw a grid below a head: posters, and at most so many lines of each caption, with or without a line above."""
    columns = max(3, math.ceil(math.sqrt(len(strips))))
    cell, text_width = PICTURE + 2 * _GAP, PICTURE
    row_height = PICTURE + (lines + with_names) * _LINE + 4 * _GAP
    width = 2 * _MARGIN + columns * cell - 2 * _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _HEAD + math.ceil(len(strips) / columns) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    draw_head(draw, width)
    for i, strip in enumerate(strips):
        x, y = _MARGIN + i % columns * cell, _MARGIN + _HEAD + i // columns * row_height
        if strip.poster is None:
            draw.rectangle([x, y, x + PICTURE - 1, y + PICTURE - 1], fill=_EMPTY)
            reason = _wrap(f"No picture: {strip.note}", _font(12), PICTURE - 20, lines=9)
            draw.multiline_text((x + 10, y + 9), reason, font=_font(12), fill=MUTED, spacing=4)
        else:
            sheet.paste(_resize(strip.poster, PICTURE), (x, y))
        y += PICTURE + _GAP
        member = strip.member
        if with_names:
            facts = " · ".join(filter(None, (member.name, member.group, member.label)))
            draw.text((x, y), _wrap(facts, _font(12), text_width, lines=1), font=_font(12), fill=MUTED)
            y += _LINE
        caption = member.caption or ("" if with_names else member.name)
        text = _wrap(caption, _font(12), text_width, lines=lines)
        draw.multiline_text((x, y), text, font=_font(12), fill=INK, spacing=3)
    return encode_png(np.asarray(sheet))


def join_pictures(strip: Filmstrip, tile: int) -> bytes | None:
    """Return the strip's pictures side by side as one JPEG, ``tile`` pixels high, or None if there are none."""
    if strip.poster is None:
        return None
    joined = Image.new("RGB", (tile * len(strip.pictures), tile), _EMPTY)
    for i, picture in enumerate(strip.tiles):
        if picture is not None:
            smaller = picture if tile == TILE else picture.resize((tile, tile), Image.Resampling.LANCZOS)
            joined.paste(smaller, (i * tile, 0))
    return _encode(joined, "JPEG", quality=78)


def _draw_head(draw: ImageDraw.ImageDraw, facts: Facts, cluster: Cluster, width: int) -> None:
    color, font = color_of(cluster.number), _font(22, bold=True)
    number = cluster.short_name
    chip = max(font.getlength(number) + 20, 38)
    draw.rounded_rectangle([_MARGIN, _MARGIN, _MARGIN + chip, _MARGIN + 38], radius=9, fill=color)
    draw.text((_MARGIN + chip / 2, _MARGIN + 19), number, font=font, fill=ink_on(color), anchor="mm")
    x = _MARGIN + chip + 14
    title = f"{cluster.title}: {counted(len(cluster), 'video')}"
    draw.text((x, _MARGIN - 1), title, font=_font(17, bold=True), fill=INK)
    text = " · ".join(f"{name} ({count:,})" for name, count in cluster.mix(facts.mix_column)[:12])
    line = _wrap(text, _font(13), width - x - _MARGIN, lines=1)
    draw.text((x, _MARGIN + 22), line, font=_font(13), fill=MUTED)


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, strip: Filmstrip, y: int) -> None:
    member = strip.member
    name = _wrap(member.name, _font(13, bold=True), _SIDE - 16, lines=3)
    draw.multiline_text((_MARGIN, y + 2), name, font=_font(13, bold=True), fill=INK, spacing=3)
    below = y + 8 + 18 * (name.count("\n") + 1)
    facts = [_cut(text, _font(12), _SIDE - 16) for text in (member.label or member.group,) if text]
    facts += [] if math.isnan(member.distance) else [f"distance {member.distance:.3g}"]
    facts += ["outlier"] if member.outlier else []
    draw.multiline_text((_MARGIN, below), "\n".join(facts), font=_font(12), fill=MUTED, spacing=4)
    for i, tile in enumerate(strip.tiles):
        if tile is not None:
            sheet.paste(tile, (_tile_x(i), y))
            draw.text((_tile_x(i) + 2, y + TILE + 3), f"{strip.times_s[i]:.2f} s", font=_font(11), fill=MUTED)
    for first, past in _gaps(strip.pictures):
        left, right = _tile_x(first), _tile_x(past) - _GAP - 1
        draw.rectangle([left, y, right, y + TILE - 1], fill=_EMPTY)
        reason = _wrap(f"No picture: {strip.note}", _font(12), right - left - 20, lines=7)
        draw.multiline_text((left + 10, y + 9), reason, font=_font(12), fill=MUTED, spacing=4)


def _tile_x(i: int) -> int:
    return _MARGIN + _SIDE + i * (TILE + _GAP)


def _gaps(pictures: Sequence[np.ndarray | None]) -> list[tuple[int, int]]:
    """Return the runs of missing pictures, each as its first index and its last index + 1."""
    gaps = []
    for missing, run in groupby(range(len(pictures)), key=lambda i: pictures[i] is None):
        indices = list(run)
        if missing:
            gaps.append((indices[0], indices[-1] + 1))
    return gaps


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Keep of a text what fits into a line: its beginning, or the end of a path."""
    if not is_path(text) or font.getlength(text) <= width:
        return _wrap(text, font, width, lines=1)
    return end_of_path(text, 1 + _longest_prefix(text[::-1], font, width - font.getlength("…")))


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, lines: int) -> str:
    """Break a text into lines of ``width`` pixels, if necessary within words; after ``lines`` lines cut it off."""
    rest = " ".join(text.split())
    broken: list[str] = []
    while rest and len(broken) < lines:
        fits = _longest_prefix(rest, font, width)
        if fits < len(rest) and len(broken) == lines - 1:
            fits = _longest_prefix(rest, font, width - font.getlength("…"))
            return "\n".join([*broken, f"{rest[:fits].rstrip()}…"])
        if fits < len(rest):
            # Names break after a separator if that leaves the line at least half full.
            gap = max(rest.rfind(separator, 0, fits) for separator in " _-/.")
            fits = gap + 1 if gap >= fits // 2 else fits
        broken.append(rest[:fits].rstrip())
        rest = rest[fits:].lstrip()
    return "\n".join(broken)


def _longest_prefix(text: str, font: ImageFont.FreeTypeFont, width: float) -> int:
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # Matplotlib brings this font with it, so a sheet looks the same on every machine.
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def _cut_square(jpeg: bytes) -> np.ndarray:
    """Return the middle of a kept picture, `PICTURE` pixels a side at most."""
    with Image.open(io.BytesIO(jpeg)) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
    return np.asarray(square if side <= PICTURE else square.resize((PICTURE, PICTURE), Image.Resampling.LANCZOS))


def _resize(picture: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(picture)).resize((side, side), Image.Resampling.LANCZOS)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()
