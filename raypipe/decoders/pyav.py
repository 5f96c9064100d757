"""PyAV: FFmpeg's own libraries, for local files and for streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
from av.error import FFmpegError

from raypipe.decoders.container import (
    N_THREADS,
    OpenVideo,
    check_clear,
    decode_shown,
    describe_nothing,
    find_start,
    open_video,
    reason_of,
)
from raypipe.decoders.lengths import ContainerReader
from raypipe.decoders.picture import Resizer
from raypipe.decoders.timeline import count_frames, read_origin, read_packets
from raypipe.errors import DecodeError
from raypipe.schema import Frames, ThumbnailRequest
from raypipe.storage import shown

# A shorter gap is read through, which costs little, because packets that are not needed are not decoded.
_SEEK_S = 2.0
# Codecs whose non-reference frames can be skipped. In HEVC a frame of another layer may need one.
_SKIPPING = {"h264", "mpeg4", "mpeg2video"}
_CUT_OFF = "the file was cut off there"
# What a packet may bring for all that follow: the parameters of another part of the file, as where two were joined, and
# the colours of pictures of 256.
_LASTING = ("new_extradata", "palette")
# These bound the packets that wait undecoded, and so the memory.
_PENDING_PACKETS, _PENDING_BYTES = 1024, 32 << 20

_Form = tuple[int, str, ThumbnailRequest | None]  # The size and the mode of the squares, and the small pictures.


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

    def frames(
        self,
        uri: str,
        times_s: np.ndarray,
        image_size: int,
        resize_mode: str,
        thumbnails: ThumbnailRequest | None = None,
    ) -> Frames:
        """See `raypipe.decoders.Decoder.frames`; with ``thumbnails`` it makes small pictures too."""
        times_s = np.asarray(times_s, dtype=np.float64)
        form = image_size, resize_mode, thumbnails
        try:
            with open_walk(uri, times_s, self.n_threads) as walk:
                return self._follow(walk, len(times_s), form)
        except Lost:
            return self._count(uri, times_s, form)

    def _follow(self, walk: Walk, n_times: int, form: _Form) -> Frames:
        """Decode as few frames as possible; raise `Lost` if the container's times do not lead to the right ones."""
        video = walk.video
        image_size, resize_mode, thumbnails = form
        pixels = np.empty((n_times, image_size, image_size, 3), dtype=np.uint8)
        ticks: list[int] = []
        n_damaged = 0
        resize = Resizer(image_size, resize_mode, video.pixel_aspect, request=thumbnails)
        for i, (tick, frame) in enumerate(walk):
            try:
                pixels[i] = pixels[i - 1] if i and ticks[-1] == tick else resize(frame)
                resize.keep(i, frame)
            except DecodeError as failure:  # Later frames would have the same colours.
                at_s = float(video.to_seconds(tick, walk.origin))
                walk.error = _describe_stop(at_s, None, str(failure)) if ticks else str(failure)
                break
            ticks.append(tick)
            n_damaged += frame.is_corrupt  # FFmpeg fills in the parts of a frame that it cannot decode.
        if walk.error and not ticks:
            raise DecodeError(f"{shown(video.uri)}: {walk.error}")
        n = len(ticks)
        times_s = video.to_seconds(np.array(ticks, dtype=np.int64), walk.origin)
        error = _join(walk.error, _count_damaged(n_damaged, n))
        return Frames(pixels[:n], times_s, np.arange(n), self.name, error, resize.thumbnails)

    def _count(self, uri: str, times_s: np.ndarray, form: _Form) -> Frames:
        """Decode from the start and count, which is slow and always right."""
        image_size, resize_mode, thumbnails = form
        timeline = count_frames(uri)
        numbers, error = timeline.find(times_s)
        pixels = np.empty((len(numbers), image_size, image_size, 3), dtype=np.uint8)
        n, n_damaged = 0, 0
        with open_video(uri, self.n_threads) as video:
            claim_s = video.read_claim(timeline.origin)
            failure = timeline.failure or (_CUT_OFF if claim_s and claim_s > timeline.end_s else None)
            error = _describe_stop(timeline.duration_s, claim_s, failure) if error and failure else error
            if error and not len(numbers):
                raise DecodeError(f"{shown(uri)}: {error}")
            resize = Resizer(image_size, resize_mode, video.pixel_aspect, request=thumbnails)
            for number, frame in enumerate(decode_shown(video) if len(numbers) else ()):
                if number != numbers[n]:
                    continue
                try:
                    end = resize.fill(pixels, numbers, number, frame)
                except DecodeError as failure:
                    if not n:
                        raise DecodeError(f"{shown(uri)}: {failure}") from failure
                    error = _describe_stop(timeline.times_s[number], None, str(failure))
                    break
                n_damaged += frame.is_corrupt * (end - n)
                n = end
                if n == len(numbers):
                    break
        error = _join(error, _count_damaged(n_damaged, n), timeline.remark)
        return Frames(pixels[:n], timeline.times_s[numbers[:n]], np.arange(n), self.name, error, resize.thumbnails)


def _describe_stop(end_s: float, claim_s: float | None, failure: str) -> str:
    return f"stopped at {end_s:.1f} s{f' of {claim_s:.1f} s' if claim_s else ''}: {failure}"


def _count_damaged(n_damaged: int, n: int) -> str | None:
    return f"{n_damaged} of {n} frames are damaged" if n_damaged else None


def _join(*reasons: str | None) -> str | None:
    return "; ".join(filter(None, reasons)) or None


class Lost(Exception):
    """The container's times do not lead to the frames: a jump landed too late, or a frame has no time of its own."""


@contextmanager
def open_walk(uri: str, times_s: np.ndarray, n_threads: int = N_THREADS) -> Iterator[Walk]:
    """Open a video and yield the walk over the frames on display at some times, (n,) float64, ascending.

    Raises
    ------
    Lost
        If the container's times cannot lead to the right frames; the walk itself may raise it too.
    DecodeError
        If the video cannot be opened.
    """
    origin = None
    with open_video(uri, n_threads) as video:
        if not video.is_sought:
            raise Lost
        # A file without an index may have been cut out of a stream, or joined from several.
        start = find_start(video) if video.is_indexed else None
        if start is not None:
            origin, packets = start
            yield Walk(video, times_s, origin, packets)
            return
        is_indexed = video.is_indexed
    if is_indexed:
        origin = read_origin(uri)
    else:
        timeline = read_packets(uri)
        origin = timeline.origin if timeline.is_sound else None
    if origin is None:
        raise Lost
    with open_video(uri, n_threads) as video:
        yield Walk(video, times_s, origin, video.container.demux(video.stream))


class Walk:
    """Iterates over the frames on display at given times, as pairs (tick, frame), and decodes as few as possible.

    Packets wait undecoded until one reaches the requested time. If a keyframe comes before that, all waiting packets
    are useless and are dropped. If the container's index knows a keyframe far ahead, the walk jumps there.

    Attributes
    ----------
    error
        After the last frame, why some times got no frame, or None.
    video, origin
        The open video, and the tick of its first frame.
    """

    def __init__(self, video: OpenVideo, times_s: np.ndarray, origin: int, packets: Iterator[Any]) -> None:
        self.error: str | None = None
        self.video, self.origin = video, origin
        self._codec = video.stream.codec_context
        # Where the times are made up, only frames that come out of order show that they are wrong.
        self._skips = self._codec.codec.canonical_name in _SKIPPING and not video.is_untimed
        self._lasting: dict[str, Any] = {}  # What packets have brought for those that follow, up to the last one read.
        self._given = self._lasting  # And up to the last one that was decoded.
        self._from_start = self._note(packets)
        self._waiting = deque(video.to_ticks(times_s, origin).tolist())
        self._jumped = False  # The decoder has not seen the packets just before the next one.
        self._has_jumped = False  # It has jumped at least once.
        self._fresh = False  # The frame before the next one is not known.
        self._has_begun = False  # A frame has come since decoding began here.
        self._first_sound = -(2**63)  # Frames before this tick may lack the frames that they are predicted from.
        self._failure: str | None = None  # Why it could not be decoded, as long as no frame has come.

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield a pair for each time, until the times or the video end."""
        current: tuple[int, Any] | None = None
        failure = None
        try:
            for tick, frame in self._timed_frames() if self._waiting else ():
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
        if self._waiting and self._has_jumped and (self._fresh or current is None):
            raise Lost  # Nothing decodes where the jump led; what lies before it says where the video ends.
        claim_s = self.video.read_claim(self.origin)
        if current and failure is None and claim_s and claim_s > self._find_end(current, broken=False):
            failure = _CUT_OFF
        end_s = self._find_end(current, broken=failure is not None) if current else 0.0
        while current and not self._fresh and self._waiting and self._next_s() < end_s:
            yield current
            self._waiting.popleft()
        if self._waiting:
            self.error = self._describe_end(current, end_s, claim_s, failure)

    def _timed_frames(self) -> Iterator[tuple[int, Any]]:
        """Yield frames with their ticks, which must lead to the right frames."""
        last: int | None = None
        for frame in self._frames():
            tick = frame.pts
            if tick is None or (self._fresh and (tick > self._waiting[0] or not frame.key_frame)):
                raise Lost
            if last is not None and tick <= last and not self._fresh:
                raise Lost
            last = tick
            yield tick, frame

    def _frames(self) -> Iterator[Any]:
        """Decode the packets that may hold the frame for the next time."""
        pending: list[tuple[Any, dict[str, Any]]] = []  # Each packet with what lasts when it has been read.
        n_bytes = 0
        for packet in self._packets():
            tick = packet.pts
            if tick is None and packet.size:
                raise Lost
            early = tick is not None and tick <= self._waiting[0]
            if early and packet.is_keyframe:
                self._jumped = self._jumped or bool(pending)
                pending, n_bytes = [], 0
            pending.append((packet, self._lasting))
            n_bytes += packet.size
            if early and len(pending) < _PENDING_PACKETS and n_bytes < _PENDING_BYTES:
                continue
            if self._jumped:
                self._codec.flush_buffers()
                self._has_begun = False
                self._jumped, self._fresh, self._first_sound = False, True, pending[0][0].pts or 0
            yield from self._decode(pending)
            pending, n_bytes = [], 0

    def _decode(self, pending: list[tuple[Any, dict[str, Any]]]) -> Iterator[Any]:
        """Decode packets; all but the last are shown no later than the next time."""
        newest = max((packet.pts or 0 for packet, _ in pending[:-1]), default=None)
        for packet, lasting in pending:
            tick = packet.pts
            self._give(packet, lasting)
            # A frame that is replaced before the next time is needed only if others are predicted from it.
            replaced = self._skips and newest is not None and tick is not None and tick < newest
            self._codec.skip_frame = "NONREF" if replaced else "DEFAULT"
            try:
                frames = packet.decode()
            except FFmpegError as error:
                if self._has_begun:
                    raise
                self._failure = reason_of(error)  # It needs frames from before the place where decoding began.
                continue
            for frame in frames:
                self._has_begun = True
                if frame.pts is None or frame.pts >= self._first_sound:
                    yield frame

    def _note(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Yield packets, and keep what they bring for those that follow."""
        for packet in packets:
            check_clear(packet, self.video.uri)
            brought = {kind: packet.get_sidedata(kind) for kind in _LASTING if packet.has_sidedata(kind)}
            if brought:
                self._lasting = {**self._lasting, **brought}
            yield packet

    def _give(self, packet: Any, lasting: dict[str, Any]) -> None:
        """Let a packet that will be decoded bring what packets before it brought that were not decoded."""
        if lasting is not self._given:
            for kind, data in lasting.items():
                if not packet.has_sidedata(kind):
                    packet.set_sidedata(data)
            self._given = lasting

    def _packets(self) -> Iterator[Any]:
        """Read packets from the start, or from the last keyframe before the next time if that is far ahead."""
        second = round(1 / self.video.stream.time_base)
        sought = self._waiting[0]
        packets = self._from_start
        if sought - self.origin > second:
            next(packets, None)  # It may bring something for those that follow.
            packets = self._seek()
        while (packet := next(packets, None)) is not None:
            yield packet
            tick, goal = packet.pts, self._waiting[0]
            far_behind = tick is not None and goal - tick > _SEEK_S * second
            if far_behind and goal != sought and self._keyframe_ahead(packet, goal):
                sought = goal
                packets = self._seek()

    def _keyframe_ahead(self, packet: Any, goal: int) -> bool:
        """Return whether the container's index knows a keyframe between this packet and the goal."""
        entries = self.video.stream.index_entries
        found = entries.search_timestamp(goal)
        return found >= 0 and packet.dts is not None and entries[found].timestamp > packet.dts

    def _seek(self) -> Iterator[Any]:
        """Read on from the last keyframe that is not after the next time."""
        container, stream = self.video.container, self.video.stream
        goal = self._waiting[0]
        for back_s in (1, 2, 4, 8, 16, 32):
            try:
                container.seek(goal, stream=stream)
            except FFmpegError as error:
                raise Lost from error
            packets = self._note(container.demux(stream))
            keyframe = next((packet for packet in packets if packet.is_keyframe), None)
            tick = keyframe.pts if keyframe is not None else None
            if tick is not None and tick <= self._waiting[0]:
                self._jumped = self._has_jumped = True
                return chain([keyframe], packets)
            # Containers seek by decoding time, which is earlier than the time of display, and some of them to a packet
            # that is no keyframe. So the next try starts further back.
            goal = self._waiting[0] - round(back_s / stream.time_base)
        raise Lost

    def _next_s(self) -> float:
        return float(self.video.to_seconds(self._waiting[0], self.origin))

    def _find_end(self, last: tuple[int, Any], broken: bool) -> float:
        duration_s = float((last[1].duration or 0) * self.video.stream.time_base)
        return self.video.find_end(float(self.video.to_seconds(last[0], self.origin)), duration_s, broken)

    def _describe_end(
        self, current: tuple[int, Any] | None, end_s: float, claim_s: float | None, failure: str | None
    ) -> str:
        if current is None:
            return describe_nothing(failure or self._failure)
        if failure is None:
            last_s = float(self.video.to_seconds(current[0], self.origin))
            return f"ends at {last_s:.1f} s, before {self._next_s():.1f} s"
        return _describe_stop(end_s, claim_s, failure)
