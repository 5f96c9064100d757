"""The labelled sample: six behaviours that differ only in the order of their frames.

A robot arm runs a loop between a feeder, a scanner and a bin: it picks a block, scans it, places it, and is back where
it began. Each station is lit while the hand is down at it. A behaviour is defined by the point of the loop at which a
video begins (one of three) and by its direction (forwards: pick, scan, place; backwards: take, scan, return). A frame
depends only on the position on the loop and on the video's look (light, colours, camera's shift, noise), and the look
and the pace are chosen at random, whatever the behaviour. So all six behaviours are made of the same frames: neither a
single frame nor the mean over a video reveals the behaviour; only the order of the frames does. Each video spends its
time on the loop differently (its speed, the speed of each of its three tasks, and pauses, one of them long), so that
two videos of one behaviour often show different things at the same moment, and comparing them takes warping.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from raypipe.decoders.sandbox_child import die_with
from raypipe.demo.scene import HEIGHT, LOOP, WIDTH, draw_look, render_frames
from raypipe.errors import RaypipeError

FPS = 10
VARIANTS = 8
"""Videos of each behaviour."""

BEHAVIOURS: dict[str, tuple[int, int]] = {
    "pick_scan_place": (0, 1),
    "scan_place_pick": (1, 1),
    "place_pick_scan": (2, 1),
    "take_scan_return": (0, -1),
    "return_take_scan": (1, -1),
    "scan_return_take": (2, -1),
}
"""For each behaviour's name, the task with which a video begins and the direction in which it goes round the loop."""

_LEGS_PER_TASK = 5
_ACT = 2
"""The leg of each task in which the hand acts: it grips, holds still at the scanner, or lets go."""
_LEG_S = np.array([0.7, 0.45, 0.45, 0.45, 0.65])
"""Usual duration of each leg of a task, in seconds."""

Job = tuple[Path, str, tuple[int, ...]]


def render_demo(folder: Path, *, seed: int = 0, n_variants: int = VARIANTS) -> list[Path]:
    """Write the labelled sample: ``folder/<behaviour>/<behaviour>_<nn>.mp4``, H.264, about 8 to 16 s each.

    Parameters
    ----------
    folder
        The folder for the videos, with a subfolder for each behaviour. It is created if it is missing, and videos of
        the same names are overwritten.
    seed
        Seed of every video's look and pace. The same seed gives the same videos.
    n_variants
        Number of videos of each of the `BEHAVIOURS`.

    Returns
    -------
    list of Path
        The written videos, ordered by behaviour and number.

    Raises
    ------
    RaypipeError
        If one of the processes that render them ends.
    """
    with rendering(folder, seed=seed, n_variants=n_variants) as videos:
        return list(videos)


@contextmanager
def rendering(folder: Path, *, seed: int = 0, n_variants: int = VARIANTS) -> Iterator[Iterator[Path]]:
    """Do what `render_demo` does, while the block goes on with other work: yield the videos, each when it is done."""
    jobs = list_videos(folder, seed, n_variants)
    n_processes = min(os.cpu_count() or 1, len(jobs))
    pool = ProcessPoolExecutor(n_processes, get_context("spawn"), _stand_back, (os.getpid(),))
    try:
        yield _until_done(pool, pool.map(render_video, jobs))
    except BrokenProcessPool:
        raise RaypipeError("one of the processes that render the sample has ended before its work was done") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _until_done(pool: Executor, written: Iterator[Path]) -> Iterator[Path]:
    """Yield what is written, and end the pool's processes and threads before other work begins."""
    yield from written
    pool.shutdown()


def _stand_back(parent: int) -> None:
    """Leave Ctrl-C to the process that waits for this one, and the processor to those that start beside it."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(15)


def list_videos(folder: Path, seed: int, n_variants: int) -> list[Job]:
    """Return the sample's videos: the path of each, its behaviour's name, and the seed of its look and pace."""
    return [
        (folder / name / f"{name}_{variant:02d}.mp4", name, (seed, index, variant))
        for index, name in enumerate(BEHAVIOURS)
        for variant in range(n_variants)
    ]


def render_video(job: Job) -> Path:
    """Write one of the videos that `list_videos` returns."""
    path, behaviour, seed = job
    write_pictures(path, film(behaviour, seed))
    return path


def film(behaviour: str, seed: tuple[int, ...], every: int = 1) -> Iterator[np.ndarray]:
    """Yield one video's pictures, (HEIGHT, WIDTH, 3) uint8 RGB, by its behaviour's name and its seed; every n-th."""
    rng = np.random.default_rng(seed)
    look = draw_look(rng)
    positions = follow_loop(behaviour, *draw_pace(rng))[::every]
    for scene in render_frames(positions, look):
        noisy = scene + look.noise * rng.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
        yield np.ascontiguousarray((255 * noisy.clip(0, 1)).astype(np.uint8))


def write_pictures(path: Path, pictures: Iterable[np.ndarray], fps: int = FPS) -> None:
    """Write pictures, (HEIGHT, WIDTH, 3) uint8 RGB, as a video; make its folder."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        # One thread and a fixed quantiser give the same file each time. Under x264's rate control its macroblock tree
        # differs from run to run on processors with AVX-512.
        stream = container.add_stream("libx264", rate=fps, options={"qp": "25", "preset": "veryfast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for pixels in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def draw_pace(rng: np.random.Generator) -> tuple[np.ndarray, tuple[float, float]]:
    """Choose a video's pace at random: (15,) seconds of each leg of the loop, and of the waits before and after it."""
    task_s = rng.uniform(0.85, 1.2) * rng.uniform(0.75, 1.35, 3)
    leg_s = np.outer(task_s, _LEG_S)
    leg_s[:, _ACT] += rng.uniform(0, 0.6, 3)
    leg_s[rng.integers(3), _ACT] += rng.uniform(2, 4)
    return leg_s.ravel(), (rng.uniform(0, 0.6), rng.uniform(0, 0.6))


def follow_loop(behaviour: str, leg_s: np.ndarray, waits_s: tuple[float, float]) -> np.ndarray:
    """Go once round the loop in the way of a behaviour.

    Returns
    -------
    (n_frames,) float64
        The position on the loop at each frame, in legs and modulo the loop's length. From the behaviour's beginning it
        rises, or falls, by the length of the whole loop.
    """
    task, direction = BEHAVIOURS[behaviour]
    start = _LEGS_PER_TASK * task
    in_order = np.roll(leg_s, -start)[::direction]
    ends_s = waits_s[0] + np.concatenate([[0], np.cumsum(in_order)])
    times_s = np.arange(0, ends_s[-1] + waits_s[1], 1 / FPS)
    return start + direction * np.interp(times_s, ends_s, np.arange(len(LOOP) + 1))
