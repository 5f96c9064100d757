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
"""The longer side in pixels of a picture, and of a thumbnail, at most."""
TILE = 144
"""The longer side in pixels of a picture on a sheet, and on the page at most."""
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
        The picture at each time, (h, w, 3) uint8 RGB, `PICTURE` pixels a side at most, or None if it is missing.
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
        """The pictures, their longer side `TILE` pixels."""
        return [None if picture is None else _resize(picture, TILE) for picture in self.pictures]

    @property
    def tile_size(self) -> tuple[int, int]:
        """The width and height that has room for each of the tiles; a square if there are none."""
        sizes = [tile.size for tile in self.tiles if tile is not None] or [(TILE, TILE)]
        return max(width for width, _ in sizes), max(height for _, height in sizes)

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
    """Return a JPEG of the kept pictures nearest to some times: four, two by two, or one; None if there are none."""
    if kept is None or not len(times_s):
        return None
    pictures = [_open(jpeg) for jpeg in kept.nearest_to(times_s).jpegs]
    if len(pictures) < 4:
        return _encode(Image.fromarray(pictures[len(pictures) // 2]), "JPEG", quality=85)
    return _encode(join_tiles([_resize(picture, TILE) for picture in pictures], columns=2), "JPEG", quality=78)


def join_kept(member: Member, kept: Pictures) -> Filmstrip:
    """Make a strip of the pictures that the run has kept of a video; of a short video it may have few."""
    return Filmstrip(member, tuple(map(_open, kept.jpegs)), tuple(kept.times_s.tolist()))


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
    for square, time_s, index in zip(frames.pixels, frames.times_s, frames.requested.tolist(), strict=True):
        jpeg = frames.thumbnails.get(index)  # of the whole frame
        pictures[index], times[index] = square if jpeg is None else _open(jpeg), float(time_s)
    missing = "" if all(picture is not None for picture in pictures) else "the decoder returned no picture"
    # A video of fewer frames than are asked for has each once.
    once = [i for i in range(n_frames) if not i or pictures[i] is None or times[i] != times[i - 1]]
    strip = tuple(pictures[i] for i in once), tuple(times[i] for i in once)
    return Filmstrip(member, *strip, missing and (frames.error or missing))


def draw_sheet(facts: Facts, cluster: Cluster, central: Sequence[Filmstrip], farthest: Filmstrip | None) -> bytes:
    """Draw a cluster's contact sheet as a PNG, with a row for each video and time from left to right."""
    strips = [*central, farthest] if farthest else list(central)
    width = 2 * _MARGIN + _SIDE + max(len(strip.pictures) * _column_width(strip) for strip in strips) - _GAP
    heights = [_row_height(strip) for strip in strips]
    height = 2 * _MARGIN + _HEAD + sum(heights) + (_GAP + _CAPTION if farthest else 0)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    _draw_head(draw, facts, cluster, width)
    y = _MARGIN + _HEAD
    for strip, row_height in zip(central, heights, strict=False):
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
    posters = [None if strip.poster is None else _resize(strip.poster, PICTURE) for strip in strips]
    tallest = max((poster.height for poster in posters if poster), default=PICTURE)
    row_height = tallest + (lines + with_names) * _LINE + 4 * _GAP
    width = 2 * _MARGIN + columns * cell - 2 * _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _HEAD + math.ceil(len(strips) / columns) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    draw_head(draw, width)
    for i, (strip, poster) in enumerate(zip(strips, posters, strict=True)):
        x, y = _MARGIN + i % columns * cell, _MARGIN + _HEAD + i // columns * row_height
        if poster is None:
            draw.rectangle([x, y, x + PICTURE - 1, y + tallest - 1], fill=_EMPTY)
            reason = _wrap(f"No picture: {strip.note}", _font(12), PICTURE - 20, lines=max(1, (tallest - 18) // _LINE))
            draw.multiline_text((x + 10, y + 9), reason, font=_font(12), fill=MUTED, spacing=4)
        else:
            sheet.paste(poster, (x, y + tallest - poster.height))
        y += tallest + _GAP
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
    """Return the strip's pictures side by side as one JPEG, or None if there are none.

    All have the same room, of which the longer side is ``tile`` pixels.
    """
    if strip.poster is None:
        return None
    tiles = strip.tiles
    if tile != TILE:
        tiles = [None if each is None else _resize(np.asarray(each), tile) for each in tiles]
    return _encode(join_tiles(tiles, columns=len(tiles)), "JPEG", quality=78)


def join_tiles(tiles: Sequence[Image.Image | None], columns: int) -> Image.Image:
    """Put pictures side by side, so many in a row, each in the middle of a room that is as large for all."""
    width, height = (max(tile.size[side] for tile in tiles if tile is not None) for side in (0, 1))
    joined = Image.new("RGB", (width * columns, height * math.ceil(len(tiles) / columns)), _EMPTY)
    for i, tile in enumerate(tiles):
        if tile is not None:
            x, y = i % columns * width, i // columns * height
            joined.paste(tile, (x + (width - tile.width) // 2, y + (height - tile.height) // 2))
    return joined


def _draw_head(draw: ImageDraw.ImageDraw, facts: Facts, cluster: Cluster, width: int) -> None:
    color, font = color_of(cluster.number), _font(22, bold=True)
    number = cluster.short_name
    chip = max(font.getlength(number) + 20, 38)
    draw.rounded_rectangle([_MARGIN, _MARGIN, _MARGIN + chip, _MARGIN + 38], radius=9, fill=color)
    draw.text((_MARGIN + chip / 2, _MARGIN + 19), number, font=font, fill=ink_on(color), anchor="mm")
    x = _MARGIN + chip + 14
    title = f"{cluster.title}: {counted(len(cluster), facts.noun)}"
    draw.text((x, _MARGIN - 1), title, font=_font(17, bold=True), fill=INK)
    text = " · ".join(f"{name} ({count:,})" for name, count in cluster.mix(facts.mix_column)[:12])
    line = _wrap(text, _font(13), width - x - _MARGIN, lines=1)
    draw.text((x, _MARGIN + 22), line, font=_font(13), fill=MUTED)


def _row_height(strip: Filmstrip) -> int:
    """Return the height of a video's row on a sheet, of its pictures and their times, or of what stands beside them."""
    name, facts = _texts_beside(strip.member)
    text_height = 8 + 18 * (name.count("\n") + 1) + 17 * len(facts) + _GAP
    return max(strip.tile_size[1] + _CAPTION, text_height)


def _column_width(strip: Filmstrip) -> int:
    """Return how far apart a video's pictures stand on a sheet: their times fit below them, however narrow they are."""
    widest = max(_font(11).getlength(f"{time_s:.2f} s") for time_s in strip.times_s)
    return max(strip.tile_size[0], math.ceil(widest) + 2) + _GAP


def _texts_beside(member: Member) -> tuple[str, list[str]]:
    """Return what stands beside a video's pictures: its name, in lines, and facts, a line each."""
    name = _wrap(member.name, _font(13, bold=True), _SIDE - 16, lines=3)
    facts = [_cut(text, _font(12), _SIDE - 16) for text in (member.label or member.group,) if text]
    facts += [] if math.isnan(member.distance) else [f"distance {member.distance:.3g}"]
    return name, [*facts, *(["outlier"] if member.outlier else [])]


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, strip: Filmstrip, y: int) -> None:
    name, facts = _texts_beside(strip.member)
    draw.multiline_text((_MARGIN, y + 2), name, font=_font(13, bold=True), fill=INK, spacing=3)
    below = y + 8 + 18 * (name.count("\n") + 1)
    draw.multiline_text((_MARGIN, below), "\n".join(facts), font=_font(12), fill=MUTED, spacing=4)
    height, column = strip.tile_size[1], _column_width(strip)
    x_of = [_MARGIN + _SIDE + i * column for i in range(len(strip.tiles) + 1)]
    for x, tile, time_s in zip(x_of, strip.tiles, strip.times_s, strict=False):
        if tile is not None:
            sheet.paste(tile, (x, y + (height - tile.height) // 2))
            draw.text((x + 2, y + height + 3), f"{time_s:.2f} s", font=_font(11), fill=MUTED)
    for first, past in _gaps(strip.pictures):
        left, right = x_of[first], x_of[past] - _GAP - 1
        draw.rectangle([left, y, right, y + height - 1], fill=_EMPTY)
        reason = _wrap(f"No picture: {strip.note}", _font(12), right - left - 20, lines=max(1, (height - 18) // _LINE))
        draw.multiline_text((left + 10, y + 9), reason, font=_font(12), fill=MUTED, spacing=4)


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


def _open(jpeg: bytes) -> np.ndarray:
    """Return a kept picture, `PICTURE` pixels a side at most."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image if max(image.size) <= PICTURE else fit(image, PICTURE))


def _resize(picture: np.ndarray, side: int) -> Image.Image:
    return fit(Image.fromarray(np.ascontiguousarray(picture)), side)


def fit(image: Image.Image, side: int, resampling: int = Image.Resampling.LANCZOS) -> Image.Image:
    """Scale a picture so that its longer side is so many pixels."""
    width, height = (max(1, round(each * side / max(image.size))) for each in image.size)
    return image.resize((width, height), resampling)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()
