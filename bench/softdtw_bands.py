"""Soft-DTW within a Sakoe-Chiba band: the time by the band's width, on one thread, beside tslearn with the same band.

    python -m bench.softdtw_bands [--rounds 5] [--no-compile]

Times are of the processor, by rounds in turn; ratios are medians over rounds. No band is timed before its values agree
with tslearn's to 1e-9 in float64 and 1e-4 in float32. Compilation is timed in fresh processes with an empty cache, and
the number of functions that numba compiled is counted in them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from tslearn.metrics import cdist_soft_dtw as peer_cdist

from bench.machine import keep
from bench.softdtw import Size, make_data
from raypipe.softdtw import cdist_soft_dtw
from raypipe.softdtw import numba as backend
from raypipe.softdtw.constraints import Constraint
from raypipe.softdtw.series import read_series

GAMMA = 1.0
SIZES = Size(512, 128, 2, 4), Size(256, 256, 2, 4), Size(256, 256, 8, 4)
RADII = 0.05, 0.1, 0.25, 1.0  # of the number of steps
FEW = 16  # tslearn is timed on so many series: its time is linear in their number.
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}
FIRST = """
import time, sys, numpy as np
from numba.core import event
import raypipe.softdtw as s, raypipe.softdtw.numba
x = np.zeros((3, 12, 2), np.float32)
began = time.process_time()
with event.install_recorder("numba:compile") as recorder:
    s.cdist_soft_dtw(x, **eval(sys.argv[1]))
    s.soft_dtw_barycenter(x, max_iter=1, **eval(sys.argv[1]))
compiled = sum(one.is_start for _, one in recorder.buffer)
print(time.process_time() - began, compiled)
"""


def seconds(call: Callable[[], Any]) -> float:
    """Return the processor's seconds of a call, the mean of at least 0.1 s of them."""
    began, calls = time.process_time(), 0
    while calls == 0 or time.process_time() - began < 0.1:
        call()
        calls += 1
    return (time.process_time() - began) / calls


def measure_size(size: Size, rounds: int) -> list[dict[str, Any]]:
    """Time cdist and statistics by radius and precision, in turn with the same without a band."""
    x, centers = make_data(size)
    labels = np.arange(size.n, dtype=np.int32) % size.k
    rows = []
    for part in RADII:
        radius = round(part * size.n_steps)
        constraint = Constraint("sakoe_chiba", radius)
        cells = constraint.mask(size.n_steps, size.n_steps).mean()
        expected = peer_cdist(x[:FEW], centers, GAMMA, sakoe_chiba_radius=radius)
        for precision, tolerance in TOLERANCES.items():
            how: dict[str, Any] = {"precision": precision, "backend": "numba"}
            found = cdist_soft_dtw(x[:FEW], centers, GAMMA, sakoe_chiba_radius=radius, **how)
            if not abs(found - expected).max() <= tolerance * abs(expected).max():
                raise SystemExit(f"{precision} differs from tslearn at {size}, radius {radius}: nothing is timed")
            prepared = backend.prepare(read_series(x), precision)
            sums = partial(backend.statistics, prepared, centers, labels, GAMMA, None)
            whole = partial(cdist_soft_dtw, x, centers, GAMMA, **how)
            calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
                "cdist": (partial(whole, sakoe_chiba_radius=radius), whole),
                "statistics": (partial(sums, constraint), sums),
            }
            row: dict[str, Any] = {"size": str(size), "radius": radius, "precision": precision, "cells": float(cells)}
            for name, (banded, plain) in calls.items():
                times = np.array([(seconds(banded), seconds(plain)) for _ in range(rounds)])
                row[name] = {
                    "seconds": float(np.median(times[:, 0])),
                    "of_no_band": float(np.median(times[:, 0] / times[:, 1])),
                }
            few = partial(peer_cdist, x[:FEW], centers, GAMMA, sakoe_chiba_radius=radius)
            peer = statistics.median(seconds(few) for _ in range(min(rounds, 3))) * size.n / FEW
            row["cdist"]["times_tslearn"] = peer / row["cdist"]["seconds"]
            rows.append(row)
            print(
                f"{size} radius {radius} ({cells:.0%} of cells) {precision}: cdist {row['cdist']['of_no_band']:.0%}, "
                f"statistics {row['statistics']['of_no_band']:.0%} of no band; "
                f"cdist {row['cdist']['times_tslearn']:.0f}x tslearn",
                flush=True,
            )
    return rows


def measure_compilation() -> dict[str, Any]:
    """Return seconds and the number of compilations of a first distance and barycenter, without a band and with one."""
    found: dict[str, Any] = {}
    for name, options in {"no band": {}, "band": {"sakoe_chiba_radius": 3}}.items():
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"NUMBA_CACHE_DIR": folder}
            command = [sys.executable, "-c", FIRST, repr(options)]
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        taken, compiled = output.split()
        found[name] = {"cpu_seconds": float(taken), "compilations": int(compiled)}
        print(f"first call, {name}: {float(taken):.1f} s of the processor, {compiled} compilations", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiler's time out, and write no file")
    arguments = parser.parse_args()
    numba.set_num_threads(1)
    figures: dict[str, Any] = {"bands": [row for size in SIZES for row in measure_size(size, arguments.rounds)]}
    if not arguments.no_compile:
        figures["first_call"] = measure_compilation()
        print(f"kept in {keep('softdtw_bands', figures)}")


if __name__ == "__main__":
    main()
