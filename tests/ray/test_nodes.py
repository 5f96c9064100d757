"""A Ray cluster of several nodes on this machine: one goes away, another joins, one cannot do what the others can."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import ray
from clips import embed_without_ray, read_clips
from sessions import ray_nodes
from tiny_encoder import TINY
from videos import write_video
from waves import embed_waves

from raypipe import pipeline
from raypipe.config import Config, RayConfig, make_config
from raypipe.engine import reach, watching
from raypipe.engine.attempts import Attempts
from raypipe.engine.nodes import elsewhere, is_settled, left_out, settle, unsettled
from raypipe.engine.pools import plan_pools
from raypipe.engine.reach import find_unfit
from raypipe.errors import SourceError
from raypipe.progress import Progress
from raypipe.runs.directory import Run

ENCODER = """
import os, time
import numpy as np
import ray

class Slow:
    dim, image_size, resize_mode, fingerprint = 3, 16, "squash", "1"

    def __call__(self, frames):
        if os.getpid() != {driver}:
            with open({log!r}, "a") as file:
                file.write(ray.get_runtime_context().get_node_id() + chr(10))
            time.sleep(0.1 * len(frames))
        return frames.mean(axis=(1, 2)).astype(np.float32)
"""


@pytest.fixture
def ray_cluster(ray_elsewhere):
    with ray_nodes(*[{"num_cpus": 1}] * 3) as cluster:
        yield cluster, list(cluster.worker_nodes)


@contextlib.contextmanager
def losing_an_encoder(cluster, nodes, folder, monkeypatch, n, *sets) -> Iterator[tuple[Run, Config]]:
    """Embed videos in a thread, remove a node that encodes, run the context, and wait for the end."""
    for number in range(n):
        write_video(folder / f"videos/{number}.mp4", n_frames=20, seed=number)
    log = folder / "log"
    (folder / "slow_encoder.py").write_text(ENCODER.format(log=str(log), driver=os.getpid()))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    flags = {"encode": {"encoder": "slow_encoder:Slow", "normalize": False, "batch_size": 8}}
    config = make_config(flags=flags, sets=sets)
    run = Run(str(folder / "run"))
    with ThreadPoolExecutor(1) as thread:  # Ray's nodes are made and ended in the main thread only
        embedding = thread.submit(pipeline.embed, folder / "videos", run, config, Progress())
        mine = {node.node_id for node in nodes}
        used: list[str] = []
        while not embedding.done() and (len(used) < n / 10 or not mine.intersection(used)):
            time.sleep(0.1)
            used = log.read_text().split() if log.exists() else []
        assert not embedding.done()
        cluster.remove_node(next(node for node in nodes if node.node_id in used), allow_graceful=False)
        yield run, config
        embedding.result(timeout=240)
    assert run.info()["counts"] == {"found": n, "ok": n, "failed": 0, "skipped": 0, "ignored": 0}


def test_a_node_is_lost_and_another_joins(ray_cluster, tmp_path, monkeypatch):
    cluster, nodes = ray_cluster
    with losing_an_encoder(cluster, nodes, tmp_path, monkeypatch, 24, "ray.encoders=3") as (run, config):
        cluster.add_node(num_cpus=1)
    made, expected = read_clips(run), embed_without_ray(tmp_path / "videos", config)
    assert made.keys() == expected.keys()
    assert all(np.array_equal(made[key], expected[key]) for key in made)


@pytest.mark.slow
def test_what_is_left_has_room_for_all_kinds_of_actors(ray_elsewhere, tmp_path, monkeypatch):
    """On each of two machines is room for two actors, of four: after one is lost, two decoders are left."""
    assert plan_pools({"CPU": 2.0}, RayConfig(decoders=3, encoders=1), 8).cpus == 0.375
    monkeypatch.setattr(watching, "PLACING_S", 5)
    sets = "ray.decoders=3", "ray.encoders=1", "encode.batch_size=2", "sample.fps=1"  # Batches of a video wait in line.
    with ray_nodes({"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        with losing_an_encoder(cluster, list(cluster.worker_nodes), tmp_path, monkeypatch, 60, *sets) as (run, _):
            pass
    assert "EncoderActor) lost all its actors" in run.read_bytes("log.jsonl").decode()


@pytest.fixture
def unlike(ray_elsewhere, tmp_path, monkeypatch):
    """Yield a line about the second of two machines, which has another raypipe than this one, and its node's id."""
    monkeypatch.chdir(tmp_path)  # Workers look for modules in the driver's folder first.
    other = tmp_path / "other/raypipe/__init__.py"
    other.parent.mkdir(parents=True)
    other.write_text("raise ImportError('of another day')")
    env_vars = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "other"), os.environ["PYTHONPATH"]])}
    with ray_nodes({"num_cpus": 1}, {"num_cpus": 3, "env_vars": env_vars}) as cluster:
        yield r"\S+ \([\d.]+\) left out of the work: ImportError: of another day; ", cluster.worker_nodes.pop().node_id


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_a_machine_that_cannot_do_the_work_is_left_out(unlike, tmp_path):
    line, node = unlike
    for number in range(3):
        write_video(tmp_path / f"videos/{number}.mp4", n_frames=20, seed=number)
    run, heard = Run(str(tmp_path / "run")), Heard()
    pipeline.embed(tmp_path / "videos", run, make_config(flags=TINY), heard)
    assert run.info()["counts"]["ok"] == 3
    assert run.info()["embedding"]["left_out"] == [node]
    assert [re.match(line, said) is not None for said in heard.lines].count(True) == 1
    assert any("the Ray cluster has 1 CPUs" in said for said in heard.lines)
    assert b'"event": "lost"' not in run.read_bytes("log.jsonl")

    config = make_config(sets=("cluster.n_clusters=3", "reduce.n_components=3", "ray.shards=2"))
    (tmp_path / "waves").mkdir()
    waves, heard = embed_waves(tmp_path / "waves", 60, config), Heard()
    pipeline.cluster(waves, config, heard)
    assert re.match(line, heard.lines[0])
    assert waves.read_json("metrics.json")["sizes"] == [20, 20, 20]
    assert pipeline.sweep(waves, config, [2, 3], ["auto"], 2, heard)["n_compared"] == 60

    fsspec.filesystem("memory").pipe_file("/here.mp4", b"seen by this process alone")
    with pytest.raises(SourceError, match=r"^no machine of the Ray cluster is left: .*cannot read memory://here\.mp4"):
        find_unfit(pa.chunked_array([["memory://here.mp4"]]))


def test_what_is_left_out_ends_with_its_session_and_holds_in_its_thread_alone():
    with unsettled():
        settle(("a", "b"))
        assert elsewhere() == {"ray.io/node-id": "!in(a,b)"}
        with unsettled():  # A session within another, as a demo's embedding is.
            assert not is_settled() and elsewhere() == {}
            settle(("c",))
        assert left_out() == ("a", "b")
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(left_out).result() == ()
    assert not is_settled() and left_out() == ()


def test_attempts_are_counted_on_the_node_of_the_driver(ray_cluster):
    here = ray.get_runtime_context().get_node_id()
    with contextlib.ExitStack() as stack:
        counters = [stack.enter_context(Attempts())._actor for _ in range(4)]
        tell = [each.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for each in counters]
        assert ray.get(tell) == [here] * 4


def test_a_machine_that_does_not_answer_is_told_of(ray_cluster, monkeypatch):
    monkeypatch.setattr(reach, "_ANSWER_S", 0.0)
    left_out, (line,) = find_unfit()
    assert left_out == () and line.endswith("not left out of the work, without an answer in 0 s whether it can do it")
