"""Whole runs by the command."""

import json

import numpy as np
import pytest
from commands import call_raypipe
from embedded import make_embedded

from raypipe.sources.videos import Video


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    """Write the recipe's input: a nested list video → clip → floats."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(24):
        steps = np.linspace(0, 1, rng.integers(4, 12))[:, None]
        wave = np.sin(2 * np.pi * (number % 3 + 1) * steps + np.arange(8) / 3)
        paths.append((wave + rng.normal(0, 0.05, wave.shape)).tolist())
    file = tmp_path_factory.mktemp("source") / "trajectories.json"
    file.write_text(json.dumps(paths))
    return file


@pytest.fixture(scope="module")
def done(trajectories):
    """Run a preset on it, once for all tests here."""
    run = trajectories.parent / "run"
    result = call_raypipe("run", trajectories, "-o", run, "--preset", "embedding-analysis")
    assert result.exit_code == 0, result.stderr
    return run, result


def test_run_on_precomputed_trajectories(done):
    run, result = done
    lines = result.stderr.splitlines()
    assert "24 found = 24 ok + 0 failed + 0 skipped" in lines
    assert lines[-1] == f"report: {run}/report.html"
    info = json.loads((run / "run.json").read_text())
    assert info["implementations"]["cluster"].startswith("numba ")
    assert info["implementations"]["reduce"].startswith("umap-learn ")
    assert info["counts"] == {"found": 24, "ok": 24, "failed": 0, "skipped": 0, "ignored": 0}
    expected = ["run.json", "plan.parquet", "videos.parquet", "embeddings", "trajectories", "clusters.parquet", "model"]
    expected += ["metrics.json", "summary.json", "video_cluster_mapping.csv", "plots", "report.html", "thumbnails"]
    expected += ["log.jsonl", "barycenters.parquet", "descriptions.json", "duplicates.json", "outliers.csv"]
    assert {path.name for path in run.iterdir()} | {"thumbnails"} == set(expected)


@pytest.mark.parametrize(("n", "more"), [(3, ["-k", "1"]), (12, ["--set", "cluster.method=density"]), (4, ["-k", "2"])])
def test_no_sweep_is_proposed_where_none_can_be_made(tmp_path, n, more):
    paths = np.random.default_rng(0).normal(size=(n, 5, 3))
    (tmp_path / "paths.json").write_text(json.dumps(paths.tolist()))
    result = call_raypipe("run", tmp_path / "paths.json", "-o", tmp_path / "run", "--set", "reduce.method=none", *more)
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("next: ")]
    assert line.startswith(f"next: raypipe explore {tmp_path}/run to look at it")
    assert ("raypipe sweep" in line) == (n == 4)


@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")  # umap-learn's optional part
@pytest.mark.filterwarnings("ignore:h5py not installed:UserWarning")  # tslearn's
def test_the_preset_on_the_command_line_is_the_recipe(done, trajectories):
    """The recipe's own lines, on the same file, give the same labels."""
    import pyarrow.parquet as pq
    import umap
    from tslearn.clustering import TimeSeriesKMeans

    seed = 353550416
    paths = [np.array(path) for path in json.loads(trajectories.read_text())]
    grid = np.linspace(0, 1, 6)
    resampled = np.stack(
        [np.stack([np.interp(grid, np.linspace(0, 1, len(p)), c) for c in p.T], axis=1) for p in paths]
    )
    reducer = umap.UMAP(n_neighbors=15, min_dist=0.1, n_components=2, metric="cosine", random_state=seed, n_jobs=1)
    flat = reducer.fit_transform(resampled.reshape(-1, resampled.shape[2])).reshape(len(paths), 6, 2)
    model = TimeSeriesKMeans(n_clusters=3, metric="softdtw", max_iter=50, random_state=seed)
    expected = model.fit_predict(flat)
    run, _ = done
    np.testing.assert_array_equal(pq.read_table(run / "clusters.parquet").column("cluster").to_numpy(), expected)
    np.testing.assert_allclose(np.load(run / "model" / "centers.npy"), model.cluster_centers_, rtol=1e-6)


def test_cluster_again_with_other_parameters(done):
    run, _ = done
    before = (run / "embeddings").stat().st_mtime_ns
    result = call_raypipe(
        "cluster", run, "-k", "4", "--set", "reduce.method=pca", "--set", "reduce.n_components=3", "-q"
    )
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert np.load(run / "model" / "centers.npy").shape == (4, 6, 3)
    assert (run / "embeddings").stat().st_mtime_ns == before
    config = json.loads((run / "run.json").read_text())["config"]
    assert config["trajectory"]["time_axis"] == "index"  # the rest is the run's own


def test_clusters_that_stay_empty_are_told_of_in_one_line_and_in_the_results(tmp_path):
    steps = np.linspace(0, 1, 6)[:, None]
    kinds = [np.sin(4 * steps + np.arange(4)), np.cos(5 * steps * np.arange(4))]
    file, run = tmp_path / "trajectories.json", tmp_path / "run"
    file.write_text(json.dumps([kinds[i % 2].tolist() for i in range(8)]))
    how = ("-k", "3", "--set", "reduce.method=pca", "--set", "reduce.n_components=2")
    said = "only 2 of 3 clusters hold any video: lower n_clusters, or try another seed"
    for method in ("softdtw", "kmeans"):
        begin = ("cluster", run) if run.exists() else ("run", file, "-o", run)
        result = call_raypipe(*begin, *how, "--set", f"cluster.method={method}")
        assert result.exit_code == 0, result.stderr
        assert [line for line in result.stderr.splitlines() if "clusters hold" in line] == [said]
        metrics = json.loads((run / "metrics.json").read_text())
        assert sorted(metrics["sizes"]) == [0, 4, 4]
        assert metrics["n_empty"] == 1
        assert np.load(run / "model" / "centers.npy").shape[0] == 3
    assert call_raypipe("report", run).exit_code == 0
    assert said in (run / "report.html").read_text()
    assert json.loads((run / "summary.json").read_text())["n_clusters"] == 2


def test_the_figure_that_compares_runs_is_the_mean_distance_that_was_minimised(done):
    import pyarrow.parquet as pq

    run, _ = done
    distances = pq.read_table(run / "clusters.parquet").column("distance").to_numpy()
    assert json.loads((run / "metrics.json").read_text())["inertia"] == pytest.approx(distances.mean())
    assert "What k-means made small" in (run / "report.html").read_text()


def test_flags_of_density_clustering(trajectories, tmp_path):
    flags = ["--preset", "video-density", "--n-neighbors", "8", "--min-cluster-size", "4", "--assign-all"]
    result = call_raypipe("run", trajectories, "-o", tmp_path / "run", "--dry-run", *flags)
    assert result.exit_code == 0, result.stderr
    for line in ("n_neighbors: 8", "min_cluster_size: 4", "min_samples: 2", "assign_all: true", "method: density"):
        assert f"  {line}\n" in result.stdout


def test_what_has_no_effect_is_said_and_assign_all_has_an_opposite(tmp_path):
    rng = np.random.default_rng(0)
    clips = [rng.normal(scale=0.05, size=(4, 3)).astype(np.float32) + n % 2 for n in range(16)]
    names = [f"v{n}" for n in range(16)]
    run = make_embedded(tmp_path / "run", clips, [Video(name, f"file:///{name}.mp4") for name in names])
    dense = ["cluster", run.url, "--set", "cluster.method=density", "--min-cluster-size", "4", "--assign-all"]
    assert "has no effect" not in call_raypipe(*dense).stderr
    again = call_raypipe("cluster", run.url, "-k", 3)
    assert again.exit_code == 0 and "--n-clusters has no effect under cluster.method=density" in again.stderr
    assert "density: --min-cluster-size has, and --set cluster.method=softdtw takes it\n" in again.stderr
    how = run.info()["config"]["cluster"]
    kept = how["method"], how["assign_all"], how["min_cluster_size"], how["n_clusters"]
    assert kept == ("density", True, 4, 5), "as it was"
    assert call_raypipe("cluster", run.url, "--no-assign-all").exit_code == 0
    assert run.info()["config"]["cluster"]["assign_all"] is False
    back = call_raypipe("cluster", run.url, "--set", "cluster.method=softdtw", "--min-cluster-size", 3, "-k", 2)
    assert "--min-cluster-size has no effect under cluster.method=softdtw" in back.stderr
    assert "softdtw: --set cluster.method=density takes it\n" in back.stderr
    assert "--n-clusters" not in back.stderr


def test_bad_input_for_density_clustering_is_one_line(trajectories, tmp_path):
    source = ["run", trajectories, "-o", tmp_path / "run", "--set", "cluster.method=density"]
    for more, line in (
        (["--min-cluster-size", "25"], "cluster.min_cluster_size is 25, but there are only 24 videos: lower it"),
        (["--min-cluster-size", "1"], "config cluster.min_cluster_size: Input should be greater than or equal to 2"),
        (["--set", "cluster.backend=tslearn"], "backend=tslearn is not for method density: set cluster.backend=auto"),
        (
            ["--set", "trajectory.pool=sum"],
            "config trajectory.pool: Input should be 'mean', 'max', 'median' or 'first', or null",
        ),
        (["--set", "reduce.method=tsne"], "t-SNE has at most 3 components: set reduce.n_components, or use umap"),
    ):
        result = call_raypipe(*source, *more)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].endswith(line)
