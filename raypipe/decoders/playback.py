"""A video's frames one after another, as a player shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import repeat
from typing import Any

import numpy as np
from av.error import FFmpegError

from raypipe.decoders.container import decode_shown, open_video
from raypipe.decoders.images import iter_pictures
from raypipe.decoders.pyav import open_walk
from raypipe.decoders.timeline import count_frames
from raypipe.storage import parse_image_column


def iter_displayed(uri: str, times_s: np.ndarray, n_threads: int, counted: bool = False) -> Iterator[tuple[float, Any]]:
    """Yield for each of some times the frame on display then, and how wide its pixels are for their height.

    Frames are PyAV's, as they were decoded. The iteration ends early where the video ends, or stops decoding.

    Parameters
    ----------
    uri
        The video, or pictures in a table.
    times_s
        (n,) float64, ascending, in seconds of the file.
    n_threads
        FFmpeg's threads.
    counted
        Decode from the start and count the frames, which is slow and always right.

    Raises
    ------
    raypipe.decoders.pyav.Lost
        If the container's times lead to the wrong frames, perhaps after some have been yielded: begin again, counted.
    DecodeError
        If the video cannot be opened, or no frame decodes.
    """
    if parse_image_column(uri) is not None:
        yield from ((1.0, frame) for frame in iter_pictures(uri, times_s))
    elif counted:
        yield from _count_displayed(uri, times_s, n_threads)
    else:
        with open_walk(uri, times_s, n_threads) as walk:
            yield from ((walk.video.pixel_aspect, frame) for _, frame in walk)


def _count_displayed(uri: str, times_s: np.ndarray, n_threads: int) -> Iterator[tuple[float, Any]]:
    numbers = count_frames(uri).find(times_s)[0].tolist()
    n_times = Counter(numbers)
    with open_video(uri, n_threads) as video, suppress(FFmpegError):  # What decoded so far is shown.
        for number, frame in enumerate(decode_shown(video) if numbers else ()):
            yield from repeat((video.pixel_aspect, frame), n_times[number])
            if number == numbers[-1]:
                return
