"""Colours that libswscale refuses, against the equations of ITU-T H.273."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from raypipe.decoders import make_decoder
from raypipe.decoders.picture import Resizer
from raypipe.errors import DecodeError
from raypipe.packages import is_installed

SIDE = 64
# Pure and mixed colours, and black, gray and white, in squares of 16 pixels.
PALETTE = np.array(
    [
        *[(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)],
        *[(200, 120, 40), (40, 90, 160), (90, 180, 60), (128, 128, 128)],
        *[(250, 200, 180), (17, 34, 51), (128, 0, 64), (60, 60, 200)],
    ],
    dtype=np.float64,
)
# The luminances of red and of blue, as the standards of these primaries print them or as they are generally known.
LUMINANCES = {"bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593), "smpte432": (0.2290, 0.0793)}
DECODERS = ["pyav", *(["decord"] if is_installed("decord") else [])]


def spread(patches: np.ndarray) -> np.ndarray:
    """(16, c) → (c, SIDE, SIDE): each value a square of 16 pixels."""
    return np.kron(patches.reshape(4, 4, -1).transpose(2, 0, 1), np.ones((1, 16, 16)))


def to_ycgco(bits: int, full: bool) -> np.ndarray:
    """H.273, equations for MatrixCoefficients 8: integers from R, G and B of the range."""
    shift = 1 << (bits - 8)
    rgb = PALETTE / 255 * (2**bits - 1) if full else (PALETTE / 255 * 219 + 16) * shift
    red, green, blue = np.round(rgb).T
    half = 1 << (bits - 1)
    values = [0.5 * green + 0.25 * (red + blue), 0.5 * green - 0.25 * (red + blue) + half, 0.5 * (red - blue) + half]
    return np.round(values).clip(0, 2**bits - 1).T


def to_ycbcr(red_share: float, blue_share: float, full: bool) -> np.ndarray:
    red, green, blue = PALETTE.T / 255
    luma = red_share * red + (1 - red_share - blue_share) * green + blue_share * blue
    chroma = np.stack([(blue - luma) / (2 * (1 - blue_share)), (red - luma) / (2 * (1 - red_share))])
    values = [255 * luma, *(255 * chroma + 128)] if full else [219 * luma + 16, *(224 * chroma + 128)]
    return np.round(values).clip(0, 255).T


def encode(params: str, patches: np.ndarray, bits: int = 8, full: bool = False):
    """Return an open encoder without loss, and its frame of the given (16, 3) values."""
    pixel_format = "yuv420p10le" if bits == 10 else "yuvj420p" if full else "yuv420p"
    context = av.CodecContext.create("libx264", "w")
    context.width = context.height = SIDE
    context.pix_fmt, context.framerate, context.time_base = pixel_format, Fraction(10), Fraction(1, 10)
    context.options = {"qp": "0", "bf": "0", "x264-params": f"{params}:range={'pc' if full else 'tv'}"}
    frame = av.VideoFrame(SIDE, SIDE, pixel_format)
    for plane, values in zip(frame.planes, spread(patches), strict=True):
        rows = values[:: SIDE // plane.height, :: SIDE // plane.width].astype(np.uint16 if bits > 8 else np.uint8)
        padded = np.zeros((plane.height, plane.line_size // rows.itemsize), rows.dtype)
        padded[:, : plane.width] = rows
        plane.update(padded.tobytes())
    return context, frame


def write(path: Path, params: str, patches: np.ndarray, **options) -> Path:
    context, frame = encode(params, patches, **options)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options=context.options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = context.pix_fmt
        if options.get("full"):
            stream.codec_context.color_range = 2
        for frame.pts in range(5):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def centres(picture: np.ndarray) -> np.ndarray:
    return picture[8::16, 8::16].reshape(16, 3).astype(int)


@pytest.mark.parametrize(("bits", "full"), [(8, False), (8, True), (10, False), (10, True)])
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_ycgco_is_converted(tmp_path, suffix, bits, full):
    path = write(tmp_path / f"a{suffix}", "colormatrix=YCgCo", to_ycgco(bits, full), bits=bits, full=full)
    frames = make_decoder("pyav").frames(str(path), np.array([0.0, 0.4]), SIDE, "squash")
    assert frames.error is None
    for picture in frames.pixels:
        assert np.abs(centres(picture) - PALETTE).max() <= 2


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("primaries", LUMINANCES)
def test_matrices_that_follow_from_the_primaries_are_converted(tmp_path, primaries, full):
    params = f"colormatrix=chroma-derived-nc:colorprim={primaries}"
    path = write(tmp_path / "a.mp4", params, to_ycbcr(*LUMINANCES[primaries], full), full=full)
    frames = make_decoder("pyav").frames(str(path), np.array([0.0]), SIDE, "squash")
    assert np.abs(centres(frames.pixels[0]) - PALETTE).max() <= 2


REFUSED = {
    "bt2020c": "BT.2020 with constant luminance",
    "ICtCp": "ICtCp",
    "chroma-derived-c": "constant luminance",
    "chroma-derived-nc": "primaries, which are unknown",
    "smpte2085": "SMPTE ST 2085",
}


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".avi"])
@pytest.mark.parametrize("matrix", REFUSED)
def test_other_matrices_are_refused_in_one_line(tmp_path, matrix, suffix):
    import fsspec

    path = write(tmp_path / f"a{suffix}", f"colormatrix={matrix}", to_ycgco(8, False))
    fsspec.filesystem("memory").pipe(f"/colors/a{suffix}", path.read_bytes())
    for uri in (str(path), f"memory://colors/a{suffix}"):
        assert make_decoder("pyav").probe(uri).width == SIDE
        with pytest.raises(DecodeError) as caught:
            make_decoder("pyav").frames(uri, np.array([0.0]), SIDE, "squash")
        assert str(caught.value).startswith(f"{uri}: its colours are coded by ")
        assert REFUSED[matrix] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not is_installed("decord"), reason="decord has no wheel for this platform")
@pytest.mark.parametrize("matrix", ["YCgCo", *REFUSED])
def test_decord_refuses_colours_that_it_would_take_for_others(tmp_path, matrix):
    path = write(tmp_path / "a.mp4", f"colormatrix={matrix}", to_ycgco(8, False))
    with pytest.raises(DecodeError, match="decord does not know that its colours are coded by"):
        make_decoder("decord").frames(str(path), np.array([0.0]), SIDE, "squash")


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(("matrix", "luminances"), [("bt709", LUMINANCES["bt709"]), ("smpte170m", (0.299, 0.114))])
@pytest.mark.parametrize("full", [False, True])
def test_usual_colours_are_converted(tmp_path, name, matrix, luminances, full):
    path = write(tmp_path / "a.mp4", f"colormatrix={matrix}", to_ycbcr(*luminances, full), full=full)
    frames = make_decoder(name).frames(str(path), np.array([0.0]), SIDE, "squash")
    assert np.abs(centres(frames.pixels[0]) - PALETTE).max() <= 4


def test_frames_before_a_change_of_colours_are_kept(tmp_path):
    path = tmp_path / "a.ts"
    patches = to_ycbcr(*LUMINANCES["bt709"], full=False)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for part, matrix in enumerate(("bt709", "ICtCp")):
            context, frame = encode(f"colormatrix={matrix}", patches)
            packets = [packet for _ in range(10) for packet in context.encode(frame)] + context.encode()
            for i, packet in enumerate(packets):
                packet.pts = packet.dts = part * 10 + i
                packet.stream, packet.time_base = stream, context.time_base
                container.mux(packet)
    frames = make_decoder("pyav").frames(str(path), np.arange(20) / 10, SIDE, "squash")
    assert len(frames.pixels) == 10
    assert frames.error == "stopped at 1.0 s: its colours are coded by ICtCp: there is no conversion to RGB"


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12", "yuv444p16le", "gray", "gbrp"])
def test_reserved_numbers_count_as_unknown(pixel_format):
    """Decoders hand on the numbers that stand in a file; VP9 and MPEG-2 can hold reserved ones."""
    rng = np.random.default_rng(0)
    pictures = []
    for matrix, primaries, transfer in [(2, 2, 2), (3, 2, 2), (200, 3, 3), (255, 255, 255)]:
        frame = av.VideoFrame(SIDE, SIDE, pixel_format)
        for plane in frame.planes:
            plane.update(np.full(plane.buffer_size, rng.integers(60, 61), np.uint8).tobytes())
        frame.colorspace, frame.color_primaries, frame.color_trc = matrix, primaries, transfer
        pictures.append(Resizer(SIDE, "squash", 1.0)(frame))
        np.testing.assert_array_equal(pictures[-1], pictures[0])


def test_pixels_without_a_matrix_need_no_conversion():
    for pixel_format in ("gray", "gbrp", "rgb24"):
        frame = av.VideoFrame(SIDE, SIDE, pixel_format)
        for plane in frame.planes:
            plane.update(bytes([99]) * plane.buffer_size)
        frame.colorspace = 8
        assert (Resizer(SIDE, "squash", 1.0)(frame) == 99).all()


def read_number(picture: np.ndarray) -> int:
    """Read the number that twelve blocks in two rows of six spell, bit b where block b is bright."""
    height, width, _ = picture.shape
    rows, columns = (np.arange(2) + 0.5) * height / 2, (np.arange(6) + 0.5) * width / 6
    bright = picture[np.ix_(rows.astype(int), columns.astype(int))].mean(axis=2).ravel() > 127
    return sum(1 << i for i in range(12) if bright[i])


def test_a_given_video_in_ycgco_has_its_colours(data_dir):
    path = data_dir / "cases/video/ycgco.ts"
    if not path.is_file():
        pytest.skip("no cases in the test data")
    right = json.loads((path.parent / "right.json").read_text())[path.name]
    decoder = make_decoder("pyav")
    frames = decoder.frames(str(path), decoder.frame_times(str(path)), SIDE, "squash")
    assert frames.error is None
    assert [read_number(picture) for picture in frames.pixels] == right["codes"]
