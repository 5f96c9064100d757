"""What a video's container says, read through PyAV: opening, and what its header and its last packets tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.error import FFmpegError
from av.format import Flags

from raypipe.decoders import check_file
from raypipe.decoders.edits import Edit, read_edits
from raypipe.decoders.streams import open_stream
from raypipe.errors import DecodeError
from raypipe.storage import POINTER, is_pointer, local_path, shown

N_THREADS = 1
"""Decoders run as one process a core, where a second thread gains nothing (bench/decoding.py)."""

TOLERANCE_S = 1e-6
"""Times this close count as equal, so that a frame's own time finds it in spite of float64 rounding."""

LONGEST_FRAME_S = 120.0
_MOST_FPS = 1000.0
_MOST_STRETCHED = 10.0
_MADE_UP = 2  # An average is no more than so many times the rate that all times are multiples of.
_STEADY = 0.001  # At a steady rate the average and the rate that all times are multiples of differ by less.

REORDERED = 16
"""Frames are shown at most so many places from where they lie in the file (H.264 and HEVC allow 16)."""

# A title that is not UTF-8 must not cost the video: since PyAV 19 none does, and there is no such argument.
_ANY_TEXT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}

# Containers that say where a time lies: by an index, or by times that can be searched. In MPEG-PS most frames have no
# time, and after a seek FFmpeg gives them those of their neighbours.
_INDEXED = {"mov", "matroska", "flv", "ogg", "asf", "nut", "avi", "mxf"}
_SEARCHED = {"mpegts"}
# What lies here as a time is the time of decoding. FFmpeg makes times of presentation up from it.
_UNTIMED = {"avi", "asf", "mxf"}
# Reading so much without decoding takes a second or two.
_MOST_READ = 1 << 30


@dataclass(frozen=True)
class OpenVideo:
    """An open container and its best video stream.

    Attributes
    ----------
    uri
        The video's URI.
    container, stream
        PyAV's objects.
    edits
        The track's edit list, if FFmpeg would get it wrong. Then it is told to ignore it.
    """

    uri: str
    container: Any
    stream: Any
    edits: tuple[Edit, ...] = ()

    @property
    def formats(self) -> set[str]:
        """FFmpeg's names for the container."""
        return set(self.container.format.name.split(","))

    @property
    def is_untimed(self) -> bool:
        """Whether the container holds no times of presentation."""
        return bool(_UNTIMED & self.formats) or self.is_bare

    @property
    def is_bare(self) -> bool:
        """Whether the file is a bare stream, without a container that could hold times."""
        return bool(self.container.format.flags & Flags.no_timestamps.value)

    @property
    def is_sought(self) -> bool:
        """Whether the frame of a given time can be found without counting all frames before it."""
        reordered = self.is_untimed and self.stream.codec_context.has_b_frames
        return bool((_INDEXED | _SEARCHED) & self.formats) and not reordered and not self.edits

    @property
    def is_indexed(self) -> bool:
        """Whether the container is of a kind that has one clock and one beginning, as a file that is muxed at once."""
        return bool(_INDEXED & self.formats) or self.container.size > _MOST_READ

    @property
    def pixel_aspect(self) -> float:
        """Width over height of a coded pixel; 1 if it is unknown or implausible."""
        aspect = float(self.stream.sample_aspect_ratio or 1)
        return aspect if 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED else 1.0

    @property
    def rate(self) -> Fraction | None:
        """The average frames a second, or None if they are unknown.

        Of a bare stream FFmpeg takes 25 for the average, whatever the stream's own header says; and one tick a frame
        where nothing says how long frames last, as in some Matroska and FLV, though all times are multiples of more.
        """
        own = self.stream.codec_context.framerate if self.is_bare else None
        rate = own if own and is_plausible(own) else self.stream.average_rate
        if rate and self.stream.base_rate and rate > _MADE_UP * self.stream.base_rate:
            return None
        return Fraction(rate.numerator, rate.denominator) if rate else None  # PyAV 19 rounds products of its own kind.

    @property
    def fps(self) -> float:
        """The average frames a second, or 0 if they are unknown or implausible."""
        return float(self.rate) if self.rate and is_plausible(self.rate) else 0.0

    @property
    def period(self) -> float:
        """The ticks for which a frame of the average rate is on display, or 0 if the rate is unknown.

        Whole ticks, if there are any, because the time of the last frame may have been rounded up.
        """
        rate = self.rate
        ticks = 1 / (rate * self.stream.time_base) if rate else 0
        return int(ticks) or float(ticks)

    def read_claim(self, origin: int) -> float | None:
        """Return the length of the video's own track as the header says it, in seconds from ``origin``, or None."""
        if "avi" in self.formats:  # FFmpeg makes the duration of a file that was cut off up from its size.
            rate = self.stream.average_rate
            return float(self.stream.frames / rate) if rate and self.stream.frames else None
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        tags = self.stream.metadata.items()  # Matroska's tag says when the track ends on the container's clock.
        text = next((value for name, value in tags if name.upper().startswith("DURATION")), "")
        try:
            hours, minutes, seconds = map(float, text.split(":"))
        except ValueError:
            return None
        return 3600 * hours + 60 * minutes + seconds - float(origin * self.stream.time_base)

    def to_seconds(self, ticks: Any, origin: int) -> Any:
        """Convert ticks to seconds from ``origin``, with a single rounding."""
        base = self.stream.time_base
        return (np.asarray(ticks) - origin) * base.numerator / base.denominator

    def to_ticks(self, times_s: np.ndarray, origin: int) -> np.ndarray:
        """Return for each time from ``origin`` the last tick that is not after it, up to `find_tolerance`."""
        base = self.stream.time_base
        reached_s = times_s + self.find_tolerance(origin)
        return np.floor(reached_s * base.denominator / base.numerator).astype(np.int64) + origin

    def find_tolerance(self, origin: int) -> float:
        """Return by how many seconds a frame may seem to come late, its time and ``origin`` being whole ticks.

        Matroska, FLV and ASF count milliseconds: at 30 frames a second the frame of 0.6667 s is noted at 0.667 s. So
        where the rate is steady and a frame does not last whole ticks, a time is taken for one that was rounded. Where
        a tick is as long as half a frame, or longer, a rounded time cannot be told from another frame's.
        """
        base, rate, own_rate = self.stream.time_base, self.rate, self.stream.base_rate
        if not rate or not own_rate or abs(own_rate / rate - 1) > _STEADY:
            return TOLERANCE_S
        if (1 / (rate * base)).denominator == 1 or 2 * rate * base > 1:
            return TOLERANCE_S
        n_ticks = 1.0 if origin else 0.5
        return TOLERANCE_S + min(n_ticks * float(base), 0.25 / float(rate))

    def place(self, ticks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return when frames with the times ``ticks`` (n,) float64 are shown, and (n,) bool, whether they are."""
        placed, is_shown = ticks.copy(), np.full(len(ticks), not self.edits)
        for edit in self.edits:
            base = float(self.stream.time_base)
            is_inside = (edit.first <= ticks) & (ticks < edit.first + edit.length_s / base)
            placed[is_inside] += round(edit.shown_s / base) - edit.first
            is_shown |= is_inside
        return placed, is_shown

    def find_end(self, last_s: float, duration_s: float, broken: bool = False) -> float:
        """Return the time in seconds until which the last frame counts as on display.

        At a clean end this is half a second at least, because headers round and tracks differ in length.
        """
        rate = self.rate
        period_s = float(1 / rate) if rate else duration_s
        return last_s + ((duration_s or period_s) - TOLERANCE_S if broken else max(duration_s, 2 * period_s, 0.5))


@contextmanager
def open_video(uri: str, n_threads: int = N_THREADS) -> Iterator[OpenVideo]:
    """Open a video for reading, and for decoding with ``n_threads`` (0: FFmpeg chooses).

    Raises
    ------
    DecodeError
        If the video is no readable regular file or is not there but for a pointer of Git LFS, or FFmpeg cannot read its
        container or has no decoder for it.
    """
    path = local_path(uri)
    if path is not None:
        check_file(path, uri)
    # FFmpeg never mistakes an absolute path for a protocol, even if it contains colons.
    name = "" if path is None else str(Path(path).absolute())
    with open_stream(uri) if path is None else Path(name).open("rb") as file:
        if is_pointer(file):
            raise DecodeError(f"{shown(uri)}: {POINTER}")
        every_edit = read_edits(file)
        file.seek(0)
        # A playlist that is named like a video must not make FFmpeg open other files or addresses.
        options = {"protocol_whitelist": "none" if path is None else "file"}
        if every_edit:
            options["ignore_editlist"] = "1"
        try:
            buffer_size = 1 << 18 if path is None else 1 << 15
            container = av.open(name or file, options=options, buffer_size=buffer_size, **_ANY_TEXT)
        except FFmpegError as error:
            what = "; the file is text" if _is_text(file) else ""
            raise DecodeError(f"{shown(uri)}: {reason_of(error)}{what}") from error
        with container:
            stream = _find_stream(container, uri)
            stream.codec_context.thread_count = n_threads
            yield OpenVideo(uri, container, stream, every_edit.get(stream.id, ()))


def _is_text(file: IO[bytes]) -> bool:
    """Whether an open file begins as text does, such as the page that a server sent in place of a video."""
    file.seek(0)
    return re.fullmatch(rb"[^\0-\x08\x0e-\x1f\x7f]+", file.read(256)) is not None


def is_plausible(rate: Fraction | float) -> bool:
    """Whether a camera may take so many frames a second."""
    return 1 / LONGEST_FRAME_S <= rate <= _MOST_FPS


def find_start(video: OpenVideo) -> tuple[int, Iterator[Any]] | None:
    """Return the tick of the first frame on display, and all packets from the start, of a video just opened.

    None, if only decoding can tell: where the file does not begin with a keyframe, or shows something before it.
    """
    packets = video.container.demux(video.stream)
    ahead: list[Any] = []
    ticks: list[int] = []
    for packet in packets:
        ahead.append(packet)
        if not packet.is_discard and packet.size:
            if packet.pts is None:
                return None
            ticks.append(packet.pts)
            if len(ticks) > REORDERED:
                break
    if not ticks or not ahead[0].is_keyframe or ahead[0].pts is None or min(ticks) < ahead[0].pts:
        return None
    return min(ticks), chain(ahead, packets)


def read_first_frame(video: OpenVideo) -> Any:
    """Decode the first frame of a video that has just been opened.

    Raises
    ------
    DecodeError
        If no frame decodes.
    """
    return next(decode_all(video))


def decode_all(video: OpenVideo, prepare: Callable[[Any], None] = lambda packet: None) -> Iterator[Any]:
    """Decode a video that has just been opened, and yield its frames in the decoder's order.

    ``prepare`` is called with each packet before it is decoded. What fails before the first frame is the end of a group
    of pictures that began before the file did.

    Raises
    ------
    DecodeError
        If no frame decodes, or the video is encrypted.
    FFmpegError
        If decoding fails later.
    """
    failure, has_begun = None, False
    try:
        for packet in video.container.demux(video.stream):
            check_clear(packet, video.uri)
            prepare(packet)
            try:
                frames = packet.decode()
            except FFmpegError as error:
                if has_begun:
                    raise
                failure = reason_of(error)
                continue
            for frame in frames:
                has_begun = True
                yield frame
    except FFmpegError as error:
        if has_begun:
            raise
        failure = reason_of(error)
    if not has_begun:
        raise DecodeError(f"{shown(video.uri)}: {describe_nothing(failure)}")


def decode_shown(video: OpenVideo) -> Iterator[Any]:
    """Decode as `decode_all` does, and yield the frames that the edit list shows, if there is one."""
    return (f for f in decode_all(video) if f.pts is None or video.place(np.array([f.pts], float))[1][0])


def reason_of(error: FFmpegError) -> str:
    """Return FFmpeg's message without the error's number and the name of the C function."""
    return error.strerror or str(error)


def check_clear(packet: Any, uri: str) -> None:
    """Raise `DecodeError` if a packet is encrypted: often it decodes all the same, to a picture of noise."""
    if packet.has_sidedata("encryption_info"):
        raise DecodeError(f"{shown(uri)}: it is encrypted")


def describe_nothing(failure: str | None) -> str:
    """Return why no frame of a video could be decoded."""
    return f"no frame decodes: {failure}" if failure else "no frame decodes"


def _find_stream(container: Any, uri: str) -> Any:
    """Return the video stream that a player would show; a picture that is attached to music does not count."""
    candidates = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not candidates:
        raise DecodeError(f"{shown(uri)}: it has no video stream")
    best = container.streams.best("video")
    stream = best if best in candidates else candidates[0]
    if stream.codec_context is None:
        raise DecodeError(f"{shown(uri)}: FFmpeg has no decoder for its video")
    return stream
