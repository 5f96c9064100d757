#!/usr/bin/env python3
"""Run raypipe on a Ray cluster: the one file that ``ray submit`` copies to its head.

From a laptop, with every argument arriving as it was typed::

    python cluster_configs/submit.py aws.yaml run 's3://bucket/**/*.mp4' -o s3://bucket/runs/kitchen --set sample.fps=2

This calls ``ray submit aws.yaml submit.py`` with every argument quoted once more, because ``ray submit`` joins its
arguments unquoted, and the head's shell would expand the glob and split at blanks. Options before the verb belong to
``ray submit`` (``--start``, ``--stop``, ``--tmux``, ``--cluster-name=NAME``).

On the head, and as the entrypoint of a Ray job, this file runs ``raypipe`` on the Ray cluster there::

    python submit.py [--wait GPU=8] run SOURCE -o RUN

``--wait GPU=8`` asks the autoscaler for 8 GPUs, and waits until they have joined. This matters if ``min_workers`` is 0
or workers are still starting, because raypipe sizes its pools to the Ray cluster that it finds.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time

WAIT = "--wait"
PATIENCE_S = 1800  # A GPU node takes five to ten minutes to start, most of them for the image.


def main(arguments: list[str]) -> None:
    """Submit if the first argument is the YAML file of a Ray cluster; else run raypipe here."""
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        sys.exit(subprocess.call(submission(arguments[0], arguments[1:])))
    resources, raypipe = parse_waits(arguments)
    os.environ.setdefault("RAY_ADDRESS", "auto")  # A Ray job has an address already.
    if resources:
        wait_for(resources)
    os.execv(sys.executable, [sys.executable, "-m", "raypipe", *raypipe])


def submission(cluster: str, arguments: list[str]) -> list[str]:
    """Return the ``ray submit`` command whose arguments survive the head's shell."""
    own = 0
    while own < len(arguments) and arguments[own].startswith("-") and arguments[own] != WAIT:
        own += 1
    quoted = [shlex.quote(argument) for argument in arguments[own:]]
    return ["ray", "submit", *arguments[:own], cluster, os.path.abspath(__file__), "--", *quoted]  # noqa: PTH100


def parse_waits(arguments: list[str]) -> tuple[dict[str, int], list[str]]:
    """Split off the leading ``--wait NAME=NUMBER`` pairs; the other arguments belong to raypipe."""
    resources: dict[str, int] = {}
    while arguments[:1] == [WAIT]:
        name, equals, number = (arguments[1] if len(arguments) > 1 else "").partition("=")
        if not (name and equals and number.isdigit()):
            sys.exit(f"submit.py: {WAIT} takes a resource and a whole number, such as {WAIT} GPU=8")
        resources[name] = int(number)
        arguments = arguments[2:]
    return resources, arguments


def wait_for(resources: dict[str, int], patience_s: float = PATIENCE_S) -> None:
    """Ask the autoscaler for resources and return when the Ray cluster has them."""
    import ray
    from ray.autoscaler.sdk import request_resources

    for number in (signal.SIGTERM, signal.SIGHUP):  # The request must be withdrawn on these signals too.
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    except ConnectionError as error:
        sys.exit(f"submit.py: {error}; if it asks for a token, RAY_AUTH_MODE=token and the same token are needed here")
    deadline = time.monotonic() + patience_s
    try:
        request_resources(bundles=[{name: 1} for name, number in resources.items() for _ in range(number)])
        while missing := lacking(resources, ray.cluster_resources()):
            if time.monotonic() > deadline:
                sys.exit(f"submit.py: waited {patience_s:.0f} s and there is still only {missing}: see `ray status`")
            print(f"waiting for nodes: {missing}", flush=True)
            time.sleep(5)
    finally:
        # A request, and the nodes for it, last until it is withdrawn. From now on raypipe's actors keep the nodes that
        # they use.
        request_resources(bundles=[])
        ray.shutdown()


def lacking(wanted: dict[str, int], there: dict[str, float]) -> str:
    """Return which resources are still missing, or an empty string if none is."""
    short = [name for name, number in wanted.items() if there.get(name, 0) < number]
    return ", ".join(f"{there.get(name, 0):g} of {wanted[name]} {name}" for name in short)


if __name__ == "__main__":
    main(sys.argv[1:])
