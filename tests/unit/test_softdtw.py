import math
import platform
import re
import subprocess
import sys
from decimal import Decimal
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from raypipe import softdtw
from raypipe.errors import UsageError
from raypipe.softdtw import auto_gamma, cdist_soft_dtw, numba, soft_dtw, soft_dtw_barycenter, soft_dtw_gradient
from raypipe.softdtw.series import pad_series, read_series


@lru_cache
def _alignments(n: int, m: int) -> list[list[tuple[int, int]]]:
    """All monotone paths from (0, 0) to (n − 1, m − 1)."""
    if n == m == 1:
        return [[(0, 0)]]
    before = [(n - 1, m), (n, m - 1), (n - 1, m - 1)]
    return [[*path, (n - 1, m - 1)] for a, b in before if a and b for path in _alignments(a, b)]


def brute_force(x: np.ndarray, y: np.ndarray, gamma: float) -> float:
    distances = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    costs = [sum(distances[step] for step in path) for path in _alignments(len(x), len(y))]
    return -gamma * np.logaddexp.reduce(-np.array(costs) / gamma)


def make_series(*lengths: int, dim: int = 2, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, dim)) for length in lengths]


@pytest.mark.parametrize("gamma", [1e-3, 0.1, 1.0, 30.0, 1e3])
@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 1), (1, 5, 3), (5, 1, 2), (4, 4, 1), (5, 4, 3), (6, 6, 2)])
def test_soft_dtw_is_the_soft_minimum_over_all_alignments(n, m, dim, gamma):
    x, y = make_series(n, m, dim=dim)
    assert soft_dtw(x, y, gamma) == pytest.approx(brute_force(x, y, gamma), rel=1e-9, abs=1e-9)


def test_cdist_of_unequal_lengths_in_every_form():
    series = make_series(3, 5, 4)
    expected = np.array([[brute_force(x, y, 0.5) for y in series] for x in series])
    padded = pad_series(read_series(series))
    assert padded.shape == (3, 5, 2)
    assert np.isnan(padded[0, 3:]).all()
    for form in (series, padded, [one.tolist() for one in series]):
        np.testing.assert_allclose(cdist_soft_dtw(form, gamma=0.5), expected, rtol=1e-12)
        np.testing.assert_allclose(cdist_soft_dtw(form, series[:2], gamma=0.5), expected[:, :2], rtol=1e-12)


def test_univariate_series_need_no_last_axis():
    x, y = make_series(4, 6, dim=1)
    assert soft_dtw(x[:, 0], y[:, 0]) == soft_dtw(x, y)
    flat = np.stack([x[:, 0], x[:, 0] + 1])
    np.testing.assert_array_equal(cdist_soft_dtw(flat), cdist_soft_dtw(flat[:, :, None]))


@pytest.mark.parametrize("gamma", [1e-3, 1.0, 1e3])
def test_divergence_is_zero_for_equal_series_and_positive_for_others(gamma):
    series = make_series(3, 5, 4, 4)
    own = np.array([brute_force(x, x, gamma) for x in series])
    within = cdist_soft_dtw(series, gamma=gamma, divergence=True)
    np.testing.assert_allclose(np.diag(within), 0, atol=1e-13 * gamma)
    np.testing.assert_allclose(within, within.T, atol=1e-13 * gamma)
    assert (within[~np.eye(4, dtype=bool)] > 0).all()
    across = cdist_soft_dtw(series[:2], series[2:], gamma, divergence=True)
    plain = cdist_soft_dtw(series[:2], series[2:], gamma)
    np.testing.assert_allclose(across, plain - own[:2, None] / 2 - own[None, 2:] / 2, rtol=1e-9, atol=1e-9 * gamma)


def test_precision_follows_the_input():
    """float32 stays float32; float64, lists and mixtures are float64, to the bit."""
    series = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    exact, rough = (cdist_soft_dtw(series, precision=name) for name in ("float64", "float32"))
    assert (exact.dtype, rough.dtype) == (np.float64, np.float32)
    assert not np.array_equal(exact, rough)
    wide = series.astype(np.float64)
    for found in (cdist_soft_dtw(series), cdist_soft_dtw([*series]), cdist_soft_dtw(series, series)):
        np.testing.assert_array_equal(found, rough, strict=True)
    pairs = [(wide, None), (wide, series), (series, wide), (series.tolist(), None), (series, wide.tolist())]
    for x, y in pairs:
        np.testing.assert_array_equal(cdist_soft_dtw(x, y), cdist_soft_dtw(x, y, precision="float64"), strict=True)
        np.testing.assert_allclose(cdist_soft_dtw(x, y), exact, rtol=1e-12)


def test_all_functions_take_the_precision_of_the_input():
    x, y = (one.astype(np.float32) for one in make_series(5, 7))
    for call in (
        lambda x, y, **how: soft_dtw(x, y, divergence=True, **how),
        lambda x, y, **how: soft_dtw_gradient(x, y, divergence=True, **how)[1],
        lambda x, y, **how: soft_dtw_barycenter([x, y], **how),
    ):
        np.testing.assert_array_equal(call(x, y), call(x, y, precision="float32"))
        wide = x.astype(np.float64), y.astype(np.float64)
        np.testing.assert_array_equal(call(*wide), call(x, y, precision="float64"))
        assert not np.array_equal(call(x, y), call(*wide))
    by_line_search = soft_dtw_barycenter([x, y], solver="lbfgs")
    np.testing.assert_array_equal(by_line_search, soft_dtw_barycenter([x, y], solver="lbfgs", precision="float64"))


def test_a_mixture_of_types_is_one_precision_throughout():
    x, y = make_series(5, 7)
    narrow = y.astype(np.float32)
    mixed = soft_dtw_gradient(x, narrow, divergence=True)
    wide = soft_dtw_gradient(x, narrow.astype(np.float64), divergence=True)
    assert mixed[0] == wide[0]
    np.testing.assert_array_equal(mixed[1], wide[1])


def test_barycenter_of_one_series_at_small_gamma_is_that_series():
    (x,) = make_series(6)
    np.testing.assert_allclose(soft_dtw_barycenter([x, x], 1e-3, init=x + 0.1, tol=1e-9), x, atol=1e-3)


@pytest.mark.parametrize("solver", ["mm", "lbfgs"])
def test_a_barycenter_of_no_steps_is_where_it_begins(solver):
    series = make_series(5, 5)
    np.testing.assert_allclose(soft_dtw_barycenter(series, max_iter=0, solver=solver), np.mean(series, axis=0))


@pytest.mark.parametrize("lengths", [(6, 6, 6), (4, 6, 5)])
def test_barycenter_minimises_the_sum(lengths):
    series = make_series(*lengths)

    def objective(center):
        return cdist_soft_dtw(series, [center], 0.5).sum()

    center = soft_dtw_barycenter(series, 0.5, max_iter=200, tol=1e-10)
    assert center.shape == (6, 2)
    at_center = objective(center)
    for step, axis in np.ndindex(center.shape):  # flat in every direction, and a minimum
        nudge = np.zeros_like(center)
        nudge[step, axis] = 1e-3
        up, down = objective(center + nudge), objective(center - nudge)
        assert abs(up - down) / 2e-3 < 1e-2
        assert up + down > 2 * at_center
    assert objective(soft_dtw_barycenter(series, 0.5, init=center[:3])) > at_center
    assert soft_dtw_barycenter(series, 0.5, init=center[:3]).shape == (3, 2)


def test_auto_gamma_is_a_hundredth_of_the_median_squared_distance():
    series = make_series(7, 9, 5)
    steps = np.concatenate(series)
    squared = [((a - b) ** 2).sum() for i, a in enumerate(steps) for b in steps[:i]]
    assert auto_gamma(series) == pytest.approx(np.median(squared) / 100)
    assert auto_gamma([10 * one for one in series]) == pytest.approx(np.median(squared))


def test_auto_gamma_of_many_steps_is_a_repeatable_estimate():
    series = np.random.default_rng(0).normal(size=(300, 20, 1))
    exact = 2 * 0.454936 / 100  # the median of chi-squared, of a difference's variance 2
    assert auto_gamma(series) == auto_gamma(series) == pytest.approx(exact, rel=0.1)
    assert auto_gamma(series, seed=1) != auto_gamma(series)


def test_auto_gamma_is_never_zero():
    assert auto_gamma(np.full((4, 5, 2), 3.0)) == 1.0
    assert auto_gamma([[1.0]]) == 1.0
    mostly_still = np.zeros((10, 5, 1))
    mostly_still[0, 0] = 2.0
    assert auto_gamma(mostly_still) == pytest.approx(4 / 100)
    rounded = mostly_still + np.finfo(np.float64).eps * (np.arange(50).reshape(10, 5, 1) % 2)
    assert auto_gamma(rounded) == pytest.approx(4 / 100)
    glitch = np.random.default_rng(0).normal(0, 0.1, (50, 1, 1)).astype(np.float32)
    expected = auto_gamma(glitch)
    glitch[0] = 1e6
    assert auto_gamma(glitch) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([], "no series given"),
        (None, r"series must be an array \(n, T, d\) or \(n, T\), or a list of \(T_i, d\), not NoneType"),
        (SimpleNamespace(values=np.zeros((2, 3, 1))), "a list of .*, not SimpleNamespace"),
        (np.empty((0, 4, 2)), "no series"),
        (np.empty((3, 0)), r"no series in an array of shape \(3, 0, 1\)"),
        (np.zeros((2, 2, 2, 2)), "array of 4 dimensions"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], "different dimensions: 1, 2"),
        ([np.zeros((3, 2)), np.zeros((0, 2))], "series 1 is empty"),
        (np.full((2, 3), np.nan), "series 0 is empty"),
        (csr_array(np.eye(3)), "series 0 must be of real numbers"),
        ([[[1.0, 2.0], [3.0]]], "series 0 cannot be read as a numpy array"),
        ([np.zeros((2, 2, 2))], r"series 0 must be \(T, d\)"),
        ([[[0.0], [np.nan], [1.0]]], "series 0 has a NaN or infinite value at step 1"),
        ([[[0.0, 1.0], [np.nan, 1.0]]], "series 0 has a NaN or infinite value at step 1"),
        ([[[0.0], [np.inf]]], "series 0 has a NaN or infinite value at step 1"),
    ],
)
def test_unfit_series_are_named(series, message):
    with pytest.raises(UsageError, match=message):
        cdist_soft_dtw(series)


def test_tensors_are_series_if_numpy_can_read_them():
    import torch

    tensor = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(cdist_soft_dtw([*tensor]), cdist_soft_dtw(tensor.numpy()))
    with pytest.raises(UsageError, match=r"series cannot be read as a numpy array: TypeError: .*BFloat16"):
        cdist_soft_dtw(tensor.bfloat16())
    with pytest.raises(UsageError, match=r"series 0 cannot be read as a numpy array: RuntimeError: .*detach"):
        cdist_soft_dtw([tensor[0].requires_grad_()])


@pytest.mark.parametrize("gamma", [0, -1.0, np.nan, np.inf, "auto", None])
def test_gamma_must_be_positive(gamma):
    series = make_series(3, 3)
    for call in (lambda: cdist_soft_dtw(series, gamma=gamma), lambda: soft_dtw_barycenter(series, gamma)):
        with pytest.raises(ValueError, match="gamma must be a number greater than 0"):
            call()


def test_dimensions_must_agree():
    with pytest.raises(UsageError, match="2 and of 3 dimensions"):
        cdist_soft_dtw(make_series(3), make_series(3, dim=3))
    with pytest.raises(UsageError, match="2 and of 3 dimensions"):
        soft_dtw_barycenter(make_series(3, 4), init=np.zeros((3, 3)))


def test_lengths_count_to_the_last_step_that_is_there():
    padded = np.full((3, 6, 2), np.nan)
    padded[0, :2] = 0
    padded[1:, :4] = -7
    series = read_series(padded)
    assert series.values.shape == (3, 4, 2)
    np.testing.assert_array_equal(series.lengths, [2, 4, 4])
    assert series.largest == 7
    assert read_series(padded[1:]).lengths is None


def test_an_array_of_floats_is_not_copied():
    for dtype in (np.float32, np.float64):
        values = np.zeros((5, 4, 2), dtype)
        assert read_series(values).values is values
    assert read_series(np.zeros((5, 4), np.int16)).values.dtype == np.float64


def test_rows_of_pandas_may_say_of_which_series_they_are():
    """As sktime has panels: its "pd-multiindex" has a level for the series and one for the step."""
    pandas = pytest.importorskip("pandas")
    steps = np.arange(14.0).reshape(7, 2)
    index = pandas.MultiIndex.from_tuples([("b", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1), ("c", 0), ("c", 1)])
    found = read_series(pandas.DataFrame(steps, index=index))
    assert found.lengths.tolist() == [3, 2, 2]
    for one, expected in zip(found.rows(), np.split(steps, [3, 5]), strict=True):
        np.testing.assert_array_equal(one, expected)
    assert read_series(pandas.Series(steps[:, 0], index=index)).values.shape == (3, 3, 1)
    unnamed = pandas.MultiIndex.from_tuples([(np.nan if one == "a" else one, step) for one, step in index])
    assert len(read_series(pandas.DataFrame(steps, index=unnamed))) == 3
    deeper = pandas.MultiIndex.from_tuples([(0, *each) for each in index])
    with pytest.raises(UsageError, match="an index of 3 levels"):
        read_series(pandas.DataFrame(steps, index=deeper))


def test_what_seems_to_be_iterable_is_told_from_series():
    class Lazy:
        """As a LazyFrame of polars, which has ``__getitem__`` and takes no number there."""

        def __getitem__(self, key):
            raise TypeError("not subscriptable")

    with pytest.raises(UsageError, match=r"series must be an array .*, not Lazy$"):
        read_series(Lazy())


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "Int64", "double[pyarrow]"])
def test_pandas_columns_that_know_na_are_read_as_others(dtype):
    """As `convert_dtypes` and pandas' readers make them: numpy sees objects there, and trailing NA pads as NaN does."""
    pandas = pytest.importorskip("pandas")
    padded = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]])
    series = read_series(pandas.DataFrame(padded).astype(dtype))
    assert series.lengths.tolist() == [3, 2]
    np.testing.assert_array_equal(pad_series(series)[:, :, 0], padded)
    assert read_series([pandas.DataFrame(np.ones((3, 2))).astype(dtype)]).values.shape == (1, 3, 2)
    with pytest.raises(UsageError, match="series 0 must be of real numbers, got object"):
        read_series(pandas.DataFrame({"a": ["x", "y"], "b": [1.0, 2.0]}))


def test_columns_of_arrow_with_nulls_or_decimals_are_read_as_others():
    columns = [pa.array([1.0, 4.0]), pa.array([2.0, None]), pa.array([Decimal("3.5"), None])]
    series = read_series(pa.table(columns, names=["a", "b", "c"]))
    np.testing.assert_array_equal(pad_series(series)[:, :, 0], [[1, 2, 3.5], [4, np.nan, np.nan]])
    assert read_series(np.ones((2, 3, 1), object)).values.dtype == np.float64
    with pytest.raises(UsageError, match="series 0 must be of real numbers"):  # numpy would read them as 1.5 and 2.
        read_series(np.array([["1.5", "2"]], object))


def test_what_would_leave_the_numbers_is_refused():
    (x,) = make_series(5)
    assert np.isfinite(soft_dtw(1e18 * x, -1e18 * x, 1e-3))
    for precision, size, gamma in (("float32", 1e13, 1e-3), ("float64", 1e80, 1.0), ("float64", 1e200, 1.0)):
        with pytest.raises(UsageError, match=f"leave the range of {precision}: scale the data"):
            soft_dtw(size * x, -size * x, gamma, precision=precision)
    for precision, gamma in (("float32", 1e30), ("float64", 1e-320)):
        with pytest.raises(UsageError, match="leave the range"):
            soft_dtw(x, x, gamma, precision=precision)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_values_near_the_end_of_the_range_are_right(precision):
    x, y = make_series(9, 6)
    size = 1e10 if precision == "float32" else 1e70
    found = soft_dtw(size * x, size * y, 1e-6, precision=precision)
    assert found / size**2 == pytest.approx(brute_force(x, y, 1e-9), rel=1e-5 if precision == "float32" else 1e-8)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize(("n", "m"), [(64, 64), (300, 7), (7, 300)])
def test_many_ways_that_cost_nothing_overflow_nothing(n, m, precision, tolerance):
    """Each cell then holds the number of ways to it, which grows the fastest there is."""
    x, y = np.zeros((n, 4)), np.zeros((m, 4))
    ways = [[1] * m]
    for _ in range(n - 1):
        row = [1]
        for above, diagonal in zip(ways[-1][1:], ways[-1][:-1], strict=True):
            row.append(above + diagonal + row[-1])
        ways.append(row)
    expected = -math.log(ways[-1][-1])  # Python's integers have no end.
    assert soft_dtw(x, y, 1.0, precision=precision) == pytest.approx(expected, rel=tolerance)


def test_masked_steps_at_the_end_are_not_there():
    (x,) = make_series(5)
    masked = np.ma.masked_array(np.concatenate([x, x]), mask=np.repeat([[False], [True]], [5, 5], axis=0).repeat(2, 1))
    assert soft_dtw(read_series(masked[None]).values[0], x) == soft_dtw(x, x)
    assert soft_dtw(masked, x) == soft_dtw(x, x)
    assert read_series([x, masked.astype(np.float32)]).lengths is None


def test_values_far_from_zero_lose_nothing():
    x, y = make_series(9, 7)
    assert soft_dtw(x + 1e6, y + 1e6, 0.5) == pytest.approx(soft_dtw(x, y, 0.5), rel=1e-9)


@pytest.mark.parametrize("divergence", [False, True])
@pytest.mark.parametrize("gamma", [0.01, 1.0, 100.0])
def test_the_gradient_is_the_slope(gamma, divergence):
    x, y = make_series(5, 7)
    value, gradient = soft_dtw_gradient(x, y, gamma, divergence)
    assert value == pytest.approx(soft_dtw(x, y, gamma, divergence), rel=1e-12)
    assert gradient.shape == x.shape
    for step in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[step] = 1e-5
        slope = soft_dtw(x + nudge, y, gamma, divergence) - soft_dtw(x - nudge, y, gamma, divergence)
        assert slope / 2e-5 == pytest.approx(gradient[step], rel=1e-5, abs=1e-6 * abs(gradient).max())
    still, flat = soft_dtw_gradient(x, x, gamma, divergence=True)
    assert still == pytest.approx(0, abs=1e-12 * gamma)
    np.testing.assert_allclose(flat, 0, atol=1e-12)


def test_a_barycenter_by_either_solver_and_by_the_divergence():
    series = make_series(8, 6, 9)
    weights = np.array([1.0, 0.5, 2.0])
    first = soft_dtw_barycenter(series, 0.1, weights=weights, max_iter=1000, tol=1e-14)
    second = soft_dtw_barycenter(series, 0.1, weights=weights, solver="lbfgs", max_iter=1000, tol=1e-12)
    sums = [weights @ cdist_soft_dtw(series, [center], 0.1) for center in (first, second)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-6)
    still = soft_dtw_barycenter([series[0]] * 2, 10.0, divergence=True, max_iter=1000, tol=1e-14)
    np.testing.assert_allclose(still, series[0], atol=1e-3)
    with pytest.raises(UsageError, match="lbfgs for the divergence"):
        soft_dtw_barycenter(series, divergence=True, solver="mm")
    with pytest.raises(UsageError, match="weights must be 3 finite numbers"):
        soft_dtw_barycenter(series, weights=[1.0, -1.0, 1.0])
    with pytest.raises(UsageError, match=r"not all 0; got \[\[1\.\] \[1\.\] \[1\.\]\]$"):
        soft_dtw_barycenter(series, weights=np.ones((3, 1)))
    with pytest.raises(UsageError, match=r"weights must be 3 finite numbers.*; ValueError: could not convert"):
        soft_dtw_barycenter(series, weights=["heavy", "light", "light"])


@pytest.mark.parametrize("size", [1e-46, 1e39, 1e300])
def test_weights_count_by_their_ratios_in_float32_too(size):
    series = pad_series(read_series(make_series(5, 5, 5))).astype(np.float32)
    weights = np.array([1.0, 0.5, 2.0])
    expected = soft_dtw_barycenter(series, 0.1, weights=weights)
    np.testing.assert_allclose(soft_dtw_barycenter(series, 0.1, weights=size * weights), expected, atol=1e-5)


@pytest.mark.parametrize(("option", "value"), [("precision", "float16"), ("backend", "abacus")])
def test_options_are_named_when_wrong(option, value):
    with pytest.raises(UsageError, match=f"{option} must be one of .*; got '{value}'"):
        cdist_soft_dtw(make_series(3, 3), **{option: value})


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_it_loads_numpy_alone():
    heavy = "sorted({'numba', 'tslearn', 'sklearn', 'scipy'} & set(sys.modules))"
    assert _python(f"import raypipe.softdtw, sys; print({heavy})") == "[]\n"
    assert _python(f"import scipy, sys; print({heavy})") == "['scipy']\n"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads the assembly of x86")
def test_lanes_on_the_stack_lie_in_one_cache_line():
    from numba import njit, types

    from raypipe.softdtw.lanes import lane_bytes
    from raypipe.softdtw.sweeps import measure, sweep

    floats, whole = types.float32[::1], types.int64
    swept = njit(sweep.py_func)
    swept.compile((floats, whole, types.none, types.none, floats, whole, whole, whole, types.none, types.none))

    @njit
    def measured(x, z, d, n_columns, first, n_rows, distances):
        measure(x, z, None, d, n_columns, first, n_rows, distances, None)

    measured.compile((floats, floats, whole, whole, whole, whole, floats))
    for compiled in (swept, measured):
        (assembly,) = compiled.inspect_asm().values()
        assert re.search(rf"andq\s+\$-{lane_bytes()}, %rsp", assembly)


def test_results_lie_where_the_series_lie(monkeypatch):
    """A GPU's backend leaves them there; whoever gave series of the host gets arrays of the host."""

    class OnDevice(np.ndarray):
        def get(self):
            return np.asarray(self)

    device = SimpleNamespace(
        prepare=numba.prepare,
        cdist=lambda *given: numba.cdist(*given).view(OnDevice),
        self_values=lambda *given: numba.self_values(*given).view(OnDevice),
    )
    series = np.stack(make_series(4, 4, 4))
    expected = {divergence: cdist_soft_dtw(series, divergence=divergence) for divergence in (False, True)}
    value = soft_dtw(series[0], series[1])
    monkeypatch.setattr(softdtw, "load_backend", lambda name, values=None: device)
    for divergence, values in expected.items():
        found = cdist_soft_dtw(series, divergence=divergence)
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, values)
    assert soft_dtw(series[0], series[1]) == value
