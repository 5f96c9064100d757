"""The kernels as they are compiled for other processors than this one."""

import os
import subprocess
import sys

import numpy as np
import pytest
from test_backends import PRECISIONS, check, paths

from raypipe.softdtw import reference


def check_lanes(n_bytes: int) -> None:
    """Compare all that numba's kernels compute, where lanes have so many bytes, with the reference."""
    from raypipe.softdtw import lanes, numba

    assert lanes.lane_bytes() == n_bytes
    numba._KEPT_BYTES = 1  # so that probabilities are kept strip by strip
    for dim, precisions in ((5, ["float32", "float64"]), (2, ["float32"])):
        x = paths(19, 21, dim, ragged=True)
        check(numba, x, paths(3, 9, dim, seed=1).values, 0.5, precisions)
        expected = reference.self_values(x, 0.5)
        for precision in precisions:
            own = numba.self_values(numba.prepare(x, precision), 0.5)
            np.testing.assert_allclose(own, expected, rtol=0, atol=PRECISIONS[precision] * 21 * x.largest**2)


def test_kernels_for_processors_without_avx512():
    """The name alone would leave them the features of this processor."""
    from raypipe.softdtw.lanes import lane_bytes

    if lane_bytes() == 32:
        pytest.skip("all tests have run with lanes of 32 bytes: this processor has no wider registers")
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
    environment = os.environ | narrow | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "from test_processors import check_lanes; check_lanes(32)"]
    subprocess.run(command, env=environment, check=True)
