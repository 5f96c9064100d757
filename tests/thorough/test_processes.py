"""What a process of its own shows: what it loads, what it compiles, and how it gives up without a network."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from test_clip import check_clip_line
from test_encoders import run_python
from test_house import HEAVY, loaded_by
from test_softdtw import _python


def test_each_step_loads_what_it_needs(tmp_path):
    """Clustering without a neural reduction needs no torch; the report draws what has been computed."""
    paths = np.random.default_rng(0).normal(size=(8, 4, 3)).cumsum(axis=1)
    (tmp_path / "paths.json").write_text(json.dumps({f"v{i}": path.tolist() for i, path in enumerate(paths)}))
    begin = "from raypipe import config, pipeline, progress; from raypipe.runs import Run"
    sets = ("cluster.n_clusters=2", "cluster.n_init=1")
    form = f"Run({str(tmp_path / 'run')!r}), config.make_config(sets={sets}), progress.Progress()"
    source = str(tmp_path / "paths.json")
    clustered = loaded_by(begin, f"pipeline.embed({source!r}, {form})", f"pipeline.cluster({form})")
    assert "numba" in clustered and not clustered & {"torch", "ray", "umap", "tslearn", "matplotlib"}
    reported = loaded_by(begin, f"pipeline.report({form})")
    assert (tmp_path / "run/report.html").exists()
    assert "matplotlib" in reported and not reported & (HEAVY - {"numpy", "pyarrow", "matplotlib"} | {"scipy"})


def test_a_second_process_compiles_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    code = (
        "import numpy as np, time, raypipe.softdtw as s\n"
        "x = np.zeros((3, 4, 2), np.float32)\n"
        "s.cdist_soft_dtw(x, precision='float32')\n"
        "from raypipe.softdtw import passes\n"
        "print(sum(passes.compare_blocks.stats.cache_misses.values()))"
    )
    assert int(_python(code)) == 1
    assert int(_python(code)) == 0


def test_clip_offline_gives_up_quickly_and_quietly(tmp_path):
    done = run_python(
        "import time, open_clip\n"
        "from raypipe.encoders import make_encoder\n"
        "from raypipe.errors import EncoderError\n"
        "start = time.monotonic()\n"
        "try: make_encoder('clip')\n"
        "except EncoderError as error: print(error)\n"
        "assert time.monotonic() - start < 5",
        HF_HOME=str(tmp_path),
        HF_HUB_OFFLINE="1",
    )
    assert done.stderr == ""
    check_clip_line(done.stdout, "HF_HUB_OFFLINE forbids fetching them")


def call_command(*arguments, **where):
    return subprocess.run([sys.executable, "-m", "raypipe", *arguments], text=True, check=False, **where)


def test_a_command_ends_with_its_exit_code_and_all_that_it_said(tmp_path):
    done = call_command("doctor", capture_output=True)
    assert (done.returncode, done.stderr) == (0, "") and "shared memory" in done.stdout.splitlines()[-1]
    wrong = call_command("report", str(tmp_path), capture_output=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith(f"raypipe: {tmp_path} is not a run")


@pytest.mark.parametrize(("unbuffered", "code"), [("", 0), ("1", 1)])
def test_a_command_whose_output_nobody_reads_says_nothing(tmp_path, monkeypatch, unbuffered, code):
    """What fits in the buffer is missed only at the end."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    (tmp_path / "x.mp4").touch()
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as nobody_reads:
        done = call_command("run", str(tmp_path), "-o", "out", "--dry-run", stdout=nobody_reads, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_command_works_without_standard_streams(tmp_path):
    (tmp_path / "x.mp4").touch()
    command = [sys.executable, "-m", "raypipe", "run", str(tmp_path), "-o", "out", "--dry-run"]
    subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "", *command], check=True)


# A shell has what it starts in the background ignore the one, nohup the other.
FROM_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_command_that_is_told_to_end_cleans_up_and_says_how_to_go_on(tmp_path, name):
    """Slurm and Docker send the second, a terminal that is closed the third."""
    program = (
        f"{FROM_A_TERMINAL}import os, sys, time, raypipe.cli, raypipe.pipeline\n"
        "from raypipe.runs.directory import Run\n"
        "def work(*_):\n"
        "    with Run('out').scratch() as folder:\n"
        f"        os.kill(os.getpid(), signal.{name})\n"
        "        time.sleep(60)\n"
        "raypipe.pipeline.preview = work\n"
        "raypipe.cli.main()"
    )
    command = [sys.executable, "-c", program, "run", "videos", "-o", "out", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "raypipe: interrupted; run the same command again to continue\n"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".dzi"])
def test_ctrl_c_ends_a_poster_while_it_is_encoded(tmp_path, suffix):
    """It was swallowed, at whatever libvips next logged."""
    program = (
        f"{FROM_A_TERMINAL}import os, threading\n"
        "from pathlib import Path\n"
        "from raypipe.report.posters.canvas import Canvas\n"
        "with Canvas(Path(), 8000, 4000, (0, 0, 0)) as canvas:\n"
        "    canvas._path.write_bytes(os.urandom(3 * 8000 * 4000))\n"
        "    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        f"    canvas.encode(Path('poster{suffix}'))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT and "ignored" not in done.stderr
