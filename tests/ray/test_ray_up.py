"""raypipe on Ray clusters that it did not start: an existing head, a Ray job, and `ray up`, `submit` and `down`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from videos import write_video

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.prefix) / "bin"
# A Ray job's own module, uploaded with the working directory: where its dimension comes out, workers had the upload.
ENCODER = """
import numpy as np

class Encoder:
    dim, image_size, resize_mode, fingerprint = 5, 32, "squash", "uploaded"

    def __call__(self, frames):
        return np.repeat(frames.mean((1, 2), dtype=np.float32), 2, axis=1)[:, :5]
"""


def make_videos(folder: Path) -> Path:
    for i in range(4):
        write_video(folder / "ab"[i % 2] / f"{i}.mp4", seed=i)
    return folder


def check(run: Path, dim: int | None = None) -> None:
    """Every video is ok, and its clips are in ``embeddings/``."""
    assert pq.read_table(run / "videos.parquet")["status"].to_pylist() == ["ok"] * 4
    clips = pq.read_table(run / "embeddings")
    assert len(clips["video_id"].unique()) == 4
    assert clips["embedding"].null_count == 0
    assert dim is None or clips.schema.field("embedding").type.list_size == dim


class Head:
    """A Ray head with ports, a folder and a token of its own, and the variables that reach it."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.write_text("0123456789abcdef" * 4)
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # 30 s otherwise, and there is nothing to drain
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        port, self.dashboard_port, client, agent = free_ports(4)
        self.address = f"127.0.0.1:{port}"
        options = {
            "port": port,
            "dashboard-port": self.dashboard_port,
            "ray-client-server-port": client,
            "dashboard-agent-listen-port": agent,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "num-cpus": 2,
            "object-store-memory": 200_000_000,
            "temp-dir": folder,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        self.log = folder / "head.log"
        with self.log.open("w") as log:
            command = ["ray", "start", "--head", "--block", "--disable-usage-stats", *flags]
            self.process = subprocess.Popen(command, env=self.variables, stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while "runtime started" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def run(self, *command: str) -> str:
        """Run a command that must succeed; return what it says."""
        done = subprocess.run(command, env=self.variables, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stop(self) -> None:
        self.process.terminate()  # with --block it ends its own processes, and no others
        self.process.wait(60)


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="module")
def head(ray_elsewhere):
    folder = Path(tempfile.mkdtemp(prefix="rp-"))  # Ray's sockets lie below it, and their paths must be short
    head = Head(folder)
    yield head
    head.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_head_that_was_there_goes_on_running(head, tmp_path):
    videos, run = make_videos(tmp_path / "videos"), tmp_path / "run"
    command = [sys.executable, "-m", "raypipe", "embed", str(videos), "-o", str(run), "--encoder", "descriptor"]
    head.run(*command, "--address", head.address)
    check(run)
    assert head.process.poll() is None
    assert "Active:\n 1 node_" in head.run("ray", "status", "--address", head.address)


def test_ray_job_submit(head, tmp_path):
    videos, run, uploaded = make_videos(tmp_path / "videos"), tmp_path / "run", tmp_path / "uploaded"
    uploaded.mkdir()
    (uploaded / "uploaded_encoder.py").write_text(ENCODER)
    shutil.copy(ROOT / "cluster_configs/submit.py", uploaded)
    dashboard = f"http://127.0.0.1:{head.dashboard_port}"
    said = head.run(
        *("ray", "job", "submit", "--address", dashboard, "--submission-id", "raypipe-test"),
        *("--runtime-env-json", json.dumps({"working_dir": str(uploaded)}), "--"),
        *("python", "submit.py", "--wait", "CPU=2", "embed", f"{videos}/**/*.mp4", "-o", str(run)),
        *("--encoder", "uploaded_encoder:Encoder", "--set", "ray.decoders=1", "--set", "ray.encoders=1"),
    )
    assert "4 found = 4 ok" in said
    assert "SUCCEEDED" in head.run("ray", "job", "status", "--address", dashboard, "raypipe-test").upper()
    check(run, dim=5)
    assert head.process.poll() is None


# What a person types, from the repository's root, on the head of the two machines.
SESSION = r"""
set -eux
ray get-auth-token --generate > /dev/null
ray up --yes "$1/onprem.yaml"
what=(-o "$1/run" --encoder descriptor)
python cluster_configs/submit.py "$1/onprem.yaml" --wait CPU=$2 embed "$1/my videos/**/*.mp4" "${what[@]}"
ray exec "$1/onprem.yaml" 'ray status' | tee "$1/status"
ray submit "$1/onprem.yaml" cluster_configs/submit.py -- embed "'$1/my videos/**/*.mp4'" "${what[@]}"
ray down --yes "$1/onprem.yaml"
ps -eo args > "$1/left"
"""


@pytest.mark.slow
def test_ray_up_submit_and_down(ray_elsewhere, tmp_path):
    if missing := what_machines_lack():
        pytest.skip(f"no two machines here: {missing}")
    make_videos(tmp_path / "my videos")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    (tmp_path / "env").symlink_to(sys.prefix)
    config = yaml.safe_load((ROOT / "cluster_configs/onprem.yaml").read_text())
    config["provider"].update(head_ip="10.77.0.1", worker_ips=["10.77.0.2"])
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(tmp_path / "key")}
    (tmp_path / "onprem.yaml").write_text(yaml.safe_dump(config))
    cpus = 2 * os.cpu_count()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [ROOT / "tests/helpers/ray_up.sh", tmp_path, "bash", "-c", SESSION, "session", tmp_path, str(cpus)],
        env={**environment, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    check(tmp_path / "run")
    embedded = json.loads((tmp_path / "run/run.json").read_text())["implementations"]["embed"]
    assert f"the Ray cluster has {cpus} CPUs" in embedded, "the worker was waited for"
    assert "2 local.cluster.node" in (tmp_path / "status").read_text()
    assert said.count("4 found = 4 ok") == 2, said
    left = (tmp_path / "left").read_text()
    assert "sshd" in left
    assert "raylet" not in left


def what_machines_lack() -> str:
    """Say why two machines cannot be made of namespaces here; an empty string if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    tools = ["unshare", "ip", "ssh", "ssh-keygen", "rsync", "pgrep", "ps"]
    missing = [tool for tool in tools if not shutil.which(tool)]
    if not Path("/usr/sbin/sshd").exists():
        missing.append("sshd (openssh-server)")
    if missing:
        return f"no {', '.join(missing)}"
    if not (BIN / "raypipe").exists():
        return f"no raypipe in {BIN}"
    namespaces = ["--mount", "--pid", "--net", "--ipc", "--fork"]
    probe = ["unshare", *namespaces, "ip", "link", "add", "end1", "type", "veth", "peer", "name", "end2"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"unshare: {tried.stderr.strip()}"
