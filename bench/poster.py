"""Time and peak memory of posters of the robot videos and of the demo, and how near an assignment in parts comes.

    python -m bench.poster [--width 8000]

Both collections are run with the descriptor. Their posters are made as a user makes them, by the command line: a
preview from ``frames/``, and from the originals as PNG, JPEG and tiles for deep zoom. Peak memory is the largest sum of
the resident set sizes of the whole process tree, the decoder's child with it, sampled fifty times a second; pages that
two processes share count twice. Small pictures for the docs lie in ``docs/images/`` then.

The assignment: made clouds of points on grids from 16 × 16 to 200 × 200 tiles, each in CPU seconds; up to 44 × 44 the
sum of squared distances that the solution in parts has, over that of the exact one.
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.machine import keep
from bench.memory import peak_of, tree_of
from raypipe.analysis import mosaic

DOCS = Path(__file__).resolve().parents[1] / "docs" / "images"


def resident(root: int) -> int:
    """Return the resident set sizes of a process tree together, in bytes."""
    total = 0
    for pid in tree_of(root):
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        except OSError:
            continue
    return total


def measure(*arguments: str | Path) -> dict[str, float]:
    """Run the command; return its seconds, those of CPU time with its children's, and its peak memory."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen([sys.executable, "-m", "raypipe", *map(str, arguments)], stderr=subprocess.DEVNULL)
    peak = peak_of(child, resident, 0.02)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.monotonic() - started, "cpu_s": cpu_s, "peak_mib": peak / 2**20}


def measure_own(run: Path, folder: Path, widths: list[int]) -> list[dict[str, float]]:
    """Return of posters from ``frames/`` how much memory is the processes' own, and how much are pages of files."""
    figures = []
    for width in widths:
        command = [
            sys.executable,
            "-m",
            "raypipe",
            "poster",
            run,
            "-o",
            folder / "own.jpg",
            "--width",
            str(width),
            "-q",
        ]
        child = subprocess.Popen(list(map(str, command)))
        own, pause = {"RssAnon": 0, "RssFile": 0}, threading.Event()
        while child.poll() is None:
            for kind, most in own.items():
                own[kind] = max(most, sum(kib_of(pid, kind) for pid in tree_of(child.pid)))
            pause.wait(0.02)
        figures.append({"px": width, "own_mib": own["RssAnon"] / 1024, "file_pages_mib": own["RssFile"] / 1024})
        print(figures[-1], flush=True)
    return figures


def kib_of(pid: int, kind: str) -> int:
    """Return a process's resident memory of some kind, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def shrink(source: Path, target: Path, width: int) -> None:
    """Write a small, well compressed copy of a picture."""
    with Image.open(source) as image:
        image.draft("RGB", (2 * width, 2 * width))
        small = image.convert("RGB").resize(
            (width, round(image.height * width / image.width)), Image.Resampling.LANCZOS
        )
    sink = io.BytesIO()
    small.save(sink, "WEBP", quality=60)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(sink.getvalue())


def measure_posters(folder: Path, runs: dict[str, Path], width: int) -> dict[str, Any]:
    """Make the posters of each run."""
    figures: dict[str, Any] = {}
    for name, run in runs.items():
        figures[name] = {}
        cases = {
            f"{width // 2} px PNG from frames": ("preview.png", width // 2, "frames"),
            f"{width} px PNG from originals": ("wall.png", width, "originals"),
            f"{width} px JPEG from originals": ("wall.jpg", width, "originals"),
            f"{width} px deep zoom from originals": ("zoom.dzi", width, "originals"),
        }
        for case, (file, px, source) in cases.items():
            output = folder / name / file
            found = measure("poster", run, "-o", output, "--width", str(px), "--from", source)
            if output.suffix != ".dzi":
                found["mib"] = output.stat().st_size / 2**20
            figures[name][case] = found
            print(name, case, found, flush=True)
        shrink(folder / name / "wall.jpg", DOCS / f"poster_{name}.webp", 720)
        shrink(run / "plots" / "fingerprints.png", DOCS / f"fingerprints_{name}.webp", 1300)
    many = folder / "many.jpg"
    found = measure("poster", runs["demo"], "-o", many, "--width", str(4 * width), "--tiles", "24x27")
    figures["demo"][f"{4 * width} px JPEG from frames"] = {**found, "mib": many.stat().st_size / 2**20}
    return figures


def make_places(n: int, side: int) -> np.ndarray:
    """Return places of frames in tiles: clouds of unequal density, stretched to the grid."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(rng.uniform(0.1, 0.9, 2), 0.07, (n // 6 + 1, 2)) for _ in range(6)])[:n]
    return (points - points.min(axis=0)) / np.ptp(points, axis=0) * side


def moved(places: np.ndarray, tiles: np.ndarray, side: int) -> float:
    """Return the sum of the squared distances, in tiles."""
    return float(np.square(places - np.column_stack([tiles % side + 0.5, tiles // side + 0.5])).sum())


def measure_assignment(sides: list[int]) -> list[dict[str, Any]]:
    """Assign full grids, and grids that are two thirds full."""
    figures = []
    for side in sides:
        for n in (side * side, side * side * 2 // 3):
            places = make_places(n, side)
            row: dict[str, Any] = {"tiles": side * side, "frames": n}
            bound, sums = mosaic._EXACT, {}
            for how, limit in (("exact", 1 << 60), ("parts", 0)):
                if how == "exact" and side > 44:
                    continue
                mosaic._EXACT = limit
                started = time.process_time()
                tiles = mosaic.assign_tiles(places, side, side)
                row[f"{how}_cpu_s"] = time.process_time() - started
                sums[how] = moved(places, tiles, side)
                assert len(np.unique(tiles)) == n
            mosaic._EXACT = bound
            if "exact" in sums:
                row["parts_over_exact"] = sums["parts"] / sums["exact"]
            figures.append(row)
            print(row, flush=True)
    return figures


def main() -> None:
    """Measure, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8000)
    parser.add_argument("--videos", type=Path, default=Path("../shared/data/videos/robot_tasks"))
    parser.add_argument("--runs", type=Path, help="a folder that holds the runs robots and demo already")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        runs = {name: (chosen.runs or folder) / name for name in ("robots", "demo")}
        if not chosen.runs:
            measure("run", chosen.videos, "-o", runs["robots"], "--encoder", "descriptor", "-k", "6")
            measure("demo", "-o", runs["demo"])
        posters = measure_posters(folder, runs, chosen.width)
        own = measure_own(runs["demo"], folder, [chosen.width, 3 * chosen.width])
    assignment = measure_assignment([16, 32, 44, 100, 200])
    print(keep("poster", {"posters": posters, "own_memory": own, "assignment": assignment}))


if __name__ == "__main__":
    main()
