#!/usr/bin/env bash
# Ray 2.60.0: a soft affinity for a node is not heeded for an actor that takes no CPU.
#
# Setting: an actor that only counts or coordinates takes num_cpus=0 and should lie on the driver's node, next to its
# callers: NodeAffinitySchedulingStrategy(node_id, soft=True). Soft, so that it can be made anew elsewhere.
#
# Expected: the node is there and has room for an actor that takes nothing, so the actor lies there. The documentation of
# soft speaks of another node only where this one has died or cannot hold it.
#
# What happens: of twelve such actors on a Ray cluster of three nodes, several lie on the other two, whichever are drawn.
# With num_cpus=0.01 all are on the node; so are tasks with num_cpus=0, and actors with soft=False or with the node's
# label ray.io/node-id as label_selector.
#
# Why it matters to raypipe: the actor that counts how often a video has killed its worker watches the driver's process,
# which it can do on its machine alone, and its counts went with machines that had nothing to do with it. raypipe places
# it by the node's label.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'ray[default]==2.60.0'

cd "$work"
code=0
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_USAGE_STATS_ENABLED=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

N = 12


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


class Counter:
    def where(self):
        return ray.get_runtime_context().get_node_id()


def where():
    return ray.get_runtime_context().get_node_id()


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
here = ray.get_runtime_context().get_node_id()
soft, hard = (NodeAffinitySchedulingStrategy(here, soft=each) for each in (True, False))


def all_here(**options):
    """Return whether twelve actors with these options lie on the driver's node, all of them."""
    actors = [ray.remote(Counter).options(**options).remote() for _ in range(N)]
    return set(ray.get([actor.where.remote() for actor in actors])) == {here}


try:
    check("soft, num_cpus=0: all on the node", all_here(num_cpus=0, scheduling_strategy=soft), False)
    check("soft, num_cpus=0.01", all_here(num_cpus=0.01, scheduling_strategy=soft), True)
    check("not soft, num_cpus=0", all_here(num_cpus=0, scheduling_strategy=hard), True)
    check("by the node's label, num_cpus=0", all_here(num_cpus=0, label_selector={"ray.io/node-id": here}), True)
    tasks = [ray.remote(where).options(num_cpus=0, scheduling_strategy=soft).remote() for _ in range(N)]
    check("tasks, soft, num_cpus=0", set(ray.get(tasks)) == {here}, True)
    print("as recorded")
finally:
    ray.shutdown()
    cluster.shutdown()
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
