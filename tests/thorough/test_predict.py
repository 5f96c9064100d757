"""New videos in the clusters of an earlier run."""

import csv
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pytest
from commands import call_raypipe
from waves import SHAPES, embed_waves, make_waves

import raypipe as rp
from raypipe import pipeline
from raypipe.errors import UsageError
from raypipe.progress import Progress
from raypipe.runs.directory import Run


def cluster(folder, *sets: str) -> Run:
    config = rp.make_config(sets=("cluster.n_clusters=3", "trajectory.n_steps=8", "cluster.n_init=2", *sets))
    run = embed_waves(folder, 21, config)
    pipeline.cluster(run, config, Progress())
    return run


def column(run: Run, name: str) -> np.ndarray:
    return run.read_table("clusters.parquet")[name].to_numpy()


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Return a clustered run of 21 paths of three shapes, and its folder."""
    folder = tmp_path_factory.mktemp("known")
    return cluster(folder), folder


@pytest.mark.parametrize(
    "sets",
    [
        ("cluster.method=softdtw",),
        ("cluster.method=softdtw", "cluster.divergence=true", "reduce.method=none"),
        ("cluster.method=softdtw", "reduce.method=umap", "reduce.backend=quick"),
        ("cluster.method=softdtw", "reduce.method=umap", "reduce.backend=quick", "reduce.n_components=2"),
        ("cluster.method=euclidean",),
        ("cluster.method=dtw", "cluster.max_iter=3"),
        ("cluster.method=kmeans",),
        ("cluster.method=density", "cluster.assign_all=true"),
        ("cluster.method=softdtw", "trajectory.n_steps=null"),
        ("cluster.method=density", "trajectory.n_steps=null"),
    ],
    ids=lambda sets: " ".join(sets),
)
@pytest.mark.filterwarnings("ignore:h5py not installed:UserWarning")  # tslearn's
def test_the_runs_own_videos_get_the_runs_own_labels(tmp_path, sets):
    run = cluster(tmp_path, *sets)
    again = rp.predict(run, tmp_path / "known.npz", tmp_path / "again")
    np.testing.assert_array_equal(column(again, "cluster"), column(run, "cluster"))
    np.testing.assert_allclose(column(again, "distance"), column(run, "distance"), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(column(again, "outlier"), column(run, "outlier"))
    np.testing.assert_allclose(column(again, "x"), column(run, "x"), rtol=1e-5)
    assert again.info()["counts"] == run.info()["counts"]
    assert again.read_json("metrics.json")["sizes"] == run.read_json("metrics.json")["sizes"]


@pytest.mark.parametrize("pool", ["null", "mean"])
@pytest.mark.parametrize("assign_all", ["false", "true"])
def test_what_a_density_took_for_noise_is_noise_again(tmp_path, assign_all, pool):
    """A center is no measure of a dense group: labels are those of the nearest video."""
    rng = np.random.default_rng(3)
    odd = {f"odd-{i}": rng.normal(rng.normal(0, 30, 8), 1, (14, 8)).astype(np.float32) for i in range(6)}
    shifted = {name: path + 3 * (i % SHAPES) for i, (name, path) in enumerate(make_waves(21, 0).items())}
    np.savez(tmp_path / "known.npz", **shifted, **odd)
    run = Run(str(tmp_path / "run"))
    sets = ("cluster.method=density", "cluster.min_cluster_size=4", f"cluster.assign_all={assign_all}")
    config = rp.make_config(sets=(*sets, f"trajectory.pool={pool}", "reduce.picture=tsne"))
    pipeline.embed(tmp_path / "known.npz", run, config, Progress())
    pipeline.cluster(run, config, Progress())
    assert (column(run, "cluster") < 0).any() == (assign_all == "false")
    said: list[str] = []
    again = Run(str(tmp_path / "again"))
    pipeline.predict(run, tmp_path / "known.npz", again, config, SimpleNamespace(say=said.append))
    np.testing.assert_array_equal(column(again, "cluster"), column(run, "cluster"))
    np.testing.assert_allclose(column(again, "distance"), column(run, "distance"), rtol=1e-4, atol=1e-5)
    assert any(line.startswith("noise: ") for line in said) == (assign_all == "false")
    rp.write_report(again)
    assert again.exists("report.html")


def test_new_videos_get_the_cluster_of_their_shape_and_what_failed_is_counted(known, tmp_path):
    run, _ = known
    paths = make_waves(9, 1)
    paths["strange"] = np.full((14, 8), 9.0, np.float32)
    np.savez(tmp_path / "new.npz", **paths, nothing=np.empty((0, 8), np.float32))
    new = rp.predict(run, tmp_path / "new.npz", tmp_path / "new")
    assert new.info()["counts"] == {"found": 11, "ok": 10, "failed": 1, "skipped": 0, "ignored": 0}
    cluster_of_shape = column(run, "cluster")[:SHAPES]
    np.testing.assert_array_equal(column(new, "cluster")[:9], cluster_of_shape[np.arange(9) % SHAPES])
    assert column(new, "outlier")[9]
    assert column(new, "outlier_score")[9] > 10 * column(new, "outlier_score")[:9].max()
    assert new.read_bytes("outliers.csv").decode().splitlines()[1].startswith(column(new, "video_id")[9])
    rp.write_report(new)
    assert new.exists("report.html")
    assert "lower n_clusters" not in new.read_bytes("report.html").decode()


def test_a_label_depends_on_no_other_video(known, tmp_path):
    run, _ = known
    paths = make_waves(6, 2)
    np.savez(tmp_path / "all.npz", **paths)
    np.savez(tmp_path / "one.npz", **{"2-04": paths["2-04"]})
    every, alone = (rp.predict(run, tmp_path / f"{name}.npz", tmp_path / name) for name in ("all", "one"))
    assert column(alone, "cluster")[0] == column(every, "cluster")[4]
    np.testing.assert_allclose(column(alone, "distance")[0], column(every, "distance")[4], rtol=1e-6)
    np.testing.assert_allclose(column(alone, "x")[0], column(every, "x")[4], rtol=1e-5)


def test_a_verdict_depends_on_no_other_video_and_is_not_judged_again(known, tmp_path):
    run, _ = known
    far = make_waves(3, 2)["2-02"] + 4.0
    verdicts = []
    for name, others in (("alone", {}), ("two", {"again": far}), ("many", make_waves(9, 3))):
        np.savez(tmp_path / f"{name}.npz", **{"far": far, **others})
        new = rp.predict(run, tmp_path / f"{name}.npz", tmp_path / name)
        (row,) = [
            row for row in csv.DictReader(io.StringIO(new.read_bytes("outliers.csv").decode())) if "far" in row["uri"]
        ]
        verdicts.append({name: row[name] for name in ("outlier", "verdict", "reason", "score", "start_s", "end_s")})
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert (verdicts[0]["outlier"], verdicts[0]["verdict"]) == ("true", "drop")
    done = call_raypipe("outliers", new.url)
    assert done.exit_code == 2 and "and raypipe predict has judged them by the videos of these" in done.stderr


def test_the_command_leaves_a_run_with_a_report_and_its_own_limit(tmp_path):
    source = tmp_path / "known.npz"
    np.savez(source, **make_waves(12, 0))
    sets = ("-k", "3", "--set", "trajectory.n_steps=8", "--limit", "9", "-q")
    assert call_raypipe("run", source, "-o", tmp_path / "run", *sets).exit_code == 0
    result = call_raypipe("predict", tmp_path / "run", source, "-o", tmp_path / "new")
    assert result.exit_code == 0, result.stderr
    assert "12 found = 12 ok + 0 failed + 0 skipped" in result.stderr
    assert result.stderr.splitlines()[-1] == f"report: {tmp_path}/new/report.html"
    np.testing.assert_array_equal(
        column(Run(str(tmp_path / "new")), "cluster")[:9], column(Run(str(tmp_path / "run")), "cluster")
    )


def wrong(known, tmp_path, what: str) -> tuple[str, str]:
    """Return the arguments of a command that is wrong, and what its message says."""
    run, folder = known
    source = folder / "known.npz"
    other = tmp_path / "other"
    if what == "another encoder":
        shutil.copytree(run.path(), other)
        Run(str(other)).record(encoder={"name": "descriptor", "dim": 8, "fingerprint": "descriptor/1/l2"})
        return f"{other} {source}", "was embedded by the encoder descriptor (descriptor/1/l2), and these"
    if what == "another dim":
        np.savez(tmp_path / "narrow.npz", a=np.zeros((4, 3)))
        return (
            f"{run.url} {tmp_path / 'narrow.npz'}",
            "by other software (3 numbers a clip): the two cannot be compared",
        )
    if what == "not clustered":
        pipeline.embed(source, Run(str(other)), rp.make_config(), Progress())
        return f"{other} {source}", f"has no model of its clusters: run raypipe cluster {other}"
    if what == "an estimator's clusters":
        shutil.copytree(run.path(), other)
        Run(str(other)).remove("model")
        return f"{other} {source}", "an estimator's that was fitted elsewhere"
    if what == "itself":
        return f"{run.url} {source} -o {run.url}", "is the run that predicts"
    if what == "another sampling":
        return f"{run.url} {source} --set sample.fps=5", "config sample: must be as in"
    if what == "other steps":
        return f"{run.url} {source} --set trajectory.n_steps=5", "config trajectory: must be as in"
    return f"{tmp_path}/none {source}", "is not a run directory"


WRONG = ["another encoder", "another dim", "not clustered", "an estimator's clusters", "itself", "another sampling"]


@pytest.mark.parametrize("what", [*WRONG, "other steps", "no run"])
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_lost(known, tmp_path, what):
    arguments, said = wrong(known, tmp_path, what)
    before = known[0].read_bytes("clusters.parquet")
    output = () if what == "itself" else ("-o", tmp_path / "out")
    result = call_raypipe("predict", *arguments.split(), *output)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raypipe:")]
    assert said in line
    assert known[0].read_bytes("clusters.parquet") == before


def test_the_model_is_read_back_as_it_was(known):
    run, _ = known
    from raypipe.runs.results import read_model

    model = read_model(run)
    assert json.loads(run.read_bytes("run.json"))["config"] == model.config.model_dump(mode="json")
    assert model.centers.shape == (3, 8, 5)
    assert set(model.reducer) == {"mean", "components"}


def test_clusters_without_a_new_video_are_counted(known, tmp_path):
    run, _ = known
    first = run.read_table("clusters.parquet").filter(pc.field("cluster") == 0)["uri"][0].as_py().partition("#")[2]
    np.savez(tmp_path / "new.npz", new=make_waves(21, 0)[first])
    new = rp.predict(run, tmp_path / "new.npz", tmp_path / "new")
    assert new.read_json("metrics.json")["sizes"] == [1, 0, 0]


def test_a_single_new_video_that_is_odd_is_flagged_and_examined(known, tmp_path):
    run, _ = known
    np.savez(tmp_path / "new.npz", strange=np.full((14, 8), 9.0, np.float32))
    new = rp.predict(run, tmp_path / "new.npz", tmp_path / "new")
    (row,) = csv.DictReader(io.StringIO(new.read_bytes("outliers.csv").decode()))
    assert row["outlier"] == "true" and row["reason"]
    assert float(row["score"]) > np.quantile(column(run, "outlier_score"), 0.95)


def test_new_videos_are_judged_as_the_run_was_judged_last(tmp_path):
    run = cluster(tmp_path)
    result = call_raypipe("outliers", run.url, "--by", "distance", "--quantile", "0.8")
    assert result.exit_code == 0, result.stderr
    again = rp.predict(run, tmp_path / "known.npz", tmp_path / "again")
    assert column(run, "outlier").sum() == 4
    np.testing.assert_array_equal(column(again, "outlier"), column(run, "outlier"))
    assert again.read_json("metrics.json")["outliers"]["by"] == "distance"
    assert again.info()["implementations"]["outliers"] == "by distance"


def test_where_all_is_noise_new_videos_are_not_even_embedded(tmp_path):
    run = cluster(tmp_path, "cluster.method=density", "cluster.min_cluster_size=20")
    with pytest.raises(UsageError, match="has no cluster, only noise: cluster it again with a lower --min-cluster"):
        rp.predict(run, tmp_path / "known.npz", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_run_that_an_earlier_version_clustered_judges_no_other_videos(tmp_path):
    run = cluster(tmp_path)
    metrics = run.read_json("metrics.json")
    del metrics["outliers"]
    run.write_json("metrics.json", metrics)
    with pytest.raises(UsageError, match="was clustered by an earlier version"):
        rp.predict(run, tmp_path / "known.npz", tmp_path / "again")
    assert not (tmp_path / "again").exists()
