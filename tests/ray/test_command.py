"""Embedding by the command line, in a process of its own: the whole chain, and errors before Ray starts."""

from functools import partial

import pytest
from commands import call_raypipe, run_raypipe

from raypipe import demo, pipeline


def test_run_with_failures_exits_3(ray_local, tmp_path, make_video, monkeypatch):
    """The whole chain by the command line, from a manifest; a user's own encoder lies in the current directory."""
    for number in range(3):
        make_video(f"{number}.mp4", n_frames=20, seed=number)
    (tmp_path / "videos.csv").write_text("path,label,site\n0.mp4,a,x\n1.mp4,b,x\n2.mp4,a,y\nmissing.mp4,b,y\n")
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "class Mean:\n"
        "    dim, image_size, resize_mode, fingerprint = 3, 16, 'squash', '1'\n"
        "    def __call__(self, frames):\n"
        "        return frames.mean(axis=(1, 2)).astype(np.float32)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--encoder", "mine:Mean", "-k", "2", "--set", "reduce.n_components=2"]
    one_each = ["--set", "ray.decoders=1", "--set", "ray.encoders=1"]
    result = call_raypipe("run", "videos.csv", "-o", "run", *options, *one_each)
    assert result.exit_code == 3, result.stderr
    assert "4 found = 3 ok + 1 failed + 0 skipped" in result.stderr
    assert "raypipe: 1 of 4 videos failed, more than --max-failed 0.05" in result.stderr
    assert (tmp_path / "run" / "report.html").exists()
    assert call_raypipe("embed", "videos.csv", "-o", "run", *options[:2], "--max-failed", "0.5").exit_code == 0
    monkeypatch.undo()
    result = run_raypipe("embed", "videos.csv", "-o", "alone", *options[:2], *one_each, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "4 found = 3 ok + 1 failed + 0 skipped" in result.stderr
    assert "core_worker.cc" not in result.stderr, "Ray's own warnings are no business of the user's"
    assert "raypipe: 1 of 4 videos failed, more than --max-failed 0.05" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "/nowhere", "-o", "{tmp}/run"), 1, "raypipe: cannot find /nowhere: no such file or folder"),
        (("run", "{tmp}", "-o", "{tmp}/run", "--encoder", "nope"), 1, "raypipe: unknown encoder 'nope'"),
        (
            ("run", "{tmp}", "-o", "{tmp}/run", "--encoder", "descriptor", "--decoder", "nope"),
            2,
            "raypipe: unknown decoder 'nope'",
        ),
    ],
)
def test_errors_are_one_line(tmp_path, make_video, arguments, code, message):
    make_video()
    result = run_raypipe(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raypipe:")]
    assert line.startswith(message)


def test_more_clusters_than_videos_are_refused_before_anything_is_embedded(tmp_path, make_video):
    make_video(tmp_path / "videos" / "a.mp4")
    result = run_raypipe("run", tmp_path / "videos", "-o", tmp_path / "run", "--encoder", "descriptor", "-k", "2")
    assert result.returncode == 2 and "2 clusters asked for, but there is only 1 video" in result.stderr
    assert not (tmp_path / "run" / "embeddings").exists()


def test_a_demo_that_was_interrupted_goes_on(ray_local, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "rendering", partial(demo.rendering, n_variants=2))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "cluster", interrupt)
        said = call_raypipe("demo", "-o", tmp_path / "run").stderr
    assert said.endswith("raypipe: interrupted; run the same command again to continue\n")
    assert "ARI of trajectory clustering" in call_raypipe("demo", "-o", tmp_path / "run").stdout
    again = call_raypipe("demo", "-o", tmp_path / "run")
    assert again.exit_code == 2 and "already holds a run: choose another -o" in again.stderr
