"""Peak memory of one pass over a million series, beyond the memory of the series themselves.

    python -m bench.softdtw_memory assign

Each pass runs in a process of its own, which first runs it on a few series so that everything is compiled. Just before
the pass, the peak that Linux keeps of the process is reset to the present (other systems cannot do this).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

N_SERIES, N_STEPS, DIM, N_CLUSTERS = 1_000_000, 16, 2, 20
MIB = 2**20
LIMITS = {
    "assign": 16 * N_SERIES + 32 * MIB,
    "statistics": 16 * N_SERIES + 32 * MIB,
    "seeding": 64 * N_SERIES,
}


def measure_memory() -> list[dict[str, Any]]:
    """Run each pass in its own process; return the memory that it took, and its limit."""
    if not Path("/proc/self/clear_refs").exists():
        return [{"skipped": "needs /proc/self/clear_refs, which only Linux has"}]
    found = []
    for name, limit in LIMITS.items():
        command = [sys.executable, "-m", "bench.softdtw_memory", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        grown = json.loads(done.stdout)
        found.append({"pass": name, "mib": grown / MIB, "bytes_a_series": grown / N_SERIES, "limit_mib": limit / MIB})
        print(f"memory {name}: {grown / N_SERIES:.1f} bytes a series, {grown / MIB:.1f} MiB of {limit / MIB:.1f}")
    return found


def grow(name: str) -> int:
    """Return the bytes by which a pass raises the peak of this process."""
    from raypipe.clustering.seeding import seed_centers
    from raypipe.clustering.shard import Measure
    from raypipe.clustering.shards import LocalShards
    from raypipe.softdtw.series import read_series

    passes: dict[str, Callable[[Any, np.ndarray], Any]] = {
        "assign": lambda shards, centers: shards.assign(centers),
        "statistics": lambda shards, centers: shards.statistics(centers),
        "seeding": lambda shards, centers: seed_centers(shards, "k-means++", N_CLUSTERS, np.random.RandomState(0)),
    }
    rng = np.random.default_rng(0)
    shards = {}
    for n in (10_000, N_SERIES):  # The first series are few, to compile the kernels.
        values = np.empty((n, N_STEPS, DIM), np.float32)
        rng.standard_normal(out=values, dtype=np.float32)
        shards[n] = LocalShards(read_series(values))
        shards[n].open(Measure(1.0, "float32", "numba"))
    centers = shards[N_SERIES].paths(np.arange(N_CLUSTERS))
    shards[N_SERIES].shard.labels = rng.integers(0, N_CLUSTERS, N_SERIES, dtype=np.int32)
    passes[name](shards[10_000], centers)
    Path("/proc/self/clear_refs").write_text("5")  # This resets VmHWM to VmRSS.
    before = _status("VmRSS")
    passes[name](shards[N_SERIES], centers)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=LIMITS)
    print(grow(parser.parse_args().name))
