"""Shared fixtures: where the test data lies, and small videos made on the spot."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from raypipe.packages import sees_gpu

# numba's cache looks at the file of a compiled function alone: with a folder for each state of all of them together,
# no test runs code from before a change. Set before anything imports numba, and inherited by child processes.
_SOFTDTW = Path(__file__).resolve().parents[1] / "raypipe" / "softdtw"
_KERNELS = [_SOFTDTW / name for name in ("lanes.py", "sweeps.py", "numba.py")]
_STATE = hashlib.sha256(b"".join(path.read_bytes() for path in _KERNELS)).hexdigest()[:16]
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"raypipe-kernels-{_STATE}"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real test data, or skip."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("RAYPIPE_TEST_DATA", root / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set RAYPIPE_TEST_DATA")
    return folder


def write_video(path: Path, n_frames: int = 30, fps: int = 10, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """Write an H.264 mp4 of a bright square that crosses a textured ground; frame i's mean brightness grows with i."""
    import av

    rng = np.random.default_rng(seed)
    width, height = size
    ground = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(n_frames):
            pixels = ground + np.uint8(i * 120 // max(n_frames - 1, 1))
            left = int((width - 12) * i / max(n_frames - 1, 1))
            pixels[height // 2 - 6 : height // 2 + 6, left : left + 12] = (250, 80, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@contextlib.contextmanager
def local_ray(**resources):
    """Start a Ray of two CPUs of its own: another may be running on this machine."""
    import ray

    import raypipe.engine.session  # noqa: F401 - sets Ray's environment before it starts

    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", **{**options, **resources})
    try:
        yield ray
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def ray_local():
    """Start a Ray for a module's tests."""
    with local_ray() as ray:
        yield ray


def embed_without_ray(source, config) -> dict[tuple, np.ndarray]:
    """Embed videos one after another in this process: what any run over them should find, as `read_clips` has it."""
    from raypipe.encoders import make_encoder
    from raypipe.segments.planning import plan_segments
    from raypipe.segments.stages import DecodeSegments, EncodeSegments, ProbeVideos
    from raypipe.sources import find_videos

    found, probe = find_videos(source), ProbeVideos(config.decode)
    encoder = make_encoder(**config.encode.model_dump())
    decode = DecodeSegments(config.sample, config.decode, encoder.image_size, encoder.resize_mode)
    encode = EncodeSegments(encoder, config.sample, config.encode.normalize)
    plan = plan_segments(found, [probe(video.uri) for video in found], config.sample)
    plan = plan.filter(plan["error"].is_null())
    rows = [row for segment in plan.to_pylist() for row in encode([decode(segment)])[0].to_pylist()]
    probe.close()
    decode.close()
    return _by_clip(rows, {video.video_id: video.uri for video in found})


def read_clips(run) -> dict[tuple, np.ndarray]:
    """All clips of a run by file name, segment and number; no two rows may be of one."""
    videos = run.read_table("videos.parquet", ["video_id", "uri"]).to_pylist()
    return _by_clip(run.read_table("embeddings").to_pylist(), {row["video_id"]: row["uri"] for row in videos})


def _by_clip(rows: list[dict], uris: dict[str, str]) -> dict[tuple, np.ndarray]:
    rows = [row for row in rows if row["embedding"]]
    made = {
        (uris[row["video_id"]].rpartition("/")[2], row["segment"], row["clip_index"]): np.float32(row["embedding"])
        for row in rows
    }
    assert len(made) == len(rows), "a clip was written twice"
    return made


def assert_same_clips(first: dict[tuple, np.ndarray], second: dict[tuple, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_allclose(value, second[key], atol=1e-6)


def mount_small(path: Path, size: str) -> None:
    """Make a folder that is a file system of so many bytes, or skip."""
    path.mkdir()
    tool = shutil.which("mount")
    if tool is None or os.geteuid() != 0:
        pytest.skip("mount needs root")
    if subprocess.run([tool, "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True).returncode:
        pytest.skip("no mount allowed here")


@pytest.fixture
def make_video(tmp_path):
    """Return a function that writes a small video below ``tmp_path`` and returns its path."""

    def make(name: str = "video.mp4", **options) -> Path:
        return write_video(tmp_path / name, **options)

    return make


def pytest_runtest_setup(item):
    """Skip what is marked ``gpu`` where there is no device; fail it where one is required."""
    if item.get_closest_marker("gpu") is None or sees_gpu():
        return
    if os.environ.get("RAYPIPE_REQUIRE_GPU") == "1":
        pytest.fail("RAYPIPE_REQUIRE_GPU=1, and there is no GPU")
    pytest.skip("no GPU here")
