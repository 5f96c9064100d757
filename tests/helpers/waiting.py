"""Waiting for what another process or thread is about to do."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """Return as soon as a condition holds; fail if it does not in time."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
