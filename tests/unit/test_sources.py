"""Sources: which videos are found, under which ids and groups, and what is said where a source is wrong."""

import json
import os
import pickle
import sys
import threading
import time
import uuid
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from raypipe.errors import SourceError, UsageError
from raypipe.runs.directory import Run
from raypipe.sources import find_videos, is_precomputed, read_precomputed
from raypipe.storage import canonical_uri, local_path, open_filesystem


class _OnHost(MemoryFileSystem):
    """A filesystem of one server, which its URLs name and its paths do not."""

    protocol = "host"

    def __init__(self, host: str, **options) -> None:
        assert host == "nas"
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{path.partition('://')[2].partition('/')[2]}".rstrip("/") if "://" in path else path.rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(url: str) -> dict[str, str]:
        return {"host": url.partition("@")[2].partition("/")[0]}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names_of(videos, root: Path) -> list[str]:
    return [os.path.relpath(local_path(video.uri), root) for video in videos]


def uuid_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("raypipe.storage.PATIENCE_S", 0.0)


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def served(tmp_path):
    """Serve a folder over HTTP; its URL and path."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


class TestFolder:
    def test_recursive_grouped_and_in_natural_order(self, tmp_path):
        touch(tmp_path, "clip10.mp4", "clip2.MP4", "b/x.mkv", "a/deep/y.mov", "a/z.webm", "notes.txt", "a/LICENSE")
        videos = find_videos(tmp_path)
        assert names_of(videos, tmp_path) == ["clip2.MP4", "clip10.mp4", "a/z.webm", "a/deep/y.mov", "b/x.mkv"]
        assert [video.group for video in videos] == [None, None, "a", "a/deep", "b"]
        assert videos.n_ignored == 2

    def test_ids_and_uris_do_not_depend_on_how_the_folder_is_spelled(self, tmp_path, monkeypatch):
        touch(tmp_path, "a/x 1%.mp4")
        monkeypatch.chdir(tmp_path)
        uri = (tmp_path / "a/x 1%.mp4").as_uri()
        for spelled in (
            tmp_path,
            "a",
            "./a/",
            f"../{tmp_path.name}/a",
            "a/*.mp4",
            f"{tmp_path.as_uri()}/a",
            [Path("a")],
        ):
            (video,) = find_videos(spelled)
            assert (video.uri, video.video_id) == (uri, uuid_of(uri))
        assert find_videos("a/x 1%.mp4")[0].video_id == uuid_of(uri)

    def test_hidden_files_and_folders_are_left_out(self, tmp_path):
        touch(tmp_path, "x.mp4", "._x.mp4", ".cache/y.mp4", "a/.git/z.mp4", "mp4")
        videos = find_videos(tmp_path)
        assert names_of(videos, tmp_path) == ["x.mp4"]
        assert videos.n_ignored == 2

    def test_odd_things_named_like_videos_are_found_and_never_opened(self, tmp_path):
        os.mkfifo(tmp_path / "fifo.mp4")
        (tmp_path / "broken.mp4").symlink_to(tmp_path / "nowhere")
        (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
        touch(tmp_path, "folder.mp4/inner.mp4", "empty.mp4")
        assert names_of(find_videos(tmp_path), tmp_path) == [
            "broken.mp4", "empty.mp4", "fifo.mp4", "folder.mp4", "self.mp4", "folder.mp4/inner.mp4",
        ]  # fmt: skip
        for name in ("fifo.mp4", "broken.mp4"):
            assert names_of(find_videos(tmp_path / name), tmp_path) == [name]

    def test_links_to_folders_are_followed_but_not_in_a_circle(self, tmp_path):
        touch(tmp_path, "elsewhere/x.mp4", "root/a/y.mp4")
        (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root/a/up").symlink_to(tmp_path / "root")
        (tmp_path / "elsewhere/back").symlink_to(tmp_path / "root/a")
        assert names_of(find_videos(tmp_path / "root"), tmp_path / "root") == [
            "a/y.mp4", "linked/x.mp4", "linked/back/y.mp4",
        ]  # fmt: skip
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        assert names_of(find_videos(tmp_path / "link"), tmp_path)[0] == "link/x.mp4"

    @pytest.mark.parametrize("name", ["a b.mp4", "ü#?%41.mp4", "line\nbreak.mp4", "[1]*.mp4", "~x.mp4", "'\".mp4"])
    def test_weird_names(self, tmp_path, name, monkeypatch):
        touch(tmp_path, f"säge/{name}")
        monkeypatch.chdir(tmp_path / "säge")
        for source in (tmp_path, name, (tmp_path / "säge" / name).as_uri()):
            (video,) = find_videos(source)
            assert video.uri == (tmp_path / "säge" / name).as_uri()
            assert local_path(video.uri) == str(tmp_path / "säge" / name)
        assert find_videos(tmp_path)[0].group == "säge"

    def test_names_that_are_not_utf8(self, tmp_path):
        folder = os.fsencode(tmp_path) + b"/f\xff"
        Path(os.fsdecode(folder)).mkdir()
        path = Path(os.fsdecode(folder + b"/v\xfe.mp4"))
        path.touch()
        (video,) = find_videos(tmp_path)
        assert video.uri == path.as_uri() and video.uri.endswith("/f%FF/v%FE.mp4")
        assert local_path(video.uri) == str(path)
        assert video.group == r"f\xff"
        assert list(find_videos(path)) == list(find_videos(video.uri))
        with pytest.raises(SourceError) as caught:
            find_videos(path.with_suffix(".mov"))
        str(caught.value).encode()

    @pytest.mark.slow
    def test_a_hundred_thousand_files_take_seconds(self, tmp_path):
        for i in range(100):
            (tmp_path / f"{i}").mkdir()
            for j in range(1000):
                os.mknod(tmp_path / f"{i}/{j}.mp4")
        started = time.process_time()
        videos = find_videos(tmp_path)
        assert len(videos) == 100_000
        assert names_of(videos[:3], tmp_path) == ["0/0.mp4", "0/1.mp4", "0/2.mp4"]
        assert time.process_time() - started < 10  # about 1 s of work


class TestGlob:
    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("*.mp4", ["x.mp4"]),
            ("**/*.mp4", ["x.mp4", "a/1.mp4", "a/b/2.mp4", "c/b/3.mp4"]),
            ("**", ["x.mp4", "a/1.mp4", "a/b/2.mp4", "a/b/4.mkv", "c/b/3.mp4"]),
            ("*/b/**/*", ["a/b/2.mp4", "a/b/4.mkv", "c/b/3.mp4"]),
            ("**/b/*.mp4", ["a/b/2.mp4", "c/b/3.mp4"]),
            ("[!a]/b/?.m*", ["c/b/3.mp4"]),
            ("a/**/[24].*", ["a/b/2.mp4", "a/b/4.mkv"]),
            (".hid*/*.mp4", [".hidden/h.mp4"]),
        ],
    )
    def test_patterns(self, tmp_path, memory, pattern, found):
        files = ["x.mp4", "a/1.mp4", "a/b/2.mp4", "a/b/4.mkv", "a/b/n.txt", "c/b/3.mp4", ".hidden/h.mp4"]
        touch(tmp_path, *files)
        assert names_of(find_videos(f"{tmp_path}/{pattern}"), tmp_path) == found
        for file in files:
            memory.pipe(f"/bucket/{file}", b"")
        videos = find_videos(f"memory://bucket/{pattern}")
        assert [video.uri.removeprefix("memory:///bucket/") for video in videos] == found

    def test_the_root_is_the_longest_folder_without_a_wildcard(self, tmp_path):
        touch(tmp_path, "data/pour/x.mp4", "data/pour/x.txt", "data/lift/cam/y.mp4", "other/z.txt")
        videos = find_videos(f"{tmp_path}/data/**/*")
        assert [video.group for video in videos] == ["lift/cam", "pour"]
        assert videos.n_ignored == 1

    def test_no_folder_is_entered_in_vain(self, tmp_path, monkeypatch):
        touch(tmp_path, "a/x.mp4", "b/y.mp4", "a/deep/z.mp4")
        entered, scandir = [], os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: entered.append(Path(path).name) or scandir(path))
        assert len(find_videos(f"{tmp_path}/*/x*.mp4")) == 1
        assert entered == [tmp_path.name, "a", "b"]


class TestErrors:
    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("nowhere/x.mp4", "cannot find nowhere/x.mp4: no such file or folder"),
            ("nowhere/*.mp4", "nowhere: no such file or folder"),
            ("a\0b", r"cannot find 'a\x00b'"),
            ("foo://bucket/x.mp4", "Protocol not known: foo"),
            ("zip://x.mp4::file:///a.zip", "chained URLs are not read"),
            ("zip://*.mp4::a.zip", "chained URLs are not read: zip://*.mp4::a.zip; give the inner URL"),
            ("simplecache::s3://bucket/*.mp4", "chained URLs are not read"),
            ("simplecache::file:///d/x.mp4", "chained URLs are not read"),
            ("http://[::1]:9/x/", "cannot list http://[::1]:9/x/: "),  # This is an address of IPv6.
            ("s3://bucket/a::s3://bucket/b", "chained URLs are not read"),
            ("file://relative/x.mp4", "write file:///folder/video.mp4"),
            ("http://127.0.0.1:9/x/", "cannot list http://127.0.0.1:9/x/: "),
            ("memory://nowhere", "cannot find memory://nowhere: no such file or folder"),
            ("~nobody of that name/x", "cannot find ~nobody of that name/x: no such file or folder"),
            *((f"{'x' * 300}{end}", "File name too long") for end in ("", ".csv", "{0..1}.tar")),
            (f"{'x' * 300}.json", "it must be the only source of a run"),
            ([], "no source given"),
        ],
        ids=lambda value: str(value)[-20:],
    )
    def test_one_line_says_what_is_wrong(self, source, said, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SourceError) as caught:
            find_videos(source)
        assert said in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    def test_a_table_in_a_videofolder_says_what_its_videos_are(self, tmp_path, kind):
        """As Hugging Face's datasets take it: paths from the table's own folder, a table in any folder."""
        touch(tmp_path, "train/b/1 2.mp4", "train/b/10.mp4", "train/3.mp4", "test/1.mp4", "notes.csv", "x.txt")
        rows = {"b/1 2.mp4": "öpens", "3.mp4": "closes", "gone.mp4": "gone"}
        table = pa.table({"file_name": list(rows), "text": list(rows.values()), "n": [1, 2, 3]})
        if kind == "parquet":
            pq.write_table(table, tmp_path / "train/metadata.parquet")
        elif kind == "csv":
            lines = [
                ",".join(map(str, row.values()))
                for row in [dict(zip(table.column_names, table.column_names, strict=True)), *table.to_pylist()]
            ]
            (tmp_path / "train/metadata.csv").write_text("\n".join(lines), "utf-8")
        else:
            (tmp_path / "train/metadata.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())))
        (tmp_path / "test/metadata.csv").write_text("video_file_name,label,group\n1.mp4,x,y\n./1.mp4,z,\n")
        for source in (tmp_path, tmp_path.as_uri(), f"{tmp_path}/**"):
            found = find_videos(source)
            assert names_of(found, tmp_path) == ["test/1.mp4", "train/3.mp4", "train/b/1 2.mp4", "train/b/10.mp4"]
            assert [(video.group, video.label, video.caption) for video in found] == [
                ("y", "x", None), ("train", None, "closes"), ("train/b", None, "öpens"), ("train/b", None, None),
            ]  # fmt: skip
            assert [video.video_id for video in found] == [uuid_of(video.uri) for video in found]
            assert found.extra.to_pydict() == {"n": [None, 2, 1, None]}
            assert found.n_ignored == 2
            assert found.notes == (
                "videos that no table of metadata names: 1",
                "rows of metadata that name a video again, and are left out: 1",
                f"files that metadata names and that are no videos here, as {tmp_path}/train/gone.mp4: 1",
            )
        assert find_videos(tmp_path / "**/*.mp4").notes == ()

    @pytest.mark.parametrize("query", ["f=a.csv", "f=a.tar", "x=/metadata.csv"])
    def test_a_query_is_no_suffix(self, query):
        assert [video.uri for video in find_videos(f"https://h.invalid/a.mp4?{query}")] == [
            f"https://h.invalid/a.mp4?{query}"
        ]

    def test_a_question_mark_in_a_name_of_a_table(self, memory):
        memory.pipe("/d/what?/a.mp4", b"")
        memory.pipe("/d/what?/metadata.csv", b"file_name,text\na.mp4,A\n")
        found = find_videos("memory://d")
        assert (len(found), found[0].caption, found.n_ignored) == (1, "A", 0)

    def test_parts_of_one_file_in_a_videofolder_are_videos_each(self, tmp_path):
        touch(tmp_path, "a.mp4")
        (tmp_path / "metadata.csv").write_text("path,id,start_s,end_s,label\na.mp4,7,3,4.5,x\na.mp4,7,0,1,y\n")
        found = find_videos(tmp_path)
        assert [(video.start_s, video.end_s, video.label) for video in found] == [(3, 4.5, "x"), (0, 1, "y")]
        assert [video.video_id for video in found] == [uuid_of(f"{found[0].uri}#t={of}") for of in ("3,4.5", "0,1")]

    def test_a_table_that_cannot_be_read_costs_no_video(self, tmp_path):
        touch(tmp_path, "a/x.mp4", "b/x.mp4", "c/x.mp4")
        (tmp_path / "a/metadata.csv").write_text("name,label\nx.mp4,x\n")
        (tmp_path / "b/metadata.jsonl").write_text('{"file_name": "x.mp4", "n": 1}')
        found = find_videos(tmp_path)
        assert len(found) == 3 and found.n_ignored == 1
        assert found.notes[1].startswith(f"{tmp_path}/a/metadata.csv is not read: manifest ")
        (tmp_path / "c/metadata.jsonl").write_text('{"file_name": "x.mp4", "n": "one"}')
        found = find_videos(tmp_path)
        assert len(found) == 3 and found.n_ignored == 3
        assert "column 'n' holds values of unlike types" in found.notes[1]

    def test_captions_lie_in_a_folder_beside_that_of_the_videos(self, tmp_path):
        """As Cosmos Predict 2 takes them."""
        touch(tmp_path, "videos/a b.mp4", "videos/c.mp4", "other/a b.mp4", "b/videos/a b.mp4", "metas/note.md")
        (tmp_path / "metas/a b.txt").write_text(" an arm opens a d\u00f6or\n", "utf-8")
        (tmp_path / "metas/gone.txt").write_text("nothing")
        for source in (tmp_path, tmp_path.as_uri(), f"{tmp_path}/"):
            found = find_videos(source)
            told = {video.uri.rpartition(tmp_path.name)[2]: video.caption for video in found}
            assert told == {
                "/videos/a%20b.mp4": "an arm opens a d\u00f6or",
                "/videos/c.mp4": None,
                "/other/a%20b.mp4": None,
                "/b/videos/a%20b.mp4": None,
            }
            assert found.n_ignored == 2
        (tmp_path / "metas/c.txt").symlink_to("nowhere")
        found = find_videos(tmp_path)
        assert (len(found), found.n_ignored, found[2].caption) == (4, 3, "an arm opens a d\u00f6or")
        (note,) = found.notes
        assert note.startswith(f"captions that cannot be read: 1 (the first: cannot read {tmp_path}/metas/c.txt: ")

    def test_an_empty_source_says_what_was_looked_for(self, tmp_path):
        touch(tmp_path, "a.txt", "b/c.csv", "d.png")
        with pytest.raises(
            SourceError, match=r"no video in .*\.mkv .*\.mp4.*; 3 other files ignored; .*c\.csv is a table"
        ):
            find_videos(tmp_path)
        touch(tmp_path, "x/y.mp4")
        with pytest.raises(SourceError, match=r"no video in .*b:"):  # one of several sources, too
            find_videos([tmp_path / "x", tmp_path / "b"])

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("a/00000.tar.gz", "is a compressed archive, which is not read: unpack it, or make it a plain .tar"),
            ("videos_chunked_000.zip", "is a compressed archive"),
            (
                "data-00000-of-00002.arrow",
                "is a table, such as one of Hugging Face datasets, of which no videos are read",
            ),
            (
                "low_dim_v15.hdf5",
                "is a recording of robots, of which no videos are read: convert it to a LeRobot dataset",
            ),
            ("1.0.0/bridge-train.tfrecord-00000-of-00512", "is a recording of robots"),
            ("rec_0.mcap", "is a recording of robots"),
            ("features/a.npy", "is a file of numbers: embeddings that were computed elsewhere are read from one .npz"),
            ("features/a.pt", "is a file of numbers"),
            ("Coffee_TRAIN.arff", "is a file of numbers"),
            ("S001C001P001R001A001.skeleton", "is a file of numbers"),
        ],
    )
    def test_what_videos_are_kept_in_and_is_not_read_is_told(self, tmp_path, name, said):
        touch(tmp_path, name, "dataset_info.json")
        with pytest.raises(SourceError, match=f"no video in .*; 2 other files ignored; .*/{name} {said}"):
            find_videos(tmp_path)
        with pytest.raises(SourceError, match="is compressed" if name.endswith(".tar.gz") else f"/{name} {said}"):
            find_videos(tmp_path / name)

    def test_a_folder_of_zarr_is_told_by_its_own_name(self, tmp_path):
        touch(tmp_path, "x.zarr/.zgroup", "x.zarr/a/0.0")
        for source in ("x.zarr", "x.zarr/"):
            with pytest.raises(SourceError, match=r"/x\.zarr/? is a recording of robots"):
                find_videos(f"{tmp_path}/{source}")
        with pytest.raises(SourceError, match=r"; .*/x\.zarr is a recording of robots"):  # The folder that it lies in.
            find_videos(tmp_path)

    def test_folders_of_pictures_are_told_of_where_there_is_nothing_else(self, tmp_path):
        touch(tmp_path, "episode_0/000001.png", "episode_0/000002.PNG", "episode_1/im_1.jpg", "a.json")
        said = r"; 4 other files ignored; 3 pictures among them: make a video of each folder of pictures first, as by "
        with pytest.raises(SourceError, match=f"{said}ffmpeg "):
            find_videos(tmp_path)
        touch(tmp_path, "episode_1/x.bag")
        with pytest.raises(SourceError, match=r"; 5 other files ignored; .*/x\.bag is a recording of robots"):
            find_videos(tmp_path)

    def test_a_folder_that_may_not_be_read(self, tmp_path, monkeypatch):
        touch(tmp_path, "x.mp4", "locked/y.mp4")
        scandir = os.scandir

        def refuse(path):
            if Path(path).name == "locked":
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(SourceError, match=r"cannot list .*locked: Permission denied"):
            find_videos(tmp_path)

    @pytest.mark.parametrize(("protocol", "remedy"), [("s3", "'raypipe[s3]'"), ("gs", "'raypipe[gcs]'")])
    def test_a_missing_package_names_its_extra(self, monkeypatch, protocol, remedy):
        for package in ("s3fs", "gcsfs"):
            monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(SourceError) as caught:
            find_videos(f"{protocol}://bucket/a/*.mp4")
        assert f"pip install {remedy}" in str(caught.value)

    def test_no_credential_is_part_of_an_error(self, served):
        url, _ = served
        host = url.removeprefix("http://")
        secret = f"http://me:pass-word@{host}/list.csv?X-Signature=abcdef123456"
        with pytest.raises(SourceError) as caught:
            find_videos(secret)
        assert f"http://{host}/list.csv?…: no such file" in str(caught.value)
        for url in (
            "s3x://me:pass-word@bucket/a/b",
            "http://me:pass-word@127.0.0.1:9/x/",
            "http://127.0.0.1:9/x.csv?token=abcdef123456",
        ):
            with pytest.raises(SourceError) as caught:
                find_videos(url)
            for part in ("pass-word", "abcdef123456"):
                assert part not in str(caught.value)

    def test_two_videos_with_one_id(self, tmp_path):
        touch(tmp_path, "a/x.mp4", "y.mp4")
        with pytest.raises(SourceError, match=r"one id: .*a/x\.mp4 and .*a/x\.mp4;"):
            find_videos([tmp_path, tmp_path / "a"])
        (tmp_path / "one.csv").write_text("path,id\ny.mp4,7\n")
        (tmp_path / "two.csv").write_text("path,id\na/x.mp4,6\na/x.mp4,7\n")
        with pytest.raises(SourceError, match=r"one\.csv row 1 \(.*y\.mp4\) and .*two\.csv row 2 \(.*x\.mp4\)"):
            find_videos([tmp_path / "one.csv", tmp_path / "two.csv"])

    def test_precomputed_trajectories_are_no_videos(self, tmp_path):
        with pytest.raises(SourceError, match=r"x\.npz holds trajectories"):
            find_videos([touch(tmp_path, "x.npz", "y.mp4") / "x.npz", tmp_path / "y.mp4"])


class TestRemote:
    def test_folder_and_file_in_a_bucket(self, memory):
        for name in ("a/x10.mp4", "a/x2.mp4", "a/b c/%41.mkv", "a/n.txt", "a/.hid/z.mp4", "top.bin"):
            memory.pipe(f"/bucket/{name}", b"")
        videos = find_videos("memory://bucket")
        assert [video.uri for video in videos] == [
            "memory:///bucket/a/x2.mp4", "memory:///bucket/a/x10.mp4", "memory:///bucket/a/b c/%41.mkv",
        ]  # fmt: skip
        assert [video.group for video in videos] == ["a", "a", "a/b c"]
        assert videos.n_ignored == 2
        (lone,) = find_videos("memory://bucket/top.bin")
        assert lone.video_id == uuid_of("memory:///bucket/top.bin")

    def test_a_folder_may_have_no_name(self, memory):
        """Scripts that join paths leave keys with two slashes, or with one in front, in a bucket."""
        for name in ("/lead.mp4", "x//a.mp4", "x/b.mp4", ".hidden//c.mp4"):
            memory.pipe_file(f"/bucket/{name}", b"0")
        if "/bucket/x//a.mp4" not in memory.find("/bucket"):
            pytest.skip(f"the memory of fsspec {fsspec.__version__} does not find keys with two slashes")
        found = {"//lead.mp4": None, "/x//a.mp4": "x/", "/x/b.mp4": "x"}
        videos = find_videos("memory://bucket")
        assert {video.uri.removeprefix("memory:///bucket"): video.group for video in videos} == found
        (lone,) = find_videos("memory://bucket/**/lead.mp4")
        assert lone.uri == "memory:///bucket//lead.mp4"

    @pytest.mark.parametrize("source", ["host://me@nas/b", "host://me@nas/b/", "host://me@nas/b/**/*.mp4"])
    def test_a_server_that_only_the_url_names_stays_in_it(self, memory, source):
        """As with FTP, SFTP and Azure's accounts: without it nobody could open the video."""
        fsspec.register_implementation("host", _OnHost, clobber=True)
        memory.pipe({"/b/x.mp4": b"", "/b/c/y.mp4": b"", "/b/list.csv": b"uri\nc/y.mp4\n/b/x.mp4\n"})
        videos = find_videos(source)
        assert [video.uri for video in videos] == ["host://me@nas/b/x.mp4", "host://me@nas/b/c/y.mp4"]
        assert [video.group for video in videos] == [None, "c"]
        assert [video.uri for video in find_videos("host://me@nas/b/x.mp4")] == [videos[0].uri]
        assert find_videos("host://me@nas/b/list.csv")[0].uri == videos[1].uri
        assert Run("host://me@nas/b/run").place("report.html") == "host://me@nas/b/run/report.html"

    def test_a_key_may_hold_brackets(self, memory):
        memory.pipe("/bucket/clip[1].mp4", b"")
        assert len(find_videos("memory://bucket/clip[1].mp4")) == 1

    def test_one_http_url_is_one_video_and_is_not_asked_for(self):
        url = "https://video.invalid/watch?v=*[abc]"
        assert [(video.uri, video.video_id) for video in find_videos(url)] == [(url, uuid_of(url))]

    def test_http_folders_where_the_server_lists_them(self, served):
        url, folder = served
        touch(folder, "a/x.mp4", "a/b c/y.mp4", "a/n.txt")
        for source in (f"{url}/a/", f"{url}/a/**/*.mp4"):
            videos = find_videos(source)
            assert [video.uri for video in videos] == [f"{url}/a/x.mp4", f"{url}/a/b%20c/y.mp4"]
            assert [video.group for video in videos] == [None, "b c"]

    def test_remote_manifests(self, served, memory):
        url, folder = served
        (folder / "sets").mkdir()
        text = "uri,label\nclips/x.mp4,007\n../y.mp4,\nhttps://other.invalid/z.mp4,a\n/mnt/w.mp4,\n../../../v,\n"
        (folder / "sets/list.csv").write_text(text)
        memory.pipe("/bucket/sets/list.csv", text.encode())
        for base in (url, "memory:///bucket"):
            videos = find_videos(f"{base}/sets/list.csv")
            assert [video.uri for video in videos] == [
                f"{base}/sets/clips/x.mp4", f"{base}/y.mp4", "https://other.invalid/z.mp4", "file:///mnt/w.mp4",
                f"{base.removesuffix('/bucket')}/v",  # and not another server's
            ]  # fmt: skip
            assert [video.label for video in videos] == ["007", None, "a", None, None]
            assert [video.group for video in videos] == ["clips", None, None, None, None]

    def test_a_question_mark_is_a_letter_in_a_bucket(self, memory):
        """Only in an http URL it ends the path."""
        memory.pipe("/bucket/now or when?/list.csv", b"uri\nclips/x.mp4\n")
        (video,) = find_videos("memory://bucket/now or when?/list.csv")
        assert (video.uri, video.group) == ("memory:///bucket/now or when?/clips/x.mp4", "clips")


ROWS = [
    dict(path="a b.mp4", id="007", start_s=1.5, end_s=3.0, group="g1", label="01", caption="x, y", n=3),
    dict(path="/abs/c.mp4", id=None, start_s=None, end_s=None, group=None, label="NA", caption=None, n=4),
    dict(path="s/d.mp4", id=None, start_s=None, end_s=2.0, group="", label=None, caption=None, n=None),
]  # fmt: skip


def write_manifest(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows))
    else:
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture(params=["csv", "parquet", "jsonl"])
def kind(request):
    return request.param


class TestManifest:
    def test_every_column(self, tmp_path, kind):
        a, c, d = find_videos(write_manifest(tmp_path / f"list.{kind}", ROWS))
        assert a.uri == (tmp_path / "a b.mp4").as_uri()
        assert a.video_id == uuid_of("007#t=1.5,3")
        assert (a.start_s, a.end_s, a.group, a.label, a.caption) == (1.5, 3.0, "g1", "01", "x, y")
        assert a.extra == {"id": "007", "n": 3} and type(a.extra["n"]) is int
        assert (c.uri, c.video_id) == ("file:///abs/c.mp4", uuid_of("file:///abs/c.mp4"))
        assert (c.start_s, c.end_s, c.group, c.label, c.caption) == (None, None, None, "NA", None)
        assert d.video_id == uuid_of(f"{(tmp_path / 's/d.mp4').as_uri()}#t=,2")
        assert (d.start_s, d.end_s, d.group, d.extra) == (None, 2.0, None, {"id": None, "n": None})

    def test_spans_of_one_file_are_videos_of_their_own(self, tmp_path, kind):
        rows = [{"uri": "x.mp4", "start_s": i, "end_s": i + 1} for i in range(3)]
        videos = find_videos(write_manifest(tmp_path / f"list.{kind}", rows))
        assert len({video.video_id for video in videos}) == 3
        assert len({video.uri for video in videos}) == 1

    def test_groups_come_from_folders_where_no_column_says_them(self, tmp_path, kind):
        rows = [{"path": "a/b c/x.mp4"}, {"path": "x.mp4"}, {"path": "../out/x.mp4"}, {"path": f"{tmp_path}/ü/x.mp4"}]
        videos = find_videos(write_manifest(tmp_path / f"list.{kind}", rows))
        assert [video.group for video in videos] == ["a/b c", None, None, "ü"]

    def test_a_folder_of_that_name_is_a_folder(self, tmp_path, kind):
        assert len(find_videos(touch(tmp_path, f"x.{kind}/y.mp4") / f"x.{kind}")) == 1

    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            ({"start_s": -1}, "row 2: start_s '?-1'? is not a number of seconds"),
            ({"start_s": "one"}, "row 2: start_s 'one' is not a number"),
            ({"end_s": "inf"}, "row 2: end_s 'inf' is not"),
            ({"end_s": 0}, "row 2: end_s 0 is not after start_s 0"),
            ({"start_s": 3, "end_s": 2.5}, "row 2: end_s 2.5 is not after start_s 3"),
            ({"path": ""}, "row 2: uri or path is empty"),
            ({"id": "twice"}, r"one id: .*row 1 \(.*\) and .*row 2"),
            ({"path": "nope://b/x.mp4"}, "Protocol not known: nope"),
        ],
    )
    def test_wrong_rows_are_named(self, tmp_path, kind, bad, said):
        text = any(isinstance(value, str) for value in bad.values())  # a Parquet column has one type
        good = {"path": "x.mp4", "id": "twice", "start_s": "1" if text else 1, "end_s": "2" if text else 2}
        rows = [good, {**good, "id": "two", "start_s": None, "end_s": None, **bad}]
        if "id" in bad:
            rows[1].update(start_s=good["start_s"], end_s=good["end_s"])
        with pytest.raises(SourceError, match=said) as caught:
            find_videos(write_manifest(tmp_path / f"list.{kind}", rows))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("l.csv", b"", "lists no video"),
            ("l.csv", b"path,label\n", "lists no video"),
            ("l.csv", b"file,label\nx.mp4,a\n", "no column uri or path; its columns: file, label"),
            ("l.csv", b"path,label\nx.mp4,a,b\n", "Expected 2 columns, got 3"),
            ("l.csv", b"path,path\nx.mp4,a\n", "two columns named path"),
            ("l.csv", b"path,label\nx.mp4,\xff\n", "cannot read manifest .*: it is not UTF-8 text: save it as UTF-8$"),
            ("l.csv", b"path,\xff\nx.mp4,a\n", "cannot read manifest .*: it is not UTF-8 text: save it as UTF-8$"),
            ("l.csv", b"path;label\nx.mp4;a\n", r"its columns: path;label \(commas part columns, not ;\)$"),
            ("l.csv", b"path\tlabel\nx.mp4\ta\n", r"\(commas part columns, not tabs\)$"),
            ("l.csv", b'path,label\na,"x\nb,\nc,y\n', r"line 2: a cell .* quote that is not closed until the end"),
            ("l.csv", b'path,label\na,"x\nb,\nc,"y\n', r"line 2: a cell .* quote that is not closed until line 4"),
            ("l.csv", b'path,label\n"a\nb"c,\n', "line 2: a cell begins with a quote that is not closed until line 3"),
            ("l.csv", b'path,label\na,"x""\n', "line 2: a cell begins with a quote that is not closed until the end"),
            ("l.parquet", b"no parquet", r"cannot read manifest .*l\.parquet: Parquet "),
            ("l.jsonl", b'{"path": "x.mp4"}\n{"path"\n', "jsonl: line 2, column 8: Expecting ':' delimiter$"),
            ("l.jsonl", b'{"path": "\xff"}\n', "it is not UTF-8 text"),
            ("l.jsonl", b'{"path": "x.mp4"}\n["y.mp4"]\n', "line 2 is not an object"),
            ("l.jsonl", b'{"path": "x.mp4", "label": ["a"]}', "row 1: label is .*, not text"),
            ("l.jsonl", b'{"path": "x.mp4", "id": "\\ud800"}', "row 1: id .* not valid Unicode"),
            ("l.jsonl", b'{"path": "x.mp4", "n": 1}\n{"path": "y.mp4", "n": "a"}', "column 'n' holds .* unlike types"),
        ],
    )  # fmt: skip
    def test_wrong_files(self, tmp_path, name, content, said):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=said) as caught:
            find_videos(tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_csv_as_spreadsheets_and_people_write_it(self, tmp_path):
        rows = "".join(f"v{i}.mp4,0{i},{i},1\r\n" for i in range(60_000))  # over a megabyte of numbers, then a word
        (tmp_path / "l.csv").write_bytes(
            b"\xef\xbb\xbfpath, label,n,note\r\n" + rows.encode() + b"\r\n z.mp4 ,\ta ,1,word\r\n"
        )
        videos = find_videos(tmp_path / "l.csv")
        assert len(videos) == 60_001
        assert (videos[7].label, videos[7].extra) == ("07", {"n": 7, "note": "1"})
        assert (videos[-1].uri, videos[-1].label) == (canonical_uri(str(tmp_path / "z.mp4")), "a")

    def test_a_manifest_of_other_tools_says_what_to_change(self, tmp_path):
        (tmp_path / "metadata.csv").write_text("filename,text\na.mp4,b\n")
        with pytest.raises(SourceError, match=r"no column uri or path; .* \(rename filename to path, if it names the"):
            find_videos(tmp_path / "metadata.csv")
        (tmp_path / "webvid.csv").write_text("videoid,name,contentUrl\n7,b,https://x/7.mp4\n")
        with pytest.raises(SourceError, match=r"\(rename contentUrl to path, if it names the videos\)"):
            find_videos(tmp_path / "webvid.csv")
        (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,b\n")  # Hugging Face's own names
        assert find_videos(tmp_path / "metadata.csv")[0].caption == "b"
        embedded = pa.table({"label": [1], "video": [{"bytes": b"\0", "path": "a.mp4"}]})
        pq.write_table(embedded, tmp_path / "train.parquet")
        with pytest.raises(SourceError, match=r"\(what video may hold is not read: write each video to a file, and"):
            find_videos(tmp_path / "train.parquet")
        pq.write_table(pa.table({"video_id": ["a"], "embedding": [[1.0]]}), tmp_path / "train.parquet")
        with pytest.raises(SourceError, match=r"\(embeddings that were computed elsewhere are read from a \.npz"):
            find_videos(tmp_path / "train.parquet")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("wide.csv", "label,t0,t1\nA,0.5,1\nB,0.25,2\n"),
            ("long.csv", "id,time,x\na,0,0.5\na,1,0.25\n"),
            ("series.jsonl", '{"label": "A", "trajectory": [[0.5, 1], [0.25, 2]]}'),
        ],
    )
    def test_a_table_of_numbers_says_where_numbers_are_read(self, tmp_path, name, content):
        (tmp_path / name).write_text(content)
        with pytest.raises(SourceError, match=r"\(embeddings that were computed elsewhere are read from a \.npz"):
            find_videos(tmp_path / name)
        (tmp_path / "words.csv").write_text("label,n,note\nA,1,word\n")
        with pytest.raises(SourceError, match=r"no column uri or path; its columns: label, n, note$"):
            find_videos(tmp_path / "words.csv")

    def test_columns_that_look_like_known_ones_are_told(self, tmp_path):
        touch(tmp_path, "a.mp4")
        for header in (
            "path,start,end",
            "path,start_frame,end_frame",
            "path,Start Time,stop_ms",
            "path,clip_start,b",
            "path,from_s,to_s",
            "path,time_start,time_end",
        ):
            (tmp_path / "metadata.csv").write_text(f"{header}\na.mp4,1,2\n")
            for source in (tmp_path, tmp_path / "metadata.csv"):
                (note,) = find_videos(source).notes
                assert (
                    f"{header.removeprefix('path,').replace(',', ', ').removesuffix(', b')} kept, but each video is"
                    in note
                )
        (tmp_path / "l.jsonl").write_text('{"path": "a.mp4", "Label": "x", "startled": 1}')
        (note,) = find_videos(tmp_path / "l.jsonl").notes
        assert note.endswith("l.jsonl: column Label is kept, but label is read in small letters alone")
        (tmp_path / "l.csv").write_text("path,start_s,end,starts\na.mp4,1,2,3\n")
        assert find_videos(tmp_path / "l.csv").notes == ()

    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    def test_several_captions_of_a_video_are_one_text(self, tmp_path, kind):
        rows = [{"path": "a.mp4", "caption": ["a dog", " a dog", "a cat"]}, {"path": "b.mp4", "caption": []}]
        found = find_videos(write_manifest(tmp_path / f"l.{kind}", rows))
        assert [video.caption for video in found] == ["a dog | a cat", None]
        (tmp_path / "l.jsonl").write_text('{"path": "a.mp4", "caption": [{"text": "a dog"}]}')
        with pytest.raises(SourceError, match=r"row 1: caption is .*, not text"):
            find_videos(tmp_path / "l.jsonl")

    def test_a_home_is_meant_by_its_sign(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / "l.csv").write_text("path\n~/a.mp4\n~me/a.mp4\n")
        uris = [(tmp_path / name).as_uri() for name in ("home/a.mp4", "~me/a.mp4")]
        assert [video.uri for video in find_videos(tmp_path / "l.csv")] == uris

    def test_a_list_that_is_taken_for_a_video_is_told(self, tmp_path):
        for name in ("l.txt", "l.tsv", "l.ndjson", "l.PQ", "l.xlsx"):
            (tmp_path / name).write_text("a.mp4\nb.mp4\n")
            (note,) = find_videos(tmp_path / name).notes
            assert note.endswith(
                f"{name} is taken for a video; a list of videos is a .csv, .jsonl or .parquet with a column path"
            )
        (note,) = find_videos("https://host/videos").notes
        assert note == "https://host/videos is taken for a video; the URL of a folder ends with /"
        with pytest.raises(UsageError, match="this one is empty"):
            find_videos("")

    def test_quotes_that_are_closed(self, tmp_path):
        (tmp_path / "l.csv").write_bytes(
            b'"path",label\na,"x\n""y"",\n"\n"b,c",""\nd,5" wide\n"e"f,"""g"""\nh,\n"i",k"\n'
        )
        found = find_videos(tmp_path / "l.csv")
        assert [(video.uri.rpartition("/")[2], video.label) for video in found] == [
            ("a", 'x\n"y",\n'), ("b%2Cc", None), ("d", '5" wide'), ("ef", '"g"'), ("h", None), ("i", 'k"'),
        ]  # fmt: skip

    def test_a_manifest_that_would_block_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "l.csv")
        with pytest.raises(SourceError, match="not a regular file"):
            find_videos(tmp_path / "l.csv")


NESTED = [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]], [[0.5, 0.25]], []]


class TestPrecomputed:
    def check(self, path, ids=None, labels=(None, None, None), **options):
        videos, clips = read_precomputed(path, **options)
        for expected, array in zip(NESTED, clips, strict=True):
            np.testing.assert_array_equal(array, np.reshape(expected, (-1, 2)))
        assert [video.label for video in videos] == list(labels)
        base = Path(path).as_uri()
        assert [video.uri for video in videos] == [f"{base}#{name}" for name in ids or range(3)]
        assert [video.video_id for video in videos] == [uuid_of(name) for name in ids or [v.uri for v in videos]]
        return clips

    @pytest.mark.parametrize(
        ("content", "ids", "labels"),
        [
            (NESTED, None, (None,) * 3),
            ({"trajectories": NESTED, "labels": ["a", 7, None], "ids": list("xyz")}, list("xyz"), ("a", "7", None)),
            ({"x": NESTED[0], "y": NESTED[1], "z": NESTED[2]}, ["x", "y", "z"], (None,) * 3),
        ],
    )  # fmt: skip
    def test_json(self, tmp_path, content, ids, labels):
        path = tmp_path / "t.JSON"
        path.write_text(json.dumps(content))
        clips = self.check(path, ids, labels)
        assert {array.dtype for array in clips} == {np.dtype(np.float64)}

    def test_what_is_not_read_beside_trajectories_is_told(self, tmp_path):
        values = np.ones((3, 2, 2))
        np.savez(tmp_path / "a.npz", trajectories=values, label=list("xyz"), split=list("abc"), lengths=[2, 1, 2])
        assert read_precomputed(tmp_path / "a.npz")[0].notes == (
            f"{tmp_path}/a.npz: not read beside the trajectories: label, split",
        )
        np.savez(tmp_path / "a.npz", values=values, labels=list("xyz"), names=list("abc"))
        assert read_precomputed(tmp_path / "a.npz")[0].notes == ()
        np.savez(tmp_path / "a.npz", X=values, y=[0, 1, 0])
        with pytest.raises(SourceError, match=r"shape \(3, 2, 2\); an array of all videos is named trajectories"):
            read_precomputed(tmp_path / "a.npz")
        (tmp_path / "a.json").write_text('{"trajectories": {"x": [[1.0]]}}')
        assert is_precomputed(tmp_path / "a.json"), "it is not taken for MSR-VTT's records, and says what is wrong"

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
    def test_json_as_other_programs_write_it(self, tmp_path, encoding):
        (tmp_path / "t.json").write_text('{"values": [[[1e0, -2E+0]]], "labels": ["é\\n"]}', encoding)
        videos, (clips,) = read_precomputed(tmp_path / "t.json")
        assert clips.tolist() == [[1.0, -2.0]] and videos[0].label == "é\n"

    @pytest.mark.parametrize(("stored", "read"), [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i4", "f8")])
    def test_npz_with_lengths_keeps_its_precision(self, tmp_path, stored, read):
        values = np.arange(8).reshape(4, 2).astype(stored)
        np.savez(tmp_path / "t.npz", values=values, lengths=[3, 1, 0], labels=np.array([b"a", b"b", b"c"]))
        videos, clips = read_precomputed(tmp_path / "t.npz")
        assert [array.shape for array in clips] == [(3, 2), (1, 2), (0, 2)]
        assert {array.dtype for array in clips} == {np.dtype(read)}
        np.testing.assert_array_equal(np.concatenate(clips), values)
        assert [video.label for video in videos] == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("scale", "message"),
        [
            (1e20, r"t\.npz: video 1 \(b\) holds 2e\+20; beyond 1e\+15 squares leave float32's range: scale the data"),
            (
                1e-20,
                r"t\.npz: no number is beyond 2e-20; below 1e-15 squares leave float32's range: scale the data",
            ),
        ],
    )
    def test_numbers_whose_squares_are_out_of_range_are_refused(self, tmp_path, scale, message):
        np.savez(tmp_path / "t.npz", a=np.zeros((3, 2)), b=np.full((4, 2), 2 * scale))
        with pytest.raises(SourceError, match=message):
            read_precomputed(tmp_path / "t.npz")
        np.savez(tmp_path / "t.npz", a=np.zeros((3, 2)), b=np.full((4, 2), 2.0))
        assert len(read_precomputed(tmp_path / "t.npz")[1]) == 2

    def test_npz_with_one_array_a_video_or_padding(self, tmp_path):
        padded = np.full((3, 3, 2), np.nan)
        for i, video in enumerate(NESTED):
            padded[i, : len(video)] = np.reshape(video, (-1, 2))
        np.savez(tmp_path / "t.npz", trajectories=padded, lengths=[3, 1, 0], names=["x", "y", "z w"])
        with pytest.raises(AssertionError):
            self.check(tmp_path / "t.npz")
        self.check_ids(tmp_path / "t.npz", ["x", "y", "z w"], ["x", "y", "z%20w"])
        np.savez(tmp_path / "u.npz", **{name: np.reshape(NESTED[i], (-1, 2)) for i, name in enumerate("xyz")})
        self.check(tmp_path / "u.npz", ids=["x", "y", "z"])
        np.savez(tmp_path / "v.npz", np.ones((4, 5, 2), np.float32))
        assert [array.shape for array in read_precomputed(tmp_path / "v.npz")[1]] == [(5, 2)] * 4

    @pytest.mark.parametrize("shape", [(-1, 1), (1, -1)])
    def test_vectors_as_matlab_has_them(self, tmp_path, shape):
        one_each = {"lengths": [3, 1, 0], "labels": [1, 2, 1], "names": ["x", "y", "z"]}
        values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.5], [0.5, 0.25]])
        np.savez(tmp_path / "t.npz", values=values, **{k: np.reshape(v, shape) for k, v in one_each.items()})
        self.check(tmp_path / "t.npz", ["x", "y", "z"], ["1", "2", "1"])

    @pytest.mark.parametrize("kind", ["f4", "f8"])
    def test_nan_at_the_end_is_padding_as_tslearn_writes_it(self, tmp_path, kind):
        from tslearn.utils import to_time_series_dataset

        series = [np.full((n, 2), n, kind) for n in (3, 5, 1)]
        padded = np.append(to_time_series_dataset(series).astype(kind), np.full((1, 5, 2), np.nan, kind), axis=0)
        np.savez(tmp_path / "t.npz", trajectories=padded)
        np.savez(tmp_path / "u.npz", padded)
        for name in ("t.npz", "u.npz"):
            found, clips = read_precomputed(tmp_path / name)
            assert found.notes == (
                f"{tmp_path}/{name}: 3 trajectories end in steps of NaN alone, which are left out as padding",
            )
            assert [len(array) for array in clips] == [3, 5, 1, 0], "a series of NaN alone is an empty one"
            for array, expected in zip(clips, series, strict=False):
                np.testing.assert_array_equal(array, expected)
        padded[1, 2, 0] = np.nan
        np.savez(tmp_path / "t.npz", trajectories=padded)
        with pytest.raises(SourceError, match="video 1, clip 2 holds NaN"):
            read_precomputed(tmp_path / "t.npz")

    def check_ids(self, path, ids, fragments):
        videos, _ = read_precomputed(path)
        assert [video.uri.partition("#")[2] for video in videos] == fragments
        assert [video.video_id for video in videos] == [uuid_of(name) for name in ids]

    def test_pickles_only_where_allowed(self, tmp_path):
        (tmp_path / "t.pkl").write_bytes(pickle.dumps([np.reshape(video, (-1, 2)) for video in NESTED]))
        with pytest.raises(SourceError, match=r"t\.pkl .*reading it can run any code.*--allow-pickle"):
            read_precomputed(tmp_path / "t.pkl")
        self.check(tmp_path / "t.pkl", allow_pickle=True)
        ragged = np.empty(3, dtype=object)
        ragged[:] = NESTED
        np.savez(tmp_path / "t.npz", trajectories=ragged)
        with pytest.raises(SourceError, match=r"t\.npz .*reading them can run any code.*--allow-pickle"):
            read_precomputed(tmp_path / "t.npz")
        self.check(tmp_path / "t.npz", allow_pickle=True)

    def test_pickled_tensors(self, tmp_path):
        torch = pytest.importorskip("torch")
        path = tmp_path / "t.pkl"
        for kind in ("bfloat16", "float16", "float32", "float64", "int8", "int64"):
            tensors = [torch.tensor(np.reshape(video, (-1, 2))).to(getattr(torch, kind)) for video in NESTED]
            rows = [[clip for clip in video] for video in tensors]
            leaves = [video.requires_grad_() for video in tensors] if "float" in kind else tensors
            told = [np.reshape(video, (-1, 2)).astype("i8" if "int" in kind else "f8") for video in NESTED]
            for content in (tensors, rows, leaves, dict(zip("abc", tensors, strict=True)), {"values": tuple(leaves)}):
                path.write_bytes(pickle.dumps(content))
                clips = read_precomputed(path, allow_pickle=True)[1]
                assert clips[0].dtype == ("f4" if kind in ("bfloat16", "float16", "float32") else "f8")
                for array, expected in zip(clips, told, strict=True):
                    np.testing.assert_array_equal(array, expected)
        padded = torch.nn.utils.rnn.pad_sequence(tensors[:2], batch_first=True).float().requires_grad_()
        content = {"values": padded, "lengths": torch.tensor([3, 1]), "labels": torch.tensor([7, 8])}
        path.write_bytes(pickle.dumps(content))
        videos, clips = read_precomputed(path, allow_pickle=True)
        assert [len(array) for array in clips] == [3, 1] and [video.label for video in videos] == ["7", "8"]
        objects = np.empty(2, object)
        objects[0], objects[1] = torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(1, 3)
        np.savez(tmp_path / "t.npz", values=objects)
        assert [array.shape for array in read_precomputed(tmp_path / "t.npz", True)[1]] == [(2, 3), (1, 3)]

    def test_pickled_objects_that_are_no_array_are_named(self, tmp_path):
        torch = pytest.importorskip("torch")
        good, masked = np.ones((2, 2)), np.ma.masked_greater(np.arange(4.0).reshape(2, 2), 2.5)
        for wrong, said in (
            (torch.eye(2).to_sparse(), "video 1 holds Tensor, which is no array: .*dense"),
            (torch.eye(2).to("meta"), "video 1 holds Tensor, which is no array"),
            (masked, "video 1, clip 1 holds NaN"),
            (np.zeros((2, 2), "V2"), "video 1 holds something that is not a number"),
            (torch.eye(2, dtype=torch.complex64).conj(), "video 1 holds something that is not a number"),
        ):
            (tmp_path / "t.pkl").write_bytes(pickle.dumps([good, wrong]))
            with pytest.raises(SourceError, match=rf"t\.pkl: {said}") as caught:
                read_precomputed(tmp_path / "t.pkl", allow_pickle=True)
            assert "\n" not in str(caught.value)

    def test_what_torch_saves_is_no_pickle(self, tmp_path):
        torch = pytest.importorskip("torch")
        torch.save([torch.ones(2, 2)], tmp_path / "t.pkl")
        with pytest.raises(SourceError, match=r"t\.pkl is a zip archive, as torch\.save .* pickle\.dump"):
            read_precomputed(tmp_path / "t.pkl", allow_pickle=True)

    def test_jax_s_small_floats(self, tmp_path):
        ml_dtypes = pytest.importorskip("ml_dtypes")
        for kind in ("bfloat16", "float8_e5m2"):
            (tmp_path / "t.pkl").write_bytes(pickle.dumps([np.ones((2, 3), getattr(ml_dtypes, kind))]))
            (array,) = read_precomputed(tmp_path / "t.pkl", allow_pickle=True)[1]
            np.testing.assert_array_equal(array, np.ones((2, 3), np.float32))

    def test_remote(self, memory):
        memory.pipe("/b/t.json", json.dumps(NESTED).encode())
        videos, clips = read_precomputed("memory://b/t.json")
        assert videos[1].uri == "memory:///b/t.json#1" and len(clips[0]) == 3

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ([], "holds no video"),
            ({"trajectories": {"a": [[1.0]]}}, "holds dict, not a nested list video"),
            ([[], []], "none of its 2 videos has a clip"),
            (5, "holds int, not a nested list"),
            (["a.mp4", "b.mp4"], r"holds no trajectories, which are .*; a list of videos is a \.csv"),
            ({"name": "x", "version": 2}, "holds no trajectories"),
            ([1.0, 2.0], "video 0 must be a list of clips, each a list of floats; it is one number"),
            ([[1.0, 2.0]], r"video 0 must be .*\(2,\)"),
            ([[[1.0]], [[[1.0]]]], r"video 1 must be .*\(1, 1, 1\)"),
            ([[[1.0]], [[]]], "video 1 must be"),
            ([[[1.0, 2.0]], [[1.0, 2.0], [3.0]]], "video 1 has clips of unequal length"),
            ([[[1.0, 2.0]], [], [[1.0]]], "video 2 has clips of 1 numbers, video 0 has clips of 2"),
            ([[[1.0]], [[2.0], [float("nan")]]], "video 1, clip 1 holds NaN"),
            ([[[1.0]], [[float("inf")]]], "video 1, clip 0 holds NaN or infinity"),
            ([[[1.0, None]]], "video 0 holds something that is not a number"),
            ([[["a", "b"]]], "video 0 holds something that is not a number"),
            ([[[10**400]]], "video 0 holds something that is not a number"),
            ({"a": [[1.0]], "b": "word"}, r"video 1 \(b\) must be .*; it is str$"),
            ({"a": [[1.0]], "b": {"c": 1}}, r"video 1 \(b\) must be .*; it is dict$"),
            ({"trajectories": [[[1.0]]], "labels": ["a", "b"]}, "labels must be a list of 1"),
            ({"trajectories": [[[1.0]]] * 2, "ids": ["a", "a"]}, "videos 0 and 1 have the same id, a"),
            ([[[1.0]], [[2.0], [-1e30]]], "video 1 holds 1e\\+30; beyond 1e\\+15"),
            ({"a": [[1.0]], "\ud800": [[1.0]]}, r"ids\[1\], '\\ud800', is not valid Unicode"),
            ({"values": [[[1.0]]], "labels": ["\udfff"]}, r"labels\[0\], .* is not valid Unicode"),
            ({"values": [[1.0], [2.0]], "lengths": [1, 2]}, r"lengths with the sum 3 do not fit .*\(2, 1\)"),
            ({"values": [[1.0], [2.0]], "lengths": [3, -1]}, "lengths must be whole numbers"),
        ],
    )
    def test_wrong_content(self, tmp_path, content, said):
        (tmp_path / "t.json").write_text(json.dumps(content))
        with pytest.raises(SourceError, match=said) as caught:
            read_precomputed(tmp_path / "t.json")
        assert "\n" not in str(caught.value) and "t.json" in str(caught.value)

    def test_an_id_that_is_there_twice(self, tmp_path):
        (tmp_path / "t.json").write_text('{"a": [[1, 2]], "b": [[3, 4]], "a": [[5, 6]]}')
        with pytest.raises(SourceError, match=r"t\.json: .*two values of one name, 'a'"):
            read_precomputed(tmp_path / "t.json")

    def test_an_array_of_one_number(self, tmp_path):
        np.savez(tmp_path / "t.npz", values=np.array(3.0))
        with pytest.raises(SourceError, match="holds ndarray, not a nested list"):
            read_precomputed(tmp_path / "t.npz")

    def test_labels_of_pandas_and_of_numpy(self, tmp_path):
        pandas = pytest.importorskip("pandas")
        for label, expected in ((pandas.NA, None), (pandas.NaT, None), (np.float32("nan"), None), (np.int8(3), "3")):
            (tmp_path / "t.pkl").write_bytes(pickle.dumps({"values": NESTED, "labels": [label, "x", "y"]}))
            assert read_precomputed(tmp_path / "t.pkl", allow_pickle=True)[0][0].label == expected
        (tmp_path / "t.pkl").write_bytes(pickle.dumps({"values": NESTED, "labels": ["x", np.arange(2), "y"]}))
        with pytest.raises(SourceError, match=r"labels\[1\] is a ndarray, not text"):
            read_precomputed(tmp_path / "t.pkl", allow_pickle=True)

    @pytest.mark.parametrize("name", ["t.json", "t.npz", "t.pkl"])
    @pytest.mark.parametrize("content", [b"", b"garbage\xff", b"PK\x03\x04 cut off", b"[" * 100_000])
    def test_damaged_files(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=name) as caught:
            read_precomputed(tmp_path / name, allow_pickle=name == "t.pkl")
        assert "\n" not in str(caught.value)

    def test_missing(self, tmp_path):
        with pytest.raises(SourceError, match="no such file"):
            read_precomputed(tmp_path / "t.npz")

    def test_an_unpadded_flat_array_needs_lengths(self, tmp_path):
        np.savez(tmp_path / "t.npz", values=np.ones((4, 2)))
        with pytest.raises(SourceError, match=r"needs lengths.* shape is \(4, 1, 2\)") as caught:
            read_precomputed(tmp_path / "t.npz")
        assert "if each row is a series of numbers, the shape is (4, 2, 1)" in str(caught.value)

    def test_what_counts_as_precomputed(self, tmp_path):
        touch(tmp_path, "a.json/x.mp4")
        assert is_precomputed("x.JSON") and is_precomputed(Path("a/x.npz")) and is_precomputed(["s3://b/x.pkl"])
        assert is_precomputed("https://h.invalid/x.npz?sig=a.b")
        assert not any(map(is_precomputed, ["x.jsonl", "x.mp4", tmp_path, tmp_path / "a.json", ["x.json", "y.json"]]))

    @pytest.mark.parametrize("name", ["timeseries/JapaneseVowels.npz", "skeletons/nw_ucla_views12.npz"])
    def test_real_series(self, data_dir, name):
        with np.load(data_dir / name) as stored:
            values, lengths, labels = stored["values"], stored["lengths"], stored["labels"]
        videos, clips = read_precomputed(data_dir / name)
        assert [len(array) for array in clips] == lengths.tolist()
        assert clips[0].dtype == values.dtype
        np.testing.assert_array_equal(np.concatenate(clips), values)
        assert [video.label for video in videos] == [str(label) for label in labels]


def test_real_videos(data_dir):
    videos = find_videos(data_dir / "videos")
    assert len(videos) == 66 and videos.n_ignored == 2
    assert len({video.group for video in videos if video.group.startswith("robot_tasks/")}) == 6


def test_two_colons_are_letters_in_a_bucket():
    pytest.importorskip("s3fs")
    filesystem, inner = open_filesystem("s3://b/cam::left/x::1.mp4")
    assert inner == "b/cam::left/x::1.mp4"
    assert filesystem is open_filesystem("s3://b")[0]
    assert canonical_uri("s3://b/cam::left/x::1.mp4") == "s3://b/cam::left/x::1.mp4"


@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_an_ordinary_object_is_spelled_as_its_file_system_spells_it(protocol):
    pytest.importorskip({"s3": "s3fs", "gs": "gcsfs"}[protocol])
    for name in ("b/x.mp4", "b/a b/site=1/y+z,@.mp4", "b/../x", "b//x", "b/x/", "b/ä.mp4"):
        filesystem, inner = open_filesystem(f"{protocol}://{name}")
        assert canonical_uri(f"{protocol}://{name}") == filesystem.unstrip_protocol(inner)
