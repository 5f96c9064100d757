"""The choice of the code that computes soft-DTW.

A backend is a module or an object that has a ``NAME`` and the functions ``prepare``, ``cdist``, ``self_values``,
``assign`` and ``statistics``; `raypipe.softdtw.reference` shows them in plain numpy. ``prepare(series, dtype,
origin=None)`` brings series into the backend's own form, relative to a point (d,) near their middle, and the other
functions take what it returns. Relative to the same point, the results of a series are the same bits, whatever other
series are prepared with it. Results lie where the backend works (for "cupy" on the GPU), except for statistics, which
always lie on the host. The last argument of each is a `Constraint` or None.
"""

from functools import cache
from typing import Any

from raypipe import packages
from raypipe.errors import RaypipeError, UsageError

BACKENDS = ("auto", "cupy", "numba")
PRECISIONS = ("float32", "float64")


def load_backend(name: str, values: Any = None) -> Any:
    """Return a backend.

    "auto" is "cupy" if it is installed and there is a GPU, or if ``values`` lie on a GPU, else "numba".

    Raises
    ------
    UsageError
        If there is no backend of that name, or it is "numba" and ``values`` lie on a GPU.
    RaypipeError
        If the backend's package is not installed, or numba may not compile.
    """
    if name not in BACKENDS:
        raise UsageError(f"backend must be one of {', '.join(BACKENDS)}; got {name!r}")
    if name == "numba" and hasattr(values, "__cuda_array_interface__"):
        raise UsageError("backend numba does not take series on a GPU: copy them to the host, or use backend cupy")
    if name == "auto":
        name = "cupy" if hasattr(values, "__cuda_array_interface__") else fastest()
    if name == "cupy":
        from raypipe.softdtw import cupy

        return cupy.load_engine()
    from numba import config

    if config.DISABLE_JIT:
        raise RaypipeError("NUMBA_DISABLE_JIT is set, but soft-DTW is compiled code: unset it")
    from raypipe.softdtw import numba

    return numba


@cache
def fastest() -> str:
    """Return the backend that "auto" is here for series on the host."""
    return "cupy" if packages.is_installed("cupy") and packages.sees_gpu() else "numba"
