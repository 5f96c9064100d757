"""k-means over shards: the same as over all series in one place, however they are dealt out and whatever dies."""

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from raypipe.clustering.shard import Measure
from raypipe.clustering.shards import LocalShards, find_origin
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.config import ReduceConfig
from raypipe.engine.transform import map_tasks
from raypipe.errors import RaypipeError, UsageError
from raypipe.reduction import reduce_trajectories
from raypipe.runs.directory import Run
from raypipe.runs.results import from_table, write_trajectories
from raypipe.schema import Trajectories
from raypipe.softdtw import auto_gamma
from raypipe.softdtw.series import pad_series, read_series

N = 60
SHARDINGS = {"1": [60], "2": [17, 43], "3": [59, 0, 1], "7": [3, 11, 0, 7, 20, 1, 18]}


class Held:
    """A loader of series that it holds."""

    def __init__(self, series, weights=None):
        self.series, self.weights = series, weights

    def __call__(self):
        return self.series, self.weights

    def __str__(self):
        return f"{len(self.series)} series"


def make_series(kind: str = "plain", seed: int = 0):
    """Noisy paths of three shapes."""
    rng = np.random.default_rng(seed)
    series = []
    for i in range(N):
        n_steps = 9 - (i * 7 % 4 if kind == "ragged" else 0)
        at = np.linspace(0, 1, n_steps) ** rng.uniform(0.7, 1.4)
        shape = (np.sin(6 * at), np.cos(6 * at), 2 * at - 1)[i % 3]
        series.append(np.outer(shape, [1.0, 2.0]) + rng.normal(scale=0.3, size=(n_steps, 2)))
    if kind == "ties":  # every series thrice, at places far apart
        series = [series[i % 20] for i in range(N)]
    return series if kind == "ragged" else np.stack(series)


def make_weights() -> np.ndarray:
    weights = np.random.default_rng(1).uniform(0.2, 5.0, N)
    weights[::7] = 0.0
    return weights


def deal(series, sizes, weights=None) -> list[Held]:
    ends = np.cumsum(sizes)
    assert ends[-1] == len(series)
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [Held(series[part], None if weights is None else weights[part]) for part in parts]


def assert_same_fit(ours, local):
    np.testing.assert_array_equal(ours.labels_, local.labels_)
    assert ours.gamma_ == local.gamma_
    assert ours.n_iter_ == local.n_iter_
    assert ours.backend_ == local.backend_
    assert ours.distances_.sum() == pytest.approx(local.distances_.sum(), rel=1e-9)
    assert ours.inertia_ == pytest.approx(local.inertia_, rel=1e-9)
    assert ours.objective_ == pytest.approx(local.objective_, rel=1e-9)
    np.testing.assert_allclose(ours.distances_, local.distances_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.cluster_centers_, local.cluster_centers_, rtol=1e-9, atol=1e-9)


class ActorsHere:
    """`Actors` without Ray: they are in this process, and one may be lost whenever it is asked something."""

    def __init__(self, loaders, resources, lose=()):
        self.asked = self.n_answered = 0
        self.lost = []
        self._loaders, self._lose = loaders, set(lose)
        self._holders = {}

    def ask_all(self, actors, *call):
        found = self.ask(dict.fromkeys(actors, call))
        return [found[actor] for actor in actors]

    def ask(self, calls):
        from raypipe.engine.shard_actors import ActorLost, ShardActor

        found = {}
        for actor, call in calls.items():
            loader = None
            self.asked += 1
            if self.asked in self._lose:
                self._holders.pop(actor, None)
                self.lost.append((actor, call[0]))
                raise ActorLost(f"shard {actor} ({self._loaders[actor]})", "it was killed")
            if actor not in self._holders:
                self._holders[actor] = object.__new__(ShardActor)
                loader = self._loaders[actor]
            found[actor] = pickle.loads(
                pickle.dumps(self._holders[actor].run(loader, pickle.loads(pickle.dumps(call))))
            )
        self.n_answered += 1
        return found

    def close(self):
        self._holders.clear()


@pytest.fixture
def shards_here(monkeypatch):
    """Return a function that makes `RayShards` without Ray."""
    from raypipe.engine import ray_shards
    from raypipe.engine.pools import Resources

    monkeypatch.setattr(ray_shards, "Actors", ActorsHere)
    return lambda loaders, **options: ray_shards.RayShards(loaders, Resources(1, 0, 1), **options)


SOFT_DTW = {"metric": "softdtw", "random_state": 3, "precision": "float64", "metric_params": {"gamma": "auto"}}
FITS = {
    "mm": {},
    "mm, divergence": {"divergence": True, "metric_params": {"gamma": 5.0}},
    "mm, at random, the best of three": {"init": "random", "n_init": 3},
    "mm, many clusters": {"n_clusters": 12},
    "mm, in a band": {"divergence": True, "metric_params": {"gamma": 1.0, "sakoe_chiba_radius": 2}},
    "lbfgs": {"solver": "lbfgs"},
    "lbfgs, the best of two": {"solver": "lbfgs", "n_init": 2, "n_clusters": 6, "max_iter": 4},
}


@pytest.mark.parametrize("kind", ["plain", "ragged", "weights", "ties"])
@pytest.mark.parametrize("fit", FITS)
def test_any_sharding_finds_the_same(shards_here, fit, kind):
    series, weights = make_series(kind), make_weights() if kind == "weights" else None
    model = TimeSeriesKMeans(**{"n_clusters": 4, **SOFT_DTW, **FITS[fit]})
    local = clone(model).fit(series, sample_weight=weights)
    for sizes in SHARDINGS.values():
        shards = shards_here(deal(series, sizes, weights))
        assert_same_fit(clone(model).fit_shards(shards), local)
        labels, distances = local.predict_shards(shards)
        np.testing.assert_array_equal(labels, local.predict(series))
        np.testing.assert_allclose(distances, local.distances_, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", SHARDINGS.values(), ids=SHARDINGS)
def test_empty_clusters_are_seeded_again_with_the_same_series(shards_here, sizes):
    series = make_series("ties")
    begin = np.concatenate([series[:3], series[:1] + 1e4, series[:1] - 1e4, series[:1] + 2e4])
    model = TimeSeriesKMeans(6, init=begin, **SOFT_DTW)
    assert_same_fit(clone(model).fit_shards(shards_here(deal(series, sizes))), clone(model).fit(series))


@pytest.mark.parametrize(
    "more", [{}, {"divergence": True}, {"solver": "lbfgs", "max_iter": 2, "max_iter_barycenter": 2}]
)
def test_where_too_many_series_are_the_same_the_same_clusters_stay_empty(shards_here, more):
    series = make_series("ties")  # 20 of the 60 differ
    model = TimeSeriesKMeans(22, max_iter=5, **SOFT_DTW).set_params(**more)
    with pytest.warns(ConvergenceWarning, match=r"only \d+ of 22 clusters hold any series"):
        local = clone(model).fit(series)
    for sizes in SHARDINGS.values():
        with pytest.warns(ConvergenceWarning, match=f"only {len(set(local.labels_))} of 22"):
            ours = clone(model).fit_shards(shards_here(deal(series, sizes)))
        assert_same_fit(ours, local)


@pytest.mark.parametrize("sizes", SHARDINGS.values(), ids=SHARDINGS)
def test_series_that_are_moved_count_in_the_sums(shards_here, sizes):
    series, weights = make_series(), make_weights()
    local, ours = LocalShards(read_series(series), weights), shards_here(deal(series, sizes, weights))
    rows, clusters = np.array([40, 3, 16]), np.array([3, 0, 4])
    for shards in (local, ours):
        shards.open(Measure(0.3, "float64", "numba"))
        shards.assign(series[:5])
        shards.statistics(series[2:3], 2)
    np.testing.assert_array_equal(ours.move(rows, clusters), local.move(rows, clusters))
    np.testing.assert_array_equal(ours.outcome().labels, local.outcome().labels)
    np.testing.assert_array_equal(local.outcome().labels[rows], clusters)
    for cluster in range(5):
        one, other = (shards.statistics(series[cluster][None], cluster) for shards in (ours, local))
        np.testing.assert_allclose(one.sums, other.sums, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(one.weights, other.weights)


@pytest.mark.parametrize("divergence", [False, True])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SHARDINGS.values(), ids=SHARDINGS)
def test_choices_are_the_same_bits(shards_here, sizes, precision, divergence):
    series, weights = make_series("ragged"), make_weights()
    measure = Measure(0.3, precision, "numba", divergence)
    local, ours = LocalShards(read_series(series), weights), shards_here(deal(series, sizes, weights))
    for shards in (local, ours):
        shards.open(measure)
    assert ours.n_series == local.n_series < N
    rows = np.arange(local.n_series)[::-3]
    np.testing.assert_array_equal(ours.paths(rows), local.paths(rows))
    for shards in (local, ours):
        shards.begin_seeding()
    for row in (5, 30, 41):
        candidates = local.paths(np.array([row, row + 1, 0, 7]))
        expected = local.try_seeds(candidates)
        assert ours.try_seeds(candidates) == expected
        for shards in (local, ours):
            shards.take_seed(1)
        edges = [float(expected[1]) * u for u in (0.0, 1e-300, 0.2, 0.5, np.nextafter(1, 0), 1.0, 1.1)]
        np.testing.assert_array_equal(ours.draw(edges), local.draw(edges))
    centers = np.nan_to_num(local.paths(np.array([5, 30, 41])))
    found, expected = ours.assign(centers), local.assign(centers)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert found.sums == expected.sums
    for n in (1, 7, local.n_series):
        for one, other in zip(ours.farthest(n), local.farthest(n), strict=True):
            np.testing.assert_array_equal(one, other)
            assert len(one) == n
    one, other = ours.outcome(), local.outcome()
    for name in ("labels", "distances", "weights"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    close = {"rtol": 1e-12, "atol": 1e-12} if precision == "float64" else {"rtol": 1e-4, "atol": 1e-4}
    for cluster in (None, 1):
        some = centers if cluster is None else centers[1:2]
        one, other = ours.statistics(some, cluster), local.statistics(some, cluster)
        for name in ("sums", "mass", "values", "weights"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), **close)


def test_gamma_and_middle_are_those_of_all_series(shards_here):
    series = np.random.default_rng(0).normal(size=(700, 5, 2))  # more steps than are looked at
    series[::3, 3:] = np.nan
    whole = LocalShards(read_series(series))
    ours = shards_here(deal(series, [100, 599, 0, 1]))
    np.testing.assert_array_equal(find_origin(ours), find_origin(whole))
    points = np.arange(whole.n_points)
    steps = series[~np.isnan(series).any(axis=2)]
    np.testing.assert_array_equal(whole.steps(points), steps)
    np.testing.assert_array_equal(ours.steps(points), steps)
    model = TimeSeriesKMeans(2, max_iter=1, **SOFT_DTW)
    assert clone(model).fit(series).gamma_ == clone(model).fit_shards(ours).gamma_ == auto_gamma(series)


@pytest.mark.parametrize("solver", ["mm", "lbfgs"])
def test_a_shard_may_be_lost_at_any_time(shards_here, solver):
    series, weights = make_series("ragged"), make_weights()
    sizes, how = SHARDINGS["3"], {"n_init": 2, "max_iter": 3, "max_iter_barycenter": 3, "solver": solver}
    model = TimeSeriesKMeans(5, **SOFT_DTW, **how)
    undisturbed = shards_here(deal(series, sizes, weights))
    expected = clone(model).fit_shards(undisturbed)
    begun, asked = 3, undisturbed.actors.asked
    assert asked > 100
    phases = set()
    for moment in [*range(begun + 1, begun + 15), *range(begun + 15, asked, 11), *range(asked - 6, asked + 1)]:
        shards = shards_here(deal(series, sizes, weights))
        shards.actors._lose = {moment, moment + 40, moment + 41}
        found = clone(model).fit_shards(shards)
        assert len(shards.actors.lost) == 3 or moment + 40 > asked
        phases |= {call.rpartition(".")[2] for _, call in shards.actors.lost}
        np.testing.assert_array_equal(found.distances_, expected.distances_)
        np.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)
        labels, _ = found.predict_shards(shards)
        np.testing.assert_array_equal(labels, found.labels_)
    assert phases >= {"steps", "paths", "open", "try_seeds", "take_seed", "draw", "assign", "statistics", "outcome"}


def test_a_random_state_is_the_same_for_each_attempt_and_goes_on_afterwards(shards_here):
    series = make_series()
    model = TimeSeriesKMeans(4, **{**SOFT_DTW, "random_state": np.random.RandomState(5)})
    local, state = clone(model).fit(series), np.random.RandomState(5)
    clone(model).set_params(random_state=state).fit(series)
    shards, ours = shards_here(deal(series, SHARDINGS["2"])), np.random.RandomState(5)
    shards.actors._lose = {shards.actors.asked + 30}
    assert_same_fit(clone(model).set_params(random_state=ours).fit_shards(shards), local)
    assert ours.random_sample() == state.random_sample()


def test_a_fit_goes_on_as_long_as_it_gets_further(shards_here):
    series = make_series()
    model = TimeSeriesKMeans(4, **SOFT_DTW)
    shards = shards_here(deal(series, SHARDINGS["2"]))
    asked = shards.actors.asked
    # Each of six attempts gets ten calls further than the one before; then one is not disturbed any more.
    shards.actors._lose = set(asked + np.cumsum([10 * (attempt + 1) for attempt in range(6)]))
    found = clone(model).fit_shards(shards)
    assert len(shards.actors.lost) == 6
    assert_same_fit(found, clone(model).fit(series))


def test_a_shard_that_is_lost_again_and_again_ends_the_fit(shards_here):
    shards = shards_here(deal(make_series(), SHARDINGS["2"]))
    shards.actors._lose = set(range(shards.actors.asked + 1, 1000))
    match = r"shard 0 \(17 series\) was lost 4 times, and made anew in vain; the last time: it was killed"
    with pytest.raises(RaypipeError, match=match):
        TimeSeriesKMeans(4, **SOFT_DTW).fit_shards(shards)


def test_what_cannot_be_done_is_said(shards_here):
    series = make_series()
    with pytest.raises(UsageError, match="no series in any of 2 shards"):
        shards_here([Held([]), Held(np.empty((0, 3, 2)))])
    with pytest.raises(UsageError, match="series of different dimensions: 1, 2"):
        shards_here([Held(series), Held(series[:, :, :1])])
    with pytest.raises(UsageError, match="weights must not all be 0"):
        shards_here([Held(series, np.zeros(N)), Held(series[:1], np.zeros(1))])
    with pytest.raises(UsageError, match="weights must be 60 finite numbers"):
        shards_here([Held(series, np.full(N, np.nan))])
    shards = shards_here(deal(series, SHARDINGS["2"]))
    with pytest.raises(UsageError, match="61 clusters of only 60 series"):
        TimeSeriesKMeans(61, metric="softdtw").fit_shards(shards)
    for other in ({"metric": "dtw"}, {"metric": "softdtw", "backend": "tslearn", "solver": "lbfgs"}):
        with pytest.raises(UsageError, match="series in shards are compared by metric 'softdtw'"):
            TimeSeriesKMeans(2, **other).fit_shards(shards)
    with pytest.raises(UsageError, match="leave the range of float32"):
        TimeSeriesKMeans(2, metric="softdtw").fit_shards(shards_here(deal(series * 1e30, SHARDINGS["2"])))
    model = TimeSeriesKMeans(2, metric="softdtw", random_state=0).fit(make_series()[:, :, :1])
    with pytest.raises(UsageError, match=r"fitted on series of shape \(9, 1\)"):
        model.predict_shards(shards)


def test_some_shards_may_come_without_weights(shards_here):
    series = make_series()
    weights = np.where(np.arange(N) < 20, 2.0, 1.0)
    shards = shards_here([Held(series[:20], weights[:20]), Held(series[20:])])
    model = TimeSeriesKMeans(3, **SOFT_DTW)
    assert_same_fit(clone(model).fit_shards(shards), clone(model).fit(series, sample_weight=weights))


def test_a_weight_that_is_nothing_beside_the_others_is_none(shards_here):
    series, weights = make_series(), make_weights() * 1e300
    weights[40:] = 1e-30
    assert weights[40] / weights.max() == 0
    model = TimeSeriesKMeans(3, **SOFT_DTW)
    local = clone(model).fit(series, sample_weight=weights)
    np.testing.assert_array_equal(local.labels_[:40], clone(model).fit(series[:40], sample_weight=weights[:40]).labels_)
    for sizes in SHARDINGS.values():
        assert_same_fit(clone(model).fit_shards(shards_here(deal(series, sizes, weights))), local)


def test_resources_fit_the_machines():
    from raypipe.engine.pools import Resources, plan_resources

    assert plan_resources([{"CPU": 2.0}], 1) == Resources(1, 0, 2)
    assert plan_resources([{"CPU": 2.0}], 2) == Resources(0.75, 0, 1)
    assert plan_resources([{"CPU": 2.0}], 7) == Resources(0.2142, 0, 1)
    assert plan_resources([{"CPU": 4.0}] * 4, 5) == Resources(1, 0, 2)
    assert plan_resources([{"CPU": 64.0}, {"CPU": 2.0}], 2) == Resources(24, 0, 32)
    assert plan_resources([{"CPU": 32.0, "GPU": 4.0}, {"memory": 1.0}], 4) == Resources(6, 1, 8)
    assert plan_resources([{"CPU": 8.0, "GPU": 1.0}] * 2, 4) == Resources(3, 0.5, 4)
    with pytest.raises(UsageError, match="has no CPU"):
        plan_resources([{"GPU": 2.0}], 2)


@pytest.fixture(scope="module")
def ray_two_cpus(ray_local):
    ray_local.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the loaders: workers cannot import a test
    yield ray_local
    ray_local.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def disturbed(ray_two_cpus):
    """Three shards with actors, and the fit that they should find."""
    from raypipe.engine.pools import Resources
    from raypipe.engine.ray_shards import RayShards

    series, weights = make_series("ragged"), make_weights()
    model = TimeSeriesKMeans(4, **SOFT_DTW)
    share = Resources(0.2, 0, 1)  # the other tests need some room beside these
    with RayShards(deal(series, SHARDINGS["3"], weights), share) as shards:
        yield shards, model, clone(model).fit(series, sample_weight=weights)


def test_actors_find_the_same(disturbed):
    shards, model, local = disturbed
    assert_same_fit(clone(model).fit_shards(shards), local)
    lbfgs = clone(model).set_params(solver="lbfgs", max_iter=3)
    series = [row for part in deal(make_series("ragged"), SHARDINGS["3"]) for row in part.series]
    assert_same_fit(clone(lbfgs).fit_shards(shards), lbfgs.fit(series, sample_weight=make_weights()))


def wait_for_cpus(ray, free: float) -> None:
    """Wait until as many CPUs are free as should be: what others held is given back a moment after they end."""
    deadline = time.monotonic() + 60
    while ray.available_resources()["CPU"] != pytest.approx(free):
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


def test_actors_keep_to_their_share(ray_two_cpus, disturbed):
    shards, _, _ = disturbed
    pids, threads = zip(*shards.actors.ask_all([0, 1, 2], "describe"), strict=True)
    assert len({os.getpid(), *pids}) == 4
    assert threads == (1, 1, 1)
    wait_for_cpus(ray_two_cpus, 1.4)


@pytest.mark.parametrize("way", ["ray.kill", "SIGKILL"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_actor_is_made_anew_and_the_fit_goes_on(ray_two_cpus, disturbed, monkeypatch, way, moment):
    shards, model, local = disturbed
    expected = clone(model).fit_shards(shards)
    actors, send, sent = shards.actors, shards.actors._send, []
    killed = {"before": (2, 25), "after": (12, 48)}[moment]

    def kill(actor):
        if way == "ray.kill":
            ray_two_cpus.kill(actors._handles[actor])
        else:
            os.kill(pids[actor], signal.SIGKILL)
        del pids[actor]

    pids = {actor: actors.ask_all([actor], "describe")[0][0] for actor in (0, 2)}
    before = set(pids.values())

    def send_and_kill(actor, call):
        sent.append(actor)
        now = len(sent) in killed and actor in pids
        if now and moment == "before":
            kill(actor)
            time.sleep(0.2)
        ref = send(actor, call)
        if now and moment == "after":
            kill(actor)
        return ref

    monkeypatch.setattr(actors, "_send", send_and_kill)
    found = clone(model).fit_shards(shards)
    assert len(sent) > max(killed)
    assert len(before & {pid for pid, _ in actors.ask_all([0, 2], "describe")}) < 2
    np.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)
    np.testing.assert_array_equal(found.distances_, expected.distances_)
    assert_same_fit(found, local)


PHASES = [
    "shard.paths", "shard.steps", "shard.open", "shard.begin_seeding", "shard.potential.try_seeds",
    "shard.potential.take_seed", "shard.potential.draw", "shard.assign", "shard.statistics", "shard.farthest",
    "shard.move", "shard.outcome",
]  # fmt: skip


SOME_PHASES = {"shard.open", "shard.potential.try_seeds", "shard.assign", "shard.statistics"}


@pytest.mark.parametrize(
    "phase", [phase if phase in SOME_PHASES else pytest.param(phase, marks=pytest.mark.slow) for phase in PHASES]
)
def test_an_actor_may_be_killed_in_any_phase(ray_two_cpus, disturbed, monkeypatch, phase):
    shards, model, _ = disturbed
    if phase in (
        "shard.farthest",
        "shard.move",
    ):  # Centers so far away that their clusters are left empty are seeded again.
        far = make_series()[:1] + np.array([1e4, -1e4, 2e4])[:, None, None]
        model = clone(model).set_params(init=np.concatenate([make_series()[:1], far]))
    expected = clone(model).fit_shards(shards)
    actors, send = shards.actors, shards.actors._send
    pids = {pid for pid, _ in actors.ask_all([0, 2], "describe")}
    killed = []

    def kill_and_send(actor, call):
        ref = send(actor, call)
        name = (ray_two_cpus.get(call) if isinstance(call, ray_two_cpus.ObjectRef) else call)[0]
        if name == phase and not killed:
            ray_two_cpus.kill(actors._handles[actor])
            killed.append(actor)
        return ref

    monkeypatch.setattr(actors, "_send", kill_and_send)
    found = clone(model).fit_shards(shards)
    assert len(killed) == 1
    assert len(pids & {pid for pid, _ in actors.ask_all([0, 2], "describe")}) == 1
    for name in ("labels_", "distances_", "cluster_centers_", "n_iter_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


class Deadly(Held):
    """A loader that takes its process with it."""

    def __call__(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Stuck(Held):
    def __call__(self):
        time.sleep(600)


class Broken(Held):
    def __call__(self):
        raise OSError("no such disk")


def test_a_shard_that_cannot_live_ends_the_work(ray_two_cpus, disturbed):
    from raypipe.engine.pools import Resources
    from raypipe.engine.ray_shards import RayShards

    series = make_series()
    share = Resources(0.1, 0, 1)
    wait_for_cpus(ray_two_cpus, 1.4)
    with pytest.raises(RaypipeError, match=r"shard 1 \(60 series\) was lost 4 times, and made anew in vain"):
        RayShards([Held(series), Deadly(series)], share)
    with pytest.raises(RaypipeError, match=r"shard 0 \(60 series\): OSError: no such disk"):
        RayShards([Broken(series)], share)
    with pytest.raises(UsageError, match=r"shard 0 \(60 series\): series 0 has a NaN or infinite value at step 2"):
        RayShards([Held(np.where(np.arange(9)[:, None] == 2, np.nan, series))], share)
    with pytest.raises(RaypipeError, match=r"shard 0 \(60 series\) has not answered for 12 s"):
        RayShards([Stuck(series)], share, placing_s=6, answer_s=10)
    with pytest.raises(RaypipeError, match=r"shard 0 \(60 series\) found no place on the Ray cluster in 1 s"):
        RayShards([Held(series)], Resources(64, 0, 64), placing_s=1)
    wait_for_cpus(ray_two_cpus, 1.4)  # what failed is given back


class DeadlyOnce(Held):
    """A loader that takes its process with it the first time."""

    def __init__(self, series, mark):
        super().__init__(series)
        self.mark = mark

    def __call__(self):
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__()


def test_a_shard_that_dies_while_it_loads_is_loaded_again(ray_two_cpus, tmp_path):
    from raypipe.engine.pools import Resources
    from raypipe.engine.ray_shards import RayShards

    series, model = make_series(), TimeSeriesKMeans(3, **SOFT_DTW)
    loaders = [Held(series[:40]), DeadlyOnce(series[40:], tmp_path / "died")]
    with RayShards(loaders, Resources(0.1, 0, 1)) as shards:
        assert loaders[1].mark.exists()
        assert_same_fit(clone(model).fit_shards(shards), clone(model).fit(series))


@pytest.mark.parametrize(
    ("kind", "method"), [("plain", "pca"), ("ragged", "pca"), pytest.param("plain", "umap", marks=pytest.mark.slow)]
)
def test_trajectories_are_reduced_where_they_lie(ray_two_cpus, tmp_path, monkeypatch, kind, method):
    from raypipe.engine.transform import reduce_files

    monkeypatch.setattr("raypipe.runs.results.ROWS_PER_FILE", 25)
    values = [np.hstack([one, one**2, np.cos(one)]).astype(np.float32) for one in make_series(kind)]
    values = values if kind == "ragged" else np.stack(values)
    paths = Trajectories(tuple(map(str, range(N))), values, np.arange(N))
    other = Trajectories(paths.video_ids, [one[:, :1] for one in make_series("ragged")], paths.n_clips)
    run = Run(str(tmp_path / "run"))
    write_trajectories(run, paths, {"picture": other})

    def read(column):
        return [path for table in run.iter_tables("trajectories") for path in from_table(table, column).values]

    for fit_points in (100_000, 100) if method == "pca" else (100,):  # all of the steps, or some of them
        config = ReduceConfig(method=method, n_components=2, fit_points=fit_points, n_neighbors=5)
        fitted = reduce_files(run, config)
        local, reducer = reduce_trajectories(paths, config)
        assert (fitted.implementation, fitted.reason) == (reducer.implementation, reducer.reason)
        assert fitted.n_points == min(fit_points, sum(map(len, values)))
        for name, array in reducer.arrays().items():
            assert fitted.arrays()[name].dtype == array.dtype
            if array.dtype.kind == "f":
                np.testing.assert_allclose(fitted.arrays()[name], array, rtol=1e-5, atol=1e-5)
        if method == "pca":  # UMAP maps a point otherwise when it comes with others
            for ours, theirs in zip(read("reduced"), local.values, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(read("trajectory"), values, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(read("picture"), other.values, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    before = read("reduced")
    reduce_files(run, config)
    np.testing.assert_array_equal(np.concatenate(before), np.concatenate(read("reduced")))


@pytest.mark.parametrize("kind", ["plain", "ragged"])
def test_shards_are_read_from_parquet_files(ray_two_cpus, tmp_path, monkeypatch, kind):
    from raypipe.engine.pools import Resources
    from raypipe.engine.ray_shards import RayShards, split_trajectories

    run = Run(str(tmp_path / "run"))
    with pytest.raises(RaypipeError, match="has no trajectories/"):
        split_trajectories(run, 2)
    monkeypatch.setattr("raypipe.runs.results.ROWS_PER_FILE", 25)
    series = make_series(kind)
    values = [one.astype(np.float32) for one in series] if kind == "ragged" else series.astype(np.float32)
    paths = Trajectories(tuple(map(str, range(N))), values, np.ones(N, np.int64))
    write_trajectories(run, paths, {"reduced": paths})
    loaders = split_trajectories(run, 2)
    assert [len(loader()[0]) for loader in loaders] == [25, 35]
    assert str(loaders[1]) == "trajectories/00001.parquet to trajectories/00002.parquet"
    np.testing.assert_array_equal(
        np.concatenate([pad_series(read_series(loader()[0])) for loader in loaders]), pad_series(read_series(values))
    )
    assert split_trajectories(run, 5)[0]() == ([], None)
    model = TimeSeriesKMeans(3, **SOFT_DTW)
    with RayShards(loaders, Resources(0.1, 0, 1), placing_s=60) as shards:
        assert_same_fit(clone(model).fit_shards(shards), model.fit(values))


def test_tasks_give_their_results_in_order_and_an_error_of_the_disk_as_it_is(ray_local, tmp_path):
    def make_folder(path: Path) -> str:  # Workers cannot import this file.
        path.mkdir()
        return path.name

    folders = [tmp_path / name for name in "cab"]
    assert list(map_tasks(make_folder, folders)) == ["c", "a", "b"]
    with pytest.raises(FileExistsError) as caught:
        list(map_tasks(make_folder, [tmp_path / "d", tmp_path / "a"]))
    assert type(caught.value) is FileExistsError
