"""The library's way in, as the README shows it."""

import json

import numpy as np
import pytest

import raypipe as rp
from raypipe.errors import UsageError
from raypipe.runs.accounting import account
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.segments.planning import plan_precomputed
from raypipe.sources.videos import Video


@pytest.fixture
def run(tmp_path):
    """Make an embedded run without Ray: a dozen paths of two kinds."""
    rng = np.random.default_rng(0)
    videos = [Video(f"v{i}", f"file:///v{i}.mp4", label="ab"[i % 2]) for i in range(12)]
    steps = np.linspace(0, 1, 20)[:, None]
    paths = [np.sin(2 * np.pi * (i % 2 + 1) * steps + np.arange(6)) + rng.normal(0, 0.05, (20, 6)) for i in range(12)]
    run = Run(str(tmp_path / "run"))
    plan, clips = plan_precomputed(videos, paths, "source")
    run.write_table("plan.parquet", plan)
    run.write_table("embeddings/0.parquet", clips)
    found = rp.Videos(tuple(videos))
    run.write_table("videos.parquet", account(found, Ledger(run, plan)))
    run.record(config=rp.make_config(sets=("trajectory.n_steps=8",)).model_dump(mode="json"))
    run.record(counts=dict(found=12, ok=12, failed=0, skipped=0, ignored=0))
    return run


def test_every_public_name_is_there():
    for name in rp.__all__:
        assert getattr(rp, name).__doc__
    assert dir(rp) == rp.__all__
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = rp.nope


def test_an_estimator_of_ones_own(run):
    paths = rp.build_trajectories(run, n_steps=8)
    flat = rp.reduce(paths, "pca", n_components=2, seed=0)
    model = rp.TimeSeriesKMeans(n_clusters=2, metric="softdtw", random_state=0).fit(flat.values)
    rp.write_report(run, model)
    clusters = run.read_table("clusters.parquet")
    np.testing.assert_array_equal(clusters.column("cluster").to_numpy(), model.labels_)
    np.testing.assert_allclose(clusters.column("distance").to_numpy(), model.transform(flat.values).min(axis=1))
    assert run.read_json("metrics.json")["ari"] == 1.0
    assert run.exists("report.html")
    json.dumps(run.read_json("summary.json"), allow_nan=False)


def test_an_estimator_of_something_else_is_refused(run):
    model = rp.TimeSeriesKMeans(n_clusters=2, metric="softdtw", random_state=0).fit(
        np.random.default_rng(0).random((5, 8, 2))
    )
    with pytest.raises(UsageError, match="5 labels, and the run 12 trajectories"):
        rp.write_report(run, model)
