"""Further columns of manifests: ``videos.parquet`` has what the manifest had, in its type and to the bit."""

import decimal
import json
import pickle
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from columns import check_same, columns, dictionary, extension, is_written, ticks, write_all_types

from raypipe.errors import SourceError
from raypipe.runs.accounting import account
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.schema import PLAN, VIDEOS
from raypipe.sources import find_videos, manifest, videos
from raypipe.sources.videos import Video, Videos


def accounts_of(found: Videos, run: Run, size: int = 10_000) -> pa.Table:
    """Write ``videos.parquet`` in portions of videos that all lie beyond the limit, and read it back."""
    nothing = Ledger(run, PLAN.empty_table(), [])
    run.write_tables("videos.parquet", (account(found[i : i + size], nothing) for i in range(0, len(found), size)))
    return run.read_table("videos.parquet")


@pytest.mark.parametrize("batch", [2, 10_000])
def test_arrow_in_arrow_out(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(manifest, "_BATCH_ROWS", batch)
    given = write_all_types(tmp_path / "all.parquet", repeats=3).drop_columns("path")
    found = find_videos(tmp_path / "all.parquet")
    assert found.extra.column_names == given.column_names
    check_same(found.extra, given)
    check_same(accounts_of(found, Run(str(tmp_path / "run")), 4), given)
    check_same(pickle.loads(pickle.dumps(found[2:7])).extra, given[2:7])
    check_same(Videos.concat([found[3:6], found[:2]]).extra, pa.concat_tables([given[3:6], given[:2]]))
    taken = found.take([8, 0, 3]).extra
    assert taken.schema == given.schema
    assert [taken[i].slice(1, 1).to_pylist() == given[i][:1].to_pylist() for i in (0, 3)] == [True] * 2
    if "views" in taken.column_names:
        assert taken["views"].to_pylist() == [[], ["a" * 20, None], ["a" * 20, None]]


def test_a_value_that_python_has_not_is_arrow_s(tmp_path):
    kept = write_all_types(tmp_path / "all.parquet")
    video = find_videos(tmp_path / "all.parquet")[0]
    assert video.extra["date32[day]"] == kept["date32[day]"][0] and video.extra["u64"] == 2**64 - 1
    assert video.extra.get("none of these") is None and len(video.extra) == kept.num_columns - 1
    assert pickle.loads(pickle.dumps(video)).extra["duration[s]"] == kept["duration[s]"][0]


def test_videos_of_videos_have_their_types(tmp_path):
    kept = write_all_types(tmp_path / "all.parquet", 4).drop_columns([name for name in columns() if "view" in name])
    found = find_videos(tmp_path / "all.parquet")
    again = Videos(video for video in found if int(video.uri[-5]) % 2).extra
    check_same(again.select(kept.column_names[1:]), kept.drop_columns("path").take([1, 3, 5, 7, 9, 11]))


def test_categories_of_several_parts_are_all_there(tmp_path):
    """As dask writes pandas' categories: a row group has a dictionary of its own, of 8-bit indices."""
    kind = pa.dictionary(pa.int8(), pa.string())
    with pq.ParquetWriter(tmp_path / "l.parquet", pa.schema({"path": pa.string(), "c": kind})) as writer:
        for part in range(3):
            words = dictionary(list(range(100)), pa.int8(), [f"{part} {i}" for i in range(100)])
            writer.write_table(pa.table({"path": [f"{part}/{i}.mp4" for i in range(100)], "c": words}))
    found = find_videos(tmp_path / "l.parquet")
    words = [f"{part} {i}" for part in range(3) for i in range(100)]
    assert accounts_of(found, Run(str(tmp_path / "run")))["c"].to_pylist() == words
    assert found.take([250, 3]).extra["c"].to_pylist() == ["2 50", "0 3"]
    assert found.extra.schema.field("c").type == pa.dictionary(pa.int32(), pa.string())
    assert found[:100].extra["c"].chunk(0).dictionary.to_pylist() == words[:100]


def merged(tmp_path, *parts: pa.Array) -> pa.ChunkedArray:
    names = []
    for number, values in enumerate(parts):
        names.append(tmp_path / f"{number}.parquet")
        pq.write_table(pa.table({"path": [f"{number}/{i}" for i in range(len(values))], "n": values}), names[-1])
    return find_videos(names).extra["n"]


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (pa.array([2**63 - 1]), pa.array([2**64 - 1], pa.uint64()), pa.decimal128(20, 0)),
        (pa.array([1], pa.int8()), pa.array([2**31], pa.uint32()), pa.int64()),
        (pa.array([2**53]), pa.array([0.5]), pa.float64()),
        (pa.array(["a"]), dictionary([0], pa.int8(), ["b"]), pa.string()),
        (
            dictionary([0], pa.int32(), ["a"]),
            dictionary([0], pa.int32(), ["b"]),
            pa.dictionary(pa.int32(), pa.string()),
        ),
        (pa.nulls(1), dictionary([0], pa.int32(), ["b"]), pa.dictionary(pa.int32(), pa.string())),
        (ticks([1], pa.timestamp("ms")), ticks([1000], pa.timestamp("ns")), pa.timestamp("ns")),
        (pa.array([[1]], pa.list_(pa.int8())), pa.array([[2**40]]), pa.list_(pa.int64())),
        (pa.array([{"a": 1}]), pa.array([{"b": "x"}]), pa.struct({"a": pa.int64(), "b": pa.string()})),
    ],
)
def test_several_manifests_have_the_type_that_holds_both(tmp_path, one, other, kind):
    for parts in ((one, other), (other, one)):
        try:
            both = merged(tmp_path, *parts)
        except SourceError as error:
            if "struct fields don't match" not in str(error):
                raise
            pytest.skip("this Arrow adds no fields to a struct")
        assert both.type == kind or pa.types.is_struct(kind)
        told = [value for part in parts for value in part.to_pylist()]
        if pa.types.is_struct(kind):
            told = [dict.fromkeys("ab") | value for value in told]
        assert both.to_pylist() == told


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (pa.array([1]), pa.array(["x"]), "unlike types: .*int64"),
        (pa.array([2**53 + 1]), pa.array([0.5]), "unlike types: .*9007199254740993"),
        (pa.array([decimal.Decimal("0.1")]), pa.array([0.5]), r"unlike types: decimal128\(1, 1\) and double"),
        (ticks([2**60], pa.timestamp("ms")), ticks([1], pa.timestamp("ns")), "unlike types: .*out of bounds"),
        (ticks([1], pa.timestamp("ms", "UTC")), ticks([1], pa.timestamp("ms")), "unlike types: timestamp"),
    ],
)
def test_what_no_type_holds_names_the_column_and_the_file(tmp_path, one, other, said):
    with pytest.raises(SourceError, match=rf"manifest column 'n' holds values of {said}.* \(.*0\.parquet") as caught:
        merged(tmp_path, one, other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, -(2**63)], pa.int64()),
        ([2**63, None, 0], pa.uint64()),
        ([2**64, -1], pa.decimal128(38, 0)),
        ([10**38, 1], pa.decimal256(76, 0)),
        ([1, 2.5, None], pa.float64()),
        ([[2**64 - 1], None, []], pa.list_(pa.uint64())),
        ([{"a": 2**63, "b": [{"c": None}]}, {}], None),
        (["2023-11-14", "12000-01-01T00:00:00Z"], pa.string()),
        ([True, None], pa.bool_()),
        ([None, None], pa.null()),
    ],
)
def test_json_lines_hold_what_is_written(tmp_path, values, kind):
    lines = [json.dumps({"path": f"{i}.mp4", "x": value}) for i, value in enumerate(values)]
    (tmp_path / "l.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r".join(lines).encode())
    column = find_videos(tmp_path / "l.jsonl").extra["x"]
    assert kind is None or column.type == kind
    told = [None if value is None else dict.fromkeys("ab") | value if kind is None else value for value in values]
    assert column.to_pylist() == told
    kept = accounts_of(find_videos(tmp_path / "l.jsonl"), Run(str(tmp_path / "run")))
    assert kept["x"].equals(column) and kept["x"].type == column.type


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, "a"], "column 'x' holds values of unlike types: a whole number in row 1, text in row 2"),
        ([0.5, True], "column 'x' holds values of unlike types: a number in row 1, true or false in row 2"),
        ([None, [1], {}], "unlike types: a list in row 2, an object in row 3"),
        ([[1], [2, "b"]], "unlike types: a whole number in row 1, text in row 2"),
        ([0.5, 2**53 + 1], "9007199254740993 in row 2, which is no float64"),
        ([0, 10**76], "in row 2 a whole number of more than 76 digits"),
        (["a", "\ud800"], "in row 2 a text that is not valid Unicode"),
        ([{"\ud800": 1}], "in row 1 a text that is not valid Unicode"),
        ([{}, {}], "column 'x' cannot be kept, leave it out: .*no child field"),
    ],
)
def test_json_lines_that_no_type_holds(tmp_path, values, said):
    lines = [json.dumps({"path": f"{i}.mp4", "x": value}) for i, value in enumerate(values)]
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    with pytest.raises(SourceError, match=said) as caught:
        find_videos(tmp_path / "l.jsonl")
    assert "l.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_that_comes_twice(tmp_path):
    (tmp_path / "l.jsonl").write_text('{"path": "a"}\n{"path": "b", "x": {"y": 1, "y": 2}}')
    with pytest.raises(SourceError, match=r"l\.jsonl: line 2: two values of one name, 'y'"):
        find_videos(tmp_path / "l.jsonl")


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        (["1", "-2", ""], [1, -2, None]),
        (["18446744073709551615", "1"], [2**64 - 1, 1]),
        (["9223372036854775808", "-1"], [2**63, -1]),
        (["9" * 80, "1"], ["9" * 80, "1"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["1", "0.5", "1e3"], [1.0, 0.5, 1000.0]),
        (["007", "12"], ["007", "12"]),
        (["+4915112345678", "+1"], [4915112345678, 1]),
        (["2023-11-14", "0001-01-01"], [date(2023, 11, 14), date(1, 1, 1)]),
        (["2023-11-14", "12000-01-01"], ["2023-11-14", "12000-01-01"]),
        (["NA", "1"], ["NA", "1"]),
    ],
)
def test_csv_holds_what_is_written(tmp_path, cells, kept):
    rows = "".join(f"{i}.mp4,{cell}\r" for i, cell in enumerate(cells))
    (tmp_path / "l.csv").write_bytes(f"\ufeff\rpath,x\r{rows}".encode())
    assert find_videos(tmp_path / "l.csv").extra["x"].to_pylist() == kept


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n", "\ufeff \r\n\r"], ids=["", "BOM", "empty", "BOM and empty"])
def test_lines_of_csv_end_as_they_like(tmp_path, before, end):
    lines = ["path,'a\n\rb',label,", "a.mp4,1,x,", "", "b c#%.mp4,2,'y\r\nz',", "c.mp4,3,,"]
    (tmp_path / "l.csv").write_bytes((before + end.join(lines)).replace("'", '"').encode())
    found = find_videos(tmp_path / "l.csv")
    assert [(video.uri.rpartition("/")[2], video.label) for video in found] == [
        ("a.mp4", "x"), ("b%20c%23%25.mp4", "y\r\nz"), ("c.mp4", None),
    ]  # fmt: skip
    assert found.extra.to_pydict() == {"a\n\rb": [1, 2, 3]}


@pytest.mark.parametrize("cells", ["b.mp4", "b.mp4,y,z"])
def test_a_ragged_row_of_csv_is_named(tmp_path, cells):
    rows = "".join(f"{i}.mp4,x\n\n" for i in range(50_000))
    (tmp_path / "l.csv").write_text(f"\npath,label\n\n{rows}{cells}\nc.mp4,x\n")
    with pytest.raises(SourceError, match=rf"l\.csv: .*Row #50001: Expected 2 columns, got . ?: {cells}"):
        find_videos(tmp_path / "l.csv")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_nan_is_no_time(tmp_path, kind):
    path = tmp_path / f"l.{kind}"
    if kind == "csv":
        path.write_text("path,start_s,end_s\na,NaN,nan\nb,1,NAN\nc,nan,2\n")
    elif kind == "jsonl":
        path.write_text('{"path": "a", "start_s": NaN, "end_s": NaN}\n{"path": "b", "start_s": 1}\n'
                        '{"path": "c", "end_s": 2, "start_s": NaN}')  # fmt: skip
    else:
        nan = float("nan")
        times = {"start_s": np.array([nan, 1, nan], np.float16), "end_s": [nan, nan, 2.0]}
        pq.write_table(pa.table({"path": ["a", "b", "c"], **times}), path)
    assert [(video.start_s, video.end_s) for video in find_videos(path)] == [(None, None), (1, None), (None, 2)]


@pytest.mark.parametrize("wrong", [float("inf"), -float("inf"), -1e-9, 10**400, True, [1], "1 s", "2023-11-14"])
def test_what_is_no_time_names_file_and_row(tmp_path, wrong):
    (tmp_path / "l.jsonl").write_text(f'{{"path": "a"}}\n{{"path": "b", "end_s": {json.dumps(wrong)}}}')
    with pytest.raises(SourceError, match=r"l\.jsonl row 2: end_s .* is not a number of seconds"):
        find_videos(tmp_path / "l.jsonl")


def test_known_columns_may_have_any_type(tmp_path):
    known = {
        "start_s": ticks([1, None], pa.duration("ms")),
        "end_s": ticks([1500, None], pa.duration("ms")),
        "group": ticks([10**7, None], pa.date32()),
        "label": ticks([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
        "caption": dictionary([0, None], pa.int8(), [7, 8]),
        "id": pa.array([2**64 - 1, 3], pa.uint64()),
    }
    pq.write_table(pa.table({"path": pa.array(["a", "b"]).dictionary_encode(), **known}), tmp_path / "l.parquet")
    a, b = find_videos(tmp_path / "l.parquet")
    assert (a.start_s, a.end_s, a.caption) == (0.001, 1.5, "7")
    assert (a.label, a.group) == ("2023-11-14 22:13:20.123456789", "29349-01-26")
    assert (b.start_s, b.end_s, b.group, b.label, b.caption) == (None,) * 5
    assert (a.extra["id"], b.extra["id"]) == (2**64 - 1, 3)
    assert find_videos(tmp_path / "l.parquet").extra["id"].type == pa.uint64()


def test_ids_of_several_manifests_are_text_if_they_are_not_alike(tmp_path):
    pq.write_table(pa.table({"path": ["a"], "id": pa.array([2**64 - 1], pa.uint64())}), tmp_path / "1.parquet")
    (tmp_path / "2.csv").write_text("path,id\nb,007\n")
    (tmp_path / "3.jsonl").write_text('{"path": "c", "id": null}')
    names = [tmp_path / "1.parquet", tmp_path / "2.csv", tmp_path / "3.jsonl"]
    for order in (names, names[::-1]):
        ids = find_videos(order).extra["id"]
        assert ids.type == pa.string() and set(ids.to_pylist()) == {"18446744073709551615", "007", None}


def test_names_that_are_taken_or_odd(tmp_path):
    names = [*(name for name in VIDEOS.names if name not in ("group", "label", "caption", "uri"))]
    odd = ["manifest_status", "manifest_manifest_status", "a.b", "status.code", "a\nb", "", "extra:x", "x", "segment"]
    own = {name: pa.array([i], pa.int8()) for i, name in enumerate([*odd[:1], *names, *odd[1:]])}
    pq.write_table(pa.table({"path": ["a.mp4"], **own}), tmp_path / "l.parquet")
    found = find_videos(tmp_path / "l.parquet")
    assert dict(found[0].extra) == {name: values[0].as_py() for name, values in own.items()}
    table = accounts_of(found, run := Run(str(tmp_path / "run")))
    assert table.column_names[: len(VIDEOS)] == VIDEOS.names and len(set(table.column_names)) == len(table.column_names)
    status = "manifest_manifest_manifest_status"
    for name, values in own.items():
        free = status if name == "status" else f"manifest_{name}" if name in VIDEOS.names else name
        assert table[free].to_pylist() == values.to_pylist()
    assert run.read_table("videos.parquet", ["status"], 0)["status"].to_pylist() == ["skipped"]


@pytest.mark.parametrize(
    ("name", "said"), [("x", "two columns named x"), ("", "two columns without a name"), ("a\nb", r"named 'a\\nb'")]
)
def test_a_name_that_comes_twice(tmp_path, name, said):
    pq.write_table(pa.table([["a"], [1], [2]], names=["path", name, name]), tmp_path / "l.parquet")
    (tmp_path / "l.csv").write_text(f'path,"{name}","{name}"\na,1,2\n')
    for kind in ("parquet", "csv"):
        with pytest.raises(SourceError, match=said):
            find_videos(tmp_path / f"l.{kind}")


def test_python_s_own_values_keep_their_bits():
    made = [Video(f"v{i}", f"file:///{i}", extra={"n": value}) for i, value in enumerate([2**63, None, 1])]
    assert Videos(made).extra["n"].equals(pa.chunked_array([pa.array([2**63, None, 1], pa.uint64())]))
    with pytest.raises(SourceError, match="manifest column 'n' holds values of unlike types: a whole number in row 1"):
        Videos([*made, Video("x", "file:///x", extra={"n": "a"})])


def test_extension_types_that_nobody_has_registered_are_kept(tmp_path):
    class Fahrenheit(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.float32(), "tests.fahrenheit")

        def __arrow_ext_serialize__(self):
            return b"in the shade"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type, serialized):
            return cls()

    pa.register_extension_type(Fahrenheit())
    try:
        table = pa.table({"path": ["a", "b"], "t": extension(Fahrenheit(), [1.5, None])})
        pq.write_table(table, tmp_path / "l.parquet")
    finally:
        pa.unregister_extension_type("tests.fahrenheit")
    kept = accounts_of(find_videos(tmp_path / "l.parquet"), Run(str(tmp_path / "run")))
    check_same(kept, pq.read_table(tmp_path / "l.parquet").drop_columns("path"))
    assert kept.schema.field("t").metadata[b"ARROW:extension:metadata"] == b"in the shade"


def test_row_groups_without_rows_are_passed_over(tmp_path):
    table = pa.table({"path": ["a", "b"], "n": pa.array([1, 2], pa.int8())})
    with pq.ParquetWriter(tmp_path / "l.parquet", table.schema) as writer:
        for some in (table[:0], table[:1], table[:0], table[1:], table[:0]):
            writer.write_table(some)
    assert find_videos(tmp_path / "l.parquet").extra["n"].to_pylist() == [1, 2]
    pq.write_table(table[:0], tmp_path / "none.parquet")
    with pytest.raises(SourceError, match=r"none\.parquet lists no video: it has no rows"):
        find_videos(tmp_path / "none.parquet")


def test_slices_of_far_batches_are_on_disk_in_small_pieces(tmp_path, monkeypatch):
    """Views would be written whole with every slice."""
    if not is_written(pa.string_view()):
        pytest.skip("this Arrow writes no views to Parquet")
    monkeypatch.setattr(videos, "_BATCH", 100)
    words = pa.array([f"{i:050d}" for i in range(20_000)], pa.string_view())
    pq.write_table(pa.table({"path": words.cast(pa.string()), "n": words}), tmp_path / "l.parquet")
    found = find_videos(tmp_path / "l.parquet")
    both = Videos.concat([found])
    assert both.extra["n"].to_pylist() == words.to_pylist() and both._rows["extra:n"].nbytes < 2e6


def test_given_manifests_keep_their_columns(data_dir):
    folder = data_dir / "cases/manifest"
    if not folder.is_dir():
        pytest.skip("these test data have no cases")
    for name in ("u64", "ns"):
        given = pq.read_table(folder / f"{name}.parquet").drop_columns("path")
        check_same(find_videos(folder / f"{name}.parquet").extra, given)
    assert [video.label for video in find_videos(folder / "cr.csv")] == ["x", "y"]
    assert [video.label for video in find_videos(folder / "blank.csv")] == ["x"]
