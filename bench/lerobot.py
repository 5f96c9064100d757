"""LeRobot datasets: a million episodes found and planned; and beside Ray's ``read_lerobot``, the same frames.

``python -m bench.lerobot`` writes the metadata of a million episodes, finds and plans them in a process of its own, and
keeps the seconds and the memory in ``bench/results/lerobot.json``. ``python -m bench.lerobot peer PYTHON`` embeds a
dataset of 20 episodes at two frames a second, and reads it with Ray's ``read_lerobot`` by another environment's Python,
which needs ``ray[data]``, ``lerobot`` and ``torchcodec``; both run in turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.machine import RESULTS, keep

N_EPISODES = 1_000_000
PER_FILE = 1_000  # episodes of one mp4
PER_TABLE = 10_000  # episodes of one file of meta/episodes
EPISODE_S = 2
CAMERA = "observation.images.top"
STATISTICS = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")
REPEATS = 2
_EVERY_S = 3.0  # To look at the pages of all of Ray's processes takes a good part of a second.


def write_dataset(root: Path, n_episodes: int) -> None:
    """Write the metadata of so many episodes, and the mp4 files: one of two frames an episode, and links to it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features: dict[str, Any] = {CAMERA: {"dtype": "video", "shape": [32, 32, 3], "names": None}}
    info = {
        "codebase_version": "v3.0",
        "fps": 1,
        "features": features,
        "total_episodes": n_episodes,
        "chunks_size": 1000,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    for start in range(0, n_episodes, PER_TABLE):
        index = np.arange(start, min(start + PER_TABLE, n_episodes))
        file, place = index // PER_FILE, index % PER_FILE
        columns = {
            "episode_index": pa.array(index),
            "tasks": pa.array([[f"task {number % 50}"] for number in index.tolist()]),
            "length": pa.array(np.full(len(index), EPISODE_S)),
            "dataset_from_index": pa.array(index * EPISODE_S),
            "dataset_to_index": pa.array((index + 1) * EPISODE_S),
            "data/chunk_index": pa.array(file // 1000),
            "data/file_index": pa.array(file % 1000),
            f"videos/{CAMERA}/chunk_index": pa.array(file // 1000),
            f"videos/{CAMERA}/file_index": pa.array(file % 1000),
            f"videos/{CAMERA}/from_timestamp": pa.array(place * float(EPISODE_S)),
            f"videos/{CAMERA}/to_timestamp": pa.array((place + 1) * float(EPISODE_S)),
        }
        for feature, width in (("observation.state", 14), ("action", 14)):
            for name in STATISTICS:
                values = np.random.default_rng(start).random((len(index), width))
                columns[f"stats/{feature}/{name}"] = pa.array(list(values))
        number = start // PER_TABLE
        path = root / f"meta/episodes/chunk-{number // 1000:03d}/file-{number % 1000:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
    _write_videos(root, -(-n_episodes // PER_FILE))


def _write_videos(root: Path, n_files: int) -> None:
    import av

    first = root / "first.mp4"
    with av.open(str(first), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(PER_FILE * EPISODE_S):
            picture = np.full((32, 32), number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode())
    for number in range(n_files):
        path = root / f"videos/{CAMERA}/chunk-{number // 1000:03d}/file-{number % 1000:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(first)


def plan_dataset(root: str, output: str) -> dict[str, float]:
    """Find and plan a dataset as `raypipe.pipeline.embed` does before it embeds; return the seconds and the memory.

    ``ray_start_s`` has the versions of the files in it too, of which there are few.
    """
    import raypipe as rp
    from raypipe.encoders import make_encoder
    from raypipe.engine.pools import plan_pools
    from raypipe.engine.probing import probe_videos
    from raypipe.engine.session import ray_session
    from raypipe.runs.directory import Run
    from raypipe.runs.plan import open_plan, portion_size
    from raypipe.sources import read_versions

    config = rp.make_config(flags={"encode": {"encoder": "descriptor"}})
    encoder = make_encoder(**config.encode.model_dump())
    started = time.perf_counter()
    found = rp.find_videos(root)
    is_twice = found.has_duplicate_ids()
    found_s = time.perf_counter() - started
    versions = read_versions(found)
    run = Run(output)
    plan = open_plan(run, config, {"name": "descriptor"}, found, versions)
    n_probed = 0

    def count(n: float) -> None:
        nonlocal n_probed
        n_probed += int(n)

    with ray_session(config.ray) as resources:
        session_s = time.perf_counter() - started - found_s
        plan.portion_size = portion_size(resources.get("CPU", 1))
        pools = plan_pools(resources, config.ray, len(found))
        probe_videos(plan, versions, encoder.fingerprint, config, pools, count)
        plan.settle()
        plan.find_remaining(False)
        seconds = time.perf_counter() - started
    assert not is_twice
    assert plan.n_videos == n_probed == len(found)
    return {
        "videos": len(found),
        "segments": plan.n_segments,
        "find_s": round(found_s, 1),
        "ray_start_s": round(session_s, 1),
        "find_and_plan_s": round(seconds, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def measure_million(n_episodes: int) -> dict[str, Any]:
    """Plan a synthetic dataset in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        write_dataset(root, n_episodes)
        run = f"{folder}/run"
        code = f"import json, bench.lerobot as b; print(json.dumps(b.plan_dataset({str(root)!r}, {run!r})))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        tables = sum(path.stat().st_size for path in root.rglob("*.parquet"))
        figures = {"episodes": n_episodes, "mp4_files": -(-n_episodes // PER_FILE), "metadata_mb": round(tables / 1e6)}
        return figures | json.loads(done.stdout.splitlines()[-1])


PEER = """
import json, sys, time
import ray

root, step = sys.argv[1], int(sys.argv[2])
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
started = time.perf_counter()

def choose(table):
    import pyarrow.compute as pc

    number = table["frame_index"].to_numpy()
    return table.filter(number % step == 0)

frames = ray.data.read_lerobot(root).map_batches(choose, batch_format="pyarrow", batch_size=32)
n = sum(len(batch) for batch in frames.iter_batches(batch_format="pyarrow", batch_size=32))
print(json.dumps({"frames": n, "seconds": round(time.perf_counter() - started, 1), "ray": ray.__version__}))
"""
"""The peer: each camera's frames of two a second, in full size, counted as they come."""

OURS = """
import json, sys, time
import raypipe as rp

root, output = sys.argv[1:]
started = time.perf_counter()
config = rp.make_config(flags={"encode": {"encoder": "descriptor"}, "sample": {"fps": 2.0, "clip_s": 0.5}})
run = rp.embed_videos(root, output, config=config)
n = run.read_table("embeddings", ["embedding"]).num_rows
print(json.dumps({"frames": n, "seconds": round(time.perf_counter() - started, 1)}))
"""
"""Ours: the same frames embedded and written, and the start of Ray counted too."""

FPS, SECONDS, EPISODES, FILES, SIZE = 30, 20, 5, 4, (640, 480)


def write_peers_dataset(root: Path) -> None:
    """Write 20 episodes of 20 s, AV1 of 640 x 480 with a keyframe every other frame, as LeRobot encodes them."""
    import av
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bench.numbered import own_scheduling

    n = FPS * SECONDS
    first = root / "first.mp4"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8 + n * EPISODES // 4, 3), np.uint8)
    with own_scheduling(), av.open(str(first), "w") as container:
        stream = container.add_stream("libsvtav1", rate=FPS, options={"g": "2", "crf": "30", "preset": "12"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(n * EPISODES):
            shown = picture[:, number // 4 : number // 4 + SIZE[0] // 8].repeat(8, axis=0).repeat(8, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")))
        container.mux(stream.encode())
    index = np.arange(EPISODES * FILES)
    file, place = index // EPISODES, index % EPISODES
    columns = {
        "episode_index": index,
        "tasks": [["pan"]] * len(index),
        "length": np.full(len(index), n),
        "dataset_from_index": index * n,
        "dataset_to_index": (index + 1) * n,
        "data/chunk_index": np.zeros(len(index), int),
        "data/file_index": file,
        "meta/episodes/chunk_index": np.zeros(len(index), int),
        "meta/episodes/file_index": np.zeros(len(index), int),
        f"videos/{CAMERA}/chunk_index": np.zeros(len(index), int),
        f"videos/{CAMERA}/file_index": file,
        f"videos/{CAMERA}/from_timestamp": place * float(SECONDS),
        f"videos/{CAMERA}/to_timestamp": (place + 1) * float(SECONDS),
    }
    numbers = {
        name: {"dtype": "int64", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index")
    }
    video = {
        "video.fps": FPS,
        "video.height": SIZE[1],
        "video.width": SIZE[0],
        "video.codec": "av1",
        "video.pix_fmt": "yuv420p",
        "video.channels": 3,
        "has_audio": False,
        "is_depth_map": False,
    }
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        CAMERA: {
            "dtype": "video",
            "shape": [SIZE[1], SIZE[0], 3],
            "names": ["height", "width", "channels"],
            "info": video,
        },
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **numbers,
    }
    info = {
        "codebase_version": "v3.0", "robot_type": None, "fps": FPS, "features": features,
        "total_episodes": len(index), "total_frames": n * len(index), "total_tasks": 1, "chunks_size": 1000,
        "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "splits": {"train": f"0:{len(index)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/stats.json").write_text("{}")
    # The peer takes the tasks' index, which pandas notes so.
    kinds = {"task_index": "int64", "task": "unicode"}
    columns_note = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": "object", "metadata": None}
        for name, kind in kinds.items()
    ]
    index_note = {"index_columns": ["task"], "column_indexes": [], "columns": columns_note, "pandas_version": "2.3.3"}
    tasks = pa.table({"task_index": [0], "task": ["pan"]}).replace_schema_metadata({"pandas": json.dumps(index_note)})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    pq.write_table(pa.table(columns), root / "meta/episodes/chunk-000/file-000.parquet")
    for number in range(FILES):
        rows = np.arange(number * EPISODES * n, (number + 1) * EPISODES * n)
        frames = {
            "observation.state": pa.array(list(rng.random((len(rows), 2), np.float32))),
            "timestamp": pa.array((rows % n / FPS).astype(np.float32)),
            "frame_index": rows % n,
            "episode_index": rows // n,
            "index": rows,
            "task_index": np.zeros(len(rows), int),
        }
        path = root / f"data/chunk-000/file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(frames), path)
        path = root / f"videos/{CAMERA}/chunk-000/file-{number:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(first)


def watch(command: list[str]) -> dict[str, Any]:
    """Run a command that prints JSON; add the peak of memory of all its processes, shared pages counted once."""
    peak = 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out)
        while process.poll() is None:
            peak = max(peak, sum(map(_proportional_kb, _family(process.pid))))
            time.sleep(_EVERY_S)
        if process.returncode:
            raise SystemExit(f"{command[0]} ended with {process.returncode}")
        out.seek(0)
        return {**json.loads(out.read().splitlines()[-1]), "peak_pss_mb": round(peak / 1024)}


def _family(pid: int) -> list[int]:
    """Return a process and all that it and they have started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        own = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # It has just ended.
        return []
    return [pid, *(each for child in own for each in _family(child))]


def _proportional_kb(pid: int) -> int:
    """Return the memory of a process, of shared pages its part; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def compare_with_peer(python: str) -> dict[str, Any]:
    """Embed a dataset, and read it with Ray's ``read_lerobot`` by another environment's Python, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        write_peers_dataset(root)
        ours, peers = [], []
        for turn in range(REPEATS):
            ours.append(watch([sys.executable, "-c", OURS, str(root), f"{folder}/run-{turn}"]))
            peers.append(watch([python, "-c", PEER, str(root), str(FPS // 2)]))
            print(ours[-1], peers[-1], flush=True)
    seconds, memory = (
        median(one[name] / other[name] for one, other in zip(ours, peers, strict=True))
        for name in ("seconds", "peak_pss_mb")
    )
    ratios = {"time": round(seconds, 3), "memory": round(memory, 3)}
    of = {"episodes": EPISODES * FILES, "frames": EPISODES * FILES * FPS * SECONDS, "size": SIZE, "codec": "av1, g=2"}
    return {"dataset": of, "ours": ours, "ray_read_lerobot": peers, "ours_over_peer": ratios}


def main() -> None:
    """Measure, and keep the figures beside those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="*", metavar="N_EPISODES | peer PYTHON")
    arguments = parser.parse_args().arguments
    path = RESULTS / "lerobot.json"
    figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    if arguments[:1] == ["peer"]:
        figures["peer"] = compare_with_peer(arguments[1])
        print(json.dumps(figures["peer"], indent=2))
    else:
        figures["planning"] = measure_million(int(arguments[0]) if arguments else N_EPISODES)
        print(json.dumps(figures["planning"], indent=2))
    if arguments[:1] == ["peer"] or not arguments:
        keep("lerobot", figures)


if __name__ == "__main__":
    main()
