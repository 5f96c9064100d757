"""The frames of LeRobot episodes: the rows of ``data/``, of which no more than the columns asked for are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SourceError
from raypipe.ranges import read_parquet
from raypipe.sources.files import map_files
from raypipe.sources.lerobot import EPISODE, LeRobotDataset, whole_numbers
from raypipe.storage import shown_place

_FEW = 1_000  # So many rows at a time are looked at where one of each episode is wanted.
_FILES = 64  # The rows of so many files are in memory at once.


def read_frames(
    dataset: LeRobotDataset, episodes: pa.Table, columns: Sequence[str], only_first: bool = False
) -> Iterator[tuple[np.ndarray, pa.Table | SourceError]]:
    """Read columns of the frames of some episodes, a file of ``data/`` at a time.

    Parameters
    ----------
    dataset
        The dataset.
    episodes
        Rows of `raypipe.sources.lerobot.read_episodes`.
    columns
        Which columns of the frames.
    only_first
        Read the first frame of each episode alone: of what is the same in all of them.

    Yields
    ------
    The rows of ``episodes`` that a file holds, and their frames in the file's order: a table of ``episode_index`` and
    the columns; or why the file cannot be read. Each row comes once, those first of which no file is known.
    """
    uris, codes = dataset.data_files(episodes)
    index = whole_numbers(episodes, EPISODE)

    def read(file: int) -> tuple[np.ndarray, pa.Table | SourceError]:
        rows = rows_of[file]
        try:
            return rows, _read_rows(uris[file], index[rows], columns, only_first)
        except SourceError as error:
            return rows, error

    order = np.argsort(codes, kind="stable")
    rows_of = np.split(order, np.searchsorted(codes[order], np.arange(len(uris))))[1:]
    if len(unplaced := np.flatnonzero(codes < 0)):
        yield (
            unplaced,
            SourceError(f"{dataset.name}: its row of meta/episodes does not say which file of data/ holds it"),
        )
    for start in range(0, len(uris), _FILES):
        yield from map_files(read, range(start, min(start + _FILES, len(uris))))


def _read_rows(uri: str, episodes: np.ndarray, columns: Sequence[str], only_first: bool = False) -> pa.Table:
    """Read the frames of some episodes of one file: a table of ``episode_index`` and the columns.

    Only row groups that hold one of the episodes are read. A file without ``episode_index`` holds one episode.

    Raises
    ------
    SourceError
        If the file cannot be read, or lacks a column.
    """
    columns = [name for name in dict.fromkeys(columns) if name != EPISODE]  # Who asks for a column twice gets it once.

    def read(parquet: Any) -> pa.Table:
        there = parquet.schema_arrow.names
        if lacking := [column for column in columns if column not in there]:
            raise SourceError(f"{shown_place(uri)} has no column {lacking[0]}")
        groups = find_row_groups(parquet, int(episodes.min()), int(episodes.max()))
        chosen = [*([EPISODE] if EPISODE in there else []), *columns]
        if only_first:  # What an episode's frames repeat may be too much to be in memory so often.
            batches = parquet.iter_batches(_FEW, groups, chosen)
            firsts = _first_rows(number(pa.Table.from_batches([batch])) for batch in batches)
            table = pa.concat_tables([number(parquet.read_row_groups([], chosen)), *firsts])
        else:
            table = number(parquet.read_row_groups(groups, chosen))
        return table.filter(pc.is_in(table[EPISODE], value_set=pa.array(episodes)))

    def number(frames: pa.Table) -> pa.Table:
        """Return the columns behind whole numbers of their episodes."""
        is_told = EPISODE in frames.column_names
        where = f"{shown_place(uri)}: "
        numbers = whole_numbers(frames, EPISODE, where) if is_told else np.full(len(frames), episodes[0])
        return frames.select(columns).add_column(0, EPISODE, pa.array(numbers))

    return read_parquet(uri, read)


def _first_rows(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield of each table of frames the first rows of those episodes that are in none before it."""
    seen: set[int] = set()
    for table in tables:
        first = {number: row for row, number in reversed(list(enumerate(table[EPISODE].to_pylist())))}
        yield table.take(pa.array(sorted(row for number, row in first.items() if number not in seen), pa.int64()))
        seen |= first.keys()


def find_row_groups(parquet: Any, first: int, last: int) -> list[int]:
    """Return the row groups of an open Parquet file that may hold episodes from ``first`` to ``last``.

    Writers since 2026 make a row group of each episode; all groups are returned where their statistics are missing.
    """
    names = [parquet.schema.column(i).path for i in range(len(parquet.schema.names))]
    if EPISODE not in names:
        return list(range(parquet.num_row_groups))
    place, found = names.index(EPISODE), []
    for number in range(parquet.num_row_groups):
        told = parquet.metadata.row_group(number).column(place).statistics
        is_told = told is not None and told.has_min_max and isinstance(told.min, int | float)
        if not is_told or (told.min <= last and told.max >= first):
            found.append(number)
    return found
