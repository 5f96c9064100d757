"""WebDataset shards: samples by their names, their texts as columns, tars that are cut off, and what is fetched."""

import io
import json
import tarfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tars import write_tar
from trouble import proxy_before, serve_folder
from videos import write_video

from raypipe.decoders.pyav import PyAVDecoder
from raypipe.errors import SourceError
from raypipe.sources import find_videos, read_versions, tars
from raypipe.sources.tar_names import expand_braces
from raypipe.storage import canonical_uri, split_member

VIDEO = b"\0" * 3000


def members_of(videos) -> list[str]:
    return [split_member(video.uri).name for video in videos]


class TestSamples:
    def test_a_key_ends_at_the_first_dot_and_a_field_is_the_rest(self, tmp_path):
        files = [
            "a.b/x.left.mp4",
            "a.b/x.right.MP4",
            "a.b/x.json",
            "y.webm",
            "./z.mov",
            ".hidden.mp4",
            "q/._w.mp4",
            "plain",
        ]
        tar = write_tar(tmp_path / "0.tar", [(name, "{}" if name.endswith("json") else VIDEO) for name in files])
        videos = find_videos(tar)
        assert members_of(videos) == ["a.b/x.left.mp4", "a.b/x.right.MP4", "y.webm", "./z.mov"]
        assert videos.extra["key"].to_pylist() == ["a.b/x", "a.b/x", "y", "z"]
        assert [video.group for video in videos] == ["a.b", "a.b", None, None]
        assert videos.n_ignored == 3
        assert videos.notes == ("videos in tars: 4 (in 1)",)

    def test_each_uri_names_the_bytes_of_its_member(self, tmp_path):
        contents = {f"{i}.mp4": bytes([i]) * (700 + i) for i in range(5)}
        long = {"folder/" * 40 + "long name.mp4": b"long" * 99}
        for style in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            files = contents if style == tarfile.USTAR_FORMAT else contents | long
            tar = write_tar(tmp_path / f"{style}.tar", files, format=style)
            videos = find_videos(tar)
            whole = tar.read_bytes()
            found = [split_member(video.uri) for video in videos]
            assert {m.name: whole[m.offset : m.offset + m.size] for m in found} == files

    def test_half_a_character_is_a_question_mark(self, tmp_path):
        """A json holds what is left where a text was cut in the midst of a pair of surrogates, and Arrow does not."""
        files = {
            "1.mp4": VIDEO, "1.json": r'{"caption": "a cat \ud83d", "label": "pet \ud83d", "n": "x\ud83d"}',
            "2.mp4": VIDEO, "2.json": r'{"windows": [{"qwen_caption": "a dog \ud83d"}]}',
        }  # fmt: skip
        first, second = find_videos(write_tar(tmp_path / "0.tar", files))
        assert (first.caption, first.label, first.extra["n"], second.caption) == ("a cat ?", "pet ?", "x?", "a dog ?")

    def test_texts_become_columns(self, tmp_path):
        files = {
            "1.mp4": VIDEO, "1.txt": " a cat\n", "1.cls": "3", "1.json": '{"caption": "not this", "fps": 30, "n": 1}',
            "2.mp4": VIDEO, "2.json": '{"caption": "from json", "label": "cat", "n": "one", "tags": ["a", {"b": 1}]}',
            "3.mp4": VIDEO,
        }  # fmt: skip
        videos = find_videos(write_tar(tmp_path / "0.tar", files))
        assert [(video.label, video.caption) for video in videos] == [
            ("3", "a cat"),
            ("cat", "from json"),
            (None, None),
        ]
        assert videos.extra["fps"].to_pylist() == [30, None, None]
        assert videos.extra["n"].to_pylist() == ["1", "one", None], "values of unlike types are kept as text"
        assert videos.extra["tags"].to_pylist() == [None, '["a", {"b": 1}]', None]
        assert videos.extra["caption"].to_pylist() == ["not this", None, None], "nothing that was read is lost"

    def test_a_text_with_a_videos_name_is_that_videos_alone(self, tmp_path):
        """As those of each camera of a sample are, and those of a key that has dots itself."""
        files = {
            "a.left.mp4": VIDEO, "a.left.txt": "from the left", "a.right.mp4": VIDEO, "a.right.json": '{"side": "r"}',
            "a.txt": "of both", "a.json": '{"side": "both", "n": 1}', "a.cls": "0", "a.depth.json": '{"no": "video"}',
            "ep.0001.mp4": VIDEO, "ep.0001.json": '{"caption": "one"}', "ep.0002.mp4": VIDEO, "ep.0002.cls": "2",
        }  # fmt: skip
        videos = find_videos(write_tar(tmp_path / "0.tar", files))
        assert members_of(videos) == ["a.left.mp4", "a.right.mp4", "ep.0001.mp4", "ep.0002.mp4"]
        assert [(video.label, video.caption) for video in videos] == [
            ("0", "from the left"),
            ("0", "of both"),
            (None, "one"),
            ("2", None),
        ]
        assert videos.extra["side"].to_pylist() == ["both", "r", None, None]
        assert videos.extra["n"].to_pylist() == [1, 1, None, None]
        assert "no" not in videos.extra.column_names
        assert videos.n_ignored == 1, "the text of no video"
        assert videos.notes[1] == "texts that have the name of no video, and are not read: 1 (the first: a.depth.json)"

    def test_columns_of_all_tars_are_brought_together(self, tmp_path):
        write_tar(tmp_path / "0.tar", {"1.mp4": VIDEO, "1.json": '{"n": 1, "a": true}'})
        write_tar(tmp_path / "1.tar", {"2.mp4": VIDEO, "2.json": '{"n": 2.5, "b": "x"}'})
        write_tar(tmp_path / "2.tar", {"3.mp4": VIDEO, "3.json": '{"n": null, "a": "yes"}'})
        extra = find_videos(tmp_path).extra
        assert extra["n"].to_pylist() == [1, 2.5, None]
        assert extra["a"].to_pylist() == ["true", None, "yes"]
        assert extra["b"].to_pylist() == [None, "x", None]

    def test_what_cannot_be_used_is_counted(self, tmp_path):
        files = [
            ("1.mp4", VIDEO),
            ("1.json", "{nope"),
            ("2.json", "{}"),
            ("3.mp4", VIDEO),
            ("3.json", "[1]"),
            ("4.txt", "x"),
        ]
        notes = find_videos(write_tar(tmp_path / "0.tar", [*files, ("1.MP4", VIDEO)])).notes
        assert notes[0] == "videos in tars: 2 (in 1)"
        assert any(note.startswith("samples whose json holds no object: 2 (the first: 1)") for note in notes)
        assert any(note.startswith("samples without a video: 2 (the first: 2 of ") for note in notes)
        assert (
            "files that bear the name of a later one in their tar, capitals aside, which counts: 1 (the first: 1.MP4)"
            in notes
        )

    def test_texts_that_are_too_long_are_counted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tars, "_MOST_BYTES", 10)
        files = {"1.mp4": VIDEO, "1.txt": "eleven bytes", "2.mp4": VIDEO, "2.txt": "ten"}
        videos = find_videos(write_tar(tmp_path / "0.tar", files))
        assert [video.caption for video in videos] == [None, "ten"]
        assert "texts that are too long to be read: 1 (the first: 1.txt)" in videos.notes

    def test_ids_stay_when_a_tar_is_written_again(self, tmp_path):
        tar = write_tar(tmp_path / "0.tar", {"1.mp4": VIDEO, "2.mp4": VIDEO})
        before = {video.video_id for video in find_videos(tar)}
        write_tar(tar, {"0.txt": "x" * 5000, "2.mp4": VIDEO, "1.mp4": VIDEO * 2})
        assert {video.video_id for video in find_videos(tar)} == before

    def test_a_member_can_be_named_alone_or_in_a_manifest(self, tmp_path):
        expected = find_videos(write_tar(tmp_path / "0.tar", {"a/1.mp4": VIDEO, "a/2 x.mp4": VIDEO}))
        (tmp_path / "list.csv").write_text("uri\n" + "".join(f"{video.uri}\n" for video in expected))
        for source in ([video.uri for video in expected], tmp_path / "list.csv"):
            found = find_videos(source)
            assert [(v.uri, v.video_id) for v in found] == [(v.uri, v.video_id) for v in expected]

    def test_names_that_are_no_unicode(self, tmp_path):
        tar = write_tar(tmp_path / "0.tar", {"s\udce4ge.mp4": VIDEO, "s\udce4ge.txt": "saw"}, errors="surrogateescape")
        (video,) = find_videos(tar)
        assert (video.caption, video.extra["key"]) == ("saw", "s\\xe4ge")
        assert split_member(video.uri).name == "s\udce4ge.mp4"


class TestNames:
    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("{000..002}.tar", ["000.tar", "001.tar", "002.tar"]),
            ("{8..10}", ["8", "9", "10"]),
            ("{08..10}", ["08", "09", "10"]),
            ("{0..4..2}-{a,b}", ["0-a", "0-b", "2-a", "2-b", "4-a", "4-b"]),
            ("{3..1}", ["3", "2", "1"]),
            ("{x}", ["{x}"]),
            ("plain", ["plain"]),
        ],
    )
    def test_braces(self, pattern, names):
        assert expand_braces(pattern) == names

    def test_all_ways_to_name_tars_find_the_same(self, tmp_path, monkeypatch):
        for number in range(3):
            write_tar(tmp_path / "in" / f"{number:03d}.tar", {f"{number}.mp4": VIDEO})
        (tmp_path / "shards.txt").write_text("# all\nin/{000..001}.tar\n\nin/002.tar\n")
        monkeypatch.chdir(tmp_path)
        expected = [(video.uri, video.video_id) for video in find_videos(tmp_path / "in")]
        assert len(expected) == 3
        for source in ("in/{000..002}.tar", "in/*.tar", "shards.txt", ["in/000.tar", "in/001.tar", "in/002.tar"]):
            assert [(video.uri, video.video_id) for video in find_videos(source)] == expected, source

    def test_a_list_leads_to_the_folder_above(self, tmp_path):
        """In a bucket, where ``..`` is no folder, as on a disk, also by a URL whose names are quoted."""
        tar = write_tar(tmp_path / "in %1/0.tar", {"0.mp4": VIDEO})
        (tmp_path / "all lists").mkdir()
        (tmp_path / "all lists/shards.txt").write_text("../in %1/0.tar\n")
        (video,) = find_videos((tmp_path / "all lists/shards.txt").as_uri())
        assert split_member(video.uri).archive == tar.as_uri()
        bucket = fsspec.filesystem("memory")
        bucket.pipe_file("/shards/in %1/0.tar", tar.read_bytes())
        bucket.pipe_file("/shards/all lists/shards.txt", b"../in %1/0.tar\n")
        try:
            (video,) = find_videos("memory://shards/all lists/shards.txt")
            assert split_member(video.uri).archive == "memory:///shards/in %1/0.tar"
        finally:
            bucket.rm("/shards", recursive=True)

    def test_a_folder_may_be_named_with_a_question_mark(self, tmp_path):
        folder = tmp_path / "now or when?"
        write_tar(folder / "0.tar", {"0.mp4": VIDEO})
        (folder / "shards.txt").write_text("0.tar\n")
        (expected,) = find_videos(folder)
        assert [video.uri for video in find_videos(folder / "shards.txt")] == [expected.uri]
        with pytest.raises(SourceError, match="is compressed"):
            find_videos(folder / "1.tar.gz")

    def test_folders_are_groups(self, tmp_path):
        for name in ("train/a/0.tar", "val/0.tar", "1.tar"):
            write_tar(tmp_path / name, {"1.mp4": VIDEO})
        assert [video.group for video in find_videos(tmp_path)] == [None, "train/a", "val"]

    def test_tars_beside_videos_are_not_read_and_that_is_said(self, tmp_path):
        write_tar(tmp_path / "backup.tar", {"1.mp4": VIDEO})
        (tmp_path / "x.mp4").write_bytes(VIDEO)
        videos = find_videos(tmp_path)
        assert [video.uri.rpartition("/")[2] for video in videos] == ["x.mp4"]
        assert videos.n_ignored == 1
        assert "tars beside the videos that are not read: 1" in videos.notes[0]

    def test_a_text_without_tars_is_no_list(self, tmp_path):
        (tmp_path / "x.txt").write_text("hello")
        assert len(find_videos(tmp_path / "x.txt")) == 1, "a file that is named on its own counts as a video"


class TestCompanions:
    def test_video2dataset_has_a_table_beside_each_tar(self, tmp_path):
        for shard in ("00000", "00001"):
            sample = {"key": f"{shard}0000", "url": "http://x", "status": "success"}
            files = {f"{shard}0000.mp4": VIDEO, f"{shard}0000.txt": "words", f"{shard}0000.json": json.dumps(sample)}
            write_tar(tmp_path / f"{shard}.tar", files)
            keys = [f"{shard}0000", f"{shard}0001"]
            table = {
                "key": keys,
                "url": ["http://x", "http://y"],
                "status": ["success", "failed"],
                "score": [0.5, None],
            }
            pq.write_table(pa.table(table), tmp_path / f"{shard}.parquet")
            (tmp_path / f"{shard}_stats.json").write_text("{}")
        videos = find_videos(tmp_path)
        assert len(videos) == 2
        assert videos.extra["score"].to_pylist() == [0.5, 0.5]
        assert videos.extra["status"].to_pylist() == ["success"] * 2
        assert "rows without a video in the Parquet files beside the tars: 2 (the first: 000000001)" in videos.notes

    def test_times_in_the_table_that_python_has_not_are_kept_as_text(self, tmp_path):
        write_tar(tmp_path / "0.tar", {"a.mp4": VIDEO, "b.mp4": VIDEO})
        seen = pa.array([2**50, 0], pa.timestamp("s"))
        pq.write_table(pa.table({"key": ["a", "b"], "seen": seen}), tmp_path / "0.parquet")
        first, second = find_videos(tmp_path).extra["seen"].to_pylist()
        assert str(2**50 * 1000) in first and second.strip('"') == "1970-01-01 00:00:00"

    def test_cosmos_has_three_tars_with_the_same_keys(self, tmp_path):
        bin_folder = tmp_path / "v0" / "resolution_720" / "frames_0_255"
        for number in range(2):
            part = f"part_{number:06d}/000000.tar"
            keys = [f"clip{number}{i}" for i in range(2)]
            write_tar(bin_folder / "video" / part, {f"{key}.mp4": VIDEO for key in keys})
            meta = {
                "span_uuid": "u",
                "windows": [{"start_frame": 0, "qwen_caption": "plain", "qwen_enhanced_caption": "rich"}],
            }
            write_tar(bin_folder / "metas" / part, {f"{key}.json": json.dumps(meta) for key in keys[: 2 - number]})
            write_tar(bin_folder / "t5_xxl" / part, {f"{key}.pickle": b"\x80\x04N." for key in keys})
        (bin_folder / "wdinfo.json").write_text("{}")
        for source in (tmp_path / "v0", bin_folder, bin_folder / "video"):
            videos = find_videos(source)
            assert [video.caption for video in videos] == ["rich"] * 3 + [None]
            assert videos.extra["key"].to_pylist() == ["clip00", "clip01", "clip10", "clip11"]
            assert "samples without metadata in the tar of metas: 1 (the first: clip11)" in videos.notes
        assert {video.group for video in find_videos(tmp_path / "v0")} == {"resolution_720/frames_0_255"}

    def test_json_without_a_caption_hides_none_of_its_companions(self, tmp_path):
        meta = {"windows": [{"qwen_caption": "of a window"}]}
        write_tar(tmp_path / "video/part/0.tar", {"1.mp4": VIDEO, "1.json": '{"n": 1}'})
        write_tar(tmp_path / "metas/part/0.tar", {"1.json": json.dumps(meta)})
        write_tar(tmp_path / "2.tar", {"2.mp4": VIDEO, "2.json": '{"n": 2, "caption": null}'})
        pq.write_table(pa.table({"key": ["2"], "caption": ["of the table"]}), tmp_path / "2.parquet")
        assert [video.caption for video in find_videos(tmp_path)] == ["of the table", "of a window"]

    def test_windows_that_are_not_curates_are_a_column_as_others(self, tmp_path):
        write_tar(tmp_path / "0.tar", {"1.mp4": VIDEO, "1.json": '{"windows": [[0, 5], [5, 10]]}'})
        (video,) = find_videos(tmp_path)
        assert (video.caption, video.extra["windows"]) == (None, "[[0, 5], [5, 10]]")


class TestTrouble:
    @pytest.fixture
    def tar(self, tmp_path):
        return write_tar(tmp_path / "0.tar", {f"{i}.{kind}": VIDEO for i in range(3) for kind in ("mp4", "txt")})

    def test_a_tar_that_was_cut_off_gives_its_whole_members(self, tar):
        """Wherever it ends, all members before that are found, and one line says where."""
        whole = tar.read_bytes()
        with tarfile.open(tar) as opened:
            ends = [each.offset_data + each.size for each in opened]
        for size in (
            ends[0],
            ends[1] - 1,
            ends[1] + 300,
            ends[2] - 2000,
            ends[4] + 72,
            ends[4] + 200,
            ends[5],
            len(whole) - 1,
        ):
            tar.write_bytes(whole[:size])
            videos = find_videos(tar)
            assert len(videos) == sum(end <= size for end in ends[::2]), size
            notes = [note for note in videos.notes if "cut off" in note]
            assert len(notes) == (size < ends[5] + 512), size
            for note in notes:
                assert f"{tar} " in note

    @pytest.mark.parametrize("n_bytes", [0, 300])
    def test_a_tar_that_was_hardly_begun_costs_no_other(self, tar, tmp_path, n_bytes):
        (tmp_path / "1.tar").write_bytes(tar.read_bytes()[:n_bytes])
        videos = find_videos(tmp_path)
        assert members_of(videos) == ["0.mp4", "1.mp4", "2.mp4"]
        assert f"1.tar was cut off at byte {n_bytes}, within its first header" in videos.notes[-1]

    def test_a_damaged_header_ends_it_with_a_line(self, tar):
        content = bytearray(tar.read_bytes())
        content[3584 : 3584 + 512] = b"\xff" * 512
        tar.write_bytes(content)
        videos = find_videos(tar)
        assert members_of(videos) == ["0.mp4"]
        assert f"{tar} has a damaged header at byte 3,584 of {len(content):,}: " in videos.notes[-1]

    def test_what_lies_behind_the_end_mark_is_told_of(self, tar, tmp_path):
        """As in webdataset, tars that were joined byte by byte end where the first one does."""
        other = write_tar(tmp_path / "other" / "1.tar", {"9.mp4": VIDEO * 30})
        tar.write_bytes(tar.read_bytes() + other.read_bytes())
        videos = find_videos(tar)
        assert len(videos) == 3
        assert "what lies behind its end mark is not read" in videos.notes[-1]

    @pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
    def test_a_compressed_tar_is_refused(self, tmp_path, kind):
        with tarfile.open(tmp_path / "a.tar", f"w:{kind}") as tar:
            tar.addfile(tarfile.TarInfo("x.mp4"))
        with pytest.raises(
            SourceError, match=r"a.tar is compressed \((gzip|bzip2|xz)\), so that no video in it can be read"
        ):
            find_videos(tmp_path / "a.tar")
        with pytest.raises(SourceError, match=f"b.tar.{kind} is compressed"):
            find_videos(tmp_path / f"b.tar.{kind}")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("x.tar", b"", r"no video in the 1 tars of .*\(.*x.tar was cut off at byte 0, within its first header"),
            ("x.tar", b"no tar" * 500, "x.tar is no tar: "),
            ("x.txt", b"a.tar\nb.mp4\n", "line 2, b.mp4, names no .tar"),
            ("x.txt", b"a.tar\n", "cannot read .*a.tar: no such file"),
            ("x.parquet", b"", None),
        ],
    )
    def test_errors_are_one_line(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        if message is None:  # the table beside a tar
            write_tar(tmp_path / "x.tar", {"1.mp4": VIDEO})
            name, message = "x.tar", "cannot read .*x.parquet: "
        with pytest.raises(SourceError, match=message) as raised:
            find_videos(tmp_path / name)
        assert "\n" not in str(raised.value)

    def test_a_table_whose_page_does_not_decompress_is_named(self, tmp_path):
        write_tar(tmp_path / "x.tar", {"1.mp4": VIDEO})
        pq.write_table(
            pa.table({"key": ["1"] * 1000, "said": [f"{i} words" for i in range(1000)]}), tmp_path / "x.parquet"
        )
        content = bytearray((tmp_path / "x.parquet").read_bytes())
        content[200:260] = b"\xff" * 60
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(SourceError, match=r"cannot read .*x\.parquet: "):
            find_videos(tmp_path)

    def test_no_video_in_any(self, tmp_path):
        write_tar(tmp_path / "0.tar", {"1.txt": "x"})
        with pytest.raises(SourceError, match="no video in the 1 tars of"):
            find_videos(tmp_path)

    def test_a_missing_shard_is_an_error(self, tmp_path):
        write_tar(tmp_path / "0.tar", {"1.mp4": VIDEO})
        with pytest.raises(SourceError, match=r"cannot read .*/1\.tar: no such file"):
            find_videos(f"{tmp_path}/{{0..1}}.tar")


def test_links_are_the_files_that_they_name(tmp_path):
    with tarfile.open(tmp_path / "l.tar", "w") as tar:
        for name, linked in (
            ("./x/z.mp4", "../a.mp4"), ("./a.mp4", None), ("./b.mp4", "./a.mp4"), ("b.txt", "a.txt"), ("a.txt", None),
            ("c.mp4", "gone.mp4"), ("d.mp4", "d.mp4"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type = tarfile.LNKTYPE if linked == "./a.mp4" else tarfile.SYMTYPE if linked else tarfile.REGTYPE
            member.linkname = linked or ""
            content = b"" if linked else name.encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    found = find_videos(tmp_path / "l.tar")
    members = [split_member(video.uri) for video in found]
    assert [member.name for member in members] == ["./x/z.mp4", "./a.mp4", "./b.mp4"]
    content = (tmp_path / "l.tar").read_bytes()
    assert {content[member.offset : member.offset + member.size] for member in members} == {b"./a.mp4"}
    assert [video.caption for video in found] == [None, "a.txt", "a.txt"]
    assert len({video.video_id for video in found}) == 3
    (note,) = [note for note in found.notes if "links" in note]
    assert note.endswith("l.tar to what is no file in it, which are left out: 2")


def test_an_index_reads_headers_and_no_contents(tmp_path, monkeypatch):
    """Of 20 videos of 1 MB, less than 1 % is read: each header, and the texts that become columns."""
    files = {
        f"{i:03d}.{kind}": b"\1" * (1 << 20) if kind == "mp4" else b"{}" for i in range(20) for kind in ("mp4", "json")
    }
    tar = write_tar(tmp_path / "big.tar", files)
    n_read = 0

    class Counted(io.FileIO):
        def read(self, size=-1):
            nonlocal n_read
            data = super().read(size)
            n_read += len(data)
            return data

    @contextmanager
    def open_counted(*_):
        with Counted(str(tar)) as file:
            yield file

    monkeypatch.setattr(tars, "open_parts", open_counted)
    index = tars.read_tar(canonical_uri(str(tar)), lambda name: name.endswith("json"))
    assert (len(index.members), len(index.contents)) == (40, 20)
    assert n_read < 0.01 * tar.stat().st_size


def test_of_a_remote_tar_headers_and_the_wanted_video_are_fetched(tmp_path):
    """Over HTTP, in ranges: of 4 videos of 2 MB one block of one is fetched to decode it."""
    video = write_video(tmp_path / "in" / "v.mp4", n_frames=10).read_bytes()
    padded = video + (2 << 20).to_bytes(4, "big") + b"free" + b"\0" * ((2 << 20) - 8)  # a box that players pass over
    files = {f"{i}.{kind}": padded if kind == "mp4" else f"caption {i}" for i in range(4) for kind in ("mp4", "txt")}
    write_tar(tmp_path / "in" / "0.tar", files)
    with serve_folder(tmp_path / "in") as target, proxy_before(target) as proxy:
        videos = find_videos(f"{proxy.url}/0.tar")
        assert [each.caption for each in videos] == [f"caption {i}" for i in range(4)]
        assert proxy.n_bytes("GET") < 200_000
        proxy.calm()
        assert PyAVDecoder().probe(videos[2].uri).n_frames == 10
        frames = PyAVDecoder().frames(videos[2].uri, np.array([0.0, 0.5]), 32, "crop")
        assert proxy.n_bytes("GET") <= 1 << 20, "one block, and what was probed is not fetched again"
        assert {answer.status for answer in proxy.answers if answer.line.startswith("GET")} == {206}
        np.testing.assert_array_equal(
            frames.pixels, PyAVDecoder().frames(str(tmp_path / "in" / "v.mp4"), np.array([0.0, 0.5]), 32, "crop").pixels
        )
        assert read_versions(videos).null_count == 0


def test_a_server_without_ranges_is_named(tmp_path):
    write_tar(tmp_path / "0.tar", {"1.mp4": VIDEO * 20, "2.mp4": VIDEO})

    class Whole(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Whole, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        with pytest.raises(SourceError, match=r"0\.tar: .*range requests"):
            find_videos(f"http://127.0.0.1:{server.server_port}/0.tar")
    finally:
        server.shutdown()
        server.server_close()
