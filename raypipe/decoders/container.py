"""What a video's container says, read through PyAV: opening, probing, and the times of its frames."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from raypipe.decoders import check_file, describe
from raypipe.decoders.orientation import read_orientation
from raypipe.errors import DecodeError, SourceAwayError
from raypipe.schema import Probe
from raypipe.storage import is_transient, local_path, open_filesystem, patiently, shown

N_THREADS = 1
"""Decoders run as one process a core, where a second thread gains nothing (bench/decoding.py)."""

TOLERANCE_S = 1e-6
"""Times this close count as equal, so that a frame's own time finds it in spite of float64 rounding."""

# The limits up to which a header is believed. A wild duration in it must not be cut into millions of segments.
_HOUR_S = 3600.0
_FEWEST_BYTES_A_SECOND = 1000  # Any camera writes far more than this.
_LONGEST_FRAME_S = 120.0
_MOST_FPS = 1000.0
_MOST_STRETCHED = 10.0

_BLOCK_BYTES = 1 << 20
_REMOTE_BLOCKS = 32


@dataclass(frozen=True)
class OpenVideo:
    """An open container and its best video stream.

    Attributes
    ----------
    uri
        The video's URI.
    container, stream
        PyAV's objects.
    origin
        The stream's start, in ticks of its time base: the zero of all times.
    duration_s
        The duration in the header, or None if it has none.
    """

    uri: str
    container: Any
    stream: Any
    origin: int
    duration_s: float | None

    @property
    def pixel_aspect(self) -> float:
        """Width over height of a coded pixel; 1 if it is unknown or implausible."""
        aspect = float(self.stream.sample_aspect_ratio or 1)
        return aspect if 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED else 1.0

    def to_seconds(self, ticks: Any) -> Any:
        """Convert ticks to seconds from the stream's start, with a single rounding."""
        base = self.stream.time_base
        return (np.asarray(ticks, dtype=np.int64) - self.origin) * base.numerator / base.denominator

    def to_ticks(self, times_s: np.ndarray) -> np.ndarray:
        """Return for each time the last tick that is not after it, up to `TOLERANCE_S`."""
        base = self.stream.time_base
        return np.floor((times_s + TOLERANCE_S) * base.denominator / base.numerator).astype(np.int64) + self.origin

    def find_end(self, tick: int, duration: int | None, broken: bool = False) -> float:
        """Return the time in seconds until which the last frame, of ``tick`` and ``duration``, counts as on display.

        At a clean end this is half a second at least, because headers round and tracks differ in length.
        """
        rate = self.stream.average_rate
        duration_s = float((duration or 0) * self.stream.time_base)
        period_s = float(1 / rate) if rate else duration_s
        shown_s = (duration_s or period_s) - TOLERANCE_S if broken else max(duration_s, 2 * period_s, 0.5)
        return float(self.to_seconds(tick)) + shown_s


@dataclass(frozen=True)
class Packets:
    """The frame times and counts that a video's packets give without being decoded.

    Attributes
    ----------
    times_s
        (n,) float64, ascending: the times of the frames that are shown.
    n_hidden
        Number of packets that an edit list hides.
    n_leading
        Number of frames that are shown before the keyframe that they follow in the file, as in open groups of pictures.
    end_s
        The time until which the last frame counts as on display.
    """

    times_s: np.ndarray
    n_hidden: int
    n_leading: int
    end_s: float

    def find(self, times_s: np.ndarray) -> tuple[np.ndarray, str | None]:
        """Return the frames on display at given times, as (n,) indices, and why later times are left out."""
        reached = np.asarray(times_s, dtype=np.float64)
        reached = reached[reached < self.end_s]
        numbers = np.maximum(np.searchsorted(self.times_s, reached + TOLERANCE_S, side="right") - 1, 0)
        if len(reached) == len(times_s):
            return numbers, None
        return numbers, f"ends at {self.times_s[-1]:.1f} s, before {times_s[len(reached)]:.1f} s"


@contextmanager
def open_video(uri: str, n_threads: int = N_THREADS) -> Iterator[OpenVideo]:
    """Open a video for reading, and for decoding with ``n_threads`` (0: FFmpeg chooses).

    Raises
    ------
    DecodeError
        If the video is no readable regular file, or FFmpeg cannot read its container or has no decoder for it.
    """
    path = local_path(uri)
    if path is not None:
        check_file(Path(path), uri)
    # FFmpeg never mistakes an absolute path for a protocol, even if it contains colons.
    with _open_remote(uri) if path is None else nullcontext(str(Path(path).absolute())) as source:
        # A playlist that is named like a video must not make FFmpeg open other files or addresses.
        options = {"protocol_whitelist": "none" if path is None else "file"}
        try:
            buffer_size = 1 << 18 if path is None else 1 << 15
            # A title that is not UTF-8 must not cost the video.
            container = av.open(source, options=options, buffer_size=buffer_size, metadata_errors="replace")
        except FFmpegError as error:
            raise DecodeError(f"{shown(uri)}: {reason_of(error)}") from error
        with container:
            stream = _find_stream(container, uri)
            stream.codec_context.thread_count = n_threads
            yield OpenVideo(uri, container, stream, stream.start_time or 0, _header_duration(container, stream))


def read_packets(uri: str) -> Packets:
    """Read all packets of a video's stream without decoding any.

    Raises
    ------
    DecodeError
        If the video cannot be opened, or its packets have no times.
    """
    with open_video(uri) as video:
        ticks = array("q")  # An hour of video has 100,000 of them, too many for a list.
        n_hidden, n_leading, key_tick, last = 0, 0, -(2**63), (-(2**63), 0)
        try:
            for packet in video.container.demux(video.stream):
                tick = tick_of(packet)
                if tick is None:
                    continue
                key_tick = tick if packet.is_keyframe else key_tick
                n_leading += tick < key_tick
                if packet.is_discard:
                    n_hidden += 1
                else:
                    ticks.append(tick)
                    last = max(last, (tick, packet.duration or 0))
        except FFmpegError as error:
            if not ticks:
                raise DecodeError(f"{shown(uri)}: {reason_of(error)}") from error
        if not ticks:
            raise DecodeError(f"{shown(uri)}: its frames have no presentation times")
        return Packets(video.to_seconds(np.unique(ticks)), n_hidden, n_leading, video.find_end(*last))


class ContainerReader:
    """The methods that all decoders share: they read the container through PyAV, whatever decodes the frames."""

    name: str

    def probe(self, uri: str) -> Probe:
        """See `probe_video`."""
        return probe_video(uri, self.name)

    def frame_times(self, uri: str) -> np.ndarray:
        """See `raypipe.decoders.Decoder.frame_times`."""
        return read_packets(uri).times_s


def probe_video(uri: str, decoder: str) -> Probe:
    """Read the header and decode one frame, which shows the rotation and whether the video decodes at all.

    If the duration is missing, or implausibly long for the size of the file, it is measured by reading all packets.

    Raises
    ------
    DecodeError
        If the video cannot be opened, none of its frames decodes, or its duration is impossible for so few frames.
    """
    with open_video(uri) as video:
        frame = read_first_frame(video)
        turned = read_orientation(frame).swaps_sides
        probe = Probe(
            duration_s=video.duration_s or 0.0,
            width=frame.height if turned else frame.width,
            height=frame.width if turned else frame.height,
            fps=_frame_rate(video.stream),
            n_frames=video.stream.frames,
            codec=video.stream.codec.canonical_name,
            decoder=decoder,
        )
        longest_s = max(_HOUR_S, video.container.size / _FEWEST_BYTES_A_SECOND)
    if 0 < probe.duration_s <= longest_s:
        return probe
    packets = read_packets(uri)
    n, last_s = len(packets.times_s), float(packets.times_s[-1])
    if probe.duration_s > 0:
        duration_s = min(probe.duration_s, packets.end_s)
    else:  # Some streams have no header that gives a duration.
        duration_s = last_s + (1 / probe.fps if probe.fps else 0.0)
    if duration_s > max(_HOUR_S, n * _LONGEST_FRAME_S):
        raise DecodeError(f"{shown(uri)}: its times are invalid: {n} frames in {duration_s:.3g} s")
    return replace(probe, duration_s=duration_s)


def read_first_frame(video: OpenVideo) -> Any:
    """Decode the first frame of a video that has just been opened.

    Raises
    ------
    DecodeError
        If no frame decodes.
    """
    packet, failure = None, None
    try:
        for packet in video.container.demux(video.stream):
            for frame in packet.decode():
                return frame
    except FFmpegError as error:
        failure = reason_of(error)
    raise DecodeError(f"{shown(video.uri)}: {describe_nothing(packet, failure)}")


def check_indexed(video: OpenVideo, decoder: str) -> None:
    """Raise `DecodeError` unless the container keeps an index of its frames, which ``decoder`` needs.

    After a seek in an MPEG or AVI file, decord 0.6 and torchcodec 0.17 return wrong frames.
    """
    container = video.container.format.name
    if not {"mov", "matroska"} & set(container.split(",")):
        raise DecodeError(f"{shown(video.uri)}: {decoder} is not reliable in {container} files")


def tick_of(timed: Any) -> int | None:
    """Return when a packet or frame is presented, in ticks, or None for the packet that flushes the decoder.

    Where there are no presentation times, as in AVI, this is the decoding time.
    """
    return timed.pts if timed.pts is not None else timed.dts


def reason_of(error: FFmpegError) -> str:
    """Return FFmpeg's message without the error's number and the name of the C function."""
    return error.strerror or str(error)


def describe_nothing(packet: Any, failure: str | None) -> str:
    """Return why no frame of a video could be decoded; ``packet`` is the last that was tried."""
    if packet is not None and packet.has_sidedata("encryption_info"):
        return "it is encrypted"
    return f"no frame decodes: {failure}" if failure else "no frame decodes"


@contextmanager
def _open_remote(uri: str) -> Iterator[Any]:
    """Open a remote file whose blocks are fetched when they are read; the last few are kept in memory."""
    try:
        file_system, path = open_filesystem(uri)
        file = patiently(
            uri,
            lambda: file_system.open(
                path,
                "rb",
                block_size=_BLOCK_BYTES,
                cache_type="blockcache",
                cache_options={"maxblocks": _REMOTE_BLOCKS},
            ),
        )
    except Exception as error:  # Each file system raises errors of its own.
        raise _unread(uri, error) from error
    failures: list[DecodeError] = []
    with file:
        if hasattr(file, "cache"):  # A file in memory has no cache.
            file.cache.fetcher = _make_fetcher(uri, file, failures)
        try:
            yield file
        finally:  # With bytes missing the result is incomplete, whatever FFmpeg reports.
            if failures:
                raise failures[0]


def _unread(uri: str, error: Exception) -> DecodeError:
    kind = SourceAwayError if is_transient(error) else DecodeError
    return kind(f"{shown(uri)}: {describe(error, uri)}")


def _make_fetcher(uri: str, file: Any, failures: list[DecodeError]) -> Callable[[int, int], bytes]:
    """Return a function that fetches a remote file's blocks whole, with retries.

    The error with which it fails in the end is appended to ``failures``.
    """
    fetch = file.cache.fetcher

    def fetch_whole(start: int, end: int) -> bytes:
        block = fetch(start, end)
        if len(block) != end - start:
            raise ConnectionError(f"only {len(block)} of {end - start} bytes came")
        return block

    def fetch_patiently(start: int, end: int) -> bytes:
        if failures:  # FFmpeg reads again what could not be read.
            raise failures[0]
        try:
            return patiently(uri, lambda: fetch_whole(start, min(end, file.size)))
        except Exception as error:
            failures.append(_unread(uri, error))
            raise failures[0] from error

    return fetch_patiently


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


def _frame_rate(stream: Any) -> float:
    """Return the average frames a second, or 0 if they are unknown or implausible."""
    rate = float(stream.average_rate or 0)
    return rate if 1 / _LONGEST_FRAME_S <= rate <= _MOST_FPS else 0.0


def _header_duration(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None
