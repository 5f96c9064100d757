"""The run directory: everything that reads or writes it."""

from raypipe.runs.directory import Run

__all__ = ["Run"]
