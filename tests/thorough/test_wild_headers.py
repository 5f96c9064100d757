"""What mutated files brought to light: headers that claim what is not there, titles, damage, memory."""

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mutations import read_sources
from outlines import Element, outline

from raypipe.decoders.container import OpenVideo
from raypipe.decoders.sandbox import Sandbox
from raypipe.errors import DecodeError
from raypipe.schema import Probe


def overwrite(source: Path, target: Path, kind: bytes, value: bytes, at: int = 0) -> Path:
    """Overwrite a piece of the first element of a kind."""
    data = bytearray(source.read_bytes())
    element: Element = next(each for each in outline(bytes(data)) if each.kind == kind)
    start = element.body + at
    data[start : start + len(value)] = value
    target.write_bytes(data)
    return target


def test_a_wild_duration_is_measured(data_dir, tmp_path):
    source = data_dir / "videos/asl/again.mkv"
    with Sandbox() as sandbox:
        true = sandbox.probe(str(source)).duration_s
        for number, claimed in enumerate((1e9, 1e15, -1.0, float("inf"), float("nan"))):
            path = overwrite(source, tmp_path / f"{number}.mkv", b"\x44\x89", struct.pack(">d", claimed))
            assert sandbox.probe(str(path)).duration_s == pytest.approx(true, abs=0.6)


def test_a_long_video_of_few_bytes_keeps_its_duration(tmp_path, make_video):
    """A picture for hours is valid as long as there is a frame now and then."""
    import av

    short, path = make_video(n_frames=200, fps=25), tmp_path / "slow.mp4"
    with av.open(str(short)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream, packet.pts, packet.dts = stream, packet.pts * 25 * 60, packet.dts * 25 * 60
                packet.duration *= 25 * 60
                out.mux(packet)
    with Sandbox("pyav") as sandbox:
        assert sandbox.probe(str(path)).duration_s == pytest.approx(200 * 60, rel=0.02)


def test_wild_times_are_refused(data_dir, tmp_path):
    sources = read_sources(data_dir / "videos", tmp_path)
    avi = next(source for group in sources for source in group if source.suffix == ".avi")
    (tmp_path / "sound.avi").write_bytes(avi.data)
    path = overwrite(tmp_path / "sound.avi", tmp_path / "wild.avi", b"strh", struct.pack("<II", 10**9, 1), at=20)
    with Sandbox() as sandbox:
        assert sandbox.probe(str(tmp_path / "sound.avi")).duration_s < 5
        with pytest.raises(DecodeError, match=r"its times are invalid: \d+ frames in \S+ s"):
            sandbox.probe(str(path))


def test_in_place_of_a_wild_frame_rate_the_rate_is_measured(data_dir, tmp_path):
    sound = data_dir / "videos/asl/again.mkv"
    path = overwrite(sound, tmp_path / "a.mkv", b"\x23\xe3\x83", struct.pack(">I", 1))
    with Sandbox() as sandbox:
        assert sandbox.probe(str(path)).fps == pytest.approx(sandbox.probe(str(sound)).fps, rel=1e-3)


@pytest.mark.parametrize(("aspect", "believed"), [(Fraction(10**9), 1), (Fraction(64, 45), 64 / 45), (None, 1)])
def test_wild_pixels_are_square(aspect, believed):
    stream = SimpleNamespace(sample_aspect_ratio=aspect)
    assert OpenVideo("a", None, stream).pixel_aspect == believed


def test_titles_in_other_encodings(data_dir, tmp_path):
    data = (data_dir / "videos/asl/again.mkv").read_bytes()
    assert b"Lavf" in data
    (tmp_path / "latin.mkv").write_bytes(data.replace(b"Lavf", b"\xe9t\xe9 "))
    with Sandbox("pyav") as sandbox:
        assert isinstance(sandbox.probe(str(tmp_path / "latin.mkv")), Probe)


def test_damaged_frames_are_told(data_dir, tmp_path):
    source = (data_dir / "videos/robot_tasks/stack/task_resets__stack_D0.mp4").read_bytes()
    damaged = bytearray(source)
    damaged[len(source) // 3 : len(source) // 3 + 200] = bytes(200)
    (tmp_path / "damaged.mp4").write_bytes(damaged)
    with Sandbox("pyav") as sandbox:
        frames = sandbox.frames(str(tmp_path / "damaged.mp4"), np.arange(0, 4, 0.08), 32, "crop", span_s=4)
    assert len(frames.pixels) == 50
    assert frames.error.endswith("of 50 frames are damaged")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel bounds memory on Linux alone")
def test_memory_is_bounded():
    program = """
        import numpy as np
        from raypipe.decoders.sandbox_child import _MOST_MEMORY, bound_memory
        def has(n_bytes):
            try:
                return bool(np.empty(n_bytes, np.uint8).size)
            except MemoryError:
                return False
        for name in ("pyav", "mine:Decoder", "decord"):
            bound_memory(name)
            print(has(_MOST_MEMORY // 2), has(_MOST_MEMORY + (64 << 20)))
    """
    root = str(Path(__file__).resolve().parents[2])
    lines = [line.removeprefix(" " * 8) for line in program.splitlines()]
    said = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True, cwd=root
    ).stdout
    assert said.splitlines() == ["True False", "True True", "True False"]
