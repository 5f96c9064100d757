"""What it costs to keep small pictures in ``frames/``: CPU time of decoding and encoding with them, over that without.

    python -m bench.frames [--rounds 14]

Videos of three sizes are decoded in the sandbox and encoded by the descriptor, which is the quickest encoder there is:
beside any other the pictures cost a smaller part. Both sides alternate in one process on one thread, and the figures
are medians; "added" is the median of the rounds' ratios, less 1. A picture is kept of each second of video.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import keep
from raypipe.config import DecodeConfig, SampleConfig
from raypipe.encoders import make_encoder
from raypipe.segments.planning import plan_segments
from raypipe.segments.stages import DecodeSegments, EncodeSegments, ProbeVideos
from raypipe.sources.videos import Video

SIZES = {"320x240": (320, 240), "1280x720": (1280, 720), "1920x1080": (1920, 1080)}
SECONDS, FPS = 20, 30


def make_video(path: Path, width: int, height: int) -> Path:
    """Write `SECONDS` of a ball that crosses a ground with grain."""
    import av

    y, x = np.mgrid[0:height, 0:width] / height
    ground = np.random.default_rng(0).integers(0, 80, (height, width, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(SECONDS * FPS):
            frame = ground.copy()
            frame[np.hypot(x - 0.002 * i, y - 0.5 - 0.25 * np.sin(i / 20)) < 0.1] = (220, 90, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def cpu_s(process: int) -> float:
    """Return the CPU seconds that a process has taken so far, to the nanosecond, all its threads together."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Side:
    """One of the two sides: the stages, with or without pictures."""

    def __init__(self, sample: SampleConfig, encoder: Any) -> None:
        self.decode = DecodeSegments(sample, DecodeConfig(decoder="pyav"), encoder.image_size, encoder.resize_mode)
        self.encode = EncodeSegments(encoder, sample, True)

    def measure(self, row: dict[str, Any]) -> tuple[float, float, int]:
        """Return CPU seconds of decoding and encoding, and the number of pictures."""
        child = self.decode._sandbox._living_child()._process.pid
        before, started = cpu_s(child), time.process_time()
        decoded = self.decode(row)
        between, decoded_at = cpu_s(child), time.process_time()
        self.encode([decoded])
        return between - before + decoded_at - started, time.process_time() - decoded_at, decoded["frames"].num_rows


def main() -> None:
    """Measure and keep the figures."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=14)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    encoder = make_encoder("descriptor")
    sides = {name: Side(SampleConfig(thumbnails=n), encoder) for name, n in (("with", 64), ("without", 0))}
    probe, figures = ProbeVideos(DecodeConfig()), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            uri = make_video(Path(folder) / f"{name}.mp4", *size).as_uri()
            (row,) = plan_segments([Video(name, uri)], [probe(uri)], SampleConfig()).to_pylist()
            taken: dict[str, list] = {side: [] for side in sides}
            for number in range(rounds + 1):  # The first round warms up.
                for side in sorted(sides, reverse=number % 2 == 1):  # Neither side is always the second.
                    taken[side].append(sides[side].measure(row))
            times = {side: np.array(rows[1:]) for side, rows in taken.items()}
            whole = {side: each[:, 0] + each[:, 1] for side, each in times.items()}
            figures[name] = {
                "pictures": int(times["with"][0, 2]),
                **{f"decode_s_{side}": round(float(np.median(each[:, 0])), 4) for side, each in times.items()},
                **{f"whole_s_{side}": round(float(np.median(each)), 4) for side, each in whole.items()},
                "added": round(float(np.median(whole["with"] / whole["without"])) - 1, 4),
            }
            print(name, figures[name])
    probe.close()
    for stages in sides.values():
        stages.decode.close()
    print(keep("frames", figures))


if __name__ == "__main__":
    main()
