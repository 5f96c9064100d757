"""Videos behind HTTP: a server that is slow, busy or broken for a moment is waited for, within bounds."""

import contextlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler
from io import BytesIO

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from fsspec.spec import AbstractBufferedFile
from trouble import Fault, proxy_before, serve_folder
from videos import write_video

from raypipe.decoders import make_decoder
from raypipe.decoders.sandbox import Sandbox
from raypipe.errors import DecodeError, RaypipeError, SourceAwayError, SourceError
from raypipe.ranges import describe_server, open_ranges
from raypipe.runs.directory import Run
from raypipe.sources import find_videos, read_versions
from raypipe.storage import TarMember, is_transient, open_file, patiently

TIMES = np.arange(0, 3, 0.5)
MOMENTARY = {
    "busy": Fault(status=503, first=2),
    "busy, and says for how long": Fault(status=503, retry_after_s=1, first=1),
    "too many": Fault(status=429, first=1),
    "broken": Fault(status=500, first=1),
    "cut": Fault(on="GET", cut=0.5, first=2),
    "reset": Fault(reset=True, first=2),
    "slow": Fault(bytes_per_s=100_000, delay_s=0.2),
}


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("raypipe.storage.PATIENCE_S", 0.5)


def pixels(url: str) -> np.ndarray:
    return make_decoder("pyav").frames(url, TIMES, 64, "crop").pixels


@pytest.mark.parametrize("fault", MOMENTARY.values(), ids=MOMENTARY.keys())
def test_what_is_over_in_a_moment_is_waited_for(proxy, served, fault):
    proxy.faults = (fault,)
    np.testing.assert_array_equal(pixels(f"{proxy.url}/a.mp4"), pixels(str(served / "a.mp4")))
    assert len(proxy.answers) >= (1 if fault.first is None else 3), "the trouble was met"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=503), "503.*Service Unavailable"),
        (Fault(status=503, retry_after_s=3600), "503"),
        (Fault(on="GET", cut=0.5), "not completed"),
        (Fault(reset=True), r"[Cc]onnection|[Dd]isconnected"),
    ],
    ids=["busy", "busy for an hour", "cut", "reset"],
)
def test_what_lasts_is_told_with_its_reason(proxy, impatient, fault, reason):
    proxy.faults = (fault,)
    with pytest.raises(DecodeError, match=reason) as caught:
        pixels(f"{proxy.url}/a.mp4?signature=abcdef123456")
    assert "\n" not in str(caught.value) and "abcdef" not in str(caught.value)


@pytest.mark.parametrize(("status", "reason"), [(404, "no such file"), (403, "403.*Forbidden"), (401, "401")])
def test_what_is_refused_is_asked_for_once(proxy, status, reason):
    proxy.faults = (Fault(status=status),)
    with pytest.raises(DecodeError, match=reason):
        pixels(f"{proxy.url}/a.mp4")
    assert [answer.line for answer in proxy.answers] == ["HEAD /a.mp4", "GET /a.mp4"]


def test_a_server_that_comes_back(proxy, served):
    proxy.stop()
    threading.Timer(1.0, proxy.start).start()
    np.testing.assert_array_equal(pixels(f"{proxy.url}/a.mp4"), pixels(str(served / "a.mp4")))


@contextlib.contextmanager
def running_sandbox(uri, deadline_s):
    """A sandbox whose child has imported what a URL needs, which on a busy machine takes longer than some deadlines."""
    with Sandbox("pyav", deadline_s=60.0) as sandbox:
        sandbox.probe(uri)
        sandbox.deadline_s = deadline_s
        yield sandbox


def test_the_deadline_is_told_with_the_last_reason(proxy):
    uri = f"{proxy.url}/a.mp4"
    with running_sandbox(uri, 2.0) as sandbox:
        proxy.faults = (Fault(status=503, retry_after_s=8),)
        with pytest.raises(DecodeError, match=r"within 2 s .*503.*again"):
            sandbox.probe(uri)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_deadline_that_passed_in_waiting_for_a_server(proxy, served, is_packed):
    uri = f"{proxy.url}/a.mp4"
    tar = TarMember(uri, 0, (served / "a.mp4").stat().st_size, "b.mp4")
    with running_sandbox(uri, 5.0) as sandbox:
        proxy.faults = (Fault(on="GET", delay_s=15),)
        with pytest.raises(SourceAwayError, match="no answer within 5 s"):
            sandbox.probe(tar.uri if is_packed else uri)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_errors_of_other_libraries_that_may_soon_be_over(code):
    requests, httpx = pytest.importorskip("requests"), pytest.importorskip("httpx")
    answered = RuntimeError("as gcsfs tells of it")
    answered.code = code
    assert is_transient(answered) and is_transient(requests.exceptions.ProxyError())
    assert is_transient(httpx.ConnectError("[Errno -2] Name or service not known"))
    answered.code = 404
    assert not is_transient(answered)


class _WithoutLength(SimpleHTTPRequestHandler):
    """Sends what it makes on the way: nobody knows how long it will be."""

    def send_header(self, keyword, value) -> None:
        if keyword != "Content-Length":
            super().send_header(keyword, value)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a folder of a video whose index lies behind its first block."""
    folder = tmp_path_factory.mktemp("large")
    video = write_video(folder / "a.mp4", size=(1600, 1200))
    assert video.stat().st_size > 1 << 20
    return folder


def test_a_server_that_sends_files_only_whole_is_asked_for_each_once(large):
    expected, size = pixels(str(large / "a.mp4")), (large / "a.mp4").stat().st_size
    with serve_folder(large, has_ranges=False) as target, proxy_before(target) as proxy:
        for _ in range(2):
            np.testing.assert_array_equal(pixels(f"{proxy.url}/a.mp4"), expected)
        # The first block and one of the middle are asked for each time: the answer is the whole file, and not read.
        assert sum(answer.line == "GET /a.mp4" and answer.n_bytes == size for answer in proxy.answers) == 5
        tar = TarMember(f"{proxy.url}/a.mp4", 0, size, "b.mp4")
        np.testing.assert_array_equal(pixels(tar.uri), expected)


def test_a_copy_that_broke_off_is_made_again(large):
    faults = (Fault(on="GET /a.mp4", cut=0.9, first=4),)
    with serve_folder(large, has_ranges=False) as target, proxy_before(target) as proxy:
        proxy.faults = faults
        np.testing.assert_array_equal(pixels(f"{proxy.url}/a.mp4"), pixels(str(large / "a.mp4")))


def test_a_server_that_does_not_say_how_long_files_are(large):
    with serve_folder(large, handler=_WithoutLength) as target:
        np.testing.assert_array_equal(pixels(f"{target}/a.mp4"), pixels(str(large / "a.mp4")))


def test_a_server_that_sends_files_only_whole_is_told_of(large, tmp_path):
    (tmp_path / "empty.mp4").touch()
    for how in ({"has_ranges": False}, {"handler": _WithoutLength}):
        with serve_folder(large, **how) as target:
            (line,) = describe_server(f"{target}/a.mp4?signature=abcdef123456")
        assert line.startswith(f"{target}/a.mp4?…: its server sends files only whole")
    with serve_folder(large) as target:
        assert describe_server(f"{target}/a.mp4") == []
        assert describe_server(f"{target}/missing.mp4") == []
    with serve_folder(tmp_path, has_ranges=False) as target:
        assert describe_server(f"{target}/empty.mp4") == []
    assert describe_server(f"{target}/a.mp4") == [], "it is gone, which the reading of the video will say"
    assert describe_server(str(large / "a.mp4")) == []


@pytest.mark.parametrize("has_ranges", [True, False])
def test_an_empty_file_is_called_empty(tmp_path, has_ranges):
    (tmp_path / "a.mp4").touch()
    with serve_folder(tmp_path, has_ranges) as target, pytest.raises(DecodeError, match=r"a\.mp4: the file is empty"):
        pixels(f"{target}/a.mp4")


class _Buffered(AbstractBufferedFile):
    """A file like FTP's, which chooses its cache itself."""

    def __init__(self, fs, path, mode, block_size, cache_options=None, **_) -> None:
        super().__init__(fs, path, mode, block_size, cache_type="readahead", cache_options=cache_options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.store[self.path].getvalue()[start:end]


class _Unwieldy:
    """A file like SFTP's, which is none of Python's, and does not say where a seek leads."""

    def __init__(self, fs, path, *_, **__) -> None:
        self._bytes = BytesIO(fs.store[path].getvalue())
        self.read, self.tell, self.close = self._bytes.read, self._bytes.tell, self._bytes.close

    def seek(self, *place) -> None:
        self._bytes.seek(*place)


@pytest.mark.parametrize("file", [_Buffered, _Unwieldy])
def test_files_of_other_servers(large, file, monkeypatch):
    memory = fsspec.filesystem("memory")
    monkeypatch.setitem(memory.store, "/nas/a.mp4", MemoryFile(memory, "/nas/a.mp4", (large / "a.mp4").read_bytes()))
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda *given, **options: file(*given, **options))
    np.testing.assert_array_equal(pixels("memory://nas/a.mp4"), pixels(str(large / "a.mp4")))


def test_threads_that_read_a_file_share_no_connection(monkeypatch):
    """Those of paramiko's SFTP would wait for each other's answers for ever."""
    memory, used, both = fsspec.filesystem("memory"), [], threading.Barrier(2)
    monkeypatch.setitem(memory.store, "/nas/a", MemoryFile(memory, "/nas/a", b"content"))
    whole = MemoryFileSystem.cat_file

    def cat_file(filesystem, *given, **parts) -> bytes:
        used.append(filesystem)
        both.wait(5)
        return whole(filesystem, *given, **parts)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    fetch = open_ranges("memory://nas/a")
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(fetch, (0, 3), (3, 7))) == [b"con", b"tent"]
    assert used[0] is not used[1]


def test_no_folder_is_left_out_of_a_listing(proxy, impatient):
    proxy.faults = (Fault(on="/sub", reset=True, first=1), Fault(on="GET /$", status=503, first=1))
    assert len(find_videos(f"{proxy.url}/")) == 3
    assert len(find_videos(f"{proxy.url}/*/*.mp4")) == 2
    assert len(find_videos(f"{proxy.url}/*.mp4")) == 1
    for fault in (Fault(on="/sub", reset=True), Fault(on="/sub", status=503)):
        proxy.faults = (fault,)
        with pytest.raises(SourceError, match=r"cannot list http://127\.0\.0\.1:\d+/: "):
            find_videos(f"{proxy.url}/")


def test_manifests_and_versions_are_waited_for(proxy, served):
    (served / "list.csv").write_text("uri\na.mp4\n")
    videos = find_videos(f"{proxy.url}/a.mp4")
    calm = read_versions(videos)
    proxy.calm()
    proxy.faults = (Fault(status=503, first=1),)
    with open_file(f"{proxy.url}/list.csv") as file:
        assert file.read() == b"uri\na.mp4\n"
    assert read_versions(videos) == calm
    assert calm.null_count == 0


def test_patience_ends(monkeypatch, caplog):
    now, calls = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def fail():
        calls.append(now[0])
        raise TimeoutError("too late")

    with pytest.raises(TimeoutError, match="too late"), caplog.at_level(logging.WARNING):
        patiently("http://me:secret@host/a.mp4?key=abcdef", fail)
    assert calls == [0, 0.25, 0.75, 1.75, 3.75, 7.75]
    assert "cannot reach http://host/a.mp4?…: " in caplog.text and "secret" not in caplog.text
    calls.clear()
    with pytest.raises(ValueError):
        patiently("http://host/a.mp4", lambda: calls.append(0) or int("x"))
    assert calls == [0]


def test_a_run_survives_what_its_store_goes_through(monkeypatch):
    memory = fsspec.filesystem("memory")
    run = Run("memory://troubled/run")
    failing = []

    def troubled(method):
        def call(*arguments, **options):
            if failing:
                raise failing.pop()
            return method(*arguments, **options)

        return call

    for name in ("pipe_file", "cat_file", "exists", "ls", "rm", "open"):
        monkeypatch.setattr(memory, name, troubled(getattr(memory, name)))
    for step in (
        lambda: run.write_json("a/x.json", {"a": 1}),
        lambda: run.read_json("a/x.json") == {"a": 1} or pytest.fail("read wrongly"),
        lambda: run.exists("a/x.json") or pytest.fail("not found"),
        lambda: run.files("a") == ["a/x.json"] or pytest.fail("not listed"),
        lambda: run.remove("a/x.json"),
    ):
        failing[:] = [TimeoutError("slow"), ConnectionResetError("gone")]
        step()
        assert not failing
    failing[:] = [PermissionError("not yours")]
    with pytest.raises(RaypipeError, match=r"cannot write memory:///troubled/run/x: .*not yours$"):
        run.write_bytes("x", b"")
    monkeypatch.setattr("raypipe.storage.PATIENCE_S", 0.0)
    failing[:] = [ConnectionResetError("gone")]
    with pytest.raises(RaypipeError, match=r"cannot read memory:///troubled/run/t\.parquet: .*gone.*can be reached$"):
        run.read_table("t.parquet")
    failing[:] = [ConnectionResetError("gone")]
    run.log("nothing")
