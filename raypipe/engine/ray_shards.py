"""Series that Ray actors hold for the passes of k-means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from raypipe.clustering.shards import Shards
from raypipe.engine.nodes import machines
from raypipe.engine.pools import Resources, plan_resources
from raypipe.engine.shard_actors import REBUILDS, ActorLost, Actors, Loader
from raypipe.errors import RaypipeError
from raypipe.runs.contents import TRAJECTORIES_FOLDER
from raypipe.runs.directory import Run
from raypipe.runs.results import from_table

T = TypeVar("T")


@dataclass(frozen=True)
class ParquetLoader:
    """Reads the reduced paths in some files of a run's ``trajectories/``.

    Attributes
    ----------
    run
        The run.
    files
        Names of files, relative to the run.
    """

    run: Run
    files: tuple[str, ...]

    def __call__(self) -> tuple[Any, None]:
        """Read them."""
        columns = ["video_id", "n_clips", "reduced"]
        found = [from_table(self.run.read_table(name, columns), "reduced").values for name in self.files]
        if found and all(isinstance(values, np.ndarray) for values in found):
            return np.concatenate(found), None
        return [path for values in found for path in values], None

    def __str__(self) -> str:
        """Name the first and the last file."""
        return " to ".join(dict.fromkeys([*self.files[:1], *self.files[-1:]])) or "no files"


def list_trajectories(run: Run) -> list[str]:
    """Return the names of a run's files of trajectories, in order.

    Raises
    ------
    RaypipeError
        If the run has none.
    """
    files = run.files(TRAJECTORIES_FOLDER, ".parquet")
    if not files:
        raise RaypipeError(f"{run} has no trajectories/: run raypipe cluster on it first")
    return files


def split_trajectories(run: Run, n_shards: int) -> list[ParquetLoader]:
    """Deal a run's files of trajectories out to shards in order; raise what `list_trajectories` raises."""
    files = list_trajectories(run)
    ends = [len(files) * i // n_shards for i in range(n_shards + 1)]
    return [ParquetLoader(run, tuple(files[a:b])) for a, b in pairwise(ends)]


class RayShards(Shards):
    """Series that lie with actors, one a shard.

    It is a context manager, at whose end the actors end. An actor that is lost is made anew and loads its series again;
    whatever was being computed starts again from its beginning, with the same result.

    Parameters
    ----------
    loaders
        One a shard. The series of the first come first; a shard may have none.
    resources
        What each actor takes; by default as much as the Ray cluster's machines hold (`plan_resources`).
    patience
        ``placing_s`` and ``answer_s`` of `raypipe.engine.shard_actors.Actors`.

    Raises
    ------
    UsageError
        If no shard has series, their dimensions differ, or all weights are 0.
    RaypipeError
        Now or in any pass: if a loader fails, or if a shard is lost again and again, finds no place or does not answer.
    """

    def __init__(self, loaders: Sequence[Loader], resources: Resources | None = None, **patience: float):
        if resources is None:
            resources = plan_resources(machines(), len(loaders))
        self.actors = Actors(loaders, resources, **patience)
        try:
            super().__init__(self.attempt(lambda: self.actors.ask_all(range(len(loaders)), "measure")))
        except BaseException:
            self.actors.close()
            raise

    def __enter__(self) -> RayShards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors."""
        self.actors.close()

    def ask(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Send each actor its own arguments."""
        return self.actors.ask({shard: (f"shard.{name}", *each) for shard, each in arguments.items()})

    def ask_all(self, shards: Sequence[int], name: str, *arguments: Any) -> list[Any]:
        """Send the arguments to each machine once."""
        return self.actors.ask_all(shards, f"shard.{name}", *arguments)

    def attempt(self, work: Callable[[], T]) -> T:
        """Call work that makes passes, and call it again from its beginning whenever a shard is lost."""
        losses: Counter[str] = Counter()
        farthest = 0  # So many calls were answered at most; an attempt that comes further may lose shards again.
        while True:
            begun = self.actors.n_answered
            try:
                return work()
            except ActorLost as lost:
                if self.actors.n_answered - begun > farthest:
                    farthest = self.actors.n_answered - begun
                    losses.clear()
                losses[lost.name] += 1
                if losses[lost.name] > REBUILDS:
                    raise RaypipeError(
                        f"{lost.name} was lost {losses[lost.name]} times, and made anew in vain; the last time: {lost}"
                    ) from lost
