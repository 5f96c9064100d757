"""Which machines of a Ray cluster can do what the driver wants done.

Another machine may lack raypipe, or the driver's credentials, its network or its disks. All videos would then fail one
by one there, and be skipped by later runs. So each machine is asked first, those that cannot do the work are left out,
and an actor that cannot read does not start.
"""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.engine.devices import as_task
from raypipe.engine.nodes import is_settled, settle
from raypipe.errors import SourceError, last_line
from raypipe.ranges import read_range
from raypipe.runs.directory import Run
from raypipe.storage import (
    failure,
    file_of,
    is_http,
    is_transient,
    local_path,
    open_filesystem,
    patiently,
)

_TRIED = 8  # So many files of a source are tried, from its first to its last, because it may lie on several disks.
_ANSWER_S = 60.0  # A machine that has not answered by then may be no more than busy, and is not left out.
_NAMED = 3  # So many machines are named in a line.


def find_unfit(uris: pa.ChunkedArray | None = None) -> tuple[tuple[str, ...], list[str]]:
    """Ask the machines of the Ray cluster whether raypipe is there, and whether they can read some files.

    Parameters
    ----------
    uris
        The files. Those are tried that `find_readable` finds in the driver.

    Returns
    -------
    The ids of the nodes that must be left out, and for people a line for each reason, and for those that are silent.

    Raises
    ------
    SourceError
        If no node with CPUs is left.
    """
    here = ray.nodes() if ray.is_initialized() else []
    nodes = {node["NodeID"]: node for node in here if node["Alive"] and node["Resources"].get("CPU")}
    if not nodes or set(nodes) == {ray.get_runtime_context().get_node_id()}:
        return (), []  # What the driver's own machine cannot do, the work itself will say.
    files, asked = [] if uris is None else find_readable(uris), {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[as_task(_try_reading, num_cpus=0, max_retries=0, scheduling_strategy=there).remote(files)] = node
    unfit: defaultdict[str, list[str]] = defaultdict(list)
    answers, missing = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
    for answer in answers:
        try:
            ray.get(answer)
        except RayTaskError as error:
            reason = str(error.cause) if isinstance(error.cause, SourceError) else last_line(str(error))
            unfit[reason].append(asked[answer])
        except RayError:  # The machine was lost meanwhile.
            pass
    left_out = tuple(node for some in unfit.values() for node in some)
    lines = [
        f"{_name([nodes[node] for node in some])} left out of the work: {reason}; each machine needs the same raypipe, "
        "credentials, network and disks as this one"
        for reason, some in unfit.items()
    ]
    if len(left_out) == len(nodes):
        raise SourceError(f"no machine of the Ray cluster is left: {'; '.join(lines)}")
    if missing:
        silent = _name([nodes[asked[answer]] for answer in missing])
        lines.append(f"{silent} not left out of the work, without an answer in {_ANSWER_S:.0f} s whether it can do it")
    return left_out, lines


def leave_out(run: Run, uris: pa.ChunkedArray | None, say: Callable[[str], None]) -> None:
    """Leave out of the session the nodes that `find_unfit` finds, once; tell of them, and in the run's log."""
    if is_settled():
        return
    left_out, lines = find_unfit(uris)
    settle(left_out)
    for line in lines:
        say(line)
        run.log("left_out", reason=line)


def _name(nodes: Sequence[dict[str, Any]]) -> str:
    names = sorted(f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes)
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])


def find_readable(uris: pa.ChunkedArray) -> list[str]:
    """Return some files of some videos, as far as this process can read them."""
    rows = np.unique(np.linspace(0, len(uris) - 1, _TRIED).astype(int))
    return list(dict.fromkeys(_readable(uris[row].as_py() for row in rows.tolist())))


def _readable(uris: Iterator[str]) -> Iterator[str]:
    for uri in uris:
        file = file_of(uri)
        try:
            _read_some(file)
        except Exception:  # Each filesystem raises errors of its own. Whoever reads the video will say what is wrong.
            continue
        yield file


def check_readable(files: Sequence[str]) -> None:
    """Raise `SourceError` if this process cannot read what `find_readable` found in the driver.

    In an actor that Ray has started again it raises nothing: a file may have been removed meanwhile, and Ray replaces
    no actor whose second start fails, but waits for it.
    """
    if _is_restarted():
        return
    try:
        _try_reading(files)
    except SourceError as error:
        raise SourceError(
            f"a worker on {platform.node()} lacks what the driver can read; it needs the same credentials, network and "
            f"disks, at {ray.util.get_node_ip_address()}: {error}"
        ) from error


def _try_reading(files: Sequence[str]) -> None:
    for file in files:
        try:
            patiently(file, partial(_read_some, file))
        except Exception as error:  # Each filesystem raises errors of its own.
            if not is_transient(error):
                raise failure("read", file, error) from error


def _is_restarted() -> bool:
    context = ray.get_runtime_context() if ray.is_initialized() else None
    return context is not None and bool(context.get_actor_id()) and context.was_current_actor_reconstructed


def _read_some(file: str) -> None:
    path = local_path(file)
    if is_http(file):  # Of a server that sends files only whole, a byte is all of them.
        filesystem, inner = open_filesystem(file)
        filesystem.info(inner)
    elif path is None:
        read_range(file, 0, 1)
    elif Path(path).is_file() and not os.access(path, os.R_OK):
        raise PermissionError(f"no permission to read {path}")
    elif not Path(path).is_file():  # Opening a FIFO would block.
        raise FileNotFoundError(path)
