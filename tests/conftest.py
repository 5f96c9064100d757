"""Shared fixtures: where the test data lies, and small videos made on the spot."""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from raypipe.optional import sees_gpu

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
