"""The report's page beside plotly's figures, as a notebook writes them, and FiftyOne's app, of the same videos.

    pip install plotly==7.1.0
    python3 -m venv others && others/bin/pip install fiftyone==1.22.1
    python -m bench.page_beside --fiftyone others/bin/python --mongod MONGOD [--sizes 100,1000,10000,100000]

Five things are opened in a fresh Chromium that draws by WebGL in software, in a window of 1280 x 800: the page of
`bench.page` as a file; the same served by `raypipe explore`; plotly Express' scatter of one dot a video, coloured by
cluster, with the columns shown on hovering; plotly's lines, a path a video, those of a cluster in one trace; and the
app of FiftyOne, with a picture for each video, and the grid beside the map of its embeddings panel.

Measured are the size of the file; from the beginning of loading, the seconds until it is drawn (of FiftyOne the first
samples of the grid), and the CPU time of the renderer and the GPU process; of FiftyOne also the time from a click on
the visualization's name until its map is drawn; and the memory, PSS, of these two, and of the servers (of FiftyOne: of
the Python session, the app's server and mongod). FiftyOne comes without a mongod where it cannot download one: any of
version 6 or later will do.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import keep
from bench.page import write_page
from bench.page_libraries import COLORS, LIMIT_MS, N_CLUSTERS, cpu_s, make_paths, memory_mb, open_browser, pss_mb

WINDOW = {"width": 1280, "height": 800}
# Two frames after plotly has said that it is done, what it has drawn is on the screen.
SAY_SHOWN = "requestAnimationFrame(() => requestAnimationFrame(() => { document.body.dataset.shown = 'yes'; }));"
SHOWN = "body[data-shown=yes]"
# Without WebGL 2, which the browser may fail to begin on a busy machine, the page is ready without a map.
EXPLORED = "#explorer[data-ready=yes]:not([data-map=no])"
FIRST_SAMPLE = "canvas[canvas-loaded=true]"
N_PICTURES = 200


def write_videos(folder: Path, run: Any, n: int) -> None:
    """Write the videos of the page's run as arrays, and a small picture for each."""
    from raypipe.decoders.thumbnails import encode_jpeg

    columns = ["uri", "label", "group", "cluster", "distance"]
    table = run.read_table("clusters.parquet", columns).to_pydict()
    values = {
        "names": [uri.rpartition("/")[2] for uri in table["uri"]],
        "labels": table["label"],
        "groups": table["group"],
        "clusters": table["cluster"],
        "distances": table["distance"],
    }
    arrays: dict[str, Any] = {name: np.array(each) for name, each in values.items()}
    np.savez(folder / "videos.npz", paths=make_paths(n), **arrays)
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        if i < N_PICTURES:
            coarse = rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)
            (pictures / f"{i}.jpg").write_bytes(encode_jpeg(coarse.repeat(8, axis=0).repeat(8, axis=1)))
        else:
            (pictures / f"{i}.jpg").hardlink_to(pictures / f"{i % N_PICTURES}.jpg")


def write_dots(path: Path, videos: Any) -> None:
    """Write plotly Express' scatter of the videos' places."""
    import plotly.express as px
    import pyarrow as pa

    x, y = videos["paths"].mean(axis=1).astype(float).T
    columns = {"x": x, "y": y, "cluster": videos["clusters"].astype(str), "video": videos["names"]}
    columns |= {"label": videos["labels"], "group": videos["groups"], "distance": videos["distances"]}
    table = pa.table({name: each.tolist() for name, each in columns.items()})
    figure = px.scatter(
        table, x="x", y="y", color="cluster", hover_name="video", hover_data=["label", "group", "distance"]
    )
    figure.write_html(path, include_plotlyjs=True, post_script=SAY_SHOWN)


def write_lines(path: Path, videos: Any) -> None:
    """Write plotly's lines of the videos' paths, a trace a cluster, with gaps between the paths."""
    import plotly.graph_objects as go

    paths = videos["paths"]
    apart = np.pad(paths, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)
    traces = []
    for cluster in range(N_CLUSTERS):
        x, y = apart[videos["clusters"] == cluster].reshape(-1, 2).T
        line = {"color": COLORS[cluster], "width": 1}
        traces.append(go.Scattergl(x=x, y=y, mode="lines", line=line, opacity=0.4, name=f"cluster {cluster}"))
    go.Figure(traces).write_html(path, include_plotlyjs=True, post_script=SAY_SHOWN)


def tree(process: int) -> list[Path]:
    """Return the folders in /proc of a process and of those that descend from it."""
    folder = Path(f"/proc/{process}")
    children = (folder / f"task/{process}/children").read_text().split()
    return [folder, *(each for child in children for each in tree(int(child)))]


def measure(address: str, ready: str, go_on: Callable[[Any], None] | None = None, servers: Any = ()) -> dict[str, Any]:
    """Open an address, wait for what shows that it is drawn, and measure."""
    with open_browser() as (browser, page):
        page.set_viewport_size(WINDOW)
        page.context.set_offline(address.startswith("file:"))
        page.goto("about:blank")
        from_cpu_s, from_s = cpu_s(browser), time.monotonic()
        page.goto(address, wait_until="commit")
        page.wait_for_selector(ready)
        found = {"shown_s": time.monotonic() - from_s, "shown_cpu_s": cpu_s(browser) - from_cpu_s}
        if go_on:
            from_cpu_s, from_s = cpu_s(browser), time.monotonic()
            go_on(page)
            found |= {"map_s": time.monotonic() - from_s, "map_cpu_s": cpu_s(browser) - from_cpu_s}
        page.wait_for_timeout(1000)
        found["memory_mb"] = memory_mb(browser)
        if servers:
            found["server_memory_mb"] = pss_mb([folder for server in servers for folder in tree(server.pid)])
    return {name: round(value, 2) for name, value in found.items()}


def measure_file(path: Path, ready: str) -> dict[str, Any]:
    return {"page_mb": round(path.stat().st_size / 1e6, 2), **measure(path.as_uri(), ready)}


@contextmanager
def started(command: list[Any], mark: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server, and yield it with the rest of the first line that begins with a mark."""
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, **options) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if line.startswith(mark):
                    break
            else:
                raise RuntimeError(f"{command[0]} ended before it served")
            yield server, line.removeprefix(mark).strip()
        finally:
            family = tree(server.pid)
            server.send_signal(signal.SIGINT)
            try:
                server.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
            for folder in family[1:]:  # FiftyOne's own server outlives the session that started it.
                with suppress(ProcessLookupError):
                    os.kill(int(folder.name), signal.SIGKILL)


def measure_explore(run: Path) -> dict[str, Any]:
    with started([sys.executable, "-m", "raypipe", "explore", run, "--no-browser"], "http") as (server, rest):
        return measure(f"http{rest}", EXPLORED, servers=[server])


def open_map(page: Any) -> None:
    """Open the map in FiftyOne's embeddings panel; notices may lie above its name, so the click is sent to it."""
    page.get_by_text("places", exact=True).dispatch_event("click")
    page.wait_for_selector(r"text=/^[\d,]+ points$/")
    page.wait_for_selector("canvas:not([canvas-loaded])")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure_fiftyone(folder: Path, python: Path, mongod: Path) -> dict[str, Any]:
    """Serve the folder's videos by FiftyOne, with a database of its own, and open its app."""
    data, port = folder / "database", free_port()
    data.mkdir()
    database = [mongod, "--dbpath", data, "--port", port, "--bind_ip", "127.0.0.1"]
    environment = os.environ | {
        "FIFTYONE_DATABASE_URI": f"mongodb://127.0.0.1:{port}",
        "FIFTYONE_DO_NOT_TRACK": "true",
        "HOME": str(folder),
        "PYTHONPATH": "",
    }
    command = [python, Path(__file__).with_name("page_fiftyone.py"), folder, free_port()]
    begun = time.monotonic()
    with (
        subprocess.Popen([*map(str, database)], stdout=subprocess.DEVNULL) as mongo,
        started(command, "open ", env=environment) as (server, rest),
    ):
        version, _, address = rest.partition(" ")
        ready_s = round(time.monotonic() - begun, 1)
        try:
            found = measure(address, FIRST_SAMPLE, open_map, [server, mongo])
        finally:
            mongo.terminate()
    return {"version": version, "dataset_ready_s": ready_s, **found}


def measure_all(folder: Path, n: int, python: Path | None, mongod: Path | None) -> dict[str, Any]:
    """Measure all of them for so many videos; one that cannot show so many is a result."""
    from raypipe.runs.directory import Run

    page = write_page(str(folder / "run"), n)
    write_videos(folder, Run(str(folder / "run")), n)
    videos = np.load(folder / "videos.npz")
    write_dots(folder / "dots.html", videos)
    write_lines(folder / "lines.html", videos)
    asked: dict[str, Callable[[], dict[str, Any]]] = {
        "page": lambda: measure_file(page, EXPLORED),
        "explore": lambda: measure_explore(folder / "run"),
        "plotly_dots": lambda: measure_file(folder / "dots.html", SHOWN),
        "plotly_lines": lambda: measure_file(folder / "lines.html", SHOWN),
    }
    if python and mongod:
        asked["fiftyone"] = lambda: measure_fiftyone(folder, python, mongod)
    found = {}
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except Exception as error:
            found[name] = {"failed": f"{str(error).splitlines()[0]} (limit {LIMIT_MS // 1000} s)"}
        print(n, name, found[name], flush=True)
    return found


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000,10000,100000")
    parser.add_argument("--fiftyone", type=Path, help="a Python that has FiftyOne")
    parser.add_argument("--mongod", type=Path, help="the database that FiftyOne needs")
    chosen = parser.parse_args()
    import plotly

    results: dict[str, Any] = {"plotly": plotly.__version__, "load_before": os.getloadavg()[0]}
    for n in map(int, chosen.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            results[str(n)] = measure_all(Path(folder), n, chosen.fiftyone, chosen.mongod)
        keep("page_beside", results)


if __name__ == "__main__":
    main()
