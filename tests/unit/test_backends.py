"""Every backend of soft-DTW against the numpy reference, and the reference against the definition."""

import errno
import os

import numba
import numpy as np
import pytest
from test_softdtw import brute_force, make_series

from raypipe.errors import RaypipeError
from raypipe.softdtw import reference
from raypipe.softdtw.backends import load_backend
from raypipe.softdtw.compiling import compiled
from raypipe.softdtw.series import Series, Statistics, read_series, to_host

GAMMAS = (1e-3, 0.1, 1.0, 30.0, 1e3)
LENGTHS = (1, 2, 6, 31, 32, 33, 64)
PRECISIONS = {"float64": 1e-9, "float32": 1e-4}


def paths(n: int, n_steps: int, dim: int, size: float = 1.0, ragged: bool = False, seed: int = 0) -> Series:
    """Make paths whose steps lie about √d · size apart, on average, and away from the origin."""
    rng = np.random.default_rng(seed)
    values = size * (rng.normal(size=(n, n_steps, dim)) + 3)
    lengths = rng.integers(1, n_steps + 1, n) if ragged else np.full(n, n_steps)
    values[np.arange(n_steps) >= lengths[:, None]] = np.nan
    return read_series(values)


def expectations(x: Series, centers: np.ndarray, gamma: float) -> tuple[np.ndarray, Statistics]:
    """Return the reference's matrix, and its statistics of series given in turn to the centers."""
    labels = np.arange(len(x), dtype=np.int32) % len(centers)
    weights = np.linspace(0.5, 2, len(x))
    return reference.cdist(x, Series(centers), gamma), reference.statistics(x, centers, labels, gamma, weights)


@pytest.fixture(params=["numba", "cupy"])
def backend(request):
    return load_backend(request.param)


def check(backend, x: Series, centers: np.ndarray, gamma: float, precisions=tuple(PRECISIONS)) -> None:
    """Compare all that a backend computes of the series and (k, T, d) centers, in some precisions.

    Values are of the scale of the costs, and of γ where that is larger. Alignments depend on costs in units of γ: they
    are known as well as those, and where these are not known to a tenth there is only left that they are alignments.
    """
    labels = np.arange(len(x), dtype=np.int32) % len(centers)
    weights = np.linspace(0.5, 2, len(x))
    expected, wanted = expectations(x, centers, gamma)
    for precision in precisions:
        tolerance = PRECISIONS[precision]
        prepared, others = backend.prepare(x, precision), backend.prepare(read_series(centers), precision)
        close = {"rtol": 0, "atol": tolerance * max(abs(expected).max(), gamma), "err_msg": precision}
        np.testing.assert_allclose(to_host(backend.cdist(prepared, others, gamma)), expected, **close)
        np.testing.assert_allclose(to_host(backend.cdist(others, prepared, gamma)), expected.T, **close)

        nearest, values = map(to_host, backend.assign(prepared, centers, gamma, np.zeros(len(centers))))
        np.testing.assert_allclose(values, expected.min(axis=1), **close)
        np.testing.assert_allclose(expected[np.arange(len(x)), nearest], expected.min(axis=1), **close)

        found = backend.statistics(prepared, centers, labels, gamma, weights)
        np.testing.assert_allclose(found.values, wanted.values, rtol=0, atol=2 * len(x) * close["atol"])
        np.testing.assert_allclose(found.weights, wanted.weights)
        doubt = 8 * np.finfo(precision).eps * abs(expected).max() / gamma
        if doubt < 0.1:
            for one, other in ((found.sums, wanted.sums), (found.mass, wanted.mass)):
                np.testing.assert_allclose(one, other, rtol=0, atol=max(tolerance, doubt) * abs(other).max())
        assert (found.mass >= (1 - 1e-4) * wanted.weights[:, None]).all()
        assert (found.mass <= (1 + 1e-4) * wanted.weights[:, None] * x.values.shape[1]).all()
        assert abs(found.sums).max() <= (1 + 1e-4) * found.mass.max() * x.largest


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 1), (1, 5, 3), (5, 1, 2), (4, 4, 1), (5, 4, 3), (6, 6, 2)])
def test_the_reference_is_the_soft_minimum_over_all_alignments(n, m, dim, gamma):
    x, z = make_series(n, m, dim=dim)
    value, expected = reference.align(x, z, gamma)
    assert value == pytest.approx(brute_force(x, z, gamma), rel=1e-12, abs=1e-12)
    gradient = 2 * (z * expected.sum(axis=1, keepdims=True) - expected @ x)
    for i, q in np.ndindex(z.shape):
        nudge = np.zeros_like(z)
        nudge[i, q] = 1e-5
        slope = (brute_force(x, z + nudge, gamma) - brute_force(x, z - nudge, gamma)) / 2e-5
        assert slope == pytest.approx(gradient[i, q], rel=1e-5, abs=1e-6 * abs(gradient).max() + 1e-9 * gamma)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dim", [1, 2, 3, 17])
def test_lengths_and_dimensions(backend, dim, gamma):
    for n_steps in LENGTHS:
        centers = paths(2, min(n_steps + 3, 40), dim, seed=1).values
        check(backend, paths(3, n_steps, dim), centers, gamma)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_many_dimensions(backend, gamma):
    for n_steps, dim in ((6, 64), (33, 64), (9, 512)):
        check(backend, paths(3, n_steps, dim), paths(2, n_steps, dim, seed=1).values, gamma)


@pytest.mark.parametrize(("n_steps", "dim", "gamma"), [(275, 2, 1e-3), (275, 64, 1.0), (1100, 1, 1e3), (1100, 3, 0.1)])
def test_long_series(backend, n_steps, dim, gamma):
    check(backend, paths(2, n_steps, dim), paths(1, n_steps, dim, seed=1).values, gamma)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_small_and_large_data(backend, size, gamma):
    for n_steps, dim in ((1, 2), (64, 2), (33, 17)):
        check(backend, paths(3, n_steps, dim, size), paths(2, n_steps, dim, size, seed=1).values, gamma)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 50])
def test_unequal_lengths_and_any_number_of_series(backend, n, dim):
    x = paths(n, 21, dim, ragged=True, seed=n)
    check(backend, x, paths(3, 9, dim, seed=1).values, 0.5)
    expected = reference.cdist(x, None, 0.5)
    for precision, tolerance in PRECISIONS.items():
        close = {"rtol": 0, "atol": tolerance * abs(expected).max(), "err_msg": precision}
        prepared = backend.prepare(x, precision)
        found = to_host(backend.cdist(prepared, None, 0.5))
        np.testing.assert_allclose(found, expected, **close)
        np.testing.assert_array_equal(found, found.T)
        own = to_host(backend.self_values(prepared, 0.5))
        np.testing.assert_allclose(own, np.diag(expected), **close)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_offsets_and_ties_of_the_assignment(backend, precision):
    x = paths(40, 12, 2)
    centers = paths(4, 12, 2, seed=1).values
    offsets = np.array([0.0, 30.0, -5.0, 60.0])
    labels, values = backend.assign(backend.prepare(x, precision), centers, 1.0, offsets)
    wanted, plain = reference.assign(x, centers, 1.0, offsets)
    np.testing.assert_array_equal(to_host(labels), wanted)
    np.testing.assert_allclose(to_host(values), plain, rtol=PRECISIONS[precision])
    labels, _ = backend.assign(backend.prepare(x, precision), centers[[2, 2, 2]], 1.0, np.zeros(3))
    assert not to_host(labels).any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_bits_every_time(backend, precision):
    x = paths(3000, 10, 2)
    centers = x.values[:5].copy()
    prepared = backend.prepare(x, precision)
    labels, _ = backend.assign(prepared, centers, 0.3, np.zeros(5))
    first, second = (backend.statistics(prepared, centers, labels, 0.3) for _ in range(2))
    for name in ("sums", "mass", "values"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.weights.sum() == 3000


def test_the_same_bits_on_any_number_of_threads(monkeypatch):

    from raypipe.softdtw import numba as backend

    monkeypatch.setattr(backend, "_PART", 1)  # so that a small pass has parts for several threads
    monkeypatch.setattr(backend, "_SUMS", 5)
    x = paths(90, 10, 5, ragged=True)
    centers = paths(3, 10, 5, seed=1).values
    prepared = backend.prepare(x, "float32")
    weights = np.linspace(0.5, 2, 90)
    found, most = [], numba.get_num_threads()
    for threads in (1, most, most):
        numba.set_num_threads(threads)
        labels, values = backend.assign(prepared, centers, 0.3, np.zeros(3))
        sums = backend.statistics(prepared, centers, labels, 0.3, weights)
        found.append([labels, values, backend.cdist(prepared, None, 0.3), sums.sums, sums.mass, sums.values])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)
    np.testing.assert_allclose(sums.mass, reference.statistics(x, centers, labels, 0.3, weights).mass, rtol=1e-4)


def test_float32_is_not_lost_to_an_offset(backend):
    near = paths(4, 20, 2)
    far = Series(near.values + 1e6, None, near.largest + 1e6)
    expected = reference.cdist(near, None, 1.0)
    found = backend.cdist(backend.prepare(far, "float32"), None, 1.0)
    np.testing.assert_allclose(to_host(found), expected, atol=1e-4 * expected.max())


def test_float32_keeps_its_digits_where_groups_lie_far_apart(backend):
    """No value is off by more than 1e-4 of itself, though squares of the steps are 10,000 times their distances."""
    rng = np.random.default_rng(0)
    groups = rng.choice([-100.0, 100.0], (20, 1, 33)) + rng.normal(size=(20, 12, 33))
    groups[10:] = groups[:10] + rng.normal(size=(10, 12, 33))
    x = read_series((groups + 1e3).astype(np.float32))
    expected = reference.cdist(x, None, 0.1)
    assert expected[np.arange(10), np.arange(10, 20)].max() < 1e-4 * expected.max()
    found = to_host(backend.cdist(backend.prepare(x, "float32"), None, 0.1))
    apart = ~np.eye(20, dtype=bool)
    np.testing.assert_allclose(found[apart], expected[apart], rtol=1e-4)


def test_functions_are_compiled_where_there_is_no_place_for_a_cache(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CompileResultCacheImpl, "_locator_classes", [])
    with pytest.warns(UserWarning, match="set NUMBA_CACHE_DIR to a folder that can be written"):
        found = compiled(nogil=True)(lambda x: 2 * x)
    assert found(3.0) == 6.0 and found.signatures and found.targetoptions["nogil"]


def test_functions_are_compiled_where_the_disk_of_the_cache_is_full(monkeypatch, tmp_path):
    """numba would raise once the function is compiled, and one that calls it would not be."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    double = compiled()(lambda x: 2 * x)
    both = compiled()(lambda x: double(x) + 1)
    monkeypatch.setattr("pickle.dump", fail_as_full)
    with pytest.warns(UserWarning, match="set NUMBA_CACHE_DIR to a folder that can be written"):
        assert both(3) == 7
    assert double(3) == 6


def fail_as_full(*_, **__) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_numba_must_be_allowed_to_compile(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(RaypipeError, match="NUMBA_DISABLE_JIT is set"):
        load_backend("auto")
