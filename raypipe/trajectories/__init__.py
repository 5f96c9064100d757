"""Clips to trajectories: the path that a video's embedding takes through time."""

from raypipe.trajectories.interpolation import build_trajectories, interpolate

__all__ = ["build_trajectories", "interpolate"]
