"""The 2-D map of a run's pictures: each video's path on it, and where on its path a frame of the video lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypipe.errors import UsageError
from raypipe.runs.contents import TRAJECTORIES_FOLDER, VIDEOS_FILE
from raypipe.runs.directory import Run
from raypipe.schema import numbers_of

_COLUMNS = ["video_id", "n_clips", "picture"]


@dataclass(frozen=True)
class PictureMap:
    """Paths on the map, one after another.

    Attributes
    ----------
    video_ids
        n videos.
    steps
        (total, 2) float32, the steps of all paths.
    first
        (n + 1,) int64, where each path begins in ``steps``, and their end.
    n_clips
        (n,) int64, how many clips each path was made from.
    """

    video_ids: list[str]
    steps: np.ndarray
    first: np.ndarray
    n_clips: np.ndarray

    def __len__(self) -> int:
        """Return the number of paths."""
        return len(self.video_ids)

    def path(self, video: int) -> np.ndarray:
        """Return a video's path, (T, 2)."""
        return self.steps[self.first[video] : self.first[video + 1]]

    def places(self, video: np.ndarray, clip_index: np.ndarray) -> np.ndarray:
        """Return where clips lie on the paths of their videos: (k, 2) float64.

        Steps are spread over a video's clips evenly, from the first to the last, so a clip lies at the same fraction of
        the path. That is exact but for what clips of unequal lengths or clips that failed would shift.
        """
        start, last = self.first[video], self.first[video + 1] - 1
        fraction = np.minimum(clip_index / np.maximum(self.n_clips[video] - 1, 1), 1.0)
        at = start + fraction * (last - start)
        before = np.floor(at).astype(np.int64)
        weight = (at - before)[:, None]
        low, high = self.steps[before].astype(np.float64), self.steps[np.minimum(before + 1, last)]
        return np.where(weight > 0, low + weight * (high - low), low)


def read_picture_map(run: Run) -> PictureMap:
    """Read the map of a clustered run; of 100,000 videos with 16 steps it takes 13 MB, and their ids as much.

    Raises
    ------
    UsageError
        If the run has none.
    """
    names = run.files(TRAJECTORIES_FOLDER, ".parquet")
    if not names or "picture" not in run.column_names(names[0]):
        raise UsageError(f"{run} has no map, as it is not clustered: run raypipe cluster {run}")
    ids: list[str] = []
    steps, lengths, n_clips = [], [], []
    for table in run.iter_tables(TRAJECTORIES_FOLDER, _COLUMNS):
        lists = table["picture"].combine_chunks()
        ids += table["video_id"].to_pylist()
        steps.append(numbers_of(lists.flatten()).astype(np.float32).reshape(-1, 2))
        lengths.append(numbers_of(lists.value_lengths()) // 2)
        n_clips.append(numbers_of(table["n_clips"]))
    first = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    return PictureMap(ids, np.concatenate(steps), first, np.concatenate(n_clips) // _count_cameras(run))


def _count_cameras(run: Run) -> int:
    """Return of how many cameras a path has the clips: 1, unless those of an episode are joined."""
    if not run.info().get("config", {}).get("trajectory", {}).get("join"):
        return 1
    return len(run.read_table(VIDEOS_FILE, ["group"])["group"].unique())
