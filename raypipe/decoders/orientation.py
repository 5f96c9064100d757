"""Which way up a decoded frame is shown: the eight symmetries that a display matrix can ask for."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
from av.filter import Graph


@dataclass(frozen=True)
class Orientation:
    """How a picture is set upright: it is first turned upside down in a mirror, or not, and then turned.

    Attributes
    ----------
    degrees
        The turn counterclockwise, in [-180, 180], as the display matrix has it.
    mirrored
        Whether the top and the bottom are exchanged before the turn.
    """

    degrees: float = 0.0
    mirrored: bool = False

    @property
    def turns(self) -> int:
        """The nearest number of quarter turns counterclockwise, 0 to 3."""
        return round(self.degrees / 90) % 4

    @property
    def swaps_sides(self) -> bool:
        """Whether the upright picture is as wide as the decoded one is high."""
        return self.turns % 2 == 1

    def set_upright(self, picture: np.ndarray) -> np.ndarray:
        """Return a (height, width, …) picture upright, as a view."""
        return np.rot90(picture[::-1] if self.mirrored else picture, self.turns)


UPRIGHT = Orientation()


def read_orientation(frame: Any) -> Orientation:
    """Return a frame's orientation, by the rules of FFmpeg's autorotation.

    A matrix without an inverse would show nothing and counts as upright; of another angle only the nearest quarter turn
    counts. The matrix comes from the container or, if that has none, from the codec's own data.
    """
    matrix = _read_display_matrix(frame)
    if matrix is None:
        return UPRIGHT
    # A point (x, y), with y downward, is shown at (ax + cy, bx + dy).
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    area = a * d - b * c
    if area == 0:
        return UPRIGHT
    clockwise = math.atan2(b / math.hypot(b, d), a / math.hypot(a, c))
    return Orientation(-math.degrees(clockwise), area < 0)


def _read_display_matrix(frame: Any) -> bytes | None:
    try:
        side_data = frame.side_data
    except ValueError as error:
        # PyAV 18.1 gives none of a frame's side data if it has no name for one, such as EXIF and the view of a
        # stereoscopic video. Its message begins with that one's number.
        return _read_display_matrix(_drop_side_data(frame, int(str(error).split()[0])))
    # If the container and the codec both have a matrix, the container's is the first, and FFmpeg takes that one. Asked
    # by name, PyAV would return the last.
    return next((bytes(each) for each in _in_order(side_data) if each.type.name == "DISPLAYMATRIX"), None)


def _in_order(side_data: Any) -> Iterator[Any]:
    """Yield all side data: what iterating yields, and what ``len`` counts, changed with PyAV 19."""
    with contextlib.suppress(IndexError):
        for index in count():
            yield side_data[index]


def _drop_side_data(frame: Any, kind: int) -> Any:
    """Return the frame without its side data of one kind, by the number that libavutil gives it."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    graph.link_nodes(source, graph.add("sidedata", f"mode=delete:type={kind}"), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()
