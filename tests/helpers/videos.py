"""Small videos, made on the spot."""

from pathlib import Path

import numpy as np


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
