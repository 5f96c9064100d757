"""What `raypipe explore` bears: many clients that stream ranges, many videos in its tables; and how well videos align.

    python -m bench.explore [--clients 50] [--seconds 30] [--videos 100000]

- **Load**: the command serves the demo's videos and one of some 40 MB, in a process of its own. So many clients ask for
  ranges of random videos for so many seconds, and compare each byte with the file; every tenth reads slowly. The memory
  is that of the server's process, once a second, in the two halves of these seconds, which begin when it is warm.
- **Alignment**: the demo's videos are a known way round a loop at a random pace, so that it is known when two of them
  do the same. Each pair within a behaviour is aligned; the error is how far, in seconds, the second video is from where
  it should be. Beside it that of playing both from the first to the last frame at a steady rate.
- **Tables**: CPU seconds of the answers for a run of so many videos, sixteen pictures of each kept.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from bench.machine import keep
from raypipe.demo import BEHAVIOURS, FPS, draw_pace, follow_loop, render_demo
from raypipe.demo.scene import draw_look
from raypipe.runs.directory import Run
from raypipe.schema import CLUSTERS, FRAMES, PLAN, VIDEOS
from raypipe.storage import local_path

MOST_BYTES, PIECE, SLOW_BYTES_PER_S = 4 << 20, 64 << 10, 1 << 20
PICTURES = 16
WARM_UP_S = 20.0  # Until each thread of the server has held its piece of a file.


def make_long(path: Path, n_frames: int = 150) -> Path:
    """Write a video of noise, which compresses badly."""
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "12", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for _ in range(n_frames):
            pixels = rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def make_run(folder: Path) -> Run:
    """Embed and cluster the demo's videos, and the long one."""
    render_demo(folder / "videos", n_variants=4)
    make_long(folder / "videos/long.mp4")
    sets = ("--encoder", "descriptor", "-k", str(len(BEHAVIOURS)), "--seed", "0")
    raypipe("run", folder / "videos", "-o", folder / "run", *sets, "-q")
    return Run.open(folder / "run")


def raypipe(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "raypipe", *map(str, arguments)], check=True)


class Client(threading.Thread):
    """Asks for ranges until the time is over, and counts what it got."""

    def __init__(self, url: str, files: dict[str, bytes], seed: int, until: float) -> None:
        super().__init__()
        parts = urlsplit(url)
        self.host, self.path, self.files, self.until = parts.netloc, parts.path, files, until
        self.rng, self.is_slow = np.random.default_rng(seed), seed % 10 == 0
        self.n_bytes = self.n_requests = 0
        self.errors: list[str] = []

    def run(self) -> None:
        """Ask again and again."""
        connection = HTTPConnection(self.host, timeout=60)
        while time.monotonic() < self.until:
            try:
                self.ask(connection)
            except Exception as error:  # Whatever goes wrong is what is looked for.
                self.errors.append(repr(error))
                connection.close()
        connection.close()

    def ask(self, connection: HTTPConnection) -> None:
        """Ask for one range; of the largest file every other time."""
        names = sorted(self.files, key=lambda name: len(self.files[name]))
        video_id = names[-1 if self.n_requests % 2 else self.rng.integers(len(names))]
        data = self.files[video_id]
        start = int(self.rng.integers(len(data)))
        end = min(start + int(self.rng.integers(1, MOST_BYTES)), len(data))
        connection.request("GET", f"{self.path}video/{video_id}", headers={"Range": f"bytes={start}-{end - 1}"})
        answer, place = connection.getresponse(), start
        while piece := answer.read(PIECE):
            if piece != data[place : place + len(piece)]:
                raise ValueError("other bytes came")
            place += len(piece)
            if self.is_slow:
                time.sleep(len(piece) / SLOW_BYTES_PER_S)
        if answer.status != 206 or place != end:
            raise ValueError(f"status {answer.status}, {place - start} of {end - start} bytes")
        self.n_bytes, self.n_requests = self.n_bytes + place - start, self.n_requests + 1


def memory_mb(process: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def measure_load(run: Run, n_clients: int, seconds: float) -> dict[str, Any]:
    rows = run.read_table("videos.parquet", ["video_id", "uri"]).to_pylist()
    files = {row["video_id"]: Path(local_path(row["uri"]) or "").read_bytes() for row in rows}
    command = [sys.executable, "-m", "raypipe", "explore", run.path(), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        idle_mb = memory_mb(server.pid)
        until = time.monotonic() + WARM_UP_S + seconds
        clients = [Client(url, files, seed, until) for seed in range(n_clients)]
        begun, samples = time.monotonic(), []
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            time.sleep(1)
            samples.append(memory_mb(server.pid))
        wall_s = time.monotonic() - begun
        ticks = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
        server.send_signal(signal.SIGINT)
        code = server.wait(20)
    n_bytes = sum(client.n_bytes for client in clients)
    errors = [error for client in clients for error in client.errors]
    warm = samples[-max(round(seconds), 1) :]
    half = len(warm) // 2
    return {
        "clients": n_clients,
        "seconds": round(wall_s, 1),
        "requests": sum(client.n_requests for client in clients),
        "gigabytes": round(n_bytes / 1e9, 2),
        "errors": len(errors),
        "first_errors": errors[:3],
        "largest_file_mb": round(max(map(len, files.values())) / 1e6, 1),
        "memory_mb": {
            "idle": round(idle_mb, 1),
            "first_half": round(float(np.median(warm[: half or 1])), 1),
            "second_half": round(float(np.median(warm[half:])), 1),
            "most": round(max(samples), 1),
        },
        "server_cpu_s_with_start": round(cpu_s, 1),
        "exit_code_after_ctrl_c": code,
    }


def known_places(behaviour: str, variant: int) -> np.ndarray:
    """Return the place on the loop at each frame of a video of the demo, rising."""
    index = list(BEHAVIOURS).index(behaviour)
    rng = np.random.default_rng((0, index, variant))
    draw_look(rng)
    return follow_loop(behaviour, *draw_pace(rng)) * BEHAVIOURS[behaviour][1]


def measure_alignment(run: Run) -> dict[str, Any]:
    from raypipe.trajectories.side_by_side import align_videos

    rows = run.read_table("videos.parquet", ["video_id", "uri"]).to_pylist()
    ids = {Path(row["uri"]).stem: row["video_id"] for row in rows}
    errors: dict[str, list[np.ndarray]] = {"aligned": [], "steady": []}
    for behaviour in BEHAVIOURS:
        for first, second in itertools.combinations(range(4), 2):
            found = align_videos(run, [ids[f"{behaviour}_{variant:02d}"] for variant in (first, second)])
            a, b = (known_places(behaviour, variant) for variant in (first, second))
            at_s, other_s = found.times_s
            place = np.interp(at_s * FPS, np.arange(len(a)), a)
            moves = (place > a[0] + 1e-6) & (place < a[-1] - 1e-6)  # While the hand waits, any time is right.
            right_s = np.interp(place, b, np.arange(len(b))) / FPS
            errors["aligned"].append(np.abs(other_s - right_s)[moves])
            errors["steady"].append(np.abs(at_s * len(b) / len(a) - right_s)[moves])
    return {
        f"{name}_error_s": {
            "mean": round(float(np.mean(np.concatenate(each))), 3),
            "q90": round(float(np.quantile(np.concatenate(each), 0.9)), 3),
        }
        for name, each in errors.items()
    } | {"pairs": len(errors["aligned"])}


def make_tables(folder: Path, n: int) -> Run:
    """Write the tables of a clustered run of n videos that are not there."""
    run, rng = Run(str(folder)), np.random.default_rng(0)
    ids = [f"{i:032x}" for i in range(n)]
    uris = [f"file:///videos/{i % 100:02d}/recording_{i:07d}.mp4" for i in range(n)]
    plain: dict[str, Any] = {"video_id": ids, "uri": uris, "group": [f"{i % 100:02d}" for i in range(n)]}

    def table(schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
        size = len(columns["video_id"])
        arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(size, f.type) for f in schema]
        return pa.table(arrays, schema=schema)

    captions = [f"the arm moves block {i % 977} to bin {i % 13}" for i in range(n)]
    run.write_table(
        "videos.parquet", table(VIDEOS, {**plain, "caption": captions, "duration_s": rng.uniform(5, 60, n)})
    )
    form = {"segment": np.zeros(n), "origin_s": np.zeros(n), "span_s": np.full(n, 16.0), "fingerprint": ["f"] * n}
    run.write_table("plan.parquet", table(PLAN, {**plain, **form}))
    places = {"x": rng.normal(size=n), "y": rng.normal(size=n), "distance": rng.random(n)}
    run.write_table("clusters.parquet", table(CLUSTERS, {**plain, **places, "cluster": rng.integers(0, 20, n)}))
    for part, start in enumerate(range(0, n, 10_000)):
        some = np.repeat(ids[start : start + 10_000], PICTURES).tolist()
        k = len(some)
        rows = {"video_id": some, "segment": np.zeros(k), "clip_index": np.arange(k) % PICTURES}
        rows |= {"time_s": np.arange(k) % PICTURES, "frame": [b"x" * 2000] * k, "fingerprint": ["f"] * k}
        whole = table(FRAMES, rows)
        run.write_tables(f"frames/{part}.parquet", (whole.slice(at, 256) for at in range(0, k, 256)))
        run.write_table(f"embeddings/{part}.parquet", pa.table({"video_id": []}))
    return run


def cpu_s(call: Callable[[], Any], n: int = 3) -> float:
    """Return the least CPU seconds of some calls."""
    taken = []
    for _ in range(n):
        begun = time.process_time()
        call()
        taken.append(time.process_time() - begun)
    return round(min(taken), 4)


def measure_tables(run: Run) -> dict[str, Any]:
    from raypipe.report.serving.catalog import Catalog
    from raypipe.runs.frames import FrameReader

    catalog, index = Catalog(run), FrameReader(run)
    asks: dict[str, Callable[[], Any]] = {
        "open": lambda: Catalog(run),
        "open_pictures": lambda: FrameReader(run),
        "one_video": lambda: catalog.find(f"{len(catalog) - 1:032x}"),
        "pictures_of_one": lambda: index.read(f"{len(catalog) // 2:032x}", np.arange(8) * 2.0),
    }
    return {
        "videos": len(catalog),
        "pictures": len(catalog) * PICTURES,
        "cpu_s": {name: cpu_s(ask) for name, ask in asks.items()},
    }


def main() -> None:
    """Measure and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--videos", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tables = measure_tables(make_tables(Path(folder) / "tables", options.videos))
        print(tables)
        run = make_run(Path(folder))
        figures = {
            "load": measure_load(run, options.clients, options.seconds),
            "alignment": measure_alignment(run),
            "tables": tables,
        }
    print(figures)
    print(keep("explore", figures))


if __name__ == "__main__":
    main()
