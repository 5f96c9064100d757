"""Which way up frames are shown: FFmpeg's own filters are the oracle."""

import io
import math
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.filter import Graph

from raypipe.decoders import make_decoder
from raypipe.decoders.picture import Resizer
from raypipe.errors import DecodeError
from raypipe.packages import is_installed

WIDTH, HEIGHT = 96, 64
SIZE = 47  # The short side is scaled to 47 and the long one to 70: the margin of 23 is odd.
DECODERS = ["pyav", *(["decord"] if is_installed("decord") else [])]
needs_torchcodec = pytest.mark.skipif(not is_installed("torchcodec"), reason="torchcodec is an extra, not installed")

ONE = 1 << 16
# For each symmetry a, b, c and d of the matrix, and the filters that FFmpeg's autorotation inserts for it.
SYMMETRIES = {
    "upright": ((1, 0, 0, 1), ["null"]),
    "hflip": ((-1, 0, 0, 1), ["hflip"]),
    "vflip": ((1, 0, 0, -1), ["vflip"]),
    "half": ((-1, 0, 0, -1), ["hflip", "vflip"]),
    "clockwise": ((0, 1, -1, 0), ["transpose=clock"]),
    "counterclockwise": ((0, -1, 1, 0), ["transpose=cclock"]),
    "transpose": ((0, 1, 1, 0), ["transpose=cclock_flip"]),
    "antitranspose": ((0, -1, -1, 0), ["transpose=clock_flip"]),
}


def turned_by(degrees: float) -> tuple[float, float, float, float]:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return cosine, sine, -sine, cosine


ODD = {
    "by 30 degrees": (turned_by(30), "upright"),
    "by 60 degrees": (turned_by(60), "clockwise"),
    "by 91 degrees": (turned_by(91), "clockwise"),
    "by 200 degrees": (turned_by(200), "half"),
    "scaled": ((2, 0, 0, 2), "upright"),
    "shrunk and mirrored": ((0.5, 0, 0, -0.5), "vflip"),
    "turned and scaled": ((0, 2, -2, 0), "clockwise"),
    "zeros": ((0, 0, 0, 0), "upright"),
    "half zeros": ((-1, 0, 0, 0), "upright"),
    "without an inverse": ((1, 1, 1, 1), "upright"),
    "greatest numbers": ((-(2**15), 0, 0, -(2**15)), "half"),
}


def draw() -> np.ndarray:
    """(HEIGHT, WIDTH, 3): gray slopes without any symmetry, so steep that a shift by one pixel shows."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    gray = 128 + 60 * np.sin(x / 6 + y / 40) + 60 * np.cos(y / 5 - x / 50)
    return np.repeat(gray[..., None], 3, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """An MP4 of three equal frames, without a display matrix."""
    return write(tmp_path_factory.mktemp("plain") / "plain.mp4")


def write(path: Path, degrees: float = 0, **flips) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if degrees or flips:
            stream.set_display_rotation(degrees, **flips)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(), format="rgb24")))
        container.mux(stream.encode())
    return path


def with_matrix(source: Path, target: Path, abcd: tuple[float, ...]) -> Path:
    """Copy an MP4, and overwrite the matrix in its track header."""
    data = bytearray(source.read_bytes())
    version = data.index(b"tkhd") + 4
    start = version + (52 if data[version] else 40)
    assert struct.unpack_from(">9i", data, start) == (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
    a, b, c, d = (round(min(each * ONE, 2**31 - 1)) for each in abcd)
    struct.pack_into(">9i", data, start, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def right_frame(plain: Path, symmetry: str, mode: str) -> np.ndarray:
    """What is decoded from the file without a matrix, filtered by FFmpeg, and only then scaled and cut."""
    with av.open(str(plain)) as container:
        frame = next(container.decode(video=0))
        graph = Graph()
        chain = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))]
        for each in SYMMETRIES[symmetry][1]:
            name, _, arguments = each.partition("=")
            chain.append(graph.add(name, arguments or None))
        graph.link_nodes(*chain, graph.add("buffersink")).configure()
        graph.push(frame)
        return Resizer(SIZE, mode, 1.0)(graph.pull())


def check(name: str, path: Path, plain: Path, symmetry: str, times_s: tuple[float, ...] = (0.0, 0.1)) -> None:
    decoder = make_decoder(name)
    probe = decoder.probe(str(path))
    lies = "transpose" in SYMMETRIES[symmetry][1][0]
    assert (probe.width, probe.height) == ((HEIGHT, WIDTH) if lies else (WIDTH, HEIGHT))
    for mode in ("squash", "crop"):
        frames = decoder.frames(str(path), np.array(times_s), SIZE, mode)
        off = np.abs(frames.pixels.astype(int) - right_frame(plain, symmetry, mode)).mean()
        assert off < 1.5, f"{name}, {mode}: {off:.1f} levels off"


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_the_eight_symmetries_are_shown_as_ffmpeg_shows_them(tmp_path, plain, symmetry, name):
    check(name, with_matrix(plain, tmp_path / "a.mp4", SYMMETRIES[symmetry][0]), plain, symmetry)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_matrices_count_as_the_nearest_quarter_turn(tmp_path, plain, odd, name):
    matrix, nearest = ODD[odd]
    check(name, with_matrix(plain, tmp_path / "a.mp4", matrix), plain, nearest)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    ("degrees", "hflip", "symmetry"),
    [(90, False, "counterclockwise"), (270, True, "transpose"), (180, False, "half"), (0, True, "hflip")],
)
def test_matroska_has_an_orientation_too(tmp_path, plain, degrees, hflip, symmetry, name):
    check(name, write(tmp_path / "a.mkv", degrees, hflip=hflip), plain, symmetry)


def rewrite_stream(source: Path, target: Path, options: str) -> Path:
    """Copy an MP4, with a display orientation inside its H.264 data."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        rewrite = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:{options}", stream, copy)
        for packet in container.demux(stream):
            for each in rewrite.filter(packet if packet.dts is not None else None):
                each.stream = copy
                out.mux(each)
    return target


def test_the_orientation_may_stand_in_the_codecs_own_data(tmp_path, plain):
    """It then counts for the frame that has it, as in FFmpeg: here for the first."""
    check("pyav", rewrite_stream(plain, tmp_path / "a.mp4", "rotate=90"), plain, "counterclockwise", (0.0,))
    check("pyav", rewrite_stream(plain, tmp_path / "b.mp4", "flip=vertical"), plain, "vflip", (0.0,))


@pytest.mark.parametrize("name", DECODERS)
def test_of_two_matrices_the_containers_holds(tmp_path, plain, name):
    mirrored = with_matrix(plain, tmp_path / "mirrored.mp4", SYMMETRIES["hflip"][0])
    check(name, rewrite_stream(mirrored, tmp_path / "a.mp4", "rotate=90"), plain, "hflip")


@pytest.mark.parametrize(("orientation", "symmetry"), [(6, "clockwise"), (2, "hflip"), (5, "transpose")])
def test_frames_with_side_data_that_pyav_has_no_name_for(tmp_path, orientation, symmetry):
    """Motion JPEG with an orientation in EXIF."""
    from PIL import Image

    paths = []
    for number in (orientation, 1):
        exif = Image.Exif()
        exif[0x0112] = number
        picture = io.BytesIO()
        Image.fromarray(draw()).save(picture, "JPEG", exif=exif, quality=98, subsampling=0)
        paths.append(tmp_path / f"{number}.mkv")
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream("mjpeg", rate=10)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj444p"
            stream.codec_context.open()
            for i in range(3):
                packet = av.Packet(picture.getvalue())
                packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 10), True
                packet.pts = packet.dts = i
                container.mux(packet)
    check("pyav", paths[0], paths[1], symmetry)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("symmetry", ["hflip", "vflip", "transpose"])
def test_given_videos_are_set_upright(data_dir, symmetry, name):
    cases = data_dir / "cases/video"
    if not cases.is_dir():
        pytest.skip("no cases in the test data")
    check(name, cases / f"{symmetry}.mp4", cases / "none.mp4", symmetry)


@needs_torchcodec
@pytest.mark.parametrize("name", [*SYMMETRIES, *ODD])
def test_torchcodec_is_right_or_refuses(tmp_path, plain, name):
    from raypipe.decoders.torchcodec import TorchCodecDecoder

    matrix, symmetry = ODD[name] if name in ODD else (SYMMETRIES[name][0], name)
    path = with_matrix(plain, tmp_path / "a.mp4", matrix)
    decoder = TorchCodecDecoder("cpu")
    for mode in ("squash", "crop"):
        try:
            frames = decoder.frames(str(path), np.array([0.0, 0.1]), SIZE, mode)
        except DecodeError as error:
            assert "upright" in str(error)
            assert name == "without an inverse" or symmetry in ("hflip", "vflip", "transpose", "antitranspose")
        else:
            assert np.abs(frames.pixels.astype(int) - right_frame(plain, symmetry, mode)).mean() < 1.5
