"""Each suffix that counts as a video's is one that the decoders read."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from raypipe.decoders.sandbox import Sandbox
from raypipe.sources.files import VIDEO_SUFFIXES, find_files

# For each suffix a codec that its files have, and the name of FFmpeg's muxer where the suffix does not tell it.
FILES = {
    ".264": ("libx264", "h264"),
    ".265": ("libx265", "hevc"),
    ".3g2": ("mpeg4", None),
    ".3gp": ("mpeg4", None),
    ".asf": ("msmpeg4v3", None),
    ".avi": ("mpeg4", None),
    ".dv": ("dvvideo", None),
    ".f4v": ("libx264", None),
    ".flv": ("flv", None),
    ".gif": ("gif", None),
    ".h264": ("libx264", None),
    ".h265": ("libx265", None),
    ".hevc": ("libx265", None),
    ".ivf": ("libvpx", None),
    ".m2t": ("libx264", "mpegts"),
    ".m2ts": ("libx264", "mpegts"),
    ".m2v": ("mpeg2video", None),
    ".m4v": ("mpeg4", "mp4"),
    ".mjpeg": ("mjpeg", None),
    ".mkv": ("libx264", None),
    ".mov": ("libx264", None),
    ".mp4": ("libx264", None),
    ".mpeg": ("mpeg1video", None),
    ".mpg": ("mpeg1video", None),
    ".mts": ("libx264", "mpegts"),
    ".mxf": ("mpeg2video", None),
    ".nut": ("mpeg4", None),
    ".ogv": ("libvpx", "ogg"),
    ".ts": ("libx264", None),
    ".vob": ("mpeg2video", None),
    ".webm": ("libvpx", None),
    ".wmv": ("wmv2", None),
    ".y4m": ("wrapped_avframe", "yuv4mpegpipe"),
}
N_FRAMES, FPS = 50, 25
FORMATS = {"gif": "rgb8", "mjpeg": "yuvj420p"}


def write(path: Path) -> None:
    """Write two seconds that grow brighter."""
    codec, muxer = FILES[path.suffix]
    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height = (720, 576) if codec == "dvvideo" else (96, 64)
        stream.pix_fmt = FORMATS.get(codec, "yuv420p")
        for i in range(N_FRAMES):
            pixels = np.full((stream.height, stream.width, 3), 5 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_every_suffix_is_tried():
    assert set(FILES) == VIDEO_SUFFIXES


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox("pyav") as sandbox:
        yield sandbox


@pytest.mark.parametrize("suffix", FILES)
def test_a_file_is_found_and_its_frames_come(tmp_path, sandbox, suffix):
    write(tmp_path / f"a{suffix}")
    (video,) = find_files(str(tmp_path))
    probe = sandbox.probe(video.uri)
    assert probe.duration_s == pytest.approx(N_FRAMES / FPS, abs=0.6)
    frames = sandbox.frames(video.uri, np.arange(7) / 5, 32, "crop", span_s=2)
    assert len(frames.pixels) == 7 and frames.error is None
    brightness = frames.pixels.mean(axis=(1, 2, 3))
    assert (np.diff(brightness) > 10).all()
