"""PyAV: FFmpeg's own libraries, for local files and for streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from av.error import FFmpegError

from raypipe.decoders.container import (
    N_THREADS,
    ContainerReader,
    OpenVideo,
    describe_nothing,
    open_video,
    reason_of,
    tick_of,
)
from raypipe.decoders.picture import Resizer
from raypipe.errors import DecodeError
from raypipe.schema import Frames
from raypipe.storage import shown

# A shorter gap is read through, which costs little, because packets that are not needed are not decoded.
_SEEK_S = 2.0
# Codecs whose non-reference frames can be skipped. In HEVC a frame of another layer may need one.
_SKIPPING = {"h264", "mpeg4", "mpeg2video"}
# These bound the packets that wait undecoded, and so the memory.
_PENDING_PACKETS, _PENDING_BYTES = 1024, 32 << 20


class PyAVDecoder(ContainerReader):
    """Decodes with FFmpeg through PyAV; remote videos are streamed through fsspec and not stored.

    Parameters
    ----------
    n_threads
        Number of FFmpeg's threads; with 0 it chooses.
    """

    name = "pyav"

    def __init__(self, n_threads: int = N_THREADS) -> None:
        self.n_threads = n_threads

    def frames(self, uri: str, times_s: np.ndarray, image_size: int, resize_mode: str) -> Frames:
        """See `raypipe.decoders.Decoder.frames`."""
        times_s = np.asarray(times_s, dtype=np.float64)
        try:
            return self._sample(uri, times_s, image_size, resize_mode, linear=False)
        except _Lost:
            return self._sample(uri, times_s, image_size, resize_mode, linear=True)

    def _sample(self, uri: str, times_s: np.ndarray, image_size: int, resize_mode: str, linear: bool) -> Frames:
        pixels = np.empty((len(times_s), image_size, image_size, 3), dtype=np.uint8)
        ticks: list[int] = []
        n_damaged = 0
        with open_video(uri, self.n_threads) as video:
            walk = _Walk(video, times_s, linear)
            resize = Resizer(image_size, resize_mode, video.pixel_aspect)
            for i, (tick, frame) in enumerate(walk):
                try:
                    pixels[i] = pixels[i - 1] if i and ticks[-1] == tick else resize(frame)
                except DecodeError as failure:  # Later frames would have the same colours.
                    walk.error = (
                        f"stopped at {float(video.to_seconds(tick)):.1f} s: {failure}" if ticks else str(failure)
                    )
                    break
                ticks.append(tick)
                n_damaged += frame.is_corrupt  # FFmpeg fills in the parts of a frame that it cannot decode.
            if walk.error and not ticks:
                raise DecodeError(f"{shown(uri)}: {walk.error}")
            n = len(ticks)
            damage = f"{n_damaged} of {n} frames are damaged" if n_damaged else None
            error = "; ".join(filter(None, (walk.error, damage))) or None
            return Frames(pixels[:n], video.to_seconds(ticks), np.arange(n), self.name, error)


class _Lost(Exception):
    """A jump landed after the requested time, and no earlier one could be made."""


class _Walk:
    """Iterates over the frames on display at given times, as pairs (tick, frame), and decodes as few as possible.

    Packets wait undecoded until one reaches the requested time. If a keyframe comes before that, all waiting packets
    are useless and are dropped. If the container's index knows a keyframe far ahead, the walk jumps there.

    Attributes
    ----------
    error
        After the last frame, why some times got no frame, or None.
    """

    def __init__(self, video: OpenVideo, times_s: np.ndarray, linear: bool) -> None:
        self.error: str | None = None
        self._video = video
        self._codec = video.stream.codec_context
        self._skips = not linear and self._codec.codec.canonical_name in _SKIPPING
        self._linear = linear  # Everything is decoded from the start on, which is slow and always right.
        self._waiting = deque(video.to_ticks(times_s).tolist())
        self._jumped = False  # The decoder has not seen the packets just before the next one.
        self._fresh = False  # The frame before the next one is not known.
        self._first_sound = -(2**63)  # Frames before this tick may lack the frames that they are predicted from.
        self._packet: Any = None  # This is the packet that was decoded last.

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield a pair for each time, until the times or the video end."""
        current: tuple[int, Any] | None = None
        failure = None
        try:
            for frame in self._frames() if self._waiting else ():
                tick = tick_of(frame)
                if tick is None:
                    raise DecodeError(f"{shown(self._video.uri)}: its frames have no presentation times")
                if self._fresh and tick > self._waiting[0]:
                    raise _Lost
                current = None if self._fresh else current
                self._fresh = False
                while self._waiting and tick > self._waiting[0]:
                    yield current or (tick, frame)
                    self._waiting.popleft()
                if not self._waiting:
                    return
                current = tick, frame
        except FFmpegError as error:
            failure = reason_of(error)
        end_s = self._video.find_end(current[0], current[1].duration, broken=failure is not None) if current else 0.0
        while current and not self._fresh and self._waiting and self._next_s() < end_s:
            yield current
            self._waiting.popleft()
        if self._waiting:
            self.error = self._describe_end(current, end_s, failure)

    def _frames(self) -> Iterator[Any]:
        """Decode the packets that may hold the frame for the next time."""
        pending: list[Any] = []
        n_bytes = 0
        for packet in self._packets():
            tick = tick_of(packet)
            early = tick is not None and tick <= self._waiting[0] and not self._linear
            if early and packet.is_keyframe:
                self._jumped = self._jumped or bool(pending)
                pending, n_bytes = [], 0
            pending.append(packet)
            n_bytes += packet.size
            if early and len(pending) < _PENDING_PACKETS and n_bytes < _PENDING_BYTES:
                continue
            if self._jumped:
                self._codec.flush_buffers()
                self._jumped, self._fresh, self._first_sound = False, True, tick_of(pending[0]) or 0
            yield from self._decode(pending)
            pending, n_bytes = [], 0

    def _decode(self, packets: list[Any]) -> Iterator[Any]:
        """Decode packets; all but the last are shown no later than the next time."""
        newest = max((tick_of(packet) or 0 for packet in packets[:-1]), default=None)
        for self._packet in packets:
            tick = tick_of(self._packet)
            # A frame that is replaced before the next time is needed only if others are predicted from it.
            replaced = self._skips and newest is not None and tick is not None and tick < newest
            self._codec.skip_frame = "NONREF" if replaced else "DEFAULT"
            for frame in self._packet.decode():
                if (tick_of(frame) or 0) >= self._first_sound:
                    yield frame

    def _packets(self) -> Iterator[Any]:
        """Read packets from the start, or from the last keyframe before the next time if that is far ahead."""
        container, stream = self._video.container, self._video.stream
        second = round(1 / stream.time_base)
        sought = self._waiting[0]
        begins_late = sought - self._video.origin > second and not self._linear
        packets = self._seek() if begins_late else container.demux(stream)
        while (packet := next(packets, None)) is not None:
            yield packet
            tick, goal = tick_of(packet), self._waiting[0]
            far_behind = tick is not None and goal - tick > _SEEK_S * second and not self._linear
            if far_behind and goal != sought and self._keyframe_ahead(packet, goal):
                sought = goal
                packets = self._seek()

    def _keyframe_ahead(self, packet: Any, goal: int) -> bool:
        """Return whether the container's index knows a keyframe between this packet and the goal."""
        entries = self._video.stream.index_entries
        found = entries.search_timestamp(goal)
        return found >= 0 and packet.dts is not None and entries[found].timestamp > packet.dts

    def _seek(self) -> Iterator[Any]:
        """Read on from the last keyframe that is not after the next time."""
        container, stream = self._video.container, self._video.stream
        goal = self._waiting[0]
        for back_s in (1, 2, 4, 8, 16, 32):
            try:
                container.seek(goal, stream=stream)
            except FFmpegError as error:
                raise _Lost from error
            packets = container.demux(stream)
            keyframe = next((packet for packet in packets if packet.is_keyframe), None)
            tick = tick_of(keyframe) if keyframe is not None else None
            if tick is not None and tick <= self._waiting[0]:
                self._jumped = True
                return chain([keyframe], packets)
            # Containers seek by decoding time, which is earlier than the time of display, and some of them to a packet
            # that is no keyframe. So the next try starts further back.
            goal = self._waiting[0] - round(back_s / stream.time_base)
        raise _Lost

    def _next_s(self) -> float:
        return float(self._video.to_seconds(self._waiting[0]))

    def _describe_end(self, current: tuple[int, Any] | None, end_s: float, failure: str | None) -> str:
        if current is None:
            return describe_nothing(self._packet, failure)
        if failure is None:
            return f"ends at {float(self._video.to_seconds(current[0])):.1f} s, before {self._next_s():.1f} s"
        of = f" of {self._video.duration_s:.1f} s" if self._video.duration_s else ""
        return f"stopped at {end_s:.1f} s{of}: {failure}"
