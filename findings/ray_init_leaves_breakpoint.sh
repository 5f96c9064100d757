#!/usr/bin/env bash
# Ray 2.60.0: after ray.shutdown(), breakpoint() is Ray's debugger, and what a later process of this one inherits says
# that Ray asks for a token.
#
# Expected: a program that starts a local Ray, uses it and shuts it down is afterwards as it was before: breakpoint()
# opens pdb, and a child process inherits the environment that its parent was started with.
#
# What happens: ray.init("local") sets PYTHONBREAKPOINT and RAY_AUTH_MODE in this process's environment, and
# ray.shutdown() leaves them. breakpoint() goes on to call Ray's remote debugger. logging.getLogger("ray") keeps the level
# that init was given.
#
# Why it matters to raypipe: rp.embed_videos is called in other people's notebooks and services. raypipe puts back what a
# connection of its own has set, but for RAY_AUTH_MODE: Ray's core reads that once a process, and nodes that are started
# later without it refuse this process's calls.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH PYTHONBREAKPOINT RAY_AUTH_MODE
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'ray==2.60.0'

cd "$work"
code=0
export RAY_USAGE_STATS_ENABLED=0 HOME="$work/home" # where a token may lie already
mkdir "$HOME"
"$work/venv/bin/python" - "$work" 2>"$work/stderr" <<'PYTHON' || code=$?
import logging
import os
import sys

import ray


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


before, level = dict(os.environ), logging.getLogger("ray").level
ray.init(
    "local",
    num_cpus=1,
    include_dashboard=False,
    log_to_driver=False,
    logging_level=logging.ERROR,
    _temp_dir=f"{sys.argv[1]}/ray",
)
ray.shutdown()
left = {name: value for name, value in os.environ.items() if before.get(name) != value}
check("variables that differ after ray.shutdown()", sorted(left), ["PYTHONBREAKPOINT", "RAY_AUTH_MODE"])
check("PYTHONBREAKPOINT", left["PYTHONBREAKPOINT"], "ray.util.rpdb._driver_set_trace")
check("RAY_AUTH_MODE", left["RAY_AUTH_MODE"], "token")

called = []
ray.util.rpdb._driver_set_trace = lambda *arguments, **options: called.append("Ray's debugger")
breakpoint()
check("what breakpoint() calls when Ray is gone", called, ["Ray's debugger"])
check("level of the ray log, before and after", (level, logging.getLogger("ray").level), (logging.INFO, logging.ERROR))
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
