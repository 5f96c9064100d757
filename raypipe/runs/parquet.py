"""How the Parquet files of a run are written, and read whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(place: Path | pa.NativeFile, tables: Iterable[pa.Table]) -> None:
    """Write one or more tables of the same schema to a file, a row group each."""
    rest = iter(tables)
    table = next(rest)
    # Numbers seldom repeat; texts do, and categories keep their order only as a dictionary.
    pq.write_table(table.schema.empty_table(), empty := pa.BufferOutputStream())
    leaves = pq.ParquetFile(pa.BufferReader(empty.getvalue())).schema
    texts = [leaf.path for leaf in map(leaves.column, range(len(leaves))) if leaf.logical_type.type == "STRING"]
    texts += [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    with pq.ParquetWriter(place, table.schema, compression="zstd", use_dictionary=texts) as writer:
        while table is not None:
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
            table = next(rest, None)


def read_whole(file: Any, columns: list[str] | None) -> pa.Table:
    """Read some columns of an open file, or all."""
    try:
        return pq.ParquetFile(file, pre_buffer=True).read(columns)
    except pa.ArrowNotImplementedError:  # Of nested columns in chunks it cannot; read_table can, by pandas.
        return pq.read_table(file, columns=columns)
