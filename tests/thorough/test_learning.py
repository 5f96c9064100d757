"""Learning as a whole: in other processes, after a kill, and with what comes after it."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from test_autoencoder import SOME_STEPS
from test_learned import LEARN, cluster, make_paths, write_source
from threadpoolctl import threadpool_limits
from waves import embed_waves, make_waves

import raypipe as rp
from raypipe import pipeline
from raypipe.analysis import segmentation
from raypipe.config import ReduceConfig, make_config
from raypipe.progress import Progress
from raypipe.reduction import geometric_means, make_reducer
from raypipe.runs.directory import Run
from raypipe.runs.span_table import read_spans
from raypipe.trajectories.learned import Seq2SeqEmbedder


def test_the_same_bits_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(geometric_means, "_BUDGET", 30)
    points = np.random.default_rng(0).normal(size=(3000, 40)).astype(np.float32)
    found = []
    for n in (1, 2):
        torch.set_num_threads(n)
        with threadpool_limits(n):
            assert torch.get_num_threads() == n
            reducer = make_reducer(ReduceConfig(method="autoencoder", n_components=2)).fit(points)
            found.append([*reducer.arrays().values(), reducer.transform(points)])
    torch.set_num_threads(1)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_new_videos_are_placed_by_the_map_that_was_saved(monkeypatch, tmp_path):
    monkeypatch.setattr(geometric_means, "_BUDGET", SOME_STEPS)
    np.savez(tmp_path / "new.npz", **make_waves(9, 1))
    sets = ("cluster.n_clusters=3", "cluster.n_init=2", "reduce.method=autoencoder", "reduce.picture=autoencoder")
    made = make_config(sets=(*sets, "reduce.n_components=3"))
    run = embed_waves(tmp_path, 21, made)
    pipeline.cluster(run, made, Progress())
    assert run.info()["implementations"]["picture"].startswith("autoencoder")
    for name in run.files("model", ".npz"):
        np.load(tmp_path / "run" / name, allow_pickle=False)
    again = rp.predict(run, tmp_path / "known.npz", tmp_path / "again")
    for column in ("cluster", "x", "y"):
        one, other = (each.read_table("clusters.parquet")[column].to_numpy() for each in (run, again))
        np.testing.assert_allclose(one, other, atol=1e-6)
    new = rp.predict(again, tmp_path / "new.npz", tmp_path / "new")
    known = run.read_table("clusters.parquet")["cluster"].to_numpy()[:3]
    np.testing.assert_array_equal(new.read_table("clusters.parquet")["cluster"].to_numpy(), known[np.arange(9) % 3])
    rp.write_report(new)
    assert "autoencoder" in (tmp_path / "new/report.html").read_text()


def test_a_kill_changes_no_bit(tmp_path):
    """A process is killed as soon as it has written something; another one goes on."""
    paths, file = make_paths(60), tmp_path / "kept.npz"
    np.savez(tmp_path / "paths.npz", *paths)
    code = (
        "import sys, numpy as np; from raypipe.trajectories import learned; learned._CHECKPOINT_S = 0.0;"
        "paths = list(np.load(sys.argv[1]).values());"
        "learned.Seq2SeqEmbedder(16, batch_size=8, epochs=5000, patience=5000).fit(paths, checkpoint=sys.argv[2])"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "paths.npz"), str(file)])
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with np.load(file, allow_pickle=False) as kept:
        n_learned = len(kept["history"]) - 1
    how = {"batch_size": 8, "epochs": n_learned + 3, "patience": 5000}
    resumed = Seq2SeqEmbedder(16, **how).fit(paths, checkpoint=file)
    torch.set_num_threads(2)  # The killed process had one.
    whole = Seq2SeqEmbedder(16, **how).fit(paths)
    torch.set_num_threads(1)
    assert resumed.history_ == whole.history_
    np.testing.assert_array_equal(resumed.transform(paths), whole.transform(paths))


def test_short_videos_are_parted_by_small_matrices(monkeypatch):
    """Of 12 clips of 900 numbers the products with one another have the same principal components."""
    clips = np.random.default_rng(0).normal(size=(12, 900)) + np.repeat([0, 1], [7, 5])[:, None]
    sizes, plain = [], np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (sizes.append(len(matrix)), plain(matrix))[1])
    points = segmentation._standardise(clips)
    assert sizes == [12]
    scaled = (clips - clips.mean(axis=0)) / clips.std(axis=0)
    variance, axes = plain(scaled.T @ scaled / 12)
    expected = scaled @ axes[:, : -points.shape[1] - 1 : -1] / np.sqrt(variance[: -points.shape[1] - 1 : -1])
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-6)


def test_long_videos_are_parted_into_spans(tmp_path):
    """Videos made of stretches of three kinds of motion; the clips of a given trajectory are a second each."""
    rng = np.random.default_rng(0)
    turned = rng.normal(size=(3, 2, 8))
    joins, paths = {}, {}
    for number in range(4):
        kinds = [number % 3, (number + 1) % 3, (number + 2) % 3, number % 3]
        lengths = rng.integers(30, 50, 4)
        joins[number] = np.cumsum(lengths)[:-1]
        parts = []
        for kind, n in zip(kinds, lengths, strict=True):
            t = np.arange(n)[:, None] * (0.9, 1.1, 1.4)[kind]
            parts.append(np.hstack([np.sin(t), np.cos(t)]) @ turned[kind] + kind)
        paths[str(number)] = np.concatenate(parts) + rng.normal(0, 0.1, (lengths.sum(), 8))
    run = Run(str(tmp_path / "run"))
    pipeline.embed(write_source(tmp_path / "long.json", paths), run, rp.make_config(), Progress())
    cluster(run, *LEARN, "learn.epochs=12", "learn.window_s=8", "cluster.n_clusters=2")
    found = read_spans(run)
    ids = run.read_table("videos.parquet")["video_id"].to_pylist()
    for number, video_id in enumerate(ids):
        spans = found[video_id]
        assert [span.start_s for span in spans[1:]] == pytest.approx(joins[number], abs=1.5)
        assert spans[0].label == spans[3].label and len({span.label for span in spans}) == 3
    pipeline.report(run, rp.make_config(base=run.info()["config"]), Progress())
    assert "Spans of long videos" in run.read_bytes("report.html").decode()

    new = write_source(tmp_path / "new.json", {"again": paths["1"]})
    again = read_spans(rp.predict(run, new, tmp_path / "new"))
    assert [span[1:] for span in next(iter(again.values()))] == [span[1:] for span in found[ids[1]]]
