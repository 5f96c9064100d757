"""What the parameters of `TimeSeriesKMeans` may be, alone and together."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from raypipe.errors import UsageError
from raypipe.softdtw.backends import BACKENDS, PRECISIONS
from raypipe.softdtw.constraints import PARAMETERS, Constraint, read_constraint

if TYPE_CHECKING:  # pydantic is not needed to use the estimator alone
    from raypipe.config import ClusterConfig

METRICS = ("euclidean", "dtw", "softdtw")
SOLVERS = ("mm", "lbfgs")


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise `UsageError` if a parameter, by its name as in `TimeSeriesKMeans`, is out of range, or two do not fit."""
    allowed = {
        "metric": METRICS,
        "solver": SOLVERS,
        "precision": ("auto", *PRECISIONS),
        "backend": (*BACKENDS, "tslearn"),
    }
    for name, values in allowed.items():
        if parameters[name] not in values:
            raise UsageError(f"{name} must be one of {', '.join(values)}; got {parameters[name]!r}")
    for name, least in {"n_clusters": 1, "max_iter": 1, "n_init": 1, "max_iter_barycenter": 0}.items():
        if not (isinstance(parameters[name], Integral) and parameters[name] >= least):
            raise UsageError(f"{name} must be at least {least} and whole, got {parameters[name]!r}")
    if not isinstance(parameters["tol"], Real) or isnan(parameters["tol"]):
        raise UsageError(f"tol must be a number, got {parameters['tol']!r}")
    _check_metric_params(parameters["metric_params"], parameters["metric"])
    _check_combination(parameters)


def _check_metric_params(metric_params: Any, metric: str) -> None:
    if metric_params is None:
        return
    if not isinstance(metric_params, Mapping):
        raise UsageError(f"metric_params must be a dict, got {metric_params!r}")
    known = ("gamma", "n_jobs", *PARAMETERS)
    for name in metric_params:
        if name not in known:
            raise UsageError(f"metric_params has no {name!r}: there are {', '.join(known)}")
    if metric == "dtw" and "gamma" in metric_params:
        raise UsageError("metric_params has a gamma, which metric 'dtw' does not know: take 'softdtw', or leave it out")


def _check_combination(parameters: Mapping[str, Any]) -> None:
    init, solver = parameters["init"], parameters["solver"]
    if isinstance(init, str) or not hasattr(init, "__len__"):
        if init not in ("k-means++", "random"):
            raise UsageError(f"init must be k-means++, random or an array of centers; got {init!r}")
    elif len(init) != parameters["n_clusters"]:
        raise UsageError(f"init holds {len(init)} centers, n_clusters is {parameters['n_clusters']}")
    if parameters["divergence"] and (solver == "lbfgs" or is_tslearns(parameters)):
        raise UsageError("divergence goes with metric 'softdtw', solver 'mm' and raypipe's own backends")
    if parameters["metric"] == "softdtw" and parameters["backend"] == "tslearn" and solver == "mm":
        raise UsageError("backend 'tslearn' solves by L-BFGS only: add solver='lbfgs'")
    find_constraint(parameters)  # What is wrong with it is said before the work begins.


def is_tslearns(parameters: Mapping[str, Any]) -> bool:
    """Whether tslearn does the work: all that we have no code of our own for.

    Raises
    ------
    UsageError
        If the backend that is asked for cannot do it.
    """
    metric, backend = parameters["metric"], parameters["backend"]
    if metric == "softdtw" and parameters["dtw_inertia"] and backend in ("cupy", "numba"):
        raise UsageError(f"backend {backend!r} does not know dtw_inertia: take backend 'tslearn', or leave it out")
    return metric != "softdtw" or backend == "tslearn" or bool(parameters["dtw_inertia"])


def constraint_of(config: ClusterConfig) -> dict[str, Any]:
    """Return what a config sets to keep alignments near the diagonal, by its names; nothing if they are free."""
    return {name: value for name in PARAMETERS if (value := getattr(config, name)) is not None}


def find_constraint(parameters: Mapping[str, Any]) -> Constraint | None:
    """Return what an alignment under soft-DTW must keep to; None for nothing, and for other metrics.

    Raises
    ------
    UsageError
        If its parameters do not fit.
    """
    if parameters["metric"] != "softdtw":
        return None
    return read_constraint(*((parameters["metric_params"] or {}).get(name) for name in PARAMETERS))
