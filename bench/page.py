"""The report's page at 100 to 100,000 videos: its size, its first picture, and how it pans and plays.

    python -m bench.page [--sizes 100,1000,10000,100000]

The run is made up: paths of 16 steps in eight clusters, with a label, a group, reduced paths in five dimensions, and
film strips of noisy pictures. Chromium opens the page from disk, without a network, and draws by WebGL in software.
Times are from the beginning of loading; CPU times are the renderer's and the GPU process's.
"""

import argparse
import io
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from bench.machine import keep
from bench.page_libraries import cpu_s, make_paths, memory_mb, open_browser
from raypipe.runs.directory import Run

N_CLUSTERS, DIM, MOVES = 8, 5, 12
FRAMES = """async change => {
  const found = [];
  for (let i = 0; i < MOVES; i++) {
    const from = await new Promise(requestAnimationFrame);
    change(i);
    await new Promise(requestAnimationFrame);
    found.push(await new Promise(requestAnimationFrame) - from);
  }
  return found;
}"""
PAN = """i => document.querySelector("#map").dispatchEvent(
  new KeyboardEvent("keydown", {key: i % 2 ? "ArrowLeft" : "ArrowRight", bubbles: true}))"""
PLAY = """i => { const time = document.querySelector("#time"); time.value = (i + 1) / MOVES;
  time.dispatchEvent(new Event("input")); }"""


def write_page(folder: str, n: int) -> Path:
    """Write a run of n videos and its page, without the pictures of plots, and return the page's path."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
    from report_runs import make_explored_run

    from raypipe.decoders.thumbnails import encode_jpeg

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (200, 20, 27, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    grain = rng.integers(0, 50, coarse.shape, dtype=np.uint8)  # as costly to compress as a camera's noise
    pictures = [encode_jpeg(picture) for picture in coarse + grain]
    choose = lambda *_: SimpleNamespace(pixels=[pictures[i] for i in rng.integers(0, 200, 9)])  # noqa: E731
    run = make_explored_run(folder, n, N_CLUSTERS, choose)
    paths = make_paths(n)
    table = run.read_table("trajectories/00000.parquet")
    columns = {"picture": paths.reshape(n, -1), "reduced": rng.normal(size=(n, paths.shape[1] * DIM)).cumsum(axis=1)}
    for name, values in columns.items():
        flat = pa.array(values.astype(np.float32).ravel())
        lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[1]).cast(pa.list_(pa.float32()))
        table = table.set_column(table.schema.get_field_index(name), name, lists)
    metadata = {"reduced.dim": str(DIM), "reduced.n_steps": str(paths.shape[1])}
    run.write_table("trajectories/00000.parquet", table.replace_schema_metadata(metadata))
    sink = io.BytesIO()
    np.save(sink, columns["reduced"].reshape(n, -1, DIM)[:N_CLUSTERS])
    run.write_bytes("model/centers.npy", sink.getvalue())
    return write_html(run, paths)


def write_html(run: Run, paths: np.ndarray) -> Path:
    """Write the page of a run whose videos have these paths, without the pictures of plots; return where it is."""
    from raypipe.report.facts import read_facts, read_paths
    from raypipe.report.figures.plots import VideoMap
    from raypipe.report.page import document, explorer

    facts, drawn = read_facts(run), read_paths(run)
    data = explorer.write_data(run, facts, drawn, {k: paths[k::N_CLUSTERS].mean(axis=0) for k in range(N_CLUSTERS)})
    cards = [document.Card(cluster, [], None) for cluster in facts.clusters]
    written = datetime(2026, 1, 1, tzinfo=UTC)
    html = document.render_page(facts, {}, cards, [], written, VideoMap(b"", (1, 1), {}, 1.0), data)
    run.write_bytes("report.html", html.encode())
    return Path(run.path("report.html"))


def measure(path: Path) -> dict[str, float]:
    """Open a page and measure it."""
    with open_browser() as (browser, page):
        page.goto("about:blank")
        from_s = cpu_s(browser)
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector("#explorer[data-ready=yes]")
        first_s = page.evaluate("performance.getEntriesByName('first picture')[0].startTime") / 1000
        found = {
            "page_mb": path.stat().st_size / 1e6,
            "first_picture_s": first_s,
            "first_picture_cpu_s": cpu_s(browser) - from_s,
        }
        for name, change in (("pan", PAN), ("play", PLAY)):
            page.wait_for_timeout(500)
            from_s = cpu_s(browser)
            times = page.evaluate(f"({FRAMES})({change})".replace("MOVES", str(MOVES)))
            found[f"{name}_ms"] = float(np.median(times))
            found[f"{name}_p95_ms"] = float(np.quantile(times, 0.95))
            found[f"{name}_cpu_ms"] = 1000 * (cpu_s(browser) - from_s) / MOVES
        found["memory_mb"] = memory_mb(browser)
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000,10000,100000")
    results: dict[str, Any] = {}
    for n in map(int, parser.parse_args().sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            results[str(n)] = measure(write_page(f"{folder}/run", n))
        print(n, results[str(n)], flush=True)
    keep("page", results)


if __name__ == "__main__":
    main()
