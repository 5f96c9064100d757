"""The page as a file, and as `raypipe explore` serves it: what comes until the first picture, and what it takes.

    python -m bench.page_served [--sizes 10000,100000,1000000]

The runs are those of `bench.page`, but of more than 10,000 videos no pictures are kept, which would take gigabytes:
film strips would add 6.7 MB to the file, and nothing to the page that is served by view. The command serves a run in a
process of its own; Chromium opens the file, and then the served page, which comes whole up to 20,000 videos. Until the
first picture means until the paths in view are drawn, 3,000 of them: bytes that have come by then, seconds, and the CPU
seconds of the renderer and the GPU process and of the server, whose first page includes that it reads the file. Memory
is then measured: of the browser's two processes (PSS) and of the server (resident). Then each kind of answer is asked
for by itself: the median wall milliseconds of 20, and the server's CPU milliseconds.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from bench.explore import memory_mb as server_memory_mb
from bench.machine import keep
from bench.page import N_CLUSTERS, write_html, write_page
from bench.page_libraries import cpu_s, make_paths, memory_mb, open_browser
from raypipe.runs.directory import Run

WITH_PICTURES = 10_000
LIMIT_MS = 300_000
DRAWN = """() => new Promise(done => {
  const look = () => {
    const note = document.querySelector("#map-note")?.textContent ?? "";
    if (note.startsWith("3,000 of")) done(performance.now() / 1000); else requestAnimationFrame(look);
  };
  look();
})"""
CAME = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .reduce((sum, entry) => sum + entry.transferSize, 0)"""


def write_plain(folder: str, n: int) -> Path:
    """Write a run of n videos without pictures, and its page, and return the page's path."""
    from raypipe.config import Config
    from raypipe.schema import CLUSTERS, VIDEOS

    rng, paths, numbers = np.random.default_rng(0), make_paths(n), np.arange(n)
    ids = [f"00000000-0000-5000-8000-{i:012d}" for i in range(n)]
    shared = {"video_id": ids, "uri": [f"file:///data/robots/episode_{i:03d}.mp4" for i in range(n)]}
    shared |= {"group": [f"robot {i % 3}" for i in range(n)], "label": [f"task {i % 6}" for i in range(n)]}
    run = Run(folder)
    videos = {**shared, "duration_s": np.full(n, 9.0), "status": ["ok"] * n}
    rest = {field.name: pa.nulls(n, field.type) for field in VIDEOS if field.name not in videos}
    run.write_table("videos.parquet", pa.table({**videos, **rest}).select(VIDEOS.names).cast(VIDEOS))
    distance = rng.gamma(3, 0.4, n)
    found: dict[str, Any] = {"cluster": numbers % N_CLUSTERS, "distance": distance, "outlier_score": distance / 2}
    found |= {"outlier": distance > 3, "x": paths[:, -1, 0], "y": paths[:, -1, 1]}
    run.write_table("clusters.parquet", pa.table({**shared, **found}).select(CLUSTERS.names).cast(CLUSTERS))
    flat = pa.array(paths.astype(np.float32).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, 2 * paths.shape[1]).cast(pa.list_(pa.float32()))
    run.write_table(
        "trajectories/00000.parquet", pa.table({"video_id": ids, "n_clips": numbers * 0 + 9, "picture": lists})
    )
    run.write_json("metrics.json", {"sizes": np.bincount(numbers % N_CLUSTERS).tolist(), "truth": None})
    run.record(config=Config().model_dump(mode="json"), counts={"found": n, "ok": n})
    return write_html(run, paths)


def server_cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_page(address: str) -> dict[str, float]:
    """Open a page until the paths in view are drawn."""
    with open_browser() as (browser, page):
        page.set_default_timeout(LIMIT_MS)
        page.context.set_offline(False)
        page.goto("about:blank")
        from_s = cpu_s(browser)
        page.goto(address, wait_until="commit")
        found = {"first_picture_s": page.evaluate(DRAWN), "first_picture_cpu_s": cpu_s(browser) - from_s}
        found["bytes_mb"] = page.evaluate(CAME) / 1e6
        page.wait_for_timeout(2000)
        found["browser_mb"] = memory_mb(browser)
    return found


@contextmanager
def serve(folder: str) -> Iterator[tuple[str, int]]:
    """Serve a run by the command, and yield the page's URL and the process."""
    command = [sys.executable, "-m", "raypipe", "explore", folder, "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            yield url, server.pid
        finally:
            server.send_signal(signal.SIGINT)


def ask(url: str, path: str) -> int:
    """Ask once, and return how many bytes came."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=300)
    connection.request("GET", parts.path + path, headers={"Accept-Encoding": "gzip"})
    body = connection.getresponse().read()
    connection.close()
    return len(body)


def measure_answers(url: str, process: int, n: int) -> dict[str, Any]:
    """Ask for each kind of answer, each time another one."""
    rng = np.random.default_rng(1)

    def rows(count: int) -> str:
        return ".".join(map(str, np.sort(rng.choice(n, count, replace=False))))

    around = ";".join(f"{300 + 200 * np.cos(a):.0f},{300 + 200 * np.sin(a):.0f}" for a in np.linspace(0, 6.2, 200))
    kinds = {
        "rows": lambda i: f"rows?of={rows(250)}",
        "paths": lambda i: f"paths?of={rows(1000)}",
        "find": lambda i: f"find?text=robot%201%20{i}",
        "inside": lambda i: f"inside?time=0.{i + 10}&view=-10,10,0.03&at={around}",
    }
    found: dict[str, Any] = {}
    for name, path in kinds.items():
        begun = time.perf_counter()
        ask(url, path(99))
        first_ms, taken, from_s = 1000 * (time.perf_counter() - begun), [], server_cpu_s(process)
        for i in range(20):
            begun = time.perf_counter()
            size = ask(url, path(i))
            taken.append(1000 * (time.perf_counter() - begun))
        cpu_ms = 1000 * (server_cpu_s(process) - from_s) / 20
        found[name] = {"first_ms": first_ms, "ms": statistics.median(taken), "cpu_ms": cpu_ms, "kb": size / 1000}
    begun = time.perf_counter()
    size = ask(url, "ranks?by=name")
    found["ranks"] = {"first_ms": 1000 * (time.perf_counter() - begun), "kb": size / 1000}
    return {name: {key: round(value, 1) for key, value in each.items()} for name, each in found.items()}


def measure(n: int) -> dict[str, Any]:
    """Measure a run's page as a file and served."""
    with tempfile.TemporaryDirectory() as folder:
        path = (write_page if n <= WITH_PICTURES else write_plain)(f"{folder}/run", n)
        found: dict[str, Any] = {"file": measure_page(path.as_uri())}
        found["file"]["bytes_mb"] = path.stat().st_size / 1e6
        with serve(f"{folder}/run") as (url, process):
            from_s, idle_mb = server_cpu_s(process), server_memory_mb(process)
            served = measure_page(url)
            served |= {"server_cpu_s": server_cpu_s(process) - from_s, "server_idle_mb": idle_mb}
            found["served"] = served | {"server_mb": server_memory_mb(process)}
            if served["bytes_mb"] < found["file"]["bytes_mb"] / 2:
                found["answers"] = measure_answers(url, process, n)
                found["served"]["server_after_mb"] = server_memory_mb(process)
    return {
        name: {k: round(v, 3) if isinstance(v, float) else v for k, v in each.items()} for name, each in found.items()
    }


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    results: dict[str, Any] = {}
    for n in map(int, parser.parse_args().sizes.split(",")):
        results[str(n)] = measure(n)
        print(n, results[str(n)], flush=True)
    keep("page_served", results)


if __name__ == "__main__":
    main()
