"""Decoding and encoding in one child, by torchcodec on the CPU where there is no GPU."""

import io
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from videos import write_video

from raypipe.config import DecodeConfig, EncodeConfig, SampleConfig
from raypipe.decoders import make_decoder
from raypipe.decoders.sandbox import Sandbox
from raypipe.encoders import make_encoder
from raypipe.errors import DecodeError
from raypipe.packages import is_installed
from raypipe.segments import gpu as segments_gpu
from raypipe.segments.gpu import LEAST_PSNR_DB, GpuSegments, measure_psnr
from raypipe.segments.stages import DecodeSegments, EncodeSegments

SAMPLE = SampleConfig(fps=4)
DECODE = DecodeConfig(decoder="pyav", deadline_s=30)
ENCODE = EncodeConfig(encoder="descriptor")
SIZE = 128  # the descriptor's
DEVICES = ["cpu", "cuda"]

needs_torchcodec = pytest.mark.skipif(not is_installed("torchcodec"), reason="torchcodec is an extra, not installed")
pytestmark = needs_torchcodec


@pytest.fixture
def make_stage():
    """Return a function that makes the stage; what it made is closed."""
    made = []

    def make(device: str = "cpu", decode: DecodeConfig = DECODE, encode: EncodeConfig = ENCODE) -> GpuSegments:
        encoder = make_encoder(**encode.model_dump())
        form = encoder.fingerprint, encoder.dim, encoder.image_size, encoder.resize_mode
        made.append(GpuSegments(SAMPLE, decode, encode, *form, device))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def plan_row(path, end_s: float = 3.0) -> dict:
    return {
        "video_id": path.stem, "segment": 0, "fingerprint": "f", "uri": path.as_uri(), "row": 0,
        "origin_s": 0.0, "span_s": end_s, "start_s": 0.0, "end_s": end_s,
    }  # fmt: skip


def by_cpu_chain(row: dict):
    decode = DecodeSegments(SAMPLE, DECODE, SIZE, "squash")
    try:
        return EncodeSegments(make_encoder("descriptor"), SAMPLE, True)([decode(row)])[0]
    finally:
        decode.close()


def by_cpu_frames(row: dict):
    decode = DecodeSegments(SAMPLE, DECODE, SIZE, "squash")
    try:
        return decode(row)["frames"]
    finally:
        decode.close()


def vectors_of(clips) -> np.ndarray:
    return np.stack(clips["embedding"].to_numpy(zero_copy_only=False))


@pytest.mark.parametrize("device", DEVICES)
def test_clips_are_those_of_the_cpu_chain(make_stage, tmp_path, device):
    row = plan_row(write_video(tmp_path / "a.mp4", size=(320, 240)))
    decoded, clips = make_stage(device)(row)
    expected = by_cpu_chain(row)
    assert clips.schema == expected.schema
    assert set(clips["decoder"].to_pylist()) == {f"torchcodec-{device}"}
    for name in ("video_id", "segment", "clip_index", "start_s", "end_s", "fingerprint", "error"):
        assert clips[name] == expected[name], name
    cosines = (vectors_of(clips) * vectors_of(expected)).sum(axis=1)
    assert cosines.min() > 0.99  # the frames differ by a level or two
    assert decoded["error"] is None
    for ours, theirs in zip(decoded["frames"].to_pylist(), by_cpu_frames(row).to_pylist(), strict=True):
        pictures = [np.asarray(Image.open(io.BytesIO(each.pop("frame")))).astype(int) for each in (ours, theirs)]
        assert ours == theirs
        assert np.abs(pictures[0] - pictures[1]).mean() < 4


@pytest.mark.parametrize("device", DEVICES)
def test_frames_are_the_cpus_on_real_videos(data_dir, device):
    """Right frames reach the threshold on real videos, and those of a wrong range do not."""
    from raypipe.decoders.torchcodec import TorchCodecDecoder

    theirs, ours = TorchCodecDecoder(device), make_decoder("pyav")
    odd = ["nasa_13013.mp4", "h265_video.mp4", "video_0.mov", "video_90.mov", "video_180.mov", "video_270.mov"]
    paths = [data_dir / "videos/odd" / name for name in odd]
    paths += sorted((data_dir / "videos/robot_tasks").rglob("*.mp4"))[::9]
    paths += sorted((data_dir / "lerobot_v21").rglob("*.mp4"))[1:2]
    for path in paths:
        times_s = np.linspace(0, 0.9 * ours.probe(str(path)).duration_s, 3)
        right = ours.frames(str(path), times_s, 224, "crop").pixels
        assert measure_psnr(theirs.frames(str(path), times_s, 224, "crop").pixels, right).min() > LEAST_PSNR_DB + 1
        narrow = (right * (219 / 255) + 16).round().astype(np.uint8)
        assert measure_psnr(narrow, right).max() < LEAST_PSNR_DB - 1


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize(("width", "height"), [(320, 240), (64, 96), (1280, 720), (223, 225)])
def test_resizing_on_the_device_is_the_cpus(width, height, mode):
    """Both are bicubic with filters that widen: within two levels on average, 45 dB at least."""
    import av
    import torch

    from raypipe.decoders.picture import Resizer
    from raypipe.decoders.torchcodec import resize

    rows, columns = np.mgrid[0:height, 0:width] / 40.0
    waves = np.stack([np.sin(rows + columns), np.cos(2 * columns), np.sin(3 * rows * columns / 9)], axis=2)
    picture = (127 + 100 * waves).astype(np.uint8)
    there = resize(torch.from_numpy(picture).permute(2, 0, 1)[None], 96, mode).numpy()
    here = Resizer(96, mode, 1.0)(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    assert np.abs(there[0].astype(int) - here).mean() < 2
    assert measure_psnr(there, here[None])[0] > 45


def test_frames_that_differ_are_left_to_the_cpu(make_stage, tmp_path, monkeypatch):
    monkeypatch.setattr(segments_gpu, "LEAST_PSNR_DB", 200.0)
    stage = make_stage()
    row = plan_row(write_video(tmp_path / "a.mp4"))
    decoded, clips = stage(row)
    assert clips is None
    assert "frames of h264 yuv420p (range 0, matrix 2) differ from pyav's: " in decoded["error"]
    monkeypatch.setattr(segments_gpu, "LEAST_PSNR_DB", 0.0)
    assert stage(row)[1] is None, "a kind that was found wrong once is not tried again"


def test_the_check_is_done_for_the_first_videos_of_a_kind(make_stage, tmp_path):
    stage = make_stage()
    asked = []
    reference = stage._sandbox._reference.frames
    stage._sandbox._reference.frames = lambda *args: asked.append(args[0]) or reference(*args)
    paths = [write_video(tmp_path / f"{i}.mp4", seed=i) for i in range(4)]
    for path in paths:
        assert stage(plan_row(path))[1] is not None
    assert asked == [path.as_uri() for path in paths[:2]]


def test_what_cannot_be_decoded_says_why(make_stage, tmp_path):
    stage = make_stage()
    (tmp_path / "text.mp4").write_text("no video")
    decoded, clips = stage(plan_row(tmp_path / "text.mp4"))
    assert clips is None
    assert decoded["error"] == "Invalid data found when processing input"
    remote = {**plan_row(tmp_path / "text.mp4"), "uri": "s3://bucket/a.mp4"}
    assert "torchcodec cannot stream" in stage(remote)[0]["error"]


def test_a_video_of_which_later_frames_fail_is_left_whole_to_the_cpu(tmp_path, monkeypatch):
    """Its first frames alone would pass for all that decodes of it, though the CPU's decoders read it to the end."""
    from raypipe.decoders.torchcodec import TorchCodecDecoder

    class Stopping:
        metadata = SimpleNamespace(rotation=None)

        def __init__(self, decoder):
            self._decoder, self._n_calls = decoder, 0

        def get_frames_played_at(self, seconds):
            self._n_calls += 1
            if self._n_calls > 1:
                raise RuntimeError("frame pts is 9.966668; must be less than 9.966667.")
            return self._decoder.get_frames_played_at(seconds)

    open_decoder = TorchCodecDecoder._open
    monkeypatch.setattr(TorchCodecDecoder, "_open", lambda *arguments: Stopping(open_decoder(*arguments)))
    path = write_video(tmp_path / "a.mp4", n_frames=24)
    times_s = make_decoder("pyav").frame_times(str(path))
    assert len(TorchCodecDecoder("cpu").frames(str(path), times_s[:16], SIZE, "crop").pixels) == 16
    with pytest.raises(DecodeError, match=r"frame pts is 9\.966668"):
        TorchCodecDecoder("cpu").frames(str(path), times_s, SIZE, "crop")


def test_a_child_that_dies_costs_one_segment(make_stage, tmp_path):
    stage = make_stage()
    row = plan_row(write_video(tmp_path / "a.mp4"))
    assert stage(row)[1] is not None
    os.kill(stage._sandbox._child._process.pid, signal.SIGSTOP)
    stage._sandbox.deadline_s = 0.5
    decoded, clips = stage(row)
    assert clips is None
    assert "no answer within 0.5 s" in decoded["error"]
    stage._sandbox.deadline_s = 30.0
    assert stage(row)[1] is not None


def test_a_child_that_keeps_dying_is_given_up(make_stage, tmp_path, monkeypatch):
    stage = make_stage()
    row = plan_row(write_video(tmp_path / "a.mp4"))

    start = Sandbox._living_child

    def start_dying(sandbox):
        child = start(sandbox)
        os.kill(child._process.pid, signal.SIGKILL)
        child._process.wait()
        return child

    monkeypatch.setattr(Sandbox, "_living_child", start_dying)
    errors = [stage(row)[0]["error"] for _ in range(5)]
    # A request whose process was killed is tried again, so that the third start is in the second segment.
    assert errors == ["its process died of SIGKILL"] + ["given up, as its process died 3 times in a row"] * 4
    assert stage._sandbox._n_starts == 3


def test_an_encoder_that_cannot_be_made_is_given_up(make_stage, tmp_path):
    stage = make_stage()
    stage._sandbox._encode |= {"encoder": "clip", "pretrained": str(tmp_path / "absent.pt")}
    row = plan_row(write_video(tmp_path / "a.mp4"))
    for _ in range(2):
        assert "is neither a file nor a tag" in stage(row)[0]["error"]
    assert stage._sandbox._n_starts == 1


def test_another_encoder_than_the_drivers_is_given_up(make_stage, tmp_path):
    stage = make_stage()
    stage._sandbox._encode |= {"fingerprint": "descriptor-0/l2"}
    decoded, clips = stage(plan_row(write_video(tmp_path / "a.mp4")))
    assert clips is None and "and this run's is descriptor-0/l2: its weights" in decoded["error"]


def test_without_nvdec_the_reason_is_said(make_stage, tmp_path):
    from raypipe.packages import sees_gpu

    if sees_gpu():
        pytest.skip("there may be NVDEC here")
    decoded, clips = make_stage("cuda")(plan_row(write_video(tmp_path / "a.mp4")))
    assert clips is None
    assert "NVDEC's library cannot be loaded" in decoded["error"]
