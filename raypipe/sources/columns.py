"""A manifest's further columns, without loss: types for values that have none, and types that hold two others'."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from raypipe.errors import SourceError, message_of
from raypipe.schema import numbers_of, pack_table, unpack_table
from raypipe.storage import shown

_NO_EQUAL = (ValueError, OverflowError, KeyError)
"""What Arrow raises where Python has no equal of a value, such as a date beyond the year 9999."""

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}
"""What JSON's values are called, by their types."""

_Values = Sequence[tuple[int, Any]]  # Values of one kind, each behind the number of its row.

_EXACT = 2**53  # Every whole number up to this has a float64 of its own.


class UnlikeError(ValueError):
    """Values or columns that no common type can hold without loss; the message says which, without their column."""


class Extra(Mapping[str, Any]):
    """A row of a manifest's further columns, whose values become Python objects only where they are asked for.

    A value for which Python has no equal, such as a date beyond the year 9999, comes as Arrow's scalar.
    """

    __slots__ = ("_row", "_table")

    def __init__(self, table: pa.Table, row: int) -> None:
        self._table, self._row = table, row

    def __getitem__(self, name: str) -> Any:
        """Return the value of a column."""
        scalar = self._table[name][self._row]
        try:
            return scalar.as_py()
        except _NO_EQUAL:
            return scalar

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns."""
        return iter(self._table.column_names)

    def __len__(self) -> int:
        """Return the number of columns."""
        return self._table.num_columns

    def __repr__(self) -> str:
        return repr(dict(self))

    @classmethod
    def to_table(cls, rows: Sequence[Mapping[str, Any]]) -> pa.Table | None:
        """Return rows in Arrow's own types, or None if they are not all of this class, or of types that differ."""
        own = [row for row in rows if isinstance(row, cls)]
        if len(own) < len(rows):
            return None
        runs = [list(run) for _, run in groupby(own, key=lambda row: id(row._table))]
        try:
            parts = [run[0]._table.take(pa.array([row._row for row in run])) for run in runs]
            return pa.concat_tables(parts, promote_options="default").combine_chunks()
        except pa.ArrowException:
            return None

    def __reduce__(self) -> Any:
        return _unpack_extra, (pack_table(self._table.slice(self._row, 1)),)


def _unpack_extra(packed: bytes) -> Extra:
    return Extra(unpack_table(packed), 0)


def to_array(values: Sequence[Any]) -> pa.Array:
    """Make an Arrow array of Python objects, such as a column of JSON's values, without loss.

    Whole numbers are int64, uint64 where that holds them, and else decimals; beside fractions they are float64, if that
    holds each of them exactly.

    Parameters
    ----------
    values
        The values; None is null. Messages count them from 1.

    Raises
    ------
    UnlikeError
        If no type holds all of the values.
    """
    kind = _infer(values, range(1, len(values) + 1))
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise UnlikeError(f"values of unlike types: {message_of(error)}") from error


def to_objects(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values as Python objects; one for which Python has no equal as the text that Arrow prints."""
    try:
        return column.to_pylist()
    except _NO_EQUAL:
        return [_to_object(scalar) for scalar in column]


def _to_object(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except _NO_EQUAL:
        return " ".join(str(pa.array([scalar], scalar.type)).split())


def plain(value: Any) -> Any:
    """Return a value as a dataset's column holds it, whose rows may differ: one with others inside is its JSON."""
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value


def _to_column(values: Sequence[Any]) -> pa.Array:
    """Make an Arrow array as `to_array` does; of values that no type holds together, an array of their texts."""
    try:
        return to_array(values)
    except UnlikeError:
        texts = [
            value if value is None or isinstance(value, str) else json.dumps(value, default=str) for value in values
        ]
        return pa.array([text and writable(text) for text in texts], pa.string())


def to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
    """Return objects of JSON as columns, each as `_to_column` makes it; a value that an object lacks is null."""
    return {name: _to_column([row.get(name) for row in rows]) for name in dict.fromkeys(chain.from_iterable(rows))}


def as_rows(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return a column of numbers, or of lists of as many each, nested or not: (n, d) float64; null is not a number.

    Raises
    ------
    SourceError
        If the lists are of unequal lengths, or hold something else.
    """
    n, is_there = len(column), column.is_valid()
    values = column.filter(is_there)  # Flattened, a list that is null would be none, and all behind it out of place.
    while types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type):
        lengths = pc.unique(pc.list_value_length(values).fill_null(0)).sort().to_pylist()
        if len(lengths) > 1:
            raise SourceError(f"{name} has lists of {lengths[0]} numbers and of {lengths[-1]}")
        values = pc.list_flatten(values)
    try:
        # Of a whole number beyond 2**53, as a time in nanoseconds is, the nearest float64 will do.
        known = numbers_of(values.cast(pa.float64(), safe=False).fill_null(np.nan))
    except pa.ArrowException as error:
        raise SourceError(f"{name} does not hold numbers: {message_of(error)}") from error
    n_known = pc.sum(is_there).as_py() or 0
    rows = np.full((n, len(known) // n_known if n_known else 1), np.nan)
    rows[is_there.to_numpy()] = known.reshape(n_known, rows.shape[1])
    return rows


def _infer(values: Sequence[Any], rows: Sequence[int]) -> pa.DataType | None:
    """Return the type of JSON's values; None, where there are others, leaves it to Arrow."""
    first: dict[type, int] = {}
    for value, row in zip(values, rows, strict=True):
        first.setdefault(type(value), row)
    first.pop(type(None), None)
    if not first.keys() <= _TYPE_OF.keys():
        return None
    there = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
    if first.keys() == {int, float}:
        return _number_type(there)
    if len(first) > 1:
        told = ", ".join(f"{_KINDS[kind]} in row {row}" for kind, row in list(first.items())[:2])
        raise UnlikeError(f"values of unlike types: {told}")
    return _TYPE_OF[next(iter(first), type(None))](there)


def _number_type(there: _Values) -> pa.DataType:
    for row, value in there:
        if type(value) is int and abs(value) > _EXACT:
            raise UnlikeError(f"values of unlike types: fractions, and {value} in row {row}, which is no float64")
    return pa.float64()


def _text_type(there: _Values) -> pa.DataType:
    for row, value in there:
        _check_unicode(value, row)
    return pa.string()


def _list_type(there: _Values) -> pa.DataType | None:
    flat = [(row, value) for row, inner in there for value in inner]
    inner = _infer([value for _, value in flat], [row for row, _ in flat])
    return None if inner is None else pa.list_(inner)


def _int_type(there: _Values) -> pa.DataType:
    low, high = min(value for _, value in there), max(value for _, value in there)
    if -(2**63) <= low and high < 2**63:
        return pa.int64()
    if low >= 0 and high < 2**64:
        return pa.uint64()
    for row, value in there:
        if abs(value) >= 10**76:
            raise UnlikeError(f"in row {row} a whole number of more than 76 digits: write it as text")
    return pa.decimal128(38, 0) if max(-low, high) < 10**38 else pa.decimal256(76, 0)


def _struct_type(there: _Values) -> pa.DataType | None:
    fields = []
    for name in dict.fromkeys(chain.from_iterable(value for _, value in there)):
        _check_unicode(name, next(row for row, value in there if name in value))
        inner = _infer([value.get(name) for _, value in there], [row for row, _ in there])
        if inner is None:
            return None
        fields.append(pa.field(name, inner))
    return pa.struct(fields)


def from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, for `json.loads` to call; two values of one name are a `ValueError`."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"two values of one name, {next(key for key in keys if keys.count(key) > 1)!r}")
    return row


def is_unicode(text: str) -> bool:
    """Return whether a text can be written; one with half of a surrogate pair, which JSON can hold, cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def writable(text: str) -> str:
    """Return a text that can be written: half of a surrogate pair, as is left where a text was cut, becomes "?"."""
    return text.encode(errors="replace").decode()


def _check_unicode(text: str, row: int) -> None:
    if not is_unicode(text):
        raise UnlikeError(f"in row {row} a text that is not valid Unicode: {shown(ascii(text))}")


_TYPE_OF: dict[type, Callable[[_Values], pa.DataType | None]] = {
    type(None): lambda _: pa.null(),
    bool: lambda _: pa.bool_(),
    float: lambda _: pa.float64(),
    int: _int_type,
    str: _text_type,
    list: _list_type,
    dict: _struct_type,
}


def _stored_type(kind: pa.DataType) -> pa.DataType:
    """Return the type under which a column lies on disk and in memory: that of the same values without views.

    Arrow takes no rows of a view, and writes all of its values with each slice.
    """
    if kind == pa.string_view():
        return pa.large_string()
    if kind == pa.binary_view():
        return pa.large_binary()
    if types.is_map(kind):
        return pa.map_(_stored(kind.key_field), _stored(kind.item_field), kind.keys_sorted)
    if types.is_struct(kind):
        return pa.struct([_stored(kind.field(i)) for i in range(kind.num_fields)])
    if types.is_fixed_size_list(kind):
        return pa.list_(_stored(kind.value_field), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(_stored(kind.value_field))
    return pa.list_(_stored(kind.value_field)) if types.is_list(kind) else kind


def stored_schema(fields: pa.Schema) -> pa.Schema:
    """Return the schema under which columns lie on disk and in memory, each as `_stored_type` has it."""
    return pa.schema([_stored(field) for field in fields])


def _stored(field: pa.Field) -> pa.Field:
    return field.with_type(_stored_type(field.type))


def merge_fields(one: pa.Field, other: pa.Field) -> pa.Field:
    """Return the field of the first one's name that holds what both hold.

    Raises
    ------
    UnlikeError
        If no type holds both without loss.
    """
    nullable = one.nullable or other.nullable
    if one.type == other.type or other.type == pa.null():
        return one.with_nullable(nullable)
    if one.type == pa.null():
        return other.with_nullable(nullable)
    return pa.field(one.name, _common_type(one.type, other.type), nullable)


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    one, other = (_stored_type(kind.value_type if types.is_dictionary(kind) else kind) for kind in (one, other))
    if one == other:
        return one
    for a, b in ((one, other), (other, one)):
        if types.is_signed_integer(a) and types.is_uint64(b):
            return pa.decimal128(20, 0)
    try:
        schemas = [pa.schema([pa.field("", kind)]) for kind in (one, other)]
        common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException as error:
        raise UnlikeError(f"values of unlike types: {one} and {other}") from error
    n_decimals = [count_types(kind, types.is_decimal) for kind in (common, one, other)]
    if n_decimals[0] < max(n_decimals):  # Arrow would round them to floats.
        raise UnlikeError(f"values of unlike types: {one} and {other}")
    return common


def count_types(kind: pa.DataType, is_meant: Callable[[pa.DataType], bool]) -> int:
    """Return how often a type is there, itself or within others."""
    return is_meant(kind) + sum(count_types(kind.field(i).type, is_meant) for i in range(kind.num_fields))


def with_room(field: pa.Field, chunks: Iterable[pa.Array]) -> pa.Field:
    """Return a dictionary's field with indices that can number the entries of all its parts; any other field as it is.

    Parts come with dictionaries of their own, in pandas with 8-bit indices. Arrow writes them to Parquet together even
    if their entries are too many for that, and cannot read them back. They have no common order either.
    """
    n_parts, n, last = 0, 0, None
    for chunk in chunks:  # Those of a source that has only nulls have no dictionary.
        if isinstance(chunk, pa.DictionaryArray) and (last is None or not chunk.dictionary.equals(last)):
            n_parts, n, last = n_parts + 1, n + len(chunk.dictionary), chunk.dictionary
    if n_parts <= 1 or not types.is_dictionary(field.type):
        return field
    index = field.type.index_type
    has_room = n <= 2 ** (index.bit_width - types.is_signed_integer(index))
    return field.with_type(pa.dictionary(index if has_room else pa.int32(), field.type.value_type))


def writing_error(field: pa.Field) -> str | None:
    """Return why Parquet cannot hold a column, or None if it can."""
    from pyarrow import parquet

    try:
        parquet.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
    except (pa.ArrowException, ValueError) as error:
        return message_of(error)
    return None
