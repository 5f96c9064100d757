"""Templates of paths, such as ``videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4``, filled in."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import Any

import numpy as np

from raypipe.errors import SourceError, one_line

_MARKS = (("camera", "key"), ("chunk", "chunk"), ("file", "file"), ("episode", "episode"))
"""What a field stands for, by a word in its name; the first that fits counts."""


def read_template(template: str, where: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Take a path template apart: (text, role, format) each, and all roles.

    The names of its fields differ in the wild, ``chunk_index`` for ``episode_chunk`` say, but each says what it is.
    """
    pattern: list[tuple[str, str, str]] = []
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise SourceError(f"{where} {template!r} is no template: {error}") from error
    for text, field, spec, conversion in parsed:
        role = ""
        if field is not None:
            role = next((role for role, mark in _MARKS if mark in field), "")
            if not role or conversion:
                raise SourceError(f"{where} {template!r} has a field {{{field}}}, whose meaning is not known")
        pattern.append((text, role, spec or ""))
    return pattern, list(dict.fromkeys(role for _, role, _ in pattern if role))


def fill_template(pattern: list[tuple[str, str, str]], values: dict[str, Any], where: str) -> str:
    """Return the path with the values of the roles in their places."""
    try:
        return "".join(text + (format(values[role], spec) if role else "") for text, role, spec in pattern)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise SourceError(f"{where} cannot be filled in: {one_line(error)}") from error


def group_rows(columns: Sequence[np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each combination of values, and (n,) which combination a row has."""
    codes = np.zeros(n, np.int64)
    for column in columns:
        values, inverse = np.unique(column, return_inverse=True)
        codes = np.unique(codes * len(values) + inverse, return_inverse=True)[1]
    return np.unique(codes, return_index=True)[1], codes
