"""Global constraints: tslearn's masks to the cell, and soft-DTW over the alignments that keep to them."""

import numpy as np
import pytest
from modelled_gpu import model_gpu
from test_backends import paths
from test_softdtw import _alignments, make_series

from raypipe.clustering import fit_clusters
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.config import make_config
from raypipe.errors import RaypipeError, UsageError
from raypipe.softdtw import cdist_soft_dtw, reference, soft_dtw, soft_dtw_barycenter, soft_dtw_gradient, tslearn
from raypipe.softdtw import numba as backend
from raypipe.softdtw.constraints import Constraint, Limits, read_constraint
from raypipe.softdtw.series import Series, pad_series, read_series

theirs = tslearn.load("tslearn.metrics")
try:
    masks = tslearn.load("tslearn.metrics._masks")
except RaypipeError:  # An earlier tslearn knows constraints for DTW only.
    masks = None
beside_tslearn = pytest.mark.skipif(masks is None, reason="this tslearn has no soft-DTW under constraints: 0.10 has")
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}
BANDS = [{"sakoe_chiba_radius": 3}, {"global_constraint": "itakura", "itakura_max_slope": 2.5}]
CONSTRAINTS = [Constraint("sakoe_chiba", 0), Constraint("sakoe_chiba", 4), Constraint("itakura", 2.6)]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Let "auto" be numba also where there is a GPU: test_banded_kernels.py has tests of that."""
    monkeypatch.setattr("raypipe.softdtw.backends.fastest", lambda: "numba")


@pytest.fixture(params=["numba", "model"])
def anywhere(request, on_the_cpu, monkeypatch):
    """Let "auto" be numba, and then the model of a GPU."""
    return model_gpu(monkeypatch) if request.param == "model" else None


def their_mask(n_rows, n_columns, constraint):
    if constraint.kind == "sakoe_chiba":
        return masks._njit_sakoe_chiba_mask(n_rows, n_columns, radius=constraint.reach)
    try:
        return masks._njit_itakura_mask(n_rows, n_columns, max_slope=constraint.reach)
    except RuntimeWarning:
        return None


def our_mask(n_rows, n_columns, constraint):
    try:
        return constraint.mask(n_rows, n_columns)
    except UsageError:
        return None


@beside_tslearn
def test_masks_are_tslearns_and_so_are_those_without_a_path():
    rng = np.random.default_rng(0)
    sizes = [(n, m) for n in range(1, 13) for m in range(1, 13)] + [(336, 384), (331, 300), (275, 275)]
    sizes += [(int(n), int(m)) for n, m in rng.integers(20, 300, (60, 2))]
    found = 0
    for n, m in sizes:
        radii = [Constraint("sakoe_chiba", radius) for radius in (0, 1, 5)]
        for constraint in radii + [Constraint("itakura", slope) for slope in (1.0, 1.5, 2.006, 3.0, 50.0)]:
            expected, ours = their_mask(n, m, constraint), our_mask(n, m, constraint)
            assert (expected is None) == (ours is None), (n, m, constraint)
            if expected is not None:
                np.testing.assert_array_equal(ours, expected, err_msg=str((n, m, constraint)))
                np.testing.assert_array_equal(constraint.turned.mask(m, n), expected.T)
                found += 1
    assert found > 1000


@pytest.mark.parametrize("gamma", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (6, 4), (4, 6)])
def test_the_reference_is_the_soft_minimum_over_the_alignments_that_keep_to_it(n, m, constraint, gamma):
    x, z = make_series(m, n)
    mask = constraint.mask(n, m)
    kept = [path for path in _alignments(n, m) if all(mask[cell] for cell in path)]
    distances = ((z[:, None] - x[None]) ** 2).sum(axis=2)
    costs = -np.array([sum(distances[cell] for cell in path) for path in kept]) / gamma
    shares = np.exp(costs - np.logaddexp.reduce(costs))
    expected = np.zeros((n, m))
    for path, share in zip(kept, shares, strict=True):
        for cell in path:
            expected[cell] += share
    value, aligned = reference.align(x, z, gamma, constraint)
    assert value == pytest.approx(-gamma * np.logaddexp.reduce(costs), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(aligned, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("dim", [2, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
@pytest.mark.parametrize("ragged", [False, True])
def test_the_kernels_are_the_reference(monkeypatch, ragged, constraint, dim, precision):
    x = paths(19, 21, dim, seed=3)
    if ragged:
        lengths = np.random.default_rng(0).integers(14, 22, 19)
        x = read_series([row[:length] for row, length in zip(x.values, lengths, strict=True)])
    centers, tolerance = paths(2, 17, dim, seed=1).values, TOLERANCES[precision]
    prepared, others = backend.prepare(x, precision), backend.prepare(read_series(centers), precision)
    expected = reference.cdist(x, Series(centers), 0.5, constraint)
    close = {"rtol": 0, "atol": tolerance * abs(expected).max()}
    np.testing.assert_allclose(backend.cdist(prepared, others, 0.5, constraint), expected, **close)
    np.testing.assert_allclose(backend.cdist(others, prepared, 0.5, constraint.turned), expected.T, **close)
    values = backend.assign(prepared, centers, 0.5, np.zeros(2), constraint)[1]
    np.testing.assert_allclose(values, expected.min(axis=1), **close)
    within = reference.cdist(x, None, 0.5, constraint)
    found = backend.cdist(prepared, None, 0.5, constraint)
    np.testing.assert_allclose(found, within, **close)
    np.testing.assert_array_equal(found, found.T)
    own = backend.self_values(prepared, 0.5, constraint)
    np.testing.assert_allclose(own, np.diag(within), **close)
    labels, weights = np.arange(19, dtype=np.int32) % 2, np.linspace(0.5, 2, 19)
    wanted = reference.statistics(x, centers, labels, 0.5, weights, constraint)
    for kept in (backend._KEPT_BYTES, 1):  # all rows' probabilities at once, and strip by strip
        monkeypatch.setattr(backend, "_KEPT_BYTES", kept)
        sums = backend.statistics(prepared, centers, labels, 0.5, weights, constraint)
        doubt = max(tolerance, 16 * np.finfo(precision).eps * abs(expected).max() / 0.5)
        for name in ("sums", "mass", "values"):
            scale = abs(getattr(wanted, name)).max()
            np.testing.assert_allclose(getattr(sums, name), getattr(wanted, name), rtol=0, atol=doubt * scale)


@beside_tslearn
@pytest.mark.parametrize("band", BANDS, ids=str)
def test_public_functions_find_what_tslearn_finds(anywhere, monkeypatch, band):
    series, others = make_series(11, 13, 12), make_series(14, 12, seed=1)
    mine, their = (pad_series(read_series(one)) for one in (series, others))
    within, across = theirs.cdist_soft_dtw(mine, gamma=0.5, **band), theirs.cdist_soft_dtw(mine, their, 0.5, **band)
    np.testing.assert_allclose(cdist_soft_dtw(series, gamma=0.5, **band), within, rtol=1e-9)
    np.testing.assert_allclose(cdist_soft_dtw(series, others, 0.5, **band), across, rtol=1e-9)
    monkeypatch.setattr(backend, "_TABLE", 1)  # so that others are compared by parts
    np.testing.assert_allclose(cdist_soft_dtw(series, others, 0.5, **band), across, rtol=1e-9)
    normalized = theirs.cdist_soft_dtw_normalized(mine, gamma=0.5, **band)
    np.testing.assert_allclose(cdist_soft_dtw(series, gamma=0.5, divergence=True, **band), normalized, atol=1e-9)
    assert soft_dtw(series[0], others[0], 0.5, **band) == pytest.approx(across[0, 0], rel=1e-9)
    value, gradient = soft_dtw_gradient(series[0], others[0], 0.5, **band)
    assert value == pytest.approx(across[0, 0], rel=1e-9)
    for cell in ((0, 0), (5, 1), (10, 0)):
        nudge = np.zeros_like(series[0])
        nudge[cell] = 1e-5
        ends = [soft_dtw(series[0] + sign * nudge, others[0], 0.5, **band) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(gradient[cell], rel=1e-5)


@beside_tslearn
@pytest.mark.parametrize("band", BANDS, ids=str)
def test_barycenters_are_tslearns(band):
    series, weights = make_series(12, 12, 12), np.array([1.0, 2.0, 0.5])
    peer = tslearn.load("tslearn.barycenters").softdtw_barycenter
    expected = peer(np.stack(series), 0.5, weights=weights, tol=1e-10, max_iter=300, **band)
    for solver in ("lbfgs", "mm"):
        options = {"solver": solver, "max_iter": 2000, "tol": 1e-13}
        found = soft_dtw_barycenter(series, 0.5, weights=weights, **options, **band)
        sums = [weights @ cdist_soft_dtw(series, [center], 0.5, **band)[:, 0] for center in (found, expected)]
        assert sums[0] <= sums[1] + 1e-6 * abs(sums[1])


@beside_tslearn
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("band", BANDS, ids=str)
def test_lbfgs_finds_tslearns_clusters(band, ragged):
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(16 - (i % 3 if ragged else 0), 2)).cumsum(axis=0) for i in range(18)]
    padded = pad_series(read_series(series))
    how = {"metric": "softdtw", "metric_params": {"gamma": 0.5, **band}, "max_iter": 4, "random_state": 0}
    peer = tslearn.load("tslearn.clustering").TimeSeriesKMeans(3, **how).fit(padded)
    ours = TimeSeriesKMeans(3, solver="lbfgs", **how).fit(series)
    assert ours.backend_ == "numba"
    np.testing.assert_array_equal(ours.labels_, peer.labels_)
    scale = abs(peer.cluster_centers_).max()
    np.testing.assert_allclose(ours.cluster_centers_, peer.cluster_centers_, rtol=0, atol=1e-6 * scale)
    np.testing.assert_array_equal(ours.predict(series), peer.predict(padded))
    mm = TimeSeriesKMeans(3, **how).fit(series)
    assert mm.backend_ == "numba"
    np.testing.assert_array_equal(mm.labels_, mm.predict(series))
    nearest = cdist_soft_dtw(series, mm.cluster_centers_, 0.5, **band).min(axis=1)
    assert mm.objective_ == pytest.approx(nearest.mean(), rel=1e-9)


@beside_tslearn
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"global_constraint": "band"}, "global_constraint must be one of sakoe_chiba, itakura; got 'band'"),
        ({"sakoe_chiba_radius": 1, "itakura_max_slope": 2.0}, "exclude each other"),
        ({"itakura_max_slope": 0.5}, "must be a number of at least 1"),
        ({"itakura_max_slope": 0.0}, "must be a number of at least 1"),
        ({"itakura_max_slope": 2.0, "global_constraint": "itakura"}, "no alignment of a series of 3 steps with"),
    ],
    ids=str,
)
def test_what_tslearn_raises_at_is_refused_in_words(parameters, message):
    """tslearn raises its warnings here, a KeyError, or an error of its compiler."""
    x, y = make_series(3, 12)
    with pytest.raises(Exception):  # noqa: B017 - each is of another type
        theirs.soft_dtw(x, y, **parameters)
    with pytest.raises(UsageError, match=message):
        soft_dtw(x, y, **parameters)
    with pytest.raises(UsageError, match=message):
        TimeSeriesKMeans(2, metric="softdtw", metric_params=parameters, random_state=0).fit([x, y])


@pytest.mark.parametrize("metric", ["dtw", "softdtw"])
def test_what_tslearn_cannot_align_is_refused_in_words(metric):
    parameters = {"itakura_max_slope": 2.0, "global_constraint": "itakura"}
    short = TimeSeriesKMeans(
        2, metric=metric, metric_params=parameters, random_state=0, backend="tslearn", solver="lbfgs"
    )
    with pytest.raises(UsageError, match="no alignment of series of such different lengths keeps to itakura_max_slope"):
        short.fit(make_series(3, 12))
    fitted = short.fit(make_series(10, 12))
    with pytest.raises(UsageError, match="raise the slope, or bring the series to one length"):
        fitted.predict(make_series(3))


@beside_tslearn
def test_a_radius_that_is_no_number_of_steps_is_refused():
    """tslearn finds no path below 0, and takes a fraction without a word."""
    x, y = make_series(4, 4)
    assert theirs.soft_dtw(x, y, sakoe_chiba_radius=-1) == np.inf
    assert np.isfinite(theirs.soft_dtw(x, y, sakoe_chiba_radius=1.5))
    with pytest.raises(UsageError, match="must be a whole number"):
        soft_dtw(x, y, sakoe_chiba_radius=1.5)
    with pytest.raises(UsageError, match="at least 0; got -1"):
        soft_dtw(x, y, sakoe_chiba_radius=-1)


def test_the_name_decides_between_both_numbers_and_has_defaults():
    both = {"sakoe_chiba_radius": 2, "itakura_max_slope": 3.0}
    assert read_constraint("sakoe_chiba", **both) == Constraint("sakoe_chiba", 2)
    assert read_constraint("itakura", **both) == Constraint("itakura", 3.0)
    assert read_constraint("sakoe_chiba") == Constraint("sakoe_chiba", 1)
    assert read_constraint("itakura") == Constraint("itakura", 2.0)
    assert read_constraint("") is None


def test_a_band_that_excludes_nothing_costs_nothing(monkeypatch):
    series = np.stack(make_series(9, 9))
    monkeypatch.setattr(backend, "make_room", None)  # A pass that has limits asks for room for them.
    np.testing.assert_array_equal(cdist_soft_dtw(series, sakoe_chiba_radius=8), cdist_soft_dtw(series))
    x = backend.prepare(read_series(series), "float64")
    for radius, expected in ((8, False), (7, True)):
        found = Limits.of(Constraint("sakoe_chiba", radius), np.array([9]), x.kinds)
        assert (found is not None) == expected


def test_the_config_names_a_constraint():
    config = make_config(sets=("cluster.n_clusters=2", "cluster.sakoe_chiba_radius=1", "cluster.gamma=0.5")).cluster
    series = np.random.default_rng(0).normal(size=(8, 10, 2)).cumsum(axis=1)
    found = fit_clusters(series, config)
    expected = cdist_soft_dtw(series, found.centers, 0.5, sakoe_chiba_radius=1).min(axis=1)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-9)
    with pytest.raises(UsageError, match="exclude each other"):
        make_config(sets=("cluster.sakoe_chiba_radius=1", "cluster.itakura_max_slope=2"))


def test_a_score_takes_weights_as_a_fit_does():
    series = np.random.default_rng(0).normal(size=(8, 10, 2)).cumsum(axis=1)
    weights = np.linspace(0, 2, 8)
    model = TimeSeriesKMeans(2, metric="softdtw", random_state=0).fit(series, sample_weight=weights)
    assert -model.score(series, sample_weight=weights) == pytest.approx(model.objective_, rel=1e-9)
    assert model.score(series) == pytest.approx(-model.transform(series).min(axis=1).mean())
    with pytest.raises(UsageError, match="weights must be 8"):
        model.score(series, sample_weight=[1.0])
