"""The verb ``raypipe sweep`` on Ray, from a run directory to a table and a picture."""

import numpy as np
import pytest
from commands import call_raypipe, run_raypipe
from waves import embed_waves

import raypipe as rp
from raypipe import options, pipeline
from raypipe.analysis import sweep as analysis
from raypipe.analysis.recommendation import describe_sweep
from raypipe.config import make_config
from raypipe.engine.transform import map_tasks
from raypipe.errors import RaypipeError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.trajectories.steps import LocalSteps

N = 48
CONFIG = make_config(sets=("cluster.n_init=1", "reduce.n_components=3"))


@pytest.fixture
def run(tmp_path):
    """Return an embedded run of trajectories of three shapes."""
    return embed_waves(tmp_path, N, CONFIG)


def test_the_verb_prints_a_table_and_writes_what_it_found(ray_local, run):
    done = call_raypipe("sweep", run.url, "--k", "2:4", "--gamma", "auto,0.5", "--seeds", "2")
    assert done.exit_code == 0
    told = done.stdout
    found = run.read_json("sweep.json")
    assert found["recommended"]["k"] == 3
    assert [row["k"] for row in found["rows"]] == [2, 3, 4, 2, 3, 4]
    assert found["reason"] in told and told.count("◀") == 1
    assert "fitting: 108/108 fits in" in done.stderr and "scoring: 10/10 jobs in" in done.stderr
    assert run.read_bytes("plots/sweep.png").startswith(b"\x89PNG")
    assert not run.exists("clusters.parquet")

    pipeline.cluster(run, CONFIG, Progress())
    pipeline.report(run, CONFIG, Progress())
    assert run.exists("plots/sweep.png") and run.exists("sweep.json")
    assert "How many clusters there are" in run.read_bytes("report.html").decode()
    # The figures do not depend on whether the run was clustered meanwhile.
    again = rp.sweep(run, [3], seeds=2)
    assert again["rows"] == [found["rows"][1]]

    rng = np.random.default_rng(1)  # Other embeddings: the sweep of the earlier ones does not hold any more.
    np.savez(run.path("../other.npz"), **{f"v{i}": rng.normal(size=(4, 3)) for i in range(5)})
    pipeline.embed(run.path("../other.npz"), run, make_config(flags={"source": {"re_embed": True}}), Progress())
    assert not run.exists("sweep.json")


@pytest.mark.parametrize("verb", ["sweep", "cluster"])
def test_a_run_that_cannot_be_written_is_told_of_before_the_work(run, verb, monkeypatch):
    """A colleague's, for instance: the fits were lost that were made before that was noticed."""

    def fail(*_):
        raise RaypipeError(f"cannot write {run}: Read-only file system")

    monkeypatch.setattr(Run, "write_bytes", fail)
    monkeypatch.setattr("raypipe.trajectories.samples.sample_trajectories", lambda *_: pytest.fail("work"))
    monkeypatch.setattr(LocalSteps, "build", lambda _: pytest.fail("work"))
    assert call_raypipe(verb, run.url).stderr == f"raypipe: cannot write {run}: Read-only file system\n"


def test_what_every_fit_refuses_is_said_once(run):
    done = run_raypipe("sweep", run.url, "--k", "2:3", "--gamma", "1e-30", "--seeds", "2", "--quiet")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("raypipe: values up to")


def test_a_large_run_is_sampled_and_the_result_says_so(ray_local, run, monkeypatch):
    monkeypatch.setattr(analysis, "MAX_VIDEOS", 20)
    found = rp.sweep(run, [3], seeds=2)
    assert (found["n_videos"], found["n_compared"]) == (N, 20)
    assert sum(found["rows"][0]["sizes"]) == 20
    assert "20 of 48 videos" in describe_sweep(found)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--k", "2:48"), "k goes from 2 to half the number of videos, here 24; 2 to 48 was asked for"),
        (("--k", "1:3"), "k goes from 2"),
        (("--k", "5:3"), "--k takes FROM:TO, such as 2:12; got '5:3'"),
        (("--k", "many"), "--k takes FROM:TO"),
        (("--gamma", "small"), "--gamma takes auto or numbers with commas"),
        (("--gamma", "-1"), "gamma must be a number greater than 0"),
        (("--seeds", "1"), "seeds must be 2 or more"),
        (("--gamma", "0.1", "--set", "cluster.method=kmeans"), "cluster.method=kmeans has no gamma"),
    ],
)
def test_bad_input_is_one_line(ray_local, run, arguments, message):
    done = call_raypipe("sweep", run.url, *arguments)
    assert done.exit_code == options.USAGE
    told = done.stderr.strip().splitlines()[-1]
    assert told.startswith("raypipe: ") and message in told
    assert not run.exists("sweep.json")


def test_what_a_function_holds_is_stored_once_for_all_jobs(ray_local):
    values = np.arange(100_000.0)

    def multiply(factor: float) -> float:
        assert not values.flags.writeable  # It lies in the object store, and was not copied.
        return float(values[-1] * factor)

    assert list(map_tasks(multiply, [1, 2, 3])) == [99_999.0, 199_998.0, 299_997.0]
