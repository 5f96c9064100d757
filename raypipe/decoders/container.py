"""What a video's container says, read through PyAV: opening, probing, and the times of its frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from raypipe.decoders import check_file, to_local_path
from raypipe.errors import DecodeError
from raypipe.schema import Probe

THREADS = 1
"""Decoders run as one process a core, where a second thread only adds overhead (bench/decoding.py)."""

TOLERANCE_S = 1e-6
"""A frame's own time must find that frame after having gone through float64 arithmetic."""

_BLOCK_BYTES = 1 << 20
_REMOTE_BLOCKS = 32


@dataclass(frozen=True)
class Video:
    """An open container and its best video stream.

    Attributes
    ----------
    uri
        Where it came from.
    container, stream
        PyAV's objects.
    origin
        The stream's start, in ticks of its time base: the zero of all times.
    duration_s
        As the header has it, or None.
    """

    uri: str
    container: Any
    stream: Any
    origin: int
    duration_s: float | None

    def to_seconds(self, ticks: Any) -> Any:
        """Ticks to seconds from the stream's start, rounded once."""
        base = self.stream.time_base
        return (np.asarray(ticks, dtype=np.int64) - self.origin) * base.numerator / base.denominator

    def to_ticks(self, times_s: np.ndarray) -> np.ndarray:
        """For each time the last tick that is not after it, float rounding forgiven."""
        base = self.stream.time_base
        return np.floor((times_s + TOLERANCE_S) * base.denominator / base.numerator).astype(np.int64) + self.origin


@dataclass(frozen=True)
class Packets:
    """What a video's packets say without being decoded.

    Attributes
    ----------
    times_s
        (n,) float64, ascending: the times of the frames that are shown.
    n_hidden
        How many packets an edit list keeps from being shown.
    """

    times_s: np.ndarray
    n_hidden: int


@contextmanager
def open_video(uri: str) -> Iterator[Video]:
    """Open a video for reading.

    Raises
    ------
    DecodeError
        If it is no readable regular file, no container that FFmpeg knows, or holds no video that it has a decoder for.
    """
    path = to_local_path(uri)
    if path is not None:
        check_file(path, uri)
    with _open_remote(uri) if path is None else nullcontext(str(path)) as source:
        # A playlist in a video's clothes must not make FFmpeg open other files or addresses.
        options = {"protocol_whitelist": "none" if path is None else "file"}
        try:
            container = av.open(source, options=options, buffer_size=1 << 18 if path is None else 1 << 15)
        except FFmpegError as error:
            raise DecodeError(f"{uri}: {reason_of(error)}") from error
        with container:
            stream = _find_stream(container, uri)
            stream.codec_context.thread_count = THREADS
            yield Video(uri, container, stream, stream.start_time or 0, _header_duration(container, stream))


def read_packets(uri: str) -> Packets:
    """Read all packets of a video's stream without decoding any.

    Raises
    ------
    DecodeError
        If the video cannot be opened, or its packets bear no times.
    """
    with open_video(uri) as video:
        ticks, n_hidden = [], 0
        try:
            for packet in video.container.demux(video.stream):
                if packet.is_discard:
                    n_hidden += 1
                elif (tick := tick_of(packet)) is not None:
                    ticks.append(tick)
        except FFmpegError as error:
            if not ticks:
                raise DecodeError(f"{uri}: {reason_of(error)}") from error
        if not ticks:
            raise DecodeError(f"{uri}: its frames bear no presentation times")
        return Packets(video.to_seconds(np.unique(ticks)), n_hidden)


def probe_video(uri: str, decoder: str) -> Probe:
    """Read the header and decode one frame, which alone tells the rotation and whether the video decodes at all.

    Raises
    ------
    DecodeError
        If the video cannot be opened, or not one frame of it decodes.
    """
    with open_video(uri) as video:
        frame = _first_frame(video)
        turned = quarter_turns(frame) % 2 == 1
        rate = video.stream.average_rate
        probe = Probe(
            duration_s=video.duration_s or 0.0,
            width=frame.height if turned else frame.width,
            height=frame.width if turned else frame.height,
            fps=float(rate) if rate else 0.0,
            n_frames=video.stream.frames,
            codec=video.stream.codec.canonical_name,
            decoder=decoder,
        )
    if probe.duration_s > 0:
        return probe
    times_s = read_packets(uri).times_s  # some streams have no header to say it
    period_s = (times_s[-1] - times_s[0]) / max(len(times_s) - 1, 1)
    return Probe(**{**vars(probe), "duration_s": float(times_s[-1] + period_s)})


def tick_of(timed: Any) -> int | None:
    """When a packet or frame is presented, in ticks; AVI has decoding times only. None for the packet that flushes."""
    return timed.pts if timed.pts is not None else timed.dts


def quarter_turns(frame: Any) -> int:
    """How many quarter turns counterclockwise set the frame upright; garbage in the metadata turns nothing."""
    return round(frame.rotation / 90) % 4 if -180 <= frame.rotation <= 180 else 0


def reason_of(error: FFmpegError) -> str:
    """FFmpeg's own words, without the number and the name of the C function."""
    return error.strerror or str(error)


def describe_nothing(packet: Any, failure: str | None) -> str:
    """Why not one frame came out of a video, ``packet`` being the last that was tried."""
    if packet is not None and packet.has_sidedata("encryption_info"):
        return "it is encrypted"
    return f"no frame decodes: {failure}" if failure else "no frame decodes"


@contextmanager
def _open_remote(uri: str) -> Iterator[Any]:
    """Open a remote file whose blocks are fetched as they are read and kept in memory, the last few of them."""
    import fsspec

    try:
        file_system, path = fsspec.core.url_to_fs(uri)
        file = file_system.open(
            path,
            "rb",
            block_size=_BLOCK_BYTES,
            cache_type="blockcache",
            cache_options={"maxblocks": _REMOTE_BLOCKS},
        )
    except (OSError, ValueError, ImportError) as error:
        words = " ".join(str(error).replace(uri, "").split())
        raise DecodeError(f"{uri}: cannot be opened ({words or type(error).__name__})") from error
    with file:
        yield file


def _find_stream(container: Any, uri: str) -> Any:
    """Choose the stream that a player would show; pictures attached to music are none."""
    shown = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not shown:
        raise DecodeError(f"{uri}: there is no video stream in it")
    best = container.streams.best("video")
    stream = best if best in shown else shown[0]
    if stream.codec_context is None:
        raise DecodeError(f"{uri}: FFmpeg has no decoder for its video")
    return stream


def _header_duration(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _first_frame(video: Video) -> Any:
    packet, failure = None, None
    try:
        for packet in video.container.demux(video.stream):
            for frame in packet.decode():
                return frame
    except FFmpegError as error:
        failure = reason_of(error)
    raise DecodeError(f"{video.uri}: {describe_nothing(packet, failure)}")
