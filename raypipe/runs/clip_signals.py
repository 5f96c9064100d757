"""The signals of a run's videos: beside each clip's embedding, what the robot did meanwhile.

``signals/*.parquet`` has a row a video: its id, and for each of its clips the mean of the z-scored signals of the
frames in it, one clip behind the other; how many numbers that are stands in the schema's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SourceError, UsageError
from raypipe.progress import counted
from raypipe.runs.clips import read_origins, split_by_video
from raypipe.runs.contents import SIGNALS_FOLDER
from raypipe.runs.directory import Run
from raypipe.runs.plan import read_ledger
from raypipe.runs.results import ROWS_PER_FILE
from raypipe.sources.lerobot import EPISODE, LeRobotDataset, read_episodes, whole_numbers
from raypipe.sources.signals import VIDEO, Scale, find_scale, frame_rate, iter_signals, open_features
from raypipe.sources.videos import Videos


def find_signals(source: str, features: str, scale: Scale | None = None) -> tuple[LeRobotDataset, tuple[str, ...]]:
    """Return the dataset of signals that are joined to its videos, and their names.

    Parameters
    ----------
    source
        The folder or URL of a LeRobot dataset.
    features
        Names of features, with commas between them; "video" among them.
    scale
        How they must be z-scored, where that is not the dataset's to say.

    Raises
    ------
    UsageError
        If the source is no LeRobot dataset, a feature is not there or holds no numbers, or the scale is of others.
    """
    dataset, names = open_features(source, features)
    if scale is not None and scale.features != names:
        raise UsageError(f"the features must be {VIDEO},{','.join(scale.features)}, as in the run that predicts")
    return dataset, names


def write_signals(
    run: Run, source: str, found: Videos, features: str, scale: Scale | None, say: Callable[[str], None]
) -> None:
    """Write the signals of a run's clips, and in ``run.json`` how they are z-scored.

    An episode whose signals cannot be read has those of the average, and that is said.

    Parameters
    ----------
    run
        A run whose segments are all embedded.
    source, features, scale
        As for `find_signals`.
    found
        The dataset's videos.
    say
        Called with what is to be said of it.

    Raises
    ------
    UsageError
        As `find_signals`.
    """
    dataset, names = find_signals(source, features, scale)
    episodes = read_episodes(dataset)
    scale = scale or find_scale(dataset, names, episodes)
    times, notes = _clip_times(run), list[str]()
    run.remove(SIGNALS_FOLDER)
    rows: list[tuple[str, np.ndarray]] = []
    for pair in _iter_clip_signals(dataset, episodes, found, scale, times, notes):
        rows.append(pair)
        if len(rows) == ROWS_PER_FILE:
            _write(run, rows, len(scale.mean))
            rows = []
    _write(run, rows, len(scale.mean))
    run.record(signals=scale.to_json())
    say(f"joined {', '.join(names)} to the clips, z-scored by {scale.origin}")
    for note in notes:
        say(note)


def _iter_clip_signals(
    dataset: LeRobotDataset,
    episodes: pa.Table,
    found: Videos,
    scale: Scale,
    times: Mapping[str, tuple[np.ndarray, np.ndarray]],
    notes: list[str],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each video that has clips, and the signals of these, (n_clips, d) float32."""
    waiting: dict[int, list[str]] = {}
    owners = whole_numbers(found.extra, EPISODE).tolist()
    for video_id, number in zip(found.table["video_id"].to_pylist(), owners, strict=True):
        if video_id in times:
            waiting.setdefault(number, []).append(video_id)
    wanted = episodes.filter(pc.is_in(episodes[EPISODE], value_set=pa.array(list(waiting), pa.int64())))
    numbers = whole_numbers(wanted, EPISODE)
    fps = frame_rate(dataset)
    reason: SourceError | None = None
    for row, path in iter_signals(dataset, wanted, scale, notes):
        if isinstance(path, SourceError):
            reason = path
            continue
        for video_id in waiting.pop(int(numbers[row]), []):
            yield video_id, average_clips(path, fps, *times[video_id])
    lost = [video_id for videos in waiting.values() for video_id in videos]
    for video_id in lost:
        yield video_id, np.zeros((len(times[video_id][0]), len(scale.mean)), np.float32)
    if lost:
        notes.append(f"the signals of {counted(len(lost), 'video')} cannot be read, and count as the average: {reason}")


def average_clips(path: np.ndarray, fps: float, start_s: np.ndarray, end_s: np.ndarray) -> np.ndarray:
    """Average an episode's signals, (n_frames, d), over its clips, seconds from its beginning: (n_clips, d) float32.

    A clip that no frame begins in has the frame on display at its start.
    """
    hair = 0.25 / fps  # Times are rounded.
    frames = np.arange(len(path)) / fps
    first, after = np.searchsorted(frames, start_s - hair), np.searchsorted(frames, end_s - hair)
    first = np.minimum(np.where(first < after, first, np.maximum(first - 1, 0)), len(path) - 1)
    after = np.maximum(after, first + 1)
    sums = np.concatenate([np.zeros((1, path.shape[1])), np.cumsum(path, axis=0, dtype=np.float64)])
    return ((sums[after] - sums[first]) / (after - first)[:, None]).astype(np.float32)


def read_signals_of(run: Run, video_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the signals of some videos' clips, (n_clips, d) float32 each, by id; none of a run without them."""
    found: dict[str, np.ndarray] = {}
    if not run.exists(SIGNALS_FOLDER):
        return found
    wanted = pa.array(video_ids, pa.string())
    for table in run.iter_tables(SIGNALS_FOLDER):
        dim = int(table.schema.metadata[b"dim"])
        table = table.filter(pc.is_in(table["video_id"], value_set=wanted))
        for video_id, values in zip(table["video_id"].to_pylist(), table["signal"], strict=True):
            found[video_id] = values.values.to_numpy().reshape(-1, dim)
    return found


def saved_scale(run: Run | None) -> Scale | None:
    """Return how a run's signals were z-scored; None if it has none."""
    content = run.info().get("signals") if run is not None else None
    return Scale.from_json(content) if content else None


def _write(run: Run, rows: list[tuple[str, np.ndarray]], dim: int) -> None:
    if rows:
        columns = {
            "video_id": pa.array([video_id for video_id, _ in rows]),
            "signal": pa.array([values.ravel() for _, values in rows], pa.list_(pa.float32())),
        }
        run.write_table(run.next_name(SIGNALS_FOLDER), pa.table(columns).replace_schema_metadata({"dim": str(dim)}))


def _clip_times(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return when each video's clips begin and end, in seconds from its own beginning, in their order."""
    key = ["video_id", "segment", "clip_index"]
    parts = list(read_ledger(run).iter_clips([*key, "start_s", "end_s"]))
    if not parts:
        return {}
    clips = pa.concat_tables(parts)
    clips = clips.filter(clips["clip_index"].is_valid()).sort_by([(name, "ascending") for name in key])
    origins = read_origins(run)
    return {
        video_id: (own["start_s"].to_numpy() - origins[video_id], own["end_s"].to_numpy() - origins[video_id])
        for video_id, own in split_by_video(clips)
    }
