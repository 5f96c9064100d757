"""The speed of decord and PyAV on raypipe's sampling patterns, with several numbers of threads.

    python -m bench.decoding

raypipe runs one decoding process a core, so CPU time is what counts. Each figure is the seconds of video covered in a
second of CPU time, over all threads, while one process on each core does the same. The default order of decoders and
their number of threads rest on these figures; wall times are recorded too. "bare decord" is the library called by
frame numbers with its own resizing, without raypipe's checks and exact times.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import keep
from raypipe.decoders import Decoder

FPS = 30
VIDEOS = {  # name: (width, height, seconds). Of the long one, a segment in the middle is decoded.
    "160x120": (160, 120, 30),
    "640x480": (640, 480, 20),
    "1920x1080": (1920, 1080, 10),
    "640x480 long": (640, 480, 300),
}
DECODERS = [("pyav", 1), ("pyav", 2), ("pyav", 0), ("decord", 1), ("decord", 2), ("decord", 0), ("bare decord", 1)]
IMAGE_SIZE = 224
N_REPEATS = 3


def write_video(path: Path, width: int, height: int, seconds: int) -> None:
    """Write discs that move over a textured ground, in H.264 with x264's defaults (B-frames, few keyframes)."""
    import av

    rng = np.random.default_rng(0)
    ground = rng.integers(40, 120, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    ground = np.pad(ground, ((0, height - ground.shape[0]), (0, width - ground.shape[1]), (0, 0)), mode="edge")
    y, x = np.mgrid[:height, :width]
    scenes = []
    for angle in np.linspace(0, 2 * np.pi, 90, endpoint=False):
        scenes.append(np.roll(ground, round(angle * 8), axis=1))
        for k in range(3):
            cx, cy = width * (0.5 + 0.3 * np.cos(angle)), height * (0.5 + 0.3 * np.sin(angle * (k + 1)))
            scenes[-1][(x - cx) ** 2 + (y - cy) ** 2 < (height / 10) ** 2] = (240, 80 * k, 60)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(seconds * FPS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scenes[i % len(scenes)], format="rgb24")))
        container.mux(stream.encode())


def make_times(pattern: str, seconds: float) -> np.ndarray:
    """Return the (n,) requested times of a sampling pattern, in seconds."""
    if pattern == "2 fps":
        return np.arange(0, seconds, 0.5)
    if pattern == "every 10th frame":
        return np.arange(0, seconds * FPS, 10) / FPS
    if pattern == "5 uniform frames":
        return (np.arange(5) + 0.5) * seconds / 5
    return np.arange(seconds / 2 - 60, seconds / 2 + 60, 0.5)  # one segment out of the middle, at 2 fps


def patterns_of(seconds: int) -> list[str]:
    """Return the patterns that make sense for a video of that length."""
    return ["120 s segment"] if seconds > 120 else ["2 fps", "every 10th frame", "5 uniform frames"]


def decode(name: str, n_threads: int, path: str, times_s: np.ndarray) -> tuple[float, float]:
    """Return the CPU and wall seconds that one request takes, over all threads."""
    import decord

    from raypipe.decoders.decord import DecordDecoder
    from raypipe.decoders.pyav import PyAVDecoder

    cpu, wall = time.process_time(), time.perf_counter()
    if name == "bare decord":
        reader = decord.VideoReader(path, width=IMAGE_SIZE, height=IMAGE_SIZE, num_threads=n_threads)
        pixels = reader.get_batch(np.round(times_s * FPS).astype(int)).asnumpy()
    else:
        decoder: Decoder = PyAVDecoder(n_threads) if name == "pyav" else DecordDecoder(n_threads)
        pixels = decoder.frames(path, times_s, IMAGE_SIZE, "squash").pixels
    assert len(pixels) == len(times_s)
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(pool: ProcessPoolExecutor, n_processes: int, *request: Any) -> tuple[float, float]:
    """Return the median CPU and wall seconds of a request while ``n_processes`` do the same; imports do not count."""
    jobs = [pool.submit(decode, *request) for _ in range(n_processes * (N_REPEATS + 1))]
    results = [job.result() for job in jobs][n_processes:]
    return statistics.median(cpu for cpu, _ in results), statistics.median(wall for _, wall in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="processes side by side; default one a core"
    )
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
                    cpu_s, wall_s = measure(pool, options.processes, name, n_threads, str(path), times_s)
                    rows.append(
                        {
                            "video": video,
                            "pattern": pattern,
                            "decoder": name,
                            "threads": n_threads or "auto",
                            "cpu_ms": round(1000 * cpu_s, 1),
                            "wall_ms": round(1000 * wall_s, 1),
                            "video_s_per_cpu_s": round(covered_s / cpu_s, 1),
                            "sampled_frames_per_cpu_s": round(len(times_s) / cpu_s, 1),
                        }
                    )
                print_rows(rows[-len(DECODERS) :])
    print(f"written to {keep('decoding', {'processes': options.processes, 'rows': rows})}")


def print_rows(rows: list[dict]) -> None:
    """Print one line for a video and pattern."""
    figures = "  ".join(f"{row['decoder']}/{row['threads']} {row['video_s_per_cpu_s']:8.1f}" for row in rows)
    print(f"{rows[0]['video']:>13} {rows[0]['pattern']:>17}  {figures}", flush=True)


if __name__ == "__main__":
    main()
