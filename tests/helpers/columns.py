"""Manifests with a column of every type that Parquet holds, and columns compared to the bit."""

import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def ticks(values: list, kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)


def extension(kind: pa.DataType, values: list) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


def dictionary(values: list, indices: pa.DataType, entries: list, ordered: bool = False) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(values, indices), pa.array(entries), ordered=ordered)


def columns() -> dict[str, pa.Array]:
    """Make three values of every type that Parquet holds, with odd NaNs, far dates and single ticks among them."""
    made = {f"u{n}": pa.array([2**n - 1, None, 0], f"uint{n}") for n in (8, 16, 32, 64)}
    made |= {f"i{n}": pa.array([-(2 ** (n - 1)), None, 1], f"int{n}") for n in (8, 16, 32, 64)}
    for size, nan in ((2, 0x7E01), (4, 0x7FC12345), (8, 0x7FF8DEAD00BEEF01)):
        made[f"f{size}"] = pa.array(np.array([nan, 1 << (8 * size - 1), 1], f"u{size}").view(f"f{size}"))
    made["truth"] = pa.array([True, None, False])
    for kind in (pa.decimal128(38, 2), pa.decimal256(76, 2)):
        made[str(kind)] = pa.array([decimal.Decimal(10**30), None, decimal.Decimal("-3.00")], kind)
    stamps = [pa.timestamp(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo", "+05:30")]
    for kind in (*stamps, *map(pa.duration, ("s", "ms", "us", "ns")), pa.date32(), pa.time64("us"), pa.time64("ns")):
        odd = 10**7 if kind == pa.date32() else 1_234_567 if pa.types.is_time(kind) else 2**62 + 1
        made[str(kind)] = ticks([odd, None, -1], kind)
    made["time32"] = ticks([1, None, 3], pa.time32("ms"))
    made |= {str(kind): pa.array([b"\xff", None, b""], kind) for kind in (pa.binary(), pa.large_binary())}
    made["fixed"] = pa.array([b"\xff\0", None, b"ab"], pa.binary(2))
    made |= {str(kind): pa.array(["é" * 20, None, ""], kind) for kind in (pa.string(), pa.large_string())}
    if hasattr(pa, "string_view"):
        made["view"] = pa.array(["é" * 20, None, ""], pa.string_view())
        made["view of bytes"] = pa.array([b"\xff" * 20, None, b""], pa.binary_view())
        made["views"] = pa.array([["a" * 20, None], None, []], pa.list_(pa.string_view()))
        made["view in a struct"] = pa.array([{"a": ["x"]}, None, {}], pa.struct({"a": pa.large_list(pa.string_view())}))
        made["view in a map"] = pa.array([[("k", "v")], None, []], pa.map_(pa.string_view(), pa.string_view()))
    made["ordered"] = dictionary([2, None, 0], pa.int8(), ["low", "middle", "high", "unused"], ordered=True)
    made["words"] = dictionary([2, None, 0], pa.int32(), ["x", "y", "z"])
    made["list"] = pa.array([[1, None], None, []], pa.list_(pa.int16()))
    made["large list"] = pa.array([[2**64 - 1, None], None, []], pa.large_list(pa.uint64()))
    null = None if int(pa.__version__.partition(".")[0]) >= 20 else [0, 0]  # Early ones do not read it back in a list.
    made["fixed list"] = pa.array([[1.5, 2], null, [3, 4]], pa.list_(pa.float32(), 2))
    made["words in a list"] = pa.array([["a"], None, ["b"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    struct = pa.struct([pa.field("a", pa.uint64()), pa.field("b", pa.list_(pa.duration("ns")))])
    made["struct"] = pa.array([{"a": 2**64 - 1, "b": [1]}, None, {"a": None, "b": None}], struct)
    made["map"] = pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32()))
    made["nothing"] = pa.nulls(3)
    made["tensor"] = extension(pa.fixed_shape_tensor(pa.float32(), (2,)), [[1, 2], null, [3, 4]])
    if hasattr(pa, "uuid"):
        made["uuid"] = extension(pa.uuid(), [b"0" * 16, None, b"1" * 16])
        made["bool8"] = extension(pa.bool8(), [1, None, 0])
        made["opaque"] = extension(pa.opaque(pa.int32(), "type", "vendor"), [1, None, 2])
    if hasattr(pa, "json_"):
        made["json"] = extension(pa.json_(), ["{}", None, "1"])
    return {name: values for name, values in made.items() if is_written(values.type)}


def is_written(kind: pa.DataType) -> bool:
    """Whether this Arrow writes a type to Parquet: early ones write no views."""
    try:
        pq.write_table(pa.schema([("a", kind)]).empty_table(), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError:
        return False
    return True


def write_all_types(path, repeats: int = 1, paths: list[str] | None = None) -> pa.Table:
    """Write a manifest of all types for these paths, which are numbered by default; return it as it is read."""
    own = columns()
    fields = [pa.field("path", pa.string()), *(pa.field(name, values.type) for name, values in own.items())]
    fields.append(pa.field("needed", pa.int8(), nullable=False, metadata={"unit": "m"}))
    table = pa.table([["?"] * 3, *own.values(), pa.array([1, 2, 3], pa.int8())], pa.schema(fields))
    table = pa.concat_tables([table] * repeats)
    table = table.set_column(0, fields[0], pa.array(paths or [f"{i}.mp4" for i in range(len(table))]))
    pq.write_table(table, path, row_group_size=max(len(table) // 2, 1))
    return pq.read_table(path)


def check_same(kept: pa.Table, given: pa.Table) -> None:
    """Check columns by type, metadata and validity, and by their buffers: NaNs are not equal to themselves."""
    for own, name in zip(given.columns, given.column_names, strict=True):
        one, other = kept.schema.field(name), given.schema.field(name)
        assert (one.type, one.nullable, one.metadata) == (other.type, other.nullable, other.metadata), name
        one, other = (pa.concat_arrays(column.chunks) for column in (kept[name], own))
        if pa.types.is_floating(own.type):
            one, other = (each.view(f"int{own.type.bit_width}") for each in (one, other))
        assert one.equals(other), name
