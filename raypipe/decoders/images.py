"""Pictures in a column of a Parquet file, as LeRobot keeps them, read as a video: nothing is unpacked to disk."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import av
import numpy as np
import pyarrow as pa

from raypipe.decoders import check_file, decode_error
from raypipe.decoders.container import TOLERANCE_S
from raypipe.decoders.picture import Resizer
from raypipe.decoders.timeline import Timeline
from raypipe.errors import DecodeError, SourceError, message_of
from raypipe.ranges import open_parts
from raypipe.schema import Frames, Probe, ThumbnailRequest
from raypipe.sources.frame_tables import find_row_groups
from raypipe.sources.lerobot import EPISODE, seconds, whole_numbers
from raypipe.storage import ImageColumn, local_path, parse_image_column, patiently, shown

_TIME = "timestamp"
_BATCH = 16  # So many pictures are in memory at once, however many a row group has.
# Of an older file one row group holds all, and is read in pieces of so many bytes until the last picture.
_BUFFER = 1 << 20
_LONE_S = 1 / 30  # A picture is on display for so long where no two that were read tell.
_HELD_S = 0.5  # As at the end of a file, the last picture is held for so long at least.


class ImageColumnDecoder:
    """Decodes the PNG and JPEG pictures of one episode in one column; a picture's time is its row's ``timestamp``."""

    name = "images"

    def probe(self, uri: str) -> Probe:
        """See `raypipe.decoders.Decoder.probe`."""
        with _opened(uri) as table:
            times_s, period_s = table.read_times()
            data = next(table.iter_pictures(np.zeros(1, np.int64)))
            picture = _open_picture(data)
            return Probe(
                duration_s=float(times_s[-1]) + (period_s or _LONE_S),
                width=picture.width,
                height=picture.height,
                fps=1 / period_s if period_s else 0.0,
                n_frames=len(times_s),
                codec=(picture.format or "").lower(),
                decoder=self.name,
            )

    def frame_times(self, uri: str) -> np.ndarray:
        """See `raypipe.decoders.Decoder.frame_times`."""
        with _opened(uri) as table:
            return table.read_times()[0]

    def frames(
        self,
        uri: str,
        times_s: np.ndarray,
        image_size: int,
        resize_mode: str,
        thumbnails: ThumbnailRequest | None = None,
    ) -> Frames:
        """See `raypipe.decoders.Decoder.frames`; with ``thumbnails`` it makes small pictures too."""
        with _opened(uri) as table:
            timeline = table.read_timeline()
            numbers, error = timeline.find(times_s)
            if error and not len(numbers):
                raise DecodeError(f"{shown(uri)}: {error}")
            resize = Resizer(image_size, resize_mode, 1.0, request=thumbnails)
            pixels = np.empty((len(numbers), image_size, image_size, 3), np.uint8)
            n = 0
            wanted = np.unique(numbers)
            try:
                for number, data in zip(wanted.tolist(), table.iter_pictures(wanted), strict=True):
                    n = resize.fill(pixels, numbers, number, _to_frame(data))
            except DecodeError as failure:
                if not n:
                    raise DecodeError(f"{shown(uri)}: {failure}") from failure
                error = f"stopped at {timeline.times_s[numbers[n - 1]]:.1f} s: {failure}"
            return Frames(pixels[:n], timeline.times_s[numbers[:n]], np.arange(n), self.name, error, resize.thumbnails)


def iter_pictures(uri: str, times_s: np.ndarray) -> Iterator[Any]:
    """Yield for each of some times, (n,) float64, ascending, the picture on display then, as PyAV's frame.

    It ends early where the pictures do; raises as `ImageColumnDecoder.frames` does.
    """
    with _opened(uri) as table:
        numbers, _ = table.read_timeline().find(times_s)
        wanted, counts = np.unique(numbers, return_counts=True)
        for data, n in zip(table.iter_pictures(wanted), counts.tolist(), strict=True):
            yield from repeat(_to_frame(data), n)


@dataclass(frozen=True)
class _PictureTable:
    """The rows of one episode in an open Parquet file.

    Attributes
    ----------
    parquet, groups
        The file, and the row groups that may hold rows of the episode.
    rows
        (n,) the places of the episode's rows among those of the groups, in the order of their times.
    seconds
        (m,) the ``timestamp`` of all rows of these groups.
    episodes
        (m,) whose they are.
    column
        The pictures' column.
    """

    parquet: Any
    groups: list[int]
    rows: np.ndarray
    seconds: np.ndarray
    episodes: np.ndarray
    column: str

    def read_timeline(self) -> Timeline:
        """Return when each picture is on display, from the first one's time on."""
        times_s, period_s = self.read_times()
        last_s = float(times_s[-1])
        # Timestamps are float32, so a row's own time may lie a little before or behind the time that was meant.
        tolerance_s = TOLERANCE_S + self._rounding(period_s)
        return Timeline(0, times_s, last_s + (period_s or _LONE_S), last_s + max(2 * period_s, _HELD_S), tolerance_s)

    def read_times(self) -> tuple[np.ndarray, float]:
        """Return when each picture is on display, (n,) float64 from 0, and for how long one usually is, or 0."""
        own = self.seconds[self.rows]
        order = np.lexsort((self.seconds, self.episodes))
        gaps = np.diff(own) if len(own) > 1 else np.diff(self.seconds[order])[np.diff(self.episodes[order]) == 0]
        gaps = gaps[gaps > 0]
        times_s, period_s = own - own[0], float(np.median(gaps)) if len(gaps) else 0.0
        # Timestamps are float32: by them, 30 pictures at 10 a second may last a hair longer than 3 s, and a clip more
        # begins there. So times that are those of a steady rate are taken for them.
        rate = round((len(own) - 1) / times_s[-1], 3) if times_s[-1] > 0 else 0.0
        if rate > 0:
            steady_s = np.arange(len(own)) / rate
            if np.allclose(times_s, steady_s, rtol=0, atol=self._rounding(period_s)):
                return steady_s, 1 / rate
        return times_s, period_s

    def _rounding(self, period_s: float) -> float:
        """Return by how much float32 rounds the episode's last time; less than a picture is on display, in any case.

        Seconds since 1970, as float64, are rounded by none of the 128 s that float32 would round them by.
        """
        rounding_s = float(np.spacing(np.float32(self.seconds[self.rows[-1]])))
        return min(rounding_s, period_s / 4) if period_s else rounding_s

    def iter_pictures(self, numbers: np.ndarray) -> Iterator[bytes]:
        """Yield the pictures of these numbers, ascending, as the bytes of their files."""
        places = self.rows[numbers]
        order = np.argsort(places, kind="stable")
        if (np.diff(order) < 0).any():  # Rows need not lie in the order of their times.
            kept = dict(zip(order.tolist(), self._read(places[order]), strict=True))
            yield from (kept[i] for i in range(len(places)))
        else:
            yield from self._read(places)

    def _read(self, places: np.ndarray) -> Iterator[bytes]:
        sizes = [self.parquet.metadata.row_group(group).num_rows for group in self.groups]
        ends = np.cumsum(sizes)
        for group, end, size in zip(self.groups, ends.tolist(), sizes, strict=True):
            inside = places[(places >= end - size) & (places < end)] - (end - size)
            if len(inside):
                yield from self._read_group(group, inside)

    def _read_group(self, group: int, inside: np.ndarray) -> Iterator[bytes]:
        start = 0
        for batch in self.parquet.iter_batches(_BATCH, [group], [self.column]):
            stop = start + batch.num_rows
            for place in inside[(inside >= start) & (inside < stop)].tolist():
                value = batch.column(0)[place - start].as_py()
                data = value.get("bytes") if isinstance(value, dict) else value
                if not isinstance(data, bytes):
                    raise DecodeError(f"{self.column} holds no picture in one of its rows, only a path perhaps")
                yield data
            start = stop
            if stop > inside[-1]:
                return


@contextmanager
def _opened(uri: str) -> Iterator[_PictureTable]:
    """Open the table that a URI names.

    Raises
    ------
    DecodeError
        If the URI names no pictures, or the file cannot be read.
    """
    from pyarrow.parquet import ParquetFile

    named = parse_image_column(uri)
    if named is None:
        raise DecodeError(f"{shown(uri)} names no column of pictures")
    try:
        path = local_path(named.file)
        if path is not None:
            check_file(path, named.file)
        with open_parts(named.file) as file:
            parquet = patiently(uri, lambda: ParquetFile(file, buffer_size=_BUFFER))
            yield patiently(uri, lambda: _find_rows(parquet, named))
    except (pa.ArrowException, OSError, SourceError) as error:
        raise decode_error(error, uri, named.file) from error


def _find_rows(parquet: Any, named: ImageColumn) -> _PictureTable:
    there = parquet.schema_arrow.names
    if lacking := [name for name in (named.column, _TIME) if name not in there]:
        raise DecodeError(f"{shown(named.file)} has no column {lacking[0]}")
    groups = find_row_groups(parquet, named.episode, named.episode)
    known = [name for name in (_TIME, EPISODE) if name in there]
    table = parquet.read_row_groups(groups, known)
    times_s = seconds(table, _TIME)
    episodes = whole_numbers(table, EPISODE) if EPISODE in known else np.full(len(table), named.episode)
    rows = np.flatnonzero(episodes == named.episode)
    if not len(rows):
        raise DecodeError(f"{shown(named.file)} has no row of episode {named.episode}")
    if not np.isfinite(times_s[rows]).all():
        raise DecodeError(f"{shown(named.file)} has rows of episode {named.episode} whose {_TIME} is no number")
    rows = rows[np.argsort(times_s[rows], kind="stable")]
    return _PictureTable(parquet, groups, rows, times_s, episodes, named.column)


def _to_frame(data: bytes) -> av.VideoFrame:
    """Return a picture as PyAV's frame; the message of the error has no URI."""
    picture = _open_picture(data)
    if picture.mode.startswith("I"):  # Pillow would show all that is beyond 255 of 65,535 as white.
        grey = np.clip(np.asarray(picture, np.int32) >> 8, 0, 255).astype(np.uint8)
        return av.VideoFrame.from_ndarray(np.repeat(grey[:, :, None], 3, axis=2), "rgb24")
    return av.VideoFrame.from_ndarray(np.asarray(picture.convert("RGB")), "rgb24")


def _open_picture(data: bytes) -> Any:
    """Open a picture, upright; the message of the error has no URI."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except UnidentifiedImageError as error:  # Its message has an address in memory, another one each time.
        raise DecodeError("a picture cannot be decoded: it is in no format that Pillow knows") from error
    except Exception as error:  # A broken file makes Pillow raise errors of many kinds.
        raise DecodeError(f"a picture cannot be decoded: {message_of(error)}") from error
    with suppress(Exception):  # So does broken EXIF, which tells nothing of how a picture is to be turned.
        ImageOps.exif_transpose(picture, in_place=True)
    return picture
