"""Frames and times of every decoder against PyAV's plain full decode."""

import os
import threading
from fractions import Fraction
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from scipy.sparse import csr_array

from bench.numbered import own_scheduling
from raypipe.decoders import check_decoders, make_decoder, pyav, resolve_chain, split_nvdec
from raypipe.decoders.container import OpenVideo
from raypipe.decoders.timeline import read_packets
from raypipe.errors import DecodeError, UsageError
from raypipe.packages import is_installed

ODD = "videos/odd"
BROKEN = {"corrupted.mp4", "no_timescale.mp4"}  # of these only the first frames decode …
DAMAGED = {"no_timescale.mp4": "2 of 8 frames are damaged"}  # … and not all of them well
UNREADABLE = {
    "chunk_out_of_range.mp4": "Invalid data",
    "zero_empty_stsc.mp4": "no frame decodes",
    "short-cenc.mp4": "encrypted",
    "opus_audioinit.mp4": "no video stream",
    "sine_mono_s16.wav": "no video stream",
}
READABLE = [
    "av1_video.mkv",
    "h264_10bits.mp4",
    "h265_video.mp4",
    "minimal.mp4",
    "nasa_13013.mp4",
    "unordered.mov",
    "vfr_1920x1080_spins_decord.mp4",
    "video_0.mov",
    "video_90.mov",
    "video_180.mov",
    "video_270.mov",
    "video_rotation_90.mp4",
    "white.mp4",
    *sorted(BROKEN),
]
REFUSED_BY_DECORD = {"av1_video.mkv", "h265_video.mp4", "vfr_1920x1080_spins_decord.mp4", *BROKEN}
PATTERNS = ["all", "2 fps", "random", "late", "5 uniform"]
SIZE = 48
needs_decord = pytest.mark.skipif(not is_installed("decord"), reason="decord has no wheel for this platform")

needs_torchcodec = pytest.mark.skipif(not is_installed("torchcodec"), reason="torchcodec is an extra, not installed")


@cache
def decode_all(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times and pictures (n, SIZE, SIZE, 3) of all frames that decode: full size to RGB, turned, then box-averaged."""
    times, pictures = [], []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_count = 1  # what a damaged frame looks like depends on it
        is_avi = container.format.name == "avi"  # It holds no times of presentation, but a rate.
        first = None
        try:
            for number, frame in enumerate(container.decode(stream)):
                first = frame.pts if first is None else first
                times.append(float(number / stream.average_rate if is_avi else (frame.pts - first) * stream.time_base))
                picture = frame.to_ndarray(format="rgb24")
                turns = frame.rotation // 90 if abs(frame.rotation) <= 180 else 0
                pictures.append(box_average(np.rot90(picture, turns)))
        except av.FFmpegError:
            assert path.name in BROKEN
    return np.array(times), np.array(pictures)


@cache
def averaging(n: int) -> np.ndarray:
    """(SIZE, n): the matrix that averages n values over SIZE equal stretches."""
    edges = np.linspace(0, n, SIZE + 1)[:, None]
    covered = np.clip(edges - np.arange(n), 0, 1)
    return (np.diff(covered, axis=0) * SIZE / n).astype(np.float32)


def box_average(picture: np.ndarray) -> np.ndarray:
    """Scale to SIZE × SIZE by exact averages over areas."""
    height, width, _ = picture.shape
    rows = csr_array(averaging(height)) @ picture.reshape(height, -1).astype(np.float32)
    return averaging(width) @ rows.reshape(SIZE, width, 3)


def patterns(times: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    last = times[-1]
    requests = [
        times,
        np.arange(0, last + 1e-9, 0.5),
        np.sort(rng.uniform(-0.1, last + 0.2, 15)),
        np.array([0.9 * last]),
        np.linspace(0, last, 5),
    ]
    return dict(zip(PATTERNS, requests, strict=True))


def check_frames(decoder, path: Path, within: float, names=PATTERNS) -> None:
    times, pictures = decode_all(path)
    for name in names:
        wanted = patterns(times)[name]
        frames = decoder.frames(str(path), wanted, SIZE, "squash")
        answers = np.maximum(np.searchsorted(times, wanted + 1e-6, side="right") - 1, 0)
        assert frames.error == DAMAGED.get(path.name), name
        np.testing.assert_array_equal(frames.requested, np.arange(len(wanted)))
        np.testing.assert_array_equal(frames.times_s, times[answers], err_msg=name)
        assert frames.pixels.dtype == np.uint8 and frames.pixels.flags.c_contiguous
        off = np.abs(frames.pixels - pictures[answers]).mean(axis=(1, 2, 3))
        assert off.max() < within, f"{name}: {off.max():.1f} off at {wanted[off.argmax()]:.2f} s"


@pytest.mark.parametrize("name", READABLE)
def test_pyav_equals_full_decode(data_dir, name):
    names = {"vfr_1920x1080_spins_decord.mp4": ["all", "random"], **{broken: ["all"] for broken in BROKEN}}
    check_frames(make_decoder("pyav"), data_dir / ODD / name, 8, names.get(name, PATTERNS))


@needs_decord
@pytest.mark.parametrize("name", [name for name in READABLE if name not in REFUSED_BY_DECORD])
def test_decord_equals_full_decode(data_dir, name):
    check_frames(make_decoder("decord"), data_dir / ODD / name, 8)


@needs_decord
@pytest.mark.parametrize("name", sorted(REFUSED_BY_DECORD - BROKEN))
def test_decord_refuses_what_it_gets_wrong(data_dir, name):
    with pytest.raises(DecodeError, match=r"edit list|open groups|wanted index"):
        make_decoder("decord").frames(str(data_dir / ODD / name), np.array([0.0]), SIZE, "squash")


@pytest.mark.parametrize("name", [name for name in READABLE if name not in BROKEN])
def test_frame_times_need_no_decoding(data_dir, name):
    path = data_dir / ODD / name
    np.testing.assert_array_equal(make_decoder("pyav").frame_times(str(path)), decode_all(path)[0])


def test_real_videos_with_edit_lists(data_dir):
    for name in ("square/policy_videos__square_D1_sawyer.mp4", "stack/tasks__stack.mp4"):
        path = data_dir / "videos/robot_tasks" / name
        decoder = make_decoder("pyav")
        np.testing.assert_array_equal(decoder.frame_times(str(path)), decode_all(path)[0])
        check_frames(decoder, path, 3, ["random", "late"])


@pytest.mark.parametrize(("name", "reason"), UNREADABLE.items())
def test_unreadable_videos_say_why_in_one_line(data_dir, name, reason):
    path = str(data_dir / ODD / name)
    for attempt in (
        lambda: make_decoder("pyav").probe(path),
        lambda: make_decoder("pyav").frames(path, np.array([0.0]), SIZE, "squash"),
    ):
        with pytest.raises(DecodeError, match=reason) as caught:
            attempt()
        assert "\n" not in str(caught.value) and str(caught.value).startswith(path)


def test_what_is_encrypted_is_refused_though_it_decodes(tmp_path):
    """Of cameras' and stores' encrypted videos noise decodes; of FFmpeg's own, in AV1, a picture of one colour."""
    path = tmp_path / "encrypted.mp4"
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "01" * 16}
    with own_scheduling(), av.open(str(path), "w", options=key) as container:
        stream = container.add_stream("libsvtav1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for i in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * i, np.uint8))))
        container.mux(stream.encode())
    assert len(decode_all(path)[0]) == 20
    decoder = make_decoder("pyav")
    for attempt in (
        lambda: decoder.probe(str(path)),
        lambda: decoder.frames(str(path), np.array([1.0]), SIZE, "squash"),
    ):
        with pytest.raises(DecodeError, match=r"it is encrypted$"):
            attempt()


def test_a_broken_video_gives_what_decodes(data_dir):
    path = str(data_dir / ODD / "corrupted.mp4")
    decoder = make_decoder("pyav")
    frames = decoder.frames(path, decoder.frame_times(path), SIZE, "squash")
    assert len(frames.pixels) == 28 and frames.requested[-1] == 27
    assert frames.error == "stopped at 2.8 s of 5.0 s: Invalid data found when processing input"
    with pytest.raises(DecodeError, match=r"stopped at 2\.\d s"):
        decoder.frames(path, np.array([4.0]), SIZE, "squash")


def test_times_after_a_clean_end_stay_unanswered(make_video):
    path = str(make_video(n_frames=20, fps=10))
    for name in ["pyav", *(["decord"] if is_installed("decord") else [])]:
        frames = make_decoder(name).frames(path, np.array([0.0, 1.9, 2.3, 2.5, 9.0]), SIZE, "squash")
        np.testing.assert_array_equal(frames.requested, [0, 1, 2])
        np.testing.assert_array_equal(frames.times_s, [0.0, 1.9, 1.9])
        assert frames.error == "ends at 1.9 s, before 2.5 s"


def test_probing_tells_size_rate_length_and_codec(data_dir, make_video):
    probe = make_decoder("pyav").probe(str(make_video(n_frames=25, fps=10, size=(64, 48))))
    assert (probe.width, probe.height, probe.fps, probe.n_frames, probe.codec) == (64, 48, 10.0, 25, "h264")
    assert probe.duration_s == pytest.approx(2.5) and probe.decoder == "pyav"
    turned = make_decoder("pyav").probe(str(data_dir / ODD / "video_90.mov"))
    assert (turned.width, turned.height) == (320, 568)
    counted = make_decoder("pyav").probe(str(data_dir / ODD / "av1_video.mkv"))
    assert (counted.n_frames, counted.duration_s, counted.codec) == (0, 5.0, "av1")


def test_the_rate_is_measured_where_the_container_tells_none(tmp_path):
    """As browsers record, which write no duration of a frame."""
    path = tmp_path / "recorded.mkv"
    write_moving(path, "mpeg4", {"bf": "2"})
    whole = path.read_bytes()
    place = whole.index(b"\x23\xe3\x83\x84")  # DefaultDuration, of four bytes; Void in its place.
    path.write_bytes(whole[:place] + b"\xec\x86" + bytes(6) + whole[place + 8 :])
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate is None
    assert make_decoder("pyav").probe(str(path)).fps == pytest.approx(25, rel=1e-3)


def test_an_average_rate_of_one_frame_a_tick_is_not_believed():
    """FFmpeg finds it in some Matroska and FLV of 30 frames a second."""
    container = SimpleNamespace(format=SimpleNamespace(name="flv", flags=0))
    for average, own, fps in ((1000, 60, 0.0), (900, 600, 900.0), (30, 60, 30.0)):
        stream = SimpleNamespace(average_rate=Fraction(average), base_rate=Fraction(own))
        assert OpenVideo("video.flv", container, stream).fps == fps


# Containers and codecs that cameras write, among them open groups of pictures, of which leading frames break on a seek.
CODECS = {
    "b_frames.mp4": ("libx264", {"g": "24", "bf": "3"}),
    "open_gop.mp4": ("libx264", {"x264-params": "open-gop=1:keyint=24:scenecut=0"}),
    "open_gop.mkv": ("libx264", {"x264-params": "open-gop=1:keyint=24:scenecut=0"}),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=24:scenecut=0:bframes=0"}),
    "refresh.mkv": ("libx264", {"x264-params": "intra-refresh=1:keyint=24:scenecut=0:bframes=0"}),
    "one_gop.mp4": ("libx264", {"x264-params": "keyint=infinite:scenecut=0"}),
    "short_gop.mp4": ("libx264", {"g": "2"}),
    "fragmented.mp4": ("libx264", {"g": "24"}),
    "camera.ts": ("libx264", {"g": "24", "bf": "3"}),
    "old.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "intra.avi": ("mjpeg", {}),
    "web.webm": ("libvpx", {"g": "24", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}),
}


def write_moving(
    path: Path, codec: str, options: dict[str, str], start_ms: int = 0, vary: bool = False, **stream_options
):
    """Write 120 frames, each unlike its neighbours; with ``vary`` at uneven times."""
    rng = np.random.default_rng(1)
    fragments = {"movflags": "frag_keyframe+empty_moov"} if path.name.startswith("fragmented") else {}
    with av.open(str(path), "w", options=fragments) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for key, value in stream_options.items():
            setattr(stream.codec_context, key, value)
        if vary or start_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        time_ms = start_ms
        for i in range(120):
            pixels = np.full((48, 64, 3), (i * 7 % 256, i // 16 * 20, 128), dtype=np.uint8)
            pixels[:, i * 3 % 64] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if vary or start_ms:
                frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
                time_ms += int(rng.integers(10, 120)) if vary else 40
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def check_random_requests(decoder, path: Path, n_requests: int = 10) -> None:
    """However little is decoded for a request, frames are to the last bit those of a full decode."""
    rng = np.random.default_rng(3)
    times = decode_all(path)[0]
    everything = decoder.frames(str(path), times, SIZE, "squash")
    np.testing.assert_array_equal(everything.times_s, times)
    for _ in range(n_requests):
        wanted = np.sort(rng.uniform(*np.sort(rng.uniform(0, times[-1], 2)), int(rng.integers(1, 12))))
        answers = np.searchsorted(times, wanted + 1e-6, side="right") - 1
        frames = decoder.frames(str(path), wanted, SIZE, "squash")
        assert frames.error is None
        np.testing.assert_array_equal(frames.times_s, times[answers])
        np.testing.assert_array_equal(frames.pixels, everything.pixels[answers])


@pytest.mark.parametrize("seek_s", [100.0, 0.5], ids=["reads_through", "seeks"])
@pytest.mark.parametrize("name", CODECS)
def test_pyav_random_requests(tmp_path, monkeypatch, name, seek_s):
    monkeypatch.setattr(pyav, "_SEEK_S", seek_s)
    check_random_requests(make_decoder("pyav"), write_moving(tmp_path / name, *CODECS[name]))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_uneven_times_and_a_late_start(tmp_path, name):
    options = {"g": "24", "bf": "3"}
    uneven = write_moving(tmp_path / f"uneven_{name}", "libx264", options, vary=True)
    late = write_moving(tmp_path / f"late_{name}", "libx264", options, start_ms=5000)
    check_random_requests(make_decoder("pyav"), uneven)
    check_random_requests(make_decoder("pyav"), late)
    assert make_decoder("pyav").frame_times(str(late))[0] == 0
    assert len(np.unique(np.diff(make_decoder("pyav").frame_times(str(uneven))).round(3))) > 20


@needs_decord
@pytest.mark.parametrize("name", CODECS)
def test_decord_random_requests(tmp_path, name):
    path = write_moving(tmp_path / name, *CODECS[name])
    if name in {"open_gop.mp4", "open_gop.mkv", "refresh.mp4", "refresh.mkv", "camera.ts", "old.avi", "intra.avi"}:
        with pytest.raises(DecodeError, match=r"open groups|refreshed|not reliable"):
            make_decoder("decord").frames(str(path), np.array([0.0]), SIZE, "squash")
    else:
        check_random_requests(make_decoder("decord"), path, n_requests=8)


@needs_torchcodec
@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mkv"])
def test_torchcodec_on_cpu(tmp_path, name):
    from raypipe.decoders.torchcodec import TorchCodecDecoder

    check_random_requests(TorchCodecDecoder("cpu"), write_moving(tmp_path / name, *CODECS[name]))


@needs_torchcodec
def test_torchcodec_on_cuda(gpu, tmp_path):
    path = write_moving(tmp_path / "a.mp4", *CODECS["b_frames.mp4"])
    check_frames(make_decoder("torchcodec"), path, 8)


def test_sparse_requests_decode_little(tmp_path):
    path = write_moving(tmp_path / "a.mp4", "libx264", {"g": "10", "bf": "0"})
    decoded = []

    class Counted(pyav.Walk):
        def _frames(self):
            for frame in super()._frames():
                decoded.append(frame.pts)
                yield frame

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyav, "Walk", Counted)
        make_decoder("pyav").frames(str(path), np.array([0.0, 2.4, 4.4]), SIZE, "squash")
    assert len(decoded) <= 12  # of 120: a few after each of three keyframes


def test_crop_keeps_proportions(tmp_path):
    """A circle in anamorphic pixels, recorded lying on its side, comes out round in its middle."""
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        y, x = np.mgrid[:120, :160]
        disc = ((x - 79.5) * 2) ** 2 + (y - 59.5) ** 2 < 40**2
        frame = av.VideoFrame.from_ndarray(np.where(disc[..., None], 255, 0).astype(np.uint8).repeat(3, 2), "rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for name in ["pyav", *(["decord"] if is_installed("decord") else [])]:
        cropped = make_decoder(name).frames(str(path), np.array([0.0]), 60, "crop").pixels[0, ..., 0] > 127
        assert abs(int(cropped.any(0).sum()) - 40) <= 1 and abs(int(cropped.any(1).sum()) - 40) <= 1
        squashed = make_decoder(name).frames(str(path), np.array([0.0]), 60, "squash").pixels[0, ..., 0] > 127
        assert abs(int(squashed.any(0).sum()) - 15) <= 1 and abs(int(squashed.any(1).sum()) - 40) <= 1


def test_white_is_white(data_dir):
    frames = make_decoder("pyav").frames(str(data_dir / ODD / "white.mp4"), np.array([1.0]), 224, "crop")
    assert frames.pixels.min() == 255


def test_hidden_packets_are_counted(data_dir):
    packets = read_packets(str(data_dir / ODD / "vfr_1920x1080_spins_decord.mp4"))
    assert packets.n_hidden == 195 and len(packets.times_s) == 59


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "a directory"),
        (lambda path: os.mkfifo(path), "a FIFO"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("not a video, but a letter\n" * 100), "Invalid data"),
        (
            lambda path: path.write_text("#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
            "Invalid|Not|No",
        ),
    ],
    ids=["missing", "directory", "fifo", "empty", "text", "playlist"],
)
def test_no_videos(tmp_path, make, reason):
    path = tmp_path / "video.mp4"
    make(path)
    for name in ["pyav", *(["decord"] if is_installed("decord") else [])]:
        for attempt in (make_decoder(name).probe, make_decoder(name).frame_times):
            with pytest.raises(DecodeError, match=reason) as caught:
                attempt(str(path))
            assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(make_video):
    path = make_video()
    path.chmod(0)
    with pytest.raises(DecodeError, match=r"[Pp]ermission"):
        make_decoder("pyav").probe(str(path))


def test_names_with_odd_letters(make_video):
    path = make_video("50% done: a #1?.mp4", n_frames=5)
    assert make_decoder("pyav").probe(str(path)).n_frames == 5
    assert make_decoder("pyav").probe(path.as_uri()).n_frames == 5


class RangeServer(ThreadingHTTPServer):
    """Serves one file with range requests, and counts the bytes that were asked for."""

    def __init__(self, content: bytes) -> None:
        self.content, self.n_sent = content, 0
        super().__init__(("127.0.0.1", 0), RangeHandler)


class RangeHandler(BaseHTTPRequestHandler):
    server: RangeServer

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        content, asked = self.server.content, self.headers.get("Range")
        begin, end = 0, len(content) - 1
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or end), end)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(content)}")
        self.end_headers()
        if body:
            self.server.n_sent += end - begin + 1
            self.wfile.write(content[begin : end + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(path: Path) -> tuple[str, RangeServer]:
        server = RangeServer(path.read_bytes())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/video.mp4", server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_remote_videos_are_streamed_in_part(tmp_path, serve, monkeypatch):
    path = tmp_path / "noise.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10", "g": "10", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(100):
            pixels = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    monkeypatch.setattr("raypipe.decoders.streams._BLOCK_BYTES", 1 << 16)
    url, server = serve(path)
    decoder = make_decoder("pyav")
    wanted = np.array([0.5, 9.0])
    remote, local = decoder.frames(url, wanted, SIZE, "crop"), decoder.frames(str(path), wanted, SIZE, "crop")
    np.testing.assert_array_equal(remote.pixels, local.pixels)
    assert server.n_sent < 0.5 * path.stat().st_size
    assert decoder.probe(url).duration_s == pytest.approx(10)
    monkeypatch.setattr("raypipe.storage.PATIENCE_S", 0.0)
    with pytest.raises(DecodeError, match="Connect call failed"):
        decoder.probe("http://127.0.0.1:9/video.mp4")


def test_memory_file_system(make_video):
    import fsspec

    fsspec.filesystem("memory").pipe("/folder/a.mp4", make_video(n_frames=12).read_bytes())
    assert make_decoder("pyav").probe("memory://folder/a.mp4").n_frames == 12


def test_a_chain_has_the_named_decoders_that_can_stream(monkeypatch):
    assert resolve_chain("auto", "/a.mp4")[0] == "pyav"
    assert resolve_chain("decord,pyav", "file:///a.mp4") == ["decord", "pyav"]
    assert resolve_chain("decord, auto", "/a.mp4") == ["decord", "pyav"]
    assert resolve_chain("decord,pyav", "s3://bucket/a.mp4") == ["pyav"]
    assert resolve_chain("mine.decoders:Fast", "s3://bucket/a.mp4") == ["mine.decoders:Fast"]
    with pytest.raises(DecodeError, match="decord cannot stream"):
        resolve_chain("decord", "s3://bucket/a.mp4")
    for wrong in ("opencv", "pyav,opencv", ""):
        with pytest.raises(UsageError, match="pyav, decord, torchcodec"):
            resolve_chain(wrong, "/a.mp4")
    with pytest.raises(UsageError, match="cannot be imported"):
        make_decoder("no_such_module:Decoder")
    monkeypatch.setattr("raypipe.decoders.is_installed", lambda name: True)
    assert resolve_chain("auto", "/a.mp4") == ["pyav", "decord"]
    assert split_nvdec("auto") == (True, "auto")
    assert split_nvdec("torchcodec, pyav") == (True, "pyav")
    assert split_nvdec("pyav,decord") == (False, "pyav,decord")


def test_a_users_own_decoder_is_made_once_before_any_video_is_read(tmp_path, monkeypatch):
    module = f"decoders_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(
        "class Good:\n    pass\n\nclass Bad:\n    def __init__(self):\n        raise OSError('no licence')\n"
    )
    monkeypatch.chdir(tmp_path)
    check_decoders(f"{module}:Good,pyav")
    for name, reason in (
        (f"{module}:Bad", r"cannot be made \(OSError: no licence\)"),
        (f"{module}:Missing", "cannot be imported"),
        ("no_such_module:Decoder", "cannot be imported"),
    ):
        with pytest.raises(UsageError, match=f"decoder {name}: {reason}"):
            check_decoders(f"pyav,{name}")
