"""What holds for unit tests alone."""

import sys

import pytest


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """Let ``import ray`` fail, even where another test has loaded it: what needs Ray is no unit test."""
    monkeypatch.setitem(sys.modules, "ray", None)
