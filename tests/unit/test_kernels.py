"""The CUDA kernels three ways: compiled by NVRTC for its registers, run on the CPU by a model, run on a GPU."""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest
from modelled_gpu import Model

from raypipe.softdtw import reference
from raypipe.softdtw.cupy import SCRATCH, Engine, Gpu, read_source
from raypipe.softdtw.launches import LaunchPlan, assign_tile, find_spans, plan_statistics, statistics_tile
from raypipe.softdtw.series import Series

ROOT = Path(__file__).resolve().parents[2]
FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of the value's scale

# steps of the series, steps of the centers, dimensions
SHAPES = [(1, 1, 1), (2, 1, 3), (1, 2, 2), (6, 6, 2), (31, 33, 1), (32, 64, 2), (33, 31, 3), (64, 32, 17), (70, 70, 2)]


@pytest.fixture(params=["model", "gpu"])
def engine(request):
    return Engine(Gpu()) if request.param == "gpu" else Engine(Model())


def random_walks(rng, n, n_steps, dim, ragged=False, size=1.0):
    values = size * (rng.normal(size=(n, n_steps, dim)).cumsum(axis=1) + 5)
    if not ragged:
        return Series(values)
    lengths = rng.integers(1, n_steps + 1, n).astype(np.int32)
    values[np.arange(n_steps) >= lengths[:, None]] = np.nan
    return Series(values, lengths)


def host(values):
    return values.get() if hasattr(values, "get") else values


def slack(dtype, values, gamma):
    """What rounding leaves of a transition's probability: its exponent is a difference of values over gamma."""
    return TOLERANCE[dtype] + 32 * np.finfo(dtype).eps * np.abs(values).max() / gamma


def assert_assigned(engine, x, centers, gamma, offsets, dtypes=tuple(TOLERANCE)):
    expected = reference.cdist(x, Series(centers), gamma)
    rows, scores = np.arange(len(x)), expected - offsets
    for dtype in dtypes:
        labels, values = map(host, engine.assign(engine.prepare(x, dtype), centers, gamma, offsets))
        assert labels.dtype == np.int32
        close = {"rtol": 0, "atol": TOLERANCE[dtype] * np.abs(expected).max(), "err_msg": dtype}
        np.testing.assert_allclose(values, expected[rows, labels], **close)
        np.testing.assert_allclose(scores[rows, labels], scores.min(axis=1), **close)


def assert_summed(engine, x, centers, labels, gamma, weights=None, dtypes=tuple(TOLERANCE), constraint=None):
    expected = reference.statistics(x, centers, labels, gamma, weights, constraint)
    for dtype in dtypes:
        found = engine.statistics(engine.prepare(x, dtype), centers, labels, gamma, weights, constraint)
        tolerance = slack(dtype, expected.values / np.maximum(expected.weights, 1e-300), gamma)
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-12)
        for name in ("sums", "mass", "values"):
            wanted, sums = getattr(expected, name), getattr(found, name)
            assert sums.dtype == np.float64
            bound = (TOLERANCE[dtype] if name == "values" else tolerance) * np.abs(wanted).max()
            np.testing.assert_allclose(sums, wanted, rtol=0, atol=bound, err_msg=f"{name}, {dtype}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_assigns_as_the_reference(engine, shape):
    n_steps, n_rows, dim = shape
    rng = np.random.default_rng(0)
    x = random_walks(rng, 37, n_steps, dim, ragged=n_steps % 2 == 0)
    assert_assigned(engine, x, random_walks(rng, 4, n_rows, dim).values, 1.0, rng.normal(size=4))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_as_the_reference(engine, shape):
    n_steps, n_rows, dim = shape
    rng = np.random.default_rng(1)
    x = random_walks(rng, 37, n_steps, dim, ragged=n_steps % 2 == 1)
    labels = rng.choice([0, 2, 3], 37).astype(np.int32)  # nothing is near center 1
    weights = rng.random(37) if dim > 1 else None
    assert_summed(engine, x, random_walks(rng, 4, n_rows, dim).values, labels, 1.0, weights)


@pytest.mark.parametrize("gamma", [1e-3, 0.1, 30.0, 1e3])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_holds_at_any_gamma(engine, gamma, size):
    rng = np.random.default_rng(2)
    x, centers = random_walks(rng, 5, 33, 2, size=size), random_walks(rng, 2, 31, 2, size=size).values
    assert_assigned(engine, x, centers, gamma, np.zeros(2))
    assert_summed(engine, x, centers, np.array([0, 1, 1, 0, 1]), gamma)


def test_compares_unequal_lengths(engine):
    rng = np.random.default_rng(3)
    x, y = random_walks(rng, 35, 20, 2, ragged=True), random_walks(rng, 9, 45, 2, ragged=True)
    expected = reference.cdist(x, y, 0.5)
    for dtype, tolerance in TOLERANCE.items():
        found = host(engine.cdist(engine.prepare(x, dtype), engine.prepare(y, dtype), 0.5))
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=dtype)


def test_compares_series_among_themselves(engine, monkeypatch):
    monkeypatch.setattr("raypipe.softdtw.cupy._LOADED", 25 * 9 * 2)  # 25 centers at a time: more than one launch
    x = random_walks(np.random.default_rng(4), 70, 9, 2)
    expected = reference.cdist(x, None, 2.0)
    for dtype, tolerance in TOLERANCE.items():
        found = host(engine.cdist(engine.prepare(x, dtype), None, 2.0))
        np.testing.assert_array_equal(found, found.T)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=dtype)


@pytest.mark.parametrize("dim", [2, 17])
@pytest.mark.parametrize("ragged", [False, True])
def test_compares_series_with_themselves(engine, dim, ragged, monkeypatch):
    monkeypatch.setattr("raypipe.softdtw.cupy._LOADED", 33 * 20 * dim)  # 33 series at a time
    x = random_walks(np.random.default_rng(11), 70, 20, dim, ragged)
    expected = reference.self_values(x, 0.5)
    scale = np.nanmax(np.square(x.values)) * 20  # a value is a difference of terms of this size
    for dtype, tolerance in TOLERANCE.items():
        found = host(engine.self_values(engine.prepare(x, dtype), 0.5))
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=dtype)


def test_ties_go_to_the_first_center(engine):
    x = random_walks(np.random.default_rng(5), 40, 5, 2)
    centers = np.repeat(x.values[:1], 6, axis=0)
    labels, _ = engine.assign(engine.prepare(x, "float32"), centers, 1.0, np.zeros(6))
    assert not host(labels).any()


def test_keeps_digits_far_from_zero(engine):
    rng = np.random.default_rng(6)
    near, centers = random_walks(rng, 33, 12, 2), random_walks(rng, 2, 12, 2).values
    far = Series(near.values + 1e6)
    labels, weights = np.arange(33) % 2, np.ones(33)
    expected = engine.statistics(engine.prepare(near, "float32"), centers, labels, 1.0, weights)
    found = engine.statistics(engine.prepare(far, "float32"), centers + 1e6, labels, 1.0, weights)
    np.testing.assert_allclose(found.mass, expected.mass, rtol=1e-5)
    np.testing.assert_allclose(found.sums - 1e6 * found.mass[:, :, None], expected.sums, atol=1e-3)


def run_twice(engines, shape=(70, 40, 3), n=45, constraint=None):
    rng = np.random.default_rng(7)
    n_steps, n_rows, dim = shape
    x, centers = random_walks(rng, n, n_steps, dim, ragged=True), random_walks(rng, 3, n_rows, dim).values
    labels, weights = rng.integers(0, 3, n), rng.random(n)
    found = []
    for engine in engines:
        prepared = engine.prepare(x, "float32")
        sums = engine.statistics(prepared, centers, labels, 1.0, weights, constraint)
        near = map(host, engine.assign(prepared, centers, 1.0, np.zeros(3), constraint and constraint.turned))
        found.append([sums.sums, sums.mass, sums.values, *near])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_same_bits_on_every_run(engine):
    run_twice([engine, engine])


@pytest.mark.parametrize("shape", [(70, 40, 3), (40, 70, 17), (6, 6, 2)], ids=str)
@pytest.mark.parametrize("blocks", [1, 50])
def test_lanes_do_not_race(blocks, shape):
    """Lanes that run backwards between barriers come to the same bits; 50 blocks let teams share a pair."""
    run_twice([Engine(Model(blocks, backwards)) for backwards in (False, True)], shape)


@pytest.mark.parametrize("dim", [2, 17])
def test_needs_little_scratch(dim):
    rng = np.random.default_rng(8)
    x, centers = random_walks(rng, 70, 40, dim), random_walks(rng, 3, 40, dim).values
    for scratch in (1, 1 << 17):
        engine = Engine(Model(blocks=50), scratch)
        assert_assigned(engine, x, centers, 1.0, np.zeros(3), ["float32"])
        assert_summed(engine, x, centers, rng.integers(0, 3, 70), 1.0, dtypes=["float32"])


@pytest.mark.parametrize("dim", [2, 17])
def test_rounds_of_a_job_add_up(dim):
    rng = np.random.default_rng(10)
    x, centers = random_walks(rng, 170, 6, dim, ragged=True), random_walks(rng, 2, 9, dim).values
    engine = Engine(Model(blocks=1))
    assert_summed(engine, x, centers, rng.integers(0, 2, 170), 1.0, rng.random(170), ["float32"])


# --- plans ---------------------------------------------------------------------------------------------------------


def plan(counts, n_steps, dim, resident=1056, dtype=FLOAT32) -> LaunchPlan:
    tile = statistics_tile(n_steps, n_steps, dim, dtype)
    spans = find_spans(None, n_steps, n_steps, tile)
    return plan_statistics(np.array(counts), n_steps, dim, tile, spans, dtype.itemsize, resident, SCRATCH)


@pytest.mark.parametrize("counts", [[1], [0, 5, 0], [33, 0, 1, 4000], [100_000] * 20, [3] * 1000])
@pytest.mark.parametrize("n_steps", [1, 6, 64, 1100])
def test_every_series_is_dealt_once(counts, n_steps):
    jobs = plan(counts, n_steps, 2).jobs
    begins = np.cumsum(counts) - counts
    dealt = np.zeros(sum(counts), int)
    for center, begin, end in jobs:
        assert begins[center] <= begin < end <= begins[center] + counts[center]
        dealt[begin:end] += 1
    assert (dealt == 1).all()
    assert (np.diff(jobs[:, 0]) >= 0).all()


def test_plans_suit_the_work():
    many = plan([5000] * 20, 64, 2)
    assert many.team == 1
    assert plan([10, 10], 1100, 2).team == 32
    for one in (many, plan([1000] * 5, 1100, 2), plan([10_000], 5000, 512), plan([100] * 3, 128, 512)):
        assert one.blocks <= 1056
        assert 4 * one.blocks * one.kept <= SCRATCH


# --- registers -----------------------------------------------------------------------------------------------------


def variants(steps, dims, banded=False):
    found = {"total<double>"}
    for dtype in (FLOAT32, FLOAT64):
        for dim in dims:
            for n in steps:
                found.add(assign_tile(n, dim, dtype, banded).kernel("assign", dtype))
                found.add(statistics_tile(n, n, dim, dtype, banded).kernel("statistics", dtype))
    return sorted(found)


@cache
def compiler_builds() -> bytes:
    """Return the builds of NVRTC that are installed; it says of itself only the first two numbers of its version."""
    found = ((package.metadata["Name"] or "", package.version) for package in distributions())
    return repr(sorted(each for each in found if "nvrtc" in each[0])).encode()


def compiler_report(kernel: str, arch: int) -> str:
    """Compile for real hardware and return what the compiler says; of an unchanged source it is kept from before."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    options = [f"-arch=sm_{arch}".encode(), b"-std=c++17", b"--ptxas-options=-v"]
    parts = [read_source().encode(), Path(__file__).read_bytes(), compiler_builds(), kernel.encode(), *options]
    kept = Path(tempfile.gettempdir()) / f"raypipe-registers-{hashlib.sha256(b' '.join(parts)).hexdigest()[:16]}"
    if kept.exists():
        return kept.read_text()
    _, program = nvrtc.nvrtcCreateProgram(read_source().encode(), b"kernels.cu", 0, [], [])
    nvrtc.nvrtcAddNameExpression(program, kernel.encode())
    (failed,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(program)
    report = log.decode()
    assert failed == nvrtc.nvrtcResult.NVRTC_SUCCESS, report
    new = kept.with_name(f"{kept.name}-{uuid.uuid4()}")
    new.write_text(report)
    new.rename(kept)
    return report


def registers(kernel: str, arch: int) -> int:
    """Return the registers of a lane on real hardware; fail where any value lives in memory instead."""
    report = compiler_report(kernel, arch)
    in_memory = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads|lmem|cumulative stack size)", report)
    used = re.findall(r"Used (\d+) registers", report)
    assert len(used) == 1, f"not one kernel but {len(used)}: {report}"
    assert len(in_memory) >= 3, report
    assert not any(map(int, in_memory)), f"{kernel} sm_{arch}: {report}"
    return int(used[0])


def assert_in_registers(arch, kernels):
    pytest.importorskip("cuda.bindings.nvrtc")
    with ThreadPoolExecutor(2) as pool:
        used = dict(zip(kernels, pool.map(lambda kernel: registers(kernel, arch), kernels), strict=True))
    print(f"\nsm_{arch}:", used)
    assert max(used.values()) <= 255


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_everything_is_in_registers(arch):
    """Of the largest tiles; the slow test below has every size."""
    assert_in_registers(arch, variants([64], [2, 17]))


def test_a_spill_is_found():
    """A tile wider than the widest cannot be in registers: the check above is able to fail."""
    with pytest.raises(AssertionError, match=r"[1-9]\d* bytes spill stores"):
        registers("statistics<float, 2, 16, 8>", 90)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 6, 7, 8, 17])
@pytest.mark.parametrize("banded", [False, True])
def test_every_size_is_in_registers(arch, dim, banded):
    assert_in_registers(arch, variants([1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 25, 33, 50, 64, 1100], [dim], banded))


# --- a real GPU ----------------------------------------------------------------------------------------------------

SANITIZED = """
import numpy as np
from raypipe.softdtw.constraints import Constraint
from raypipe.softdtw.cupy import load_engine
from raypipe.softdtw.series import Series
engine = load_engine()
rng = np.random.default_rng(0)
for n_steps, dim in ((33, 2), (70, 17)):
    x = engine.prepare(Series(rng.normal(size=(45, n_steps, dim))), "float32")
    centers = rng.normal(size=(3, 20, dim))
    for constraint in (None, Constraint("sakoe_chiba", 4)):
        labels, _ = engine.assign(x, centers, 1.0, np.zeros(3), constraint)
        engine.statistics(x, centers, labels, 1.0, None, constraint)
        engine.cdist(x, None, 1.0, constraint)
        engine.self_values(x, 1.0, constraint)
"""


def test_sanitizer_finds_nothing(gpu):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        pytest.skip("no compute-sanitizer here")
    command = [sanitizer, "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("shape", [(1100, 1100, 2), (5000, 40, 1), (275, 275, 64), (16, 16, 512)], ids=str)
def test_long_and_wide_series(gpu, shape):
    n_steps, n_rows, dim = shape
    rng = np.random.default_rng(9)
    x, centers = random_walks(rng, 3, n_steps, dim), random_walks(rng, 2, n_rows, dim).values
    engine = Engine(Gpu())
    assert_assigned(engine, x, centers, 10.0, np.zeros(2), ["float32"])
    assert_summed(engine, x, centers, np.array([0, 1, 1]), 10.0, dtypes=["float32"])
