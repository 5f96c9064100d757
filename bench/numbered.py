"""Videos whose every frame carries its own number, so that one can see which frame was given for which time.

A number stands in a picture as twelve blocks in two rows of six, left to right and top to bottom: bit b is set where
block b is bright. It can be read after lossy coding, and from a picture that was squashed to a small square.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

N_COLUMNS, N_BITS = 6, 12
_DARK, _BRIGHT = 32, 224
_AUDIO_RATE = 48_000


@dataclass(frozen=True)
class Codec:
    """How a codec is encoded: FFmpeg's encoder, the format of its pixels, options, and the size of a picture."""

    encoder: str
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (96, 64)  # width, height


@dataclass(frozen=True)
class Container:
    """A container: the suffix of its files, FFmpeg's muxer where the suffix does not say it, options, and its audio."""

    suffix: str
    muxer: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    audio: str = "aac"


@contextlib.contextmanager
def own_scheduling() -> Iterator[None]:
    """Let what opens an encoder of AV1 leave this thread as it was.

    As root, where it may, SVT-AV1 makes the thread that opens it a real-time one of the highest priority (SCHED_FIFO,
    99) and leaves it so. Each thread and process that it starts from then on is another, and they let nothing else run:
    of two processes of tests one stood still, and browsers spun.
    """
    if not hasattr(os, "sched_setscheduler"):  # macOS
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, priority)


def _x264(*parameters: str) -> Codec:
    joined = ":".join(["keyint=24", "min-keyint=24", "scenecut=0", "b-adapt=0", *parameters])
    return Codec("libx264", options={"preset": "veryfast", "x264-params": joined})


def _x265(*parameters: str) -> Codec:
    joined = ":".join(["log-level=none", "keyint=24", "min-keyint=24", "scenecut=0", "b-adapt=0", *parameters])
    return Codec("libx265", options={"preset": "ultrafast", "x265-params": joined})


# "ip": without B-frames. "open": open groups of pictures, whose first frames are predicted from the group before.
CODECS = {
    "h264": _x264("bframes=3"),
    "h264-ip": _x264("bframes=0"),
    "h264-open": _x264("bframes=3", "open-gop=1", "repeat-headers=1"),
    "h264-interlaced": _x264("bframes=3", "tff=1"),
    "h264-ycgco": _x264("bframes=3", "colormatrix=YCgCo"),  # libswscale refuses these colours.
    "hevc-10bit": replace(_x265("bframes=3"), pix_fmt="yuv420p10le"),
    "hevc": _x265("bframes=3", "open-gop=0"),
    "hevc-open": _x265("bframes=3", "open-gop=1", "repeat-headers=1"),
    "mpeg1": Codec("mpeg1video", options={"bf": "2", "g": "12"}),
    "mpeg2": Codec("mpeg2video", options={"bf": "2", "g": "12"}),
    "mpeg2-ip": Codec("mpeg2video", options={"g": "12"}),
    "mpeg4": Codec("mpeg4", options={"bf": "2", "g": "24"}),
    "mpeg4-ip": Codec("mpeg4", options={"g": "24"}),
    "mjpeg": Codec("mjpeg", "yuvj420p"),
    "vp8": Codec("libvpx", options={"deadline": "realtime", "cpu-used": "4", "g": "24"}),
    "vp9": Codec("libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "g": "24"}),
    "av1": Codec("libsvtav1", options={"preset": "10", "g": "24", "crf": "15"}),
    "prores": Codec("prores_ks", "yuv422p10le"),
    "dnxhr": Codec("dnxhd", "yuv422p", {"profile": "dnxhr_lb"}, (256, 128)),
    "ffv1": Codec("ffv1"),
    "huffyuv": Codec("huffyuv", "yuv422p"),
    "qtrle": Codec("qtrle", "rgb24"),
    "png": Codec("png", "rgb24"),
    "gif": Codec("gif", "gray"),
    "raw": Codec("rawvideo"),
    "raw-rgb": Codec("rawvideo", "bgr24"),
    "raw-frames": Codec("wrapped_avframe"),
    "wmv2": Codec("wmv2", options={"g": "24"}),
    "msmpeg4": Codec("msmpeg4", options={"g": "24"}),
    "flv1": Codec("flv", options={"g": "24"}),
    "h263": Codec("h263", options={"g": "24"}, size=(176, 144)),
}

CONTAINERS = {
    "mp4": Container(".mp4"),
    "fragmented": Container(".mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "mov": Container(".mov"),
    "3gp": Container(".3gp"),
    "mkv": Container(".mkv"),
    "webm": Container(".webm", audio="libopus"),
    "ts": Container(".ts", audio="mp2"),
    "m2ts": Container(".m2ts", audio="ac3"),
    "mpg": Container(".mpg", audio="mp2"),
    "vob": Container(".vob", audio="ac3"),
    "avi": Container(".avi", audio="mp2"),
    "flv": Container(".flv"),
    "ogv": Container(".ogv", audio="libopus"),
    "wmv": Container(".wmv", audio="libmp3lame"),
    "nut": Container(".nut"),
    "mxf": Container(".mxf", audio="pcm_s16le"),
    "ivf": Container(".ivf"),
    "gif": Container(".gif"),
    "y4m": Container(".y4m"),
    "m1v": Container(".m1v"),
    "m2v": Container(".m2v"),
    "m4v stream": Container(".m4v", "m4v"),
    "h264 stream": Container(".h264"),
    "hevc stream": Container(".hevc"),
    "mjpeg stream": Container(".mjpeg"),
}


def draw_number(number: int, width: int, height: int) -> np.ndarray:
    """Return a (height, width) uint8 picture that carries a number of `N_BITS` bits."""
    bits = (number >> np.arange(N_BITS)) & 1
    levels = np.where(bits, _BRIGHT, _DARK).astype(np.uint8).reshape(-1, N_COLUMNS)
    rows, columns = np.arange(height) * len(levels) // height, np.arange(width) * N_COLUMNS // width
    return levels[rows[:, None], columns]


def read_number(picture: np.ndarray) -> int:
    """Return the number in a (height, width) or (height, width, 3) picture of any size."""
    height, width = picture.shape[:2]
    rows = _middles(height, N_BITS // N_COLUMNS) @ picture.reshape(height, -1)
    levels = rows.reshape(len(rows), width, -1).mean(axis=2) @ _middles(width, N_COLUMNS).T
    return sum(1 << int(bit) for bit in np.flatnonzero(levels > (_DARK + _BRIGHT) / 2))


@cache
def _middles(n: int, n_blocks: int) -> np.ndarray:
    """Return the (n_blocks, n) matrix that averages the middle half of each block of n values."""
    block = np.arange(n_blocks)[:, None]
    begin, end = ((block + share) * n / n_blocks for share in (0.25, 0.75))
    inside = (np.arange(n) >= begin.astype(int)) & (np.arange(n) <= end.astype(int))
    return inside / inside.sum(axis=1, keepdims=True)


@own_scheduling()
def write_numbered(
    path: Path,
    container: str,
    codec: str,
    numbers: Sequence[int],
    *,
    rate: Fraction | int = 30,
    ticks: Sequence[int] | None = None,
    start_s: float = 0.0,
    audio_s: tuple[float, float] | None = None,
    options: Mapping[str, str] | None = None,
    orientation: Mapping[str, Any] | None = None,
    draw: Callable[[int, int, int], np.ndarray] = draw_number,
    edit: Callable[[int, bytes], bytes] | None = None,
    cover: int | None = None,
    second_track: Sequence[int] = (),
) -> Path:
    """Write a video of one frame for each number.

    Parameters
    ----------
    container, codec
        Keys of `CONTAINERS` and `CODECS`.
    rate
        Frames a second.
    ticks
        When each frame is shown, in ticks of ``1 / rate``; one after the other by default.
    start_s
        When the first frame is shown by the file's own clock.
    audio_s
        Start and end of a track of silence by the same clock.
    options
        Of the muxer, beside the container's own.
    orientation, draw
        Arguments of ``set_display_rotation`` in PyAV, and what draws a number so that it is upright under them.
    edit
        Changes the bytes of the n-th packet of the video.
    cover
        The number of a still picture that is attached.
    second_track
        The numbers of a second track.
    """
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 tells all its settings otherwise.
    form = CONTAINERS[container]
    ticks = range(len(numbers)) if ticks is None else ticks
    with av.open(str(path), "w", format=form.muxer, options={**form.options, **(options or {})}) as out:
        video = _add_video(out, codec, rate)
        if orientation:
            video.set_display_rotation(**orientation)
        second = _add_video(out, codec, rate) if len(second_track) else None
        still = _add_video(out, "mjpeg", rate) if cover is not None else None
        sound = out.add_stream(form.audio, rate=_AUDIO_RATE) if audio_s else None
        packets = list(_encode(video, numbers, ticks, start_s, draw))
        if edit:
            packets = [_with_bytes(packet, edit(n, bytes(packet))) for n, packet in enumerate(packets)]
        if second is not None:
            packets += _encode(second, second_track, ticks, start_s, draw_number)
        if still is not None and cover is not None:
            still.disposition = av.stream.Disposition.attached_pic
            packets += _encode(still, [cover], [0], start_s, draw_number)
        if sound is not None and audio_s:
            packets += _silence(sound, *audio_s)
        # In order of decoding, as from a camera: the muxer need not hold back one track for another.
        for packet in sorted(packets, key=lambda each: each.dts * each.time_base):
            out.mux(packet)
    return path


def _add_video(out: Any, codec: str, rate: Fraction | int) -> Any:
    settings = CODECS[codec]
    stream = out.add_stream(settings.encoder, rate=rate, options=dict(settings.options))
    stream.width, stream.height = settings.size
    stream.pix_fmt = settings.pix_fmt
    stream.codec_context.thread_count = 1
    stream.time_base = stream.codec_context.time_base = 1 / Fraction(rate)
    return stream


def _encode(stream: Any, numbers: Sequence[int], ticks: Sequence[int], start_s: float, draw: Any) -> Iterator[Any]:
    base, pix_fmt = stream.codec_context.time_base, stream.codec_context.pix_fmt
    first = round(Fraction(start_s) / base)
    for number, tick in zip(numbers, ticks, strict=True):
        picture = draw(number, stream.width, stream.height)
        frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format=pix_fmt)
        frame.pts, frame.time_base = first + tick, base
        yield from stream.encode(frame)
    yield from stream.encode()


def _with_bytes(packet: Any, data: bytes) -> Any:
    changed = av.Packet(data)
    for name in ("pts", "dts", "duration", "time_base", "stream", "is_keyframe"):
        setattr(changed, name, getattr(packet, name))
    return changed


def _silence(stream: Any, start_s: float, end_s: float) -> Iterator[Any]:
    context = stream.codec_context
    resampler = av.AudioResampler(format=context.format, layout=context.layout, rate=_AUDIO_RATE)
    n_samples = 1024
    for start in range(round(start_s * _AUDIO_RATE), round(end_s * _AUDIO_RATE), n_samples):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2 * n_samples), np.int16), format="s16", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = _AUDIO_RATE, Fraction(1, _AUDIO_RATE), start
        for converted in resampler.resample(frame):
            yield from stream.encode(converted)
    yield from stream.encode()
