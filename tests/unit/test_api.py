"""The library's way in, as the README shows it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import raypipe as rp
from raypipe import pipeline
from raypipe.errors import UsageError
from raypipe.progress import Progress
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


def test_what_a_notebook_shows_is_short(run, tmp_path):
    videos = rp.Videos([Video(f"v{i}", f"https://me:secret@host/{i}.mp4") for i in range(1200)], n_ignored=1)
    assert repr(videos) == "Videos(1,200 of them, the first https://host/0.mp4; 1 other file ignored)"
    assert repr(rp.Videos()) == "Videos(0 of them; 0 other files ignored)"
    assert repr(rp.build_trajectories(run)) == "Trajectories(12 of them, values (12, 16, 6))"
    assert repr(rp.build_trajectories(run, n_steps=None)) == "Trajectories(12 of them, values of unequal lengths)"
    with pytest.raises(UsageError, match="not Trajectories: give its values"):
        rp.TimeSeriesKMeans(2).fit(rp.build_trajectories(run))


def test_a_run_without_clusters_or_videos_is_told_what_it_lacks(run):
    config, said = rp.make_config(base=run.info()["config"]), []

    class Told(Progress):
        def say(self, line):
            said.append(line)

    with pytest.raises(UsageError, match=r"run is not clustered: run raypipe cluster .*run$"):
        pipeline.report(run, config, Told())
    run.record(counts=dict(found=12, ok=0, failed=12, skipped=0, ignored=0))
    with pytest.raises(UsageError, match=r"no video of .*run has a clip: see the errors in its videos\.parquet"):
        pipeline.cluster(run, config, Told())
    assert not said


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
    with pytest.raises(UsageError, match=r"are an estimator's .*: its outliers\.csv says what is odd by them, and"):
        rp.find_outliers(run)
    json.dumps(run.read_json("summary.json"), allow_nan=False)


PATHS = rp.Trajectories(tuple("abcd"), np.random.default_rng(0).random((4, 5, 3)), np.full(4, 5))
NAN = float("nan")


def paths_of(*values) -> rp.Trajectories:
    return rp.Trajectories(tuple(map(str, range(len(values)))), list(values), np.ones(len(values)))


def wrong_reductions():
    """Yield the name of a call with an argument that is wrong, the call, and what its message has."""
    bounds = {
        "n_components": [0, -1, NAN, "a", 2.5, None, []],
        "n_neighbors": [1, 0, -1, NAN, "a", None],
        "min_dist": [-1, NAN, float("inf"), "a", None, 1.5],
        "fit_points": [0, 9, NAN, None],
        "seed": [-1, NAN, None, 2**32, 1.5],
        "metric": ["manhattan", None, 3],
        "backend": ["gpu", None],
        "method": ["t-sne", None, 3],
    }
    for name, values in bounds.items():
        for value in values:
            yield f"reduce {name}={value}", lambda run, kept={name: value}: rp.reduce(PATHS, **kept), name
    yield "reduce array", lambda run: rp.reduce(PATHS.values), "trajectories must be Trajectories, not ndarray"
    yield "reduce list", lambda run: rp.reduce([np.ones((2, 3))]), r"or Trajectories\(video_ids, values, n_clips\) of"
    yield "reduce nothing", lambda run: rp.reduce(paths_of()), "there is no trajectory"
    one = rp.Trajectories(("a",), np.ones((2, 4, 3)), np.full(2, 4))
    yield "reduce too many", lambda run: rp.reduce(one), "Trajectories have 1 video_ids and 2 values"
    yield "reduce 2-D", lambda run: rp.reduce(rp.Trajectories(("a",), np.ones((1, 2)), np.ones(1))), r"shape \(2,\)"
    yield "reduce no step", lambda run: rp.reduce(paths_of(np.ones((2, 3)), np.ones((0, 3)))), "trajectory 1 has"
    yield "reduce two dims", lambda run: rp.reduce(paths_of(np.ones((2, 3)), np.ones((2, 4)))), "of one dim"
    tsne = {"method": "tsne", "n_components": 5}
    yield "reduce by rule", lambda run: rp.reduce(paths_of(np.ones((2, 3))), **tsne), "^t-SNE has at most 3 components"
    yield "reduce text", lambda run: rp.reduce(paths_of(np.full((2, 3), "x"))), "trajectory 0 holds <U1, not numbers"


def wrong_calls():
    """Yield such calls of the other functions."""
    for value in (0, -1, NAN, 2.5, "a", []):
        yield f"n_steps {value}", lambda run, n=value: rp.build_trajectories(run, n), "n_steps: "
    yield "n_steps True", lambda run: rp.build_trajectories(run, True), "^n_steps is not true or false"
    yield "time_axis", lambda run: rp.build_trajectories(run, time_axis="frames"), "time_axis: "
    for each in (rp.build_trajectories, rp.write_report):
        yield each.__name__, lambda run, call=each: call(run.url), "run must be Run, not str"
    yield "not a run", lambda run: rp.write_report(rp.Run(f"{run.url}/none")), "is not a run directory"
    yield "unfitted", lambda run: rp.write_report(run, rp.TimeSeriesKMeans(2)), "model is not fitted"
    yield "another model", lambda run: rp.write_report(run, 5), "model must be TimeSeriesKMeans, not int"
    table = pa.table({"path": ["a.mp4"]})
    for each in (rp.find_videos, lambda source: rp.embed_videos(source, "run")):
        for source in (table, table.to_pydict(), 5, None, b"a.mp4", NAN, True):
            yield f"source {source}"[:20], lambda run, call=each, one=source: call(one), "a source is a path, a URL"
        for source in ([5], [None], [b"a.mp4"], [["a.mp4"]]):
            yield f"source {source}", lambda run, call=each, one=source: call(one), "a list of sources holds paths"
    for name, values in {"run": [None, 5, "", b"x"], "config": [{}, 5], "encoder": [5, []], "progress": [5]}.items():
        for value in values:
            kept = {"run": "run", name: value}
            yield f"embed {kept}", lambda run, kept=kept: rp.embed_videos("a.mp4", **kept), f"{name} must "
    for name, value in (("preset", 5), ("file", 5), ("sets", "a.b=c"), ("sets", [5]), ("flags", 5), ("base", [1])):
        yield f"config {name}", lambda run, kept={name: value}: rp.make_config(**kept), "must be "
    for videos in (5, None, ["a.mp4"], [None]):
        yield f"videos {videos}", lambda run, one=videos: rp.Videos(one), "ideos must be "


WRONG = [*wrong_reductions(), *wrong_calls()]


@pytest.mark.parametrize(("call", "said"), [call[1:] for call in WRONG], ids=[call[0] for call in WRONG])
def test_a_wrong_argument_is_a_usage_error_of_one_line(run, call, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said) as caught:
        call(run)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_not_text(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"c\.yaml is not text in UTF-8"):
        rp.make_config(file=tmp_path / "c.yaml")


def test_sources_may_come_in_any_list(tmp_path):
    names = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for name in names:
        name.touch()
    for source in (names, tuple(names), iter(names), np.array([str(name) for name in names])):
        assert len(rp.find_videos(source)) == 2


def test_an_estimator_of_something_else_is_refused(run):
    model = rp.TimeSeriesKMeans(n_clusters=2, metric="softdtw", random_state=0).fit(
        np.random.default_rng(0).random((5, 8, 2))
    )
    with pytest.raises(UsageError, match="5 labels, and the run 12 trajectories"):
        rp.write_report(run, model)


@pytest.mark.parametrize(
    "refused", [("cluster.gamma=1e300",), ("reduce.method=tsne", "reduce.n_components=5"), ("cluster.n_clusters=13",)]
)
def test_a_clustering_that_is_refused_leaves_the_one_before(run, refused):
    pipeline.cluster(run, rp.make_config(sets=("trajectory.n_steps=8", "cluster.n_clusters=2")), Progress())
    before = {path: path.read_bytes() for path in Path(run.url).rglob("*.parquet")}
    config = run.info()["config"]
    with pytest.raises(UsageError):
        pipeline.cluster(run, rp.make_config(sets=("trajectory.n_steps=8", *refused)), Progress())
    assert {path: path.read_bytes() for path in Path(run.url).rglob("*.parquet")} == before
    assert run.exists("model/centers.npy") and run.info()["config"] == config
