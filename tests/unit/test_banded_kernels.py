"""The CUDA kernels under global constraints: on the model of a GPU, on a real one, and compiled for one."""

from collections import Counter

import numpy as np
import pytest
from modelled_gpu import Model, model_gpu
from test_kernels import (
    FLOAT32,
    TOLERANCE,
    assert_in_registers,
    assert_summed,
    host,
    random_walks,
    run_twice,
    variants,
)

from raypipe.clustering import fit_clusters
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.config import make_config
from raypipe.softdtw import cdist_soft_dtw, reference, soft_dtw_barycenter, soft_dtw_gradient
from raypipe.softdtw.constraints import Constraint, Limits
from raypipe.softdtw.cupy import SCRATCH, Engine, Gpu
from raypipe.softdtw.launches import assign_tile, find_spans, plan_statistics, statistics_tile
from raypipe.softdtw.series import Series, pad_series

BANDS = [{"sakoe_chiba_radius": 3}, {"itakura_max_slope": 2.5}]
CONSTRAINTS = [Constraint("sakoe_chiba", 0), Constraint("sakoe_chiba", 5), Constraint("itakura", 2.6)]
# Tiles have one size for both lengths, so that few kernels are compiled. There are several rows of them, and of the
# shorter length the first begins in padding.
LONG, SHORT = 40, 23


@pytest.fixture(params=["model", "gpu"])
def engine(request):
    return Engine(Gpu()) if request.param == "gpu" else Engine(Model())


def ragged_walks(rng, n, n_steps, dim, shortest):
    values, lengths = random_walks(rng, n, n_steps, dim).values, rng.integers(shortest, n_steps + 1, n).astype(np.int32)
    lengths[-1] = n_steps
    values[np.arange(n_steps) >= lengths[:, None]] = np.nan
    return Series(values, lengths)


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_banded(engine, x, centers, constraint, dtypes=TOLERANCE):
    rng = np.random.default_rng(2)
    labels, weights = rng.integers(0, len(centers), len(x)), rng.random(len(x))
    assert_summed(engine, x, centers, labels, 0.5, weights, dtypes, constraint)


@pytest.mark.parametrize(("dim", "ragged"), [(2, False), (2, True), (17, True)])
@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_series_and_centers_of_other_lengths_are_compared_as_by_the_reference(engine, ragged, constraint, dim):
    rng = np.random.default_rng(0)
    shortest = 1 if constraint.kind == "sakoe_chiba" else 28  # Some lengths have no path in a parallelogram.
    x = ragged_walks(rng, 34, LONG, dim, shortest) if ragged else random_walks(rng, 34, LONG, dim)
    y, offsets = random_walks(rng, 2, SHORT, dim), rng.normal(size=2)
    expected = reference.cdist(x, y, 0.5, constraint)
    for dtype, tolerance in TOLERANCE.items():
        prepared, others = engine.prepare(x, dtype), engine.prepare(y, dtype)
        assert_close(host(engine.cdist(prepared, others, 0.5, constraint)), expected, tolerance)
        assert_close(host(engine.cdist(others, prepared, 0.5, constraint.turned)), expected.T, tolerance)
        labels, values = map(host, engine.assign(prepared, y.values, 0.5, offsets, constraint))
        np.testing.assert_array_equal(labels, (expected - offsets).argmin(axis=1))
        assert_close(values, expected[np.arange(34), labels], tolerance)
    assert_banded(engine, x, y.values, constraint)


def test_series_are_compared_among_themselves_as_by_the_reference(engine, monkeypatch):
    constraint = Constraint("itakura", 2.33)
    assert (constraint.mask(10, 14) != constraint.turned.mask(10, 14)).any(), "the order of a pair does not matter"
    monkeypatch.setattr("raypipe.softdtw.cupy._LOADED", 2000)  # Few centers at a time: more than one launch.
    x = ragged_walks(np.random.default_rng(4), 34, 16, 2, shortest=9)
    expected = reference.cdist(x, None, 0.5, constraint)
    for dtype, tolerance in TOLERANCE.items():
        prepared = engine.prepare(x, dtype)
        found = host(engine.cdist(prepared, None, 0.5, constraint))
        np.testing.assert_array_equal(found, found.T)
        assert_close(found, expected, tolerance)
        own = host(engine.self_values(prepared, 0.5, constraint))
        np.testing.assert_allclose(own, np.diag(expected), rtol=0, atol=tolerance * np.abs(expected).max())


def test_limits_are_bounded_however_many_lengths_there_are(monkeypatch):
    engine, seen = Engine(Model()), []
    monkeypatch.setattr("raypipe.softdtw.cupy._LOADED", 2000)
    of = Limits.of
    monkeypatch.setattr(Limits, "of", lambda *given: seen.append(of(*given)) or seen[-1])
    x = ragged_walks(np.random.default_rng(4), 34, 16, 2, shortest=1)
    engine.cdist(engine.prepare(x, "float32"), None, 0.5, CONSTRAINTS[0])
    assert len(seen) > 1
    assert max(limits.table.size for limits in seen) <= 2000


@pytest.mark.parametrize("blocks", [1, 50])
@pytest.mark.parametrize(("n_steps", "n_rows", "dim"), [(LONG, SHORT, 2), (SHORT, LONG, 2), (SHORT, LONG, 17)])
def test_lanes_that_share_a_pair_do_not_race(blocks, n_steps, n_rows, dim):
    """Lanes that run backwards between barriers come to the same bits, by any number of them a pair."""
    rng = np.random.default_rng(3)
    engines = [Engine(Model(blocks, backwards)) for backwards in (False, True)]
    for n in (5, 33):
        run_twice(engines, (n_steps, n_rows, dim), n, CONSTRAINTS[1])
        x = ragged_walks(rng, n, n_steps, dim, shortest=1)
        assert_banded(engines[0], x, random_walks(rng, 2, n_rows, dim).values, CONSTRAINTS[1], ["float32"])


# --- work ----------------------------------------------------------------------------------------------------------


def count_tiles(mask, height, width):
    """Return how many tiles of (height, width) hold a cell of the mask; the last row of it is the last of a tile."""
    n_rows, n_columns = mask.shape
    whole = np.pad(mask, ((-n_rows % height, 0), (0, -n_columns % width)))
    return whole.reshape(len(whole) // height, height, -1, width).any(axis=(1, 3)).sum()


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
@pytest.mark.parametrize(("n_steps", "n_rows"), [(LONG, SHORT), (SHORT, LONG), (LONG, LONG)])
def test_no_tile_outside_of_the_band_is_computed(constraint, n_steps, n_rows):
    """A warp's 32 lanes take a series each. Backwards a tile is computed again; E may also come a column before it."""
    rng, model = np.random.default_rng(0), Model(blocks=1)
    engine, centers = Engine(model), random_walks(rng, 1, n_rows, 2).values
    prepared = engine.prepare(random_walks(rng, 64, n_steps, 2), "float32")
    engine.statistics(prepared, centers, np.zeros(64, np.int32), 0.5, None, constraint)
    engine.assign(prepared, centers, 0.5, np.zeros(1), constraint.turned)  # whose rows are the steps of x
    mask = constraint.mask(n_rows, n_steps)
    entered = mask | np.roll(mask, -1, axis=1) & (np.arange(n_steps) < n_steps - 1)
    low, square = assign_tile(n_rows, 2, FLOAT32, True), statistics_tile(n_rows, n_steps, 2, FLOAT32, True)
    tiles = {
        "assign": count_tiles(mask, low.height, low.width) * low.height * low.width,
        "statistics": 2 * count_tiles(entered, square.height, square.width) * square.height * square.width,
    }
    expected = Counter({name: 2 * 64 * int(cells) for name, cells in tiles.items()})  # two exponentials a cell
    assert model.exponentials == expected


def plan(constraint, n_steps, counts=(1000,) * 5):
    kinds = np.array([n_steps]), np.zeros(1, np.int32)
    limits = None if constraint is None else Limits.of(constraint, kinds[0], kinds)
    tile = statistics_tile(n_steps, n_steps, 2, FLOAT32, limits is not None)
    spans = find_spans(limits, n_steps, n_steps, tile)
    return plan_statistics(np.array(counts), n_steps, 2, tile, spans, 4, 1056, SCRATCH)


def test_a_narrow_band_needs_less_scratch_and_smaller_teams():
    """Lanes that share a pair wait for each other along the diagonal, which a band does not make shorter."""
    narrow, whole = plan(Constraint("sakoe_chiba", 16), 4000), plan(None, 4000)
    assert narrow.kept / narrow.team < whole.kept / whole.team / 10
    assert narrow.team < whole.team
    assert narrow.blocks > whole.blocks


# --- the public functions ------------------------------------------------------------------------------------------


@pytest.fixture
def modelled(monkeypatch):
    return model_gpu(monkeypatch)


@pytest.mark.parametrize("band", BANDS, ids=str)
def test_public_functions_find_what_they_find_on_the_cpu(modelled, band):
    x = list(ragged_walks(np.random.default_rng(0), 5, 16, 2, shortest=13).rows())
    y, other = x[:3], {"backend": "numba", **band}
    for divergence in (False, True):
        for given in ((x,), (x, y)):
            found, expected = (cdist_soft_dtw(*given, gamma=0.5, divergence=divergence, **how) for how in (band, other))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
        one, same = (soft_dtw_gradient(x[0], x[1], 0.5, divergence, **how) for how in (band, other))
        assert one[0] == pytest.approx(same[0], rel=1e-9)
        assert_close(one[1], same[1], 1e-9)
    centers = [soft_dtw_barycenter(x, 0.5, max_iter=5, precision="float64", **how) for how in (band, other)]
    assert_close(*centers, 1e-9)
    assert modelled.exponentials["assign"] and modelled.exponentials["statistics"]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("band", BANDS, ids=str)
def test_clusters_are_those_found_on_the_cpu(modelled, band, ragged):
    rng = np.random.default_rng(0)
    x = ragged_walks(rng, 18, 16, 2, shortest=13) if ragged else random_walks(rng, 18, 16, 2)
    how = {"metric": "softdtw", "metric_params": {"gamma": 0.5, **band}, "random_state": 0, "precision": "float64"}
    found, expected = (
        TimeSeriesKMeans(3, max_iter=4, backend=name, **how).fit(pad_series(x)) for name in ("auto", "numba")
    )
    assert (found.backend_, expected.backend_) == ("cupy", "numba")
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    assert_close(found.cluster_centers_, expected.cluster_centers_, 1e-9)
    assert_close(found.distances_, expected.distances_, 1e-9)
    np.testing.assert_array_equal(found.predict(pad_series(x)), expected.labels_)


def test_a_run_with_a_constraint_takes_the_gpu_and_names_no_fallback(modelled, monkeypatch):
    monkeypatch.setattr("raypipe.clustering.require", lambda name: np)  # It asks for a version alone.
    config = make_config(sets=("cluster.n_clusters=2", "cluster.sakoe_chiba_radius=1", "cluster.gamma=0.5")).cluster
    x = random_walks(np.random.default_rng(0), 8, 16, 2).values
    found = fit_clusters(x, config)
    assert found.implementation.startswith("cupy") and found.reason is None
    expected = cdist_soft_dtw(x, found.centers, 0.5, sakoe_chiba_radius=1, backend="numba").min(axis=1)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-9)


# --- registers -----------------------------------------------------------------------------------------------------


def test_the_largest_are_in_registers():
    """Those that take most; a slow test has every one."""
    kernels = ["assign<float, 0, 8, 8, true>", "statistics<float, 8, 6, 4, true>"]
    assert set(kernels) < set(variants([64], [8, 17], True))
    assert_in_registers(90, kernels)
