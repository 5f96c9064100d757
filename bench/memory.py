"""Peak memory of embedding one long video, compared with a short one.

    python -m bench.memory [--minutes 5 60]

The figure is the proportional set size (which counts shared pages once) of the whole process tree, with Ray and the
decoders, sampled ten times a second.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.machine import keep


def make_long_video(path: Path, minutes: float) -> None:
    """Write a 320x240 video of that length: a short piece is encoded once, and its packets are repeated."""
    import av

    rng = np.random.default_rng(0)
    piece = path.with_name("piece.mp4")
    with av.open(str(piece), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "28", "preset": "fast", "bf": "0", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        ground = rng.integers(0, 120, (240, 320, 3)).astype(np.uint8)
        for i in range(250):
            frame = np.roll(ground, i, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path), "w") as out:
        target = None
        for repeat in range(round(minutes * 6)):
            with av.open(str(piece)) as source:
                stream = source.streams.video[0]
                target = target or out.add_stream_from_template(stream)
                offset = round(repeat * 10 / (stream.time_base or 1))
                for packet in source.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = target
                    out.mux(packet)


def tree_of(root: int) -> list[int]:
    """Return the process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def memory_of(root: int) -> int:
    """Return the proportional set size of a process tree in bytes."""
    total = 0
    for pid in tree_of(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def peak_of(child: subprocess.Popen, measure: Callable[[int], int] = memory_of, pause_s: float = 0.1) -> int:
    """Wait for a process to end; return the most that its tree had by a measure, in bytes."""
    peak, pause = 0, threading.Event()
    while child.poll() is None:
        peak = max(peak, measure(child.pid))
        pause.wait(pause_s)
    if child.returncode:
        raise SystemExit(f"{child.args!r} failed with {child.returncode}")
    return peak


def peak_while_embedding(video: Path, run: Path) -> tuple[float, float]:
    """Embed the video by the command line; return the peak in bytes and the seconds."""
    command = [sys.executable, "-m", "raypipe", "embed", str(video), "-o", str(run), "--encoder", "descriptor", "-q"]
    started = time.monotonic()
    peak = peak_of(subprocess.Popen(command))
    return peak, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs=2, default=[5, 60])
    arguments = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in arguments.minutes:
            video = Path(folder) / f"{minutes:g}.mp4"
            make_long_video(video, minutes)
            peak, seconds = peak_while_embedding(video, Path(folder) / f"run-{minutes:g}")
            figures.append({"minutes": minutes, "peak_mib": peak / 2**20, "seconds": seconds})
            print(f"{minutes:g} minutes of video: peak {peak / 2**20:.0f} MiB in {seconds:.0f} s", flush=True)
    ratio = figures[1]["peak_mib"] / figures[0]["peak_mib"]
    print(f"ratio {ratio:.3f}; kept in {keep('memory', {'runs': figures, 'ratio': ratio})}")


if __name__ == "__main__":
    main()
