"""Measures decord and PyAV on raypipe's sampling patterns, with several thread settings: ``python bench/decoding.py``.

Each figure is seconds of video covered per second of wall time with one decoding process a core, which is how raypipe
runs decoders. The default order of decoders and their thread count rest on these figures.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "decoding.json"
FPS = 30
VIDEOS = {  # name: (width, height, seconds); the long one is there for the segment in its middle
    "160x120": (160, 120, 60),
    "640x480": (640, 480, 30),
    "1920x1080": (1920, 1080, 15),
    "640x480 long": (640, 480, 600),
}
DECODERS = [("pyav", 1), ("pyav", 2), ("pyav", 0), ("decord", 1), ("decord", 2), ("decord", 0)]
IMAGE_SIZE = 224


def write_video(path: Path, width: int, height: int, seconds: int) -> None:
    """Write H.264 at x264's defaults (keyframes every 250 frames, 3 B-frames): discs that move over a textured ground."""
    import av

    rng = np.random.default_rng(0)
    ground = rng.integers(40, 120, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    ground = np.pad(ground, ((0, height - ground.shape[0]), (0, width - ground.shape[1]), (0, 0)), mode="edge")
    y, x = np.mgrid[:height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(seconds * FPS):
            pixels = np.roll(ground, i // 3, axis=1)
            for k in range(3):
                angle = i / (20 + 7 * k)
                cx, cy = width * (0.5 + 0.3 * np.cos(angle)), height * (0.5 + 0.3 * np.sin(angle * (k + 1)))
                pixels[(x - cx) ** 2 + (y - cy) ** 2 < (height / 10) ** 2] = (240, 80 * k, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def make_times(pattern: str, seconds: float) -> np.ndarray:
    """(n,) requested times of a sampling pattern, in seconds."""
    if pattern == "2 fps":
        return np.arange(0, seconds, 0.5)
    if pattern == "every 10th frame":
        return np.arange(0, seconds * FPS, 10) / FPS
    if pattern == "5 uniform frames":
        return (np.arange(5) + 0.5) * seconds / 5
    return np.arange(seconds / 2 - 60, seconds / 2 + 60, 0.5)  # one segment out of the middle, at 2 fps


def patterns_of(seconds: int) -> list[str]:
    """Patterns that make sense for a video of that length."""
    return ["120 s segment"] if seconds > 120 else ["2 fps", "every 10th frame", "5 uniform frames"]


def decode(name: str, n_threads: int, path: str, times_s: np.ndarray, n_repeats: int) -> int:
    """Decode one request several times over; gives the number of frames, so that nothing is left undone unseen."""
    from raypipe.decoders.decord import DecordDecoder
    from raypipe.decoders.pyav import PyAVDecoder

    decoder = {"pyav": PyAVDecoder, "decord": DecordDecoder}[name](n_threads)
    return sum(len(decoder.frames(path, times_s, IMAGE_SIZE, "squash").times_s) for _ in range(n_repeats))


def measure(pool: ProcessPoolExecutor, n_processes: int, name: str, n_threads: int, path: Path, times_s: np.ndarray):
    """Give the seconds that one request takes each of ``n_processes`` running side by side; the median of 3."""
    arguments = (name, n_threads, str(path), times_s)

    def run(n_repeats: int) -> float:
        begin = time.perf_counter()
        jobs = [pool.submit(decode, *arguments, n_repeats) for _ in range(n_processes)]
        assert all(job.result() == n_repeats * len(times_s) for job in jobs)
        return (time.perf_counter() - begin) / n_repeats

    n_repeats = max(1, round(0.5 / run(1)))
    return statistics.median(run(n_repeats) for _ in range(3))


def describe_machine() -> dict[str, object]:
    """The processor, as far as it can be told."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"cpu": model or platform.processor() or platform.machine(), "cores": os.cpu_count()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="side by side; default one a core")
    options = parser.parse_args()
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.processes, mp_context=spawn) as pool:
        for video, (width, height, seconds) in VIDEOS.items():
            path = Path(folder) / f"{video.replace(' ', '_')}.mp4"
            write_video(path, width, height, seconds)
            for pattern in patterns_of(seconds):
                times_s = make_times(pattern, seconds)
                covered_s = min(seconds, 120)
                for name, n_threads in DECODERS:
                    wall_s = measure(pool, options.processes, name, n_threads, path, times_s)
                    rows.append(
                        {
                            "video": video,
                            "pattern": pattern,
                            "decoder": name,
                            "threads": n_threads or "auto",
                            "request_ms": round(1000 * wall_s, 1),
                            "video_s_per_s": round(options.processes * covered_s / wall_s, 1),
                            "sampled_frames_per_s": round(options.processes * len(times_s) / wall_s, 1),
                        }
                    )
                print_rows(rows[-len(DECODERS) :])
    result = {
        "machine": describe_machine(),
        "processes": options.processes,
        "versions": {name: version(name) for name in ("av", "decord", "numpy")},
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


def print_rows(rows: list[dict]) -> None:
    """One line a video and pattern."""
    figures = "  ".join(f"{row['decoder']}/{row['threads']} {row['video_s_per_s']:8.1f}" for row in rows)
    print(f"{rows[0]['video']:>13} {rows[0]['pattern']:>17}  {figures}", flush=True)


if __name__ == "__main__":
    main()
