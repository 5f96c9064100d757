"""The memory file through which a sandbox and its child hand arrays to one another."""

from __future__ import annotations

import os
import tempfile

import numpy as np


def make_memory_file() -> int:
    """Return a file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("raypipe-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_arrays(file: int, *arrays: np.ndarray) -> None:
    """Write arrays into the memory file, one after the other."""
    offset = 0
    for array in arrays:
        left = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        while left.size:
            n = os.pwrite(file, left.data, offset)
            left, offset = left[n:], offset + n


def read_arrays(file: int, *kinds: tuple[tuple[int, ...], type]) -> list[np.ndarray]:
    """Read the arrays that `write_arrays` has written, given their shapes and types."""
    arrays, offset = [], 0
    for shape, dtype in kinds:
        array: np.ndarray = np.empty(shape, dtype)
        left = array.reshape(-1).view(np.uint8)
        while left.size:
            n = os.preadv(file, [left.data], offset)
            if n == 0:
                raise EOFError("the shared memory is shorter than the arrays that it should hold")
            left, offset = left[n:], offset + n
        arrays.append(array)
    return arrays
