"""Videos in which every frame carries its own number, as `bench.numbered` draws it, with any settings of FFmpeg."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from bench.numbered import draw_number, read_number

WIDTH, HEIGHT = 96, 64
FORMATS = {"mpg": "mpeg", "vob": "vob", "m2v": "mpeg2video", "m4v": "m4v"}


def write(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    n_frames: int = 60,
    rate: int = 25,
    first: int = 0,
    start_ms: int = 0,
    audio_s: float = 0.0,
    container_options: dict[str, str] | None = None,
    ticks: Callable[[int], int] | None = None,
    ticks_a_second: int = 1000,
) -> Path:
    """Write frames numbered from ``first``, at ``ticks`` of their place or at the rate from ``start_ms`` on.

    With ``audio_s``, a silent track of that length lies beside them.
    """
    made = av.open(str(path), "w", format=FORMATS.get(path.suffix[1:]), options=container_options or {})
    with made as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        sound = container.add_stream("libopus", rate=48000) if audio_s else None
        if start_ms or ticks:
            stream.codec_context.time_base = Fraction(1, ticks_a_second)
        for i in range(n_frames):
            frame = av.VideoFrame.from_ndarray(draw_number(first + i, WIDTH, HEIGHT), format="gray")
            if start_ms or ticks:
                frame.pts = ticks(i) if ticks else start_ms + i * 1000 // rate
                frame.time_base = Fraction(1, ticks_a_second)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for i in range(round(audio_s * 50)) if sound else ():
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), format="s16", layout="stereo")
            silence.sample_rate, silence.pts, silence.time_base = 48000, i * 960, Fraction(1, 48000)
            container.mux(sound.encode(silence))
        if sound:
            container.mux(sound.encode())
    return path


def decode_in_order(path: Path) -> list[int]:
    """Return the numbers of all frames in the decoder's order from the start; packets that fail are passed over."""
    numbers: list[int] = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames: list[Any] = packet.decode()
            except av.FFmpegError:
                continue
            numbers += [read_number(frame.to_ndarray(format="gray")) for frame in frames]
    return numbers


def replace_edits(path: Path, edits: list[tuple[int, int]]) -> Path:
    """Give an MP4, of which the index lies at its end, another edit list: pairs (duration, media time)."""
    data = path.read_bytes()
    entries = b"".join(struct.pack(">IiI", duration, media_time, 1 << 16) for duration, media_time in edits)
    new = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    place = data.rindex(b"elst") - 4
    size = struct.unpack(">I", data[place : place + 4])[0]
    grown = len(new) - size
    for kind in (b"moov", b"trak", b"edts"):
        at = data.rindex(kind, 0, place) - 4
        data = data[:at] + struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + grown) + data[at + 4 :]
    path.write_bytes(data[:place] + new + data[place + size :])
    return path


def join_descriptions(path: Path, parts: list[Path]) -> Path:
    """Join MP4s without B-frames into one whose samples have the parameters of their own part, as MP4Box joins them."""
    n_samples, entries, end = [], b"", 0
    with av.open(str(path), "w") as out:
        for part in parts:
            with av.open(str(part)) as container:
                stream = container.streams.video[0]
                joined = out.streams.video[0] if out.streams else out.add_stream_from_template(stream)
                packets = [packet for packet in container.demux(stream) if packet.size]
                for packet in packets:
                    packet.pts, packet.dts, packet.stream = packet.pts + end, packet.dts + end, joined
                    out.mux(packet)
            end += len(packets) * packets[0].duration
            n_samples.append(len(packets))
            entries += _find(part.read_bytes(), b"stsd")[8:]
    data = path.read_bytes()
    sizes = struct.unpack(f">{sum(n_samples)}I", _find(data, b"stsz")[12:])
    first = struct.unpack(">I", _find(data, b"stco")[8:12])[0]
    offsets = first + np.cumsum([0, *sizes[:-1]])
    begins = np.cumsum([1, *n_samples[:-1]])
    runs = b"".join(struct.pack(">3I", begin, 1, number) for number, begin in enumerate(begins.tolist(), 1))
    for kind, content in {
        b"stsd": struct.pack(">II", 0, len(parts)) + entries,
        b"stsc": struct.pack(">II", 0, len(parts)) + runs,
        b"stco": struct.pack(">II", 0, len(offsets)) + offsets.astype(">u4").tobytes(),
    }.items():
        data = _replace(data, kind, content)
    path.write_bytes(data)
    return path


def _find(data: bytes, kind: bytes) -> bytes:
    """Return the content of the last box of a kind."""
    at = data.rindex(kind)
    return data[at + 4 : at - 4 + struct.unpack(">I", data[at - 4 : at])[0]]


def _replace(data: bytes, kind: bytes, content: bytes) -> bytes:
    """Replace the content of a box of the sample table, which lies behind the media."""
    place = data.rindex(kind) - 4
    size = struct.unpack(">I", data[place : place + 4])[0]
    grown = len(content) + 8 - size
    data = data[:place] + struct.pack(">I4s", size + grown, kind) + content + data[place + size :]
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = data.rindex(parent, 0, place) - 4
        data = data[:at] + struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + grown) + data[at + 4 :]
    return data
