"""What holds for unit tests alone."""

import sys

import pytest


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """Let ``import ray`` fail, even where another test has loaded it: what needs Ray is no unit test."""
    for name in {"ray", *sys.modules}:
        if name.partition(".")[0] == "ray" or name.startswith("raypipe.engine"):
            monkeypatch.setitem(sys.modules, name, None)
