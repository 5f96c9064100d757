"""Which code computes soft-DTW.

A backend is a module with ``prepare(series, dtype, origin=None)``, which lays series out as it likes, seen from a point
(d,) near their middle, and, on what that returned, ``cdist``, ``self_values``, ``assign`` and ``statistics`` (see
`raypipe.softdtw.reference`, which says them in numpy). Seen from the same point a series' numbers are the same bits,
whatever series are beside it.
What they return lies where the backend works, on the GPU for "cupy", but for statistics.
"""

from functools import cache
from typing import Any

from raypipe import packages
from raypipe.errors import UsageError

BACKENDS = ("auto", "cupy", "numba")
PRECISIONS = ("float32", "float64")


def load_backend(name: str, values: Any = None) -> Any:
    """Return a backend's module; "auto" is "cupy" where it and a GPU are, or where ``values`` lie on one, else "numba".

    Raises
    ------
    UsageError
        If there is no backend of that name.
    MissingPackageError
        If the backend's package is not installed.
    """
    if name not in BACKENDS:
        raise UsageError(f"backend must be one of {', '.join(BACKENDS)}; got {name!r}")
    if name == "numba" and hasattr(values, "__cuda_array_interface__"):
        raise UsageError("backend numba does not take series on a GPU: copy them to the host, or take backend cupy")
    if name == "auto":
        name = "cupy" if hasattr(values, "__cuda_array_interface__") else _fastest()
    if name == "cupy":
        from raypipe.softdtw import cupy as backend
    else:
        from raypipe.softdtw import numba as backend  # type: ignore[no-redef]
    return backend


@cache
def _fastest() -> str:
    return "cupy" if packages.is_installed("cupy") and packages.sees_gpu() else "numba"


def backend_name(backend: Any) -> str:
    """Return the name by which `load_backend` knows the module."""
    return backend.__name__.rpartition(".")[2]
