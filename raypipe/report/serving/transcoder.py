"""The child process that looks into videos for the player, and converts those that browsers do not decode.

It is a sandbox as that of `raypipe.decoders.sandbox`: it has a deadline and bounded memory, and dies with its parent.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from raypipe.decoders.images import ImageColumnDecoder
from raypipe.decoders.sandbox import Sandbox
from raypipe.decoders.sandbox_child import bound_memory, serve
from raypipe.errors import DecodeError
from raypipe.storage import parse_image_column, shown

SHORT_SIDE = 480
"""Pixels of the shorter side of a converted video at most."""
_MOST_FPS = 30.0
_USUAL_FPS = 25.0  # Videos of an unknown rate are taken to have this one.
_CODEC = "libx264"
# Without B-frames the first picture is at 0 without an edit list, which players understand differently.
_OPTIONS = {"preset": "veryfast", "crf": "25", "bf": "0", "movflags": "+faststart"}
_KEY_S = 2.0  # Seconds between keyframes: so much is decoded at most to show a moment.
_THREADS = 2
_PROBE_S, _CONVERT_S, _CONVERT_FACTOR = 20.0, 60.0, 4.0


@dataclass(frozen=True)
class Media:
    """What a browser needs to know of a video file.

    Attributes
    ----------
    formats
        FFmpeg's names for the container; none for pictures in a table.
    codec, pixel_format, tag
        FFmpeg's name of the codec and of the pixels' format, and the container's four letters for the codec.
    config
        The codec's own header.
    fps
        The average rate, 0 where unknown.
    duration_s
        The length that the container says, or None.
    start_s, zero_s
        Where the container's first track begins on its clock, and the first frame on display, in seconds.
    is_edited
        Whether players and FFmpeg disagree about what its edit list shows.
    """

    formats: tuple[str, ...]
    codec: str
    pixel_format: str
    tag: str
    config: bytes
    fps: float
    duration_s: float | None
    start_s: float
    zero_s: float
    is_edited: bool


class MediaSandbox(Sandbox):
    """Looks into videos and converts them, in a child process."""

    _module = "raypipe.report.serving.transcoder"

    def __init__(self) -> None:
        super().__init__("pyav", _PROBE_S, 0.0)
        self._is_cancelled = False

    def inspect(self, uri: str) -> Media:
        """Return what a browser needs to know of a video.

        Raises
        ------
        DecodeError
            If it cannot be read, or nothing decodes.
        """
        return self._try_chain(uri, 0.0, lambda child, name, limit_s: Media(**child.ask(limit_s, "inspect", name, uri)))

    def convert(self, uri: str, start_s: float, span_s: float, fps: float, target: Path) -> None:
        """Write a part of a video to an H.264 file, whose time 0 is ``start_s``.

        Raises
        ------
        DecodeError
            If nothing of it decodes, it takes too long, or `cancel` was called.
        """
        self.deadline_s, self.deadline_factor = _CONVERT_S, _CONVERT_FACTOR
        form = start_s, span_s, fps, str(target)
        self._try_chain(uri, span_s, lambda child, name, limit_s: child.ask(limit_s, "convert", name, uri, *form))

    def cancel(self) -> None:
        """Kill the child for good, from another thread than that which waits for it."""
        self._is_cancelled = True
        if (child := self._child) is not None:
            # The thread that waits for the child closes what belongs to it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child._process.pid, signal.SIGKILL)

    def _living_child(self) -> Any:
        if not self._is_cancelled:
            child = super()._living_child()
            if not self._is_cancelled:
                return child
            self.close()
        raise DecodeError("nobody waits for it any more")


def look_into(uri: str) -> Media:
    """Return what a browser needs to know of a video; see `MediaSandbox.inspect`."""
    if parse_image_column(uri) is not None:
        probe = ImageColumnDecoder().probe(uri)
        return Media((), probe.codec, "rgb24", "", b"", probe.fps, probe.duration_s, 0.0, 0.0, False)
    from raypipe.decoders.container import open_video
    from raypipe.decoders.timeline import read_origin

    with open_video(uri) as video:
        context, container = video.stream.codec_context, video.container
        found = Media(
            tuple(sorted(video.formats)),
            context.codec.canonical_name,
            str(context.pix_fmt or ""),
            str(context.codec_tag),
            bytes(context.extradata or b""),
            video.fps,
            container.duration / 1e6 if container.duration else None,
            (container.start_time or 0) / 1e6,
            0.0,
            bool(video.edits),
        )
        base = video.stream.time_base
    origin = read_origin(uri)
    return found if origin is None else Media(**{**vars(found), "zero_s": float(origin * base)})


def _write_converted(uri: str, start_s: float, span_s: float, fps: float, target: str) -> int:
    """Write a part of a video to an H.264 file; see `MediaSandbox.convert`. Returns the number of frames."""
    from raypipe.decoders.playback import iter_displayed
    from raypipe.decoders.pyav import Lost

    rate = Fraction(min(fps or _USUAL_FPS, _MOST_FPS)).limit_denominator(1001)
    times_s = start_s + np.arange(max(math.ceil(span_s * rate - 1e-3), 1)) / float(rate)
    try:
        n = _encode(iter_displayed(uri, times_s, _THREADS), rate, target)
    except Lost:
        n = _encode(iter_displayed(uri, times_s, _THREADS, counted=True), rate, target)
    if not n:
        raise DecodeError(f"{shown(uri)}: no frame decodes from {start_s:.1f} s on")
    return n


def _encode(frames: Iterator[tuple[float, Any]], rate: Fraction, target: str) -> int:
    import av

    from raypipe.decoders.picture import Resizer

    resizer: Resizer | None = None
    stream: Any = None
    n = 0
    with av.open(target, "w", format="mp4", options={"movflags": _OPTIONS["movflags"]}) as container:
        for aspect, frame in frames:
            resizer = resizer or Resizer(SHORT_SIDE, "crop", aspect)
            picture = _make_even(resizer.shrink(frame, SHORT_SIDE))
            if stream is None:
                options = {**_OPTIONS, "g": str(max(round(_KEY_S * rate), 1))}
                stream = container.add_stream(_CODEC, rate=rate, options=options)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = _THREADS
            shown_frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            shown_frame.pts, shown_frame.time_base = n, 1 / rate
            container.mux(stream.encode(shown_frame))
            n += 1
        if stream is not None:
            container.mux(stream.encode())
    return n


def _make_even(picture: np.ndarray) -> np.ndarray:
    """Return a picture whose sides are even, as 4:2:0 chroma needs, and 16 pixels at least."""
    short = [max(16 - side, 0) for side in picture.shape[:2]]
    if any(short):
        picture = np.pad(picture, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


def _answer(memory: int, method: str, name: str, uri: str, *arguments: Any) -> Any:
    bound_memory(name)
    # The child's own class would be another one for the parent.
    return vars(look_into(uri)) if method == "inspect" else _write_converted(uri, *arguments)


if __name__ == "__main__":
    serve(_answer, *map(int, sys.argv[1:]))
