"""The cost of a second node: the same work on two nodes of one CPU and on one node of two CPUs, in turn.

    python -m bench.nodes [--rounds 3]

Both are Ray clusters on this machine (`ray.cluster_utils.Cluster`). So this measures Ray's own work between nodes
(copying objects, leasing tasks), but no network. The figure is the marginal rate, as in bench.throughput.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.machine import keep
from bench.throughput import CONFIG, make_videos, time_chain

FEW, MANY = 50, 250
LAYOUTS = {"one node of two CPUs": [2], "two nodes of one CPU": [1, 1]}


def time_layout(cpus: list[int]) -> float:
    """Return videos a second, at the margin, on a Ray cluster with a node for each number of CPUs."""
    import ray
    from ray.cluster_utils import Cluster

    from raypipe.engine import session

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "include_dashboard": False})
    for more in cpus[1:]:
        cluster.add_node(num_cpus=more)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, session.ray_session(CONFIG.ray):
            videos = make_videos(Path(folder), MANY)
            seconds = [time_chain(videos[:n], CONFIG, f"{folder}/run-{n}") for n in (FEW, MANY)]
        return (MANY - FEW) / (seconds[1] - seconds[0])
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(time_layout(json.loads(options.child)))
        return
    rounds = []
    for _ in range(options.rounds):
        rates = {}
        for name, cpus in LAYOUTS.items():
            command = [sys.executable, "-W", "ignore", "-m", "bench.nodes", "--child", json.dumps(cpus)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rates[name] = float(done.stdout.splitlines()[-1])
        rounds.append(rates)
        print(rates, flush=True)
    one, two = LAYOUTS
    ratio = statistics.median(each[two] / each[one] for each in rounds)
    print(f"median ratio {ratio:.2f}; kept in {keep('nodes', {'videos_a_second': rounds, 'median_ratio': ratio})}")


if __name__ == "__main__":
    main()
