"""Which frame is shown when, in many containers, against decoding all from the start in the decoder's order."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import av
import numbered
import numpy as np
import pytest

from bench.numbered import read_number
from raypipe.config import DecodeConfig, SampleConfig
from raypipe.decoders import make_decoder
from raypipe.decoders.sandbox import Sandbox
from raypipe.decoders.timeline import lay_out, read_packets
from raypipe.errors import DecodeError
from raypipe.packages import is_installed
from raypipe.schema import Probe
from raypipe.segments.planning import plan_segments
from raypipe.segments.sampling import Span, align_span, sample_span
from raypipe.segments.stages import DecodeSegments
from raypipe.sources.videos import Video

SIZE = 96
B_FRAMES = {"g": "24", "bf": "3", "preset": "ultrafast", "x264-params": "bframes=3:b-adapt=0"}
OPEN = {"x264-params": "open-gop=1:keyint=24:scenecut=0:bframes=3:b-adapt=0:repeat-headers=1", "preset": "ultrafast"}
PATTERNS = [
    SampleConfig(every_n=1),
    SampleConfig(every_n=1, segment_s=0.7),
    SampleConfig(fps=2),
    SampleConfig(fps=2, segment_s=1.0),
    SampleConfig(n_frames=5),
    SampleConfig(fps=10, segment_s=1.0),
]
CODECS = {
    "h264": ("libx264", {"g": "24", "bf": "0", "preset": "ultrafast"}),
    "b_frames": ("libx264", B_FRAMES),
    "open_gop": ("libx264", OPEN),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "keyint=24:log-level=none"}),
    "mpeg1": ("mpeg1video", {"g": "12", "bf": "2"}),
    "mpeg2": ("mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg2_no_b": ("mpeg2video", {"g": "12"}),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4_no_b": ("mpeg4", {"g": "12"}),
    "h263p": ("h263p", {}),
    "vp8": ("libvpx", {"g": "24", "cpu-used": "8"}),
    "vp9": ("libvpx-vp9", {"g": "24", "cpu-used": "8", "lag-in-frames": "8"}),
    "mjpeg": ("mjpeg", {}),
}
FILES = [
    *(f"b_frames.{suffix}" for suffix in ("mp4", "mov", "mkv", "flv", "ts", "avi", "asf", "nut", "mxf", "mpg", "h264")),
    *(f"h264.{suffix}" for suffix in ("avi", "asf", "ts", "vob")),
    *(f"open_gop.{suffix}" for suffix in ("mkv", "ts", "avi")),
    *(f"hevc.{suffix}" for suffix in ("mp4", "ts", "mpg", "hevc")),
    *(f"mpeg2.{suffix}" for suffix in ("mpg", "vob", "ts", "avi", "asf", "m2v")),
    *("mpeg1.mpg", "mpeg1.avi", "mpeg1.asf", "mpeg2_no_b.mpg"),
    *(f"mpeg4.{suffix}" for suffix in ("avi", "vob", "m4v", "nut")),
    *("mpeg4_no_b.avi", "h263p.avi", "vp8.webm", "vp8.avi", "vp8.ogg", "vp9.webm", "vp9.mp4", "mjpeg.avi", "mjpeg.mov"),
]
needs_decord = pytest.mark.skipif(not is_installed("decord"), reason="decord has no wheel for this platform")


@pytest.fixture(autouse=True)
def quiet():
    level = av.logging.get_level()
    av.logging.set_level(av.logging.FATAL)
    yield
    av.logging.set_level(level)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox("pyav") as made:
        yield made


def sample(uri: str, probe: Probe, pattern: SampleConfig, start_s=None, end_s=None, decoder="pyav"):
    """Return the numbers of a video's frames under a pattern, and what is said of the video."""
    reader = make_decoder(decoder)
    rows = plan_segments([Video("a", uri, start_s=start_s, end_s=end_s)], [probe], pattern).to_pylist()
    times_s = reader.frame_times(uri) if pattern.every_n else None
    numbers, errors = [], set()
    for row in rows:
        span = Span(row["origin_s"], row["span_s"], row["start_s"], row["end_s"])
        frames = reader.frames(uri, sample_span(span, pattern, times_s).times_s, SIZE, "squash")
        numbers += [read_number(picture) for picture in frames.pixels]
        errors.add(frames.error)
    return numbers, errors


def check(path: Path, right: list[int], right_s: np.ndarray, duration_s: float | None = None, remark=None) -> None:
    """Compare all patterns with the numbers and times of all frames."""
    uri = str(path)
    probe = make_decoder("pyav").probe(uri)
    period_s = float(np.median(np.diff(right_s)))
    assert probe.duration_s == pytest.approx(duration_s or right_s[-1] + period_s, abs=0.0015)
    np.testing.assert_allclose(make_decoder("pyav").frame_times(uri), right_s, atol=0.0011)
    for pattern in PATTERNS:
        numbers, errors = sample(uri, probe, pattern)
        assert errors <= {None, remark}, pattern
        if pattern.every_n:
            assert numbers == right, pattern
            continue
        n = pattern.n_frames or int(np.ceil(probe.duration_s * pattern.fps - 1e-6))
        wanted_s = np.arange(n) / pattern.fps if pattern.fps else (np.arange(n) + 0.5) / n * probe.duration_s
        # A frame's time may be rounded to a millisecond, in the container and in the list of right times.
        early, late = (np.searchsorted(right_s, wanted_s + off_s, side="right") - 1 for off_s in (-0.0011, 0.0011))
        allowed = [{right[max(a, 0)], right[b]} for a, b in zip(early, late, strict=True)]
        assert len(numbers) == n and all(map(set.__contains__, allowed, numbers)), pattern


@cache
def written(folder: Path, name: str) -> Path:
    return numbered.write(folder / name, *CODECS[name.partition(".")[0]])


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_exact_decoding(tmp_path, name):
    path = written(tmp_path, name)
    right = numbered.decode_in_order(path)
    assert right == list(range(60))
    timeless = {".mpg", ".vob"} & {path.suffix} and name.startswith(("b_frames", "h264", "hevc"))
    remark = None
    if timeless:
        remark = make_decoder("pyav").frames(str(path), np.array([0.0]), SIZE, "squash").error
        assert remark and "of 60 frames have no time of their own" in remark
    check(path, right, np.arange(60) / 25, remark=remark)


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4", "late.ts", "late.flv", "late.nut"])
def test_the_first_frame_is_at_zero_whatever_the_clock_says(tmp_path, name):
    path = numbered.write(tmp_path / name, options=B_FRAMES, start_ms=20_000)
    check(path, list(range(60)), np.arange(60) / 25)


def test_a_first_fragment_that_starts_late_is_at_zero(tmp_path):
    data = numbered.write(
        tmp_path / "a.mp4", options=B_FRAMES, container_options={"movflags": "frag_keyframe+empty_moov"}
    ).read_bytes()
    for place in [i for i in range(len(data)) if data.startswith(b"tfdt", i)]:
        assert data[place + 4] == 1  # Version 1 has 64 bits.
        time = int.from_bytes(data[place + 8 : place + 16], "big") + 90_000
        data = data[: place + 8] + time.to_bytes(8, "big") + data[place + 16 :]
    path = tmp_path / "late.mp4"
    path.write_bytes(data)
    check(path, list(range(60)), np.arange(60) / 25)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.webm", "a.nut", "a.ts"])
@pytest.mark.parametrize("start_ms", [0, 1600])
def test_a_length_is_the_video_tracks_own(tmp_path, name, start_ms):
    codec, options = CODECS["vp9" if name == "a.webm" else "b_frames"]
    path = numbered.write(tmp_path / name, codec, options, start_ms=start_ms, audio_s=6.0)
    check(path, list(range(60)), np.arange(60) / 25)


def test_a_webm_without_a_duration_has_no_clip_too_many(tmp_path):
    path = numbered.write(tmp_path / "a.webm", *CODECS["vp9"], rate=30, container_options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    check(path, list(range(60)), np.arange(60) / 30, duration_s=2.0)


def test_a_stream_cut_out_of_a_longer_one_begins_with_what_decodes(tmp_path):
    for name, (options, fewest) in {"closed": (B_FRAMES, 30), "open": (OPEN, 30)}.items():
        whole = numbered.write(tmp_path / f"{name}.ts", options=options, n_frames=100).read_bytes()
        n_packets = len(whole) // 188
        cut = tmp_path / f"{name}_cut.ts"
        # The tables come first; the rest begins somewhere in the first group of pictures.
        cut.write_bytes(whole[: 3 * 188] + whole[n_packets // 5 * 188 :])
        right = numbered.decode_in_order(cut)
        assert fewest < len(right) < 100 and right[0] > 10
        check(cut, right, (np.array(right) - right[0]) / 25)


def test_files_joined_byte_by_byte_are_read_on(tmp_path):
    for suffix in ("ts", "mpg"):
        codec = "libx264" if suffix == "ts" else "mpeg2video"
        parts = [
            numbered.write(tmp_path / f"{i}.{suffix}", codec, CODECS["mpeg2"][1], first=1000 * i) for i in range(2)
        ]
        path = tmp_path / f"joined.{suffix}"
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
        check(path, [*range(60), *range(1000, 1060)], np.arange(120) / 25)


def test_parameters_that_change_in_the_middle_are_those_of_each_part(tmp_path):
    """They come with one packet, which may be among those that are passed over."""
    other = {"preset": "ultrafast", "x265-params": "keyint=24:bframes=0:log-level=none:ctu=16:max-merge=2"}
    parts = []
    for number, options in enumerate([{**other, "x265-params": "keyint=24:bframes=0:log-level=none"}, other]):
        parts.append(numbered.write(tmp_path / f"{number}.mp4", "libx265", options, first=1000 * number))
    path = numbered.join_descriptions(tmp_path / "joined.mp4", parts)
    right = [*range(60), *range(1000, 1060)]
    assert numbered.decode_in_order(path) == right
    check(path, right, np.arange(120) / 25)
    probe = make_decoder("pyav").probe(str(path))
    assert sample(str(path), probe, SampleConfig(fps=0.5, clip_s=2)) == ([0, 50, 1040], {None})


def test_the_colours_of_a_picture_of_256_are_those_of_the_first_packet(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = numbered.WIDTH, numbered.HEIGHT, "pal8"
        for number in range(60):
            picture = numbered.draw_number(number, numbered.WIDTH, numbered.HEIGHT)
            indices = 255 - picture  # So that indices that are taken for colours show another number.
            palette = np.repeat(255 - np.arange(256, dtype=np.uint8), 4).reshape(256, 4)
            palette[:, 0] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray((indices, palette), format="pal8")))
        container.mux(stream.encode())
    right = list(range(60))
    assert numbered.decode_in_order(path) == right
    check(path, right, np.arange(60) / 25)


def test_an_edit_that_shows_nothing_hides_no_frame_and_shows_none(tmp_path):
    path = numbered.write(tmp_path / "a.mp4", options=B_FRAMES)
    begin = read_media_start(path)
    numbered.replace_edits(path, [(400, begin), (1000, -1), (400, begin + 30 * 512)])
    right_s = np.append(np.arange(10) / 25, 1.4 + np.arange(10) / 25)
    check(path, [*range(10), *range(30, 40)], right_s, duration_s=1.8)
    if is_installed("decord"):
        with pytest.raises(DecodeError, match="decord"):
            make_decoder("decord").frames(str(path), np.array([0.0]), SIZE, "squash")


def test_an_edit_of_duration_0_shows_the_rest(tmp_path):
    path = numbered.write(tmp_path / "a.mp4", options=B_FRAMES)
    begin = read_media_start(path)
    numbered.replace_edits(path, [(0, begin)])
    check(path, list(range(60)), np.arange(60) / 25)
    numbered.replace_edits(path, [(0, begin + 10 * 512)])
    check(path, list(range(10, 60)), np.arange(50) / 25)


def read_media_start(path: Path) -> int:
    """Return the ticks of 1/12,800 s at which the first frame stands in its track."""
    data = path.read_bytes()
    place = data.rindex(b"elst") + 16
    return int.from_bytes(data[place : place + 4], "big")


def test_frames_closer_than_the_containers_clock_are_all_given(tmp_path):
    path = numbered.write(tmp_path / "a.mkv", *CODECS["h264"], n_frames=120, rate=1200)
    right_s = np.arange(120) / 1200
    uri = str(path)
    times_s = make_decoder("pyav").frame_times(uri)
    assert (np.diff(times_s) > 0).all()
    np.testing.assert_allclose(times_s, right_s, atol=0.0011)
    probe = make_decoder("pyav").probe(uri)
    assert probe.duration_s == pytest.approx(0.1, abs=0.0011)
    assert sample(uri, probe, SampleConfig(every_n=1, clip_s=0.05))[0] == list(range(120))


def test_a_frame_that_vp8_hides_is_not_shown(tmp_path):
    source = numbered.write(tmp_path / "a.webm", *CODECS["vp8"])
    for suffix in ("webm", "avi"):
        path = tmp_path / f"hidden.{suffix}"
        with av.open(str(source)) as shown, av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(shown.streams.video[0])
            for number, packet in enumerate(shown.demux(video=0)):
                if packet.size == 0:
                    continue
                data = bytearray(bytes(packet))
                if number % 12 == 7:
                    data[0] &= ~0x10
                copy = av.Packet(bytes(data))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.duration, copy.is_keyframe, copy.stream = packet.duration, packet.is_keyframe, stream
                container.mux(copy)
        right = [i for i in range(60) if i % 12 != 7]
        assert numbered.decode_in_order(path) == right
        uri = str(path)
        assert sample(uri, make_decoder("pyav").probe(uri), SampleConfig(every_n=1))[0] == right


def test_frames_that_avi_drops_keep_the_one_before_on_display(tmp_path):
    ticks = [i if i < 20 else i + 5 for i in range(60)]
    for name in ("mpeg4_no_b.avi", "mjpeg.avi"):
        codec, options = CODECS[name.partition(".")[0]]
        path = numbered.write(tmp_path / name, codec, options, ticks=ticks.__getitem__, ticks_a_second=25)
        check(path, list(range(60)), np.array(ticks) / 25)


def test_two_frames_in_one_chunk_of_avi_are_both_shown(tmp_path):
    """DivX packs a B-frame behind the frame that follows it, and an empty picture into the next chunk."""
    source = numbered.write(tmp_path / "a.avi", "mpeg4", {"g": "12", "bf": "1", "b_strategy": "0"})
    path, begin = tmp_path / "packed.avi", b"\x00\x00\x01\xb6"
    with av.open(str(source)) as video, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0])
        chunks: list[bytes] = []
        for data in [bytes(packet) for packet in video.demux(video=0) if packet.size]:
            if data[data.index(begin) + 4] >> 6 == 2:
                chunks[-1:] = [chunks[-1] + data, begin + b"\x50\x00\x7f"]
            else:
                chunks.append(data)
        for number, data in enumerate(chunks):
            is_key = data[data.index(begin) + 4] >> 6 == 0
            packet = av.Packet(data.replace(begin, b"\x00\x00\x01\xb2DivX503b1393p" + begin, 1) if is_key else data)
            packet.pts = packet.dts = number
            packet.time_base, packet.is_keyframe, packet.stream = video.streams.video[0].time_base, is_key, stream
            container.mux(packet)
    check(path, list(range(60)), np.arange(60) / 25)


@pytest.mark.parametrize("name", ["b_frames.mkv", "b_frames.avi", "mjpeg.avi", "vp9.webm"])
def test_a_file_that_was_cut_off_says_so(tmp_path, name, sandbox):
    codec, options = CODECS[name.partition(".")[0]]
    data = numbered.write(tmp_path / name, codec, options, n_frames=250).read_bytes()
    path = tmp_path / f"cut_{name}"
    path.write_bytes(data[: len(data) * 45 // 100])
    probe = make_decoder("pyav").probe(str(path))
    assert probe.duration_s == pytest.approx(10, abs=0.01)
    for pattern in (SampleConfig(every_n=1), SampleConfig(fps=2), SampleConfig(every_n=1, segment_s=3)):
        (*_, row) = plan_segments([Video("a", path.as_uri())], [probe], pattern).to_pylist()
        decoded = DecodeSegments(pattern, DecodeConfig(), SIZE, "squash", sandbox)(row)
        assert "stopped at" in decoded["error"] and "of 10.0 s" in decoded["error"]
        assert len(decoded["pixels"]) == len(np.unique(decoded["members"][:, 1]))


def test_a_last_frame_that_is_shown_for_long_is_no_cut(tmp_path, sandbox):
    path = numbered.write(tmp_path / "a.mp4", *CODECS["h264"], n_frames=3, ticks=lambda i: [0, 100, 5000][i])
    probe = make_decoder("pyav").probe(str(path))
    (row,) = plan_segments([Video("a", path.as_uri())], [probe], SampleConfig(every_n=1)).to_pylist()
    decoded = DecodeSegments(SampleConfig(every_n=1), DecodeConfig(), SIZE, "squash", sandbox)(row)
    assert decoded["error"] is None and len(decoded["pixels"]) == 3


@pytest.mark.parametrize("name", ["mpeg4.avi", "b_frames.avi", "b_frames.ts", "mpeg2.mpg", "b_frames.mkv"])
def test_a_video_of_one_frame_has_a_length(tmp_path, name):
    path = numbered.write(tmp_path / name, *CODECS[name.partition(".")[0]], n_frames=1)
    probe = make_decoder("pyav").probe(str(path))
    assert probe.duration_s == pytest.approx(0.04)
    for pattern in PATTERNS[:5]:
        assert set(sample(str(path), probe, pattern)[0]) == {0}


@pytest.mark.parametrize(("rate", "believed"), [(50, 50), (2400, 25)])
def test_a_bare_stream_has_its_own_rate_if_that_is_plausible(tmp_path, rate, believed):
    path = numbered.write(tmp_path / "a.h264", *CODECS["b_frames"], rate=rate)
    probe = make_decoder("pyav").probe(str(path))
    assert probe.fps == believed and probe.duration_s == pytest.approx(60 / believed)
    np.testing.assert_allclose(make_decoder("pyav").frame_times(str(path)), np.arange(60) / believed)


EPISODES = [37, 8, 61, 17, 45, 29]  # The frames of each, joined as LeRobot does.


@pytest.mark.parametrize(
    ("decoder", "fps", "suffix"),
    [
        *(("pyav", 30, "mp4"), ("pyav", 29, "mp4"), ("pyav", 30, "mkv"), ("pyav", 24, "flv"), ("pyav", 30, "ts")),
        pytest.param("decord", 30, "mp4", marks=needs_decord),
    ],
)
def test_spans_at_a_hairs_breadth_hold_their_own_frames_alone(tmp_path, decoder, fps, suffix):
    path = numbered.write(tmp_path / f"joined.{suffix}", options=B_FRAMES, n_frames=sum(EPISODES), rate=fps)
    probe = make_decoder("pyav").probe(str(path))
    edges = np.cumsum([0, *EPISODES])
    for spell in (float, lambda s: float(np.float32(s)), lambda s: round(s, 3)):
        for first, after in pairwise(edges.tolist()):
            start_s, end_s = spell(first / fps), spell(after / fps)
            patterns = (SampleConfig(every_n=1), SampleConfig(fps=fps), SampleConfig(n_frames=after - first))
            for pattern in patterns if decoder == "pyav" else patterns[:1]:
                numbers = sample(str(path), probe, pattern, start_s, end_s, decoder)[0]
                assert numbers == list(range(first, after)), (first, pattern)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.ts", "late.mkv", "late.flv"])
def test_a_frame_whose_time_the_container_rounds_is_shown_in_time(tmp_path, name):
    """Of 30 frames a second Matroska and FLV note two in three at another time; "late" notes the first so as well."""
    begin = 601 if name.startswith("late") else 0
    path = numbered.write(
        tmp_path / name, options=B_FRAMES, n_frames=90, rate=30, ticks=lambda i: begin + i, ticks_a_second=30
    )
    probe = make_decoder("pyav").probe(str(path))
    for fps in (30, 15, 6, 3):
        numbers, errors = sample(str(path), probe, SampleConfig(fps=fps))
        assert errors == {None}
        assert numbers == list(range(0, 90, 30 // fps)), fps
    assert sample(str(path), probe, SampleConfig(n_frames=45))[0] == list(range(1, 90, 2))


def test_edges_move_less_than_a_quarter_of_a_frame():
    assert align_span(0.9999, 2.0001, 10) == (1.0, 2.0)
    assert align_span(1.0001, 1.9999, 10) == (1.0001, 1.9999)
    assert align_span(0.97, 2.03, 10) == (0.97, 2.03)
    assert align_span(0.9999, 2.0001, 0) == (0.9999, 2.0001)


def test_times_are_laid_out_one_after_the_other():
    none = np.nan
    for ticks, right in [
        ([0, 3, 1, 4, 2], [0, 1, 2, 3, 4]),  # the times of decoding
        ([none, none, none], [0, 2, 4]),
        ([10, none, none, 16, 18], [10, 12, 14, 16, 18]),
        ([0, 100, 100, 200], [0, 100, 102, 200]),
        ([0, none, 100, 102], [0, 2, 100, 102]),
        ([*range(0, 80, 2), *range(0, 80, 2)], np.arange(80) * 2),
        ([*range(0, 80, 2), none, *range(4, 80, 2)], np.arange(79) * 2),
    ]:
        np.testing.assert_allclose(lay_out(np.array(ticks, float), 2.0), right)


def test_cases_from_reports(data_dir):
    folder = data_dir / "cases/video"
    if not folder.is_dir():
        pytest.skip("the cases are absent")
    right = json.loads((folder / "right.json").read_text())
    for name in ["al_mkv.mkv", "st_mkv.mkv", "delay_webm.webm", "avi_h264.avi", "avi_base.avi", "vob_bf0.mpg"]:
        check_case(folder / name, right[name])
    for name in ["al_mpg.mpg", "ts_joined.ts", "ts_h264_midgop.ts", "t_gap.mp4"]:
        check_case(folder / name, right[name])
    assert make_decoder("pyav").frame_times(str(folder / "q_1200fps.mkv")).shape == (240,)


def check_case(path: Path, right: dict) -> None:
    times_s = np.array([np.nan if time_s is None else time_s for time_s in right["times_s"]])
    times_s -= times_s[0]
    steady = np.arange(len(times_s)) / make_decoder("pyav").probe(str(path)).fps
    has_no_own = np.isnan(times_s).any() or (np.diff(times_s) <= 0).any()
    remark = make_decoder("pyav").frames(str(path), np.array([0.0]), SIZE, "squash").error
    check(path, right["codes"], steady if has_no_own else times_s, remark=remark)


def test_packets_and_frames_agree_on_the_zero(tmp_path):
    path = numbered.write(tmp_path / "a.mp4", options=B_FRAMES)
    packets = read_packets(str(path))
    assert packets.is_sound and packets.times_s[0] == 0 and packets.duration_s == pytest.approx(2.4)
