"""What `raypipe explore` answers, and what it refuses."""

import itertools
import os
import re
import socket
import struct
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import av
import numpy as np
import pytest
from commands import call_raypipe
from page_server import FPS, SECONDS, TOKEN, make_run, serve_page, write_other
from trouble import serve_folder
from waiting import wait_for

from raypipe.report.serving.access import Gate
from raypipe.report.serving.byte_ranges import find_range, open_content
from raypipe.report.serving.catalog import Catalog
from raypipe.report.serving.server import add_player
from raypipe.runs.folder import Folder
from raypipe.storage import TarMember

N_VIDEOS, LONG_S = 11, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def run(folder):
    (folder / "secret.txt").write_text("secret")
    long = write_other(folder / "long.avi", "mpeg4", seconds=LONG_S, size=(320, 240))
    with serve_folder(folder / "films") as target:
        more = {"text": (folder / "secret.txt").as_uri(), "long": long.as_uri(), "away": f"{target}/c.mp4"}
        yield make_run(folder, more, {"long": LONG_S})


@pytest.fixture(scope="module")
def served(run, folder):
    with serve_page(run, folder / "cache") as served:
        yield served


def film(folder: Path, name: str) -> bytes:
    return (folder / "films" / name).read_bytes()


# Access.


def test_the_page_bears_the_player_and_may_load_from_here_alone(served):
    page = served.ask("")
    assert page.status == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert re.search(r"script-src 'sha256-[^']+' 'self';", policy), "the page's own script and the player"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert b'src="player.js"' in page.body and b"http-equiv" not in page.body
    assert b'data-video="a"' in page.body
    assert "javascript" in served.ask("player.js").headers["content-type"]


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", "é"])
@pytest.mark.parametrize("path", ["", "version", "video/a", "player.js"])
def test_nothing_without_the_token(served, token, path):
    from urllib.parse import quote

    answer = served.ask(path, token=quote(token))
    assert answer.status == 403 and "token" in answer.json["error"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Host": "10.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    ],
)
def test_other_sites_get_nothing(served, headers):
    assert served.ask("", **headers).status == 403
    assert served.ask("video/a", **headers).status == 403


def test_the_page_itself_and_links_to_it_are_answered(served):
    here = f"127.0.0.1:{served.port}"
    assert served.ask("version", Origin=f"http://{here}", Sec_Fetch_Site="same-origin").status == 200
    assert served.ask("", Host=f"localhost:{served.port}").status == 200
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert served.ask("", **followed).status == 200
    assert served.ask("version", **followed).status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_only_reading(served, method):
    answer = served.ask("version", method)
    assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD"


def test_any_address_will_do_beyond_loopback_but_no_other_name():
    gate = Gate(None, TOKEN, ["box"], any_address=True)
    assert gate._is_known("192.168.1.2:80") and gate._is_known("[fe80::1]:80") and gate._is_known("BOX")
    assert not any(map(gate._is_known, ("evil.example", "", "a b", "box@evil", "1.2.3.4.evil.example")))


@pytest.mark.parametrize(
    "path",
    [
        "files/../films/a.mp4",
        "files/%2e%2e/secret.txt",
        "files/plots/../../secret.txt",
        "files//etc/passwd",
        "files/etc/passwd",
        "files/%2fetc%2fpasswd",
        "files/run.json",
        "files/model/centers.npy",
        "files/plots/.hidden.png",
        "files/plots/away.png",
        "files/plots/away/secret.png",
        "files/plots",
        "video/..%2f..%2fsecret.txt",
        "video/text",
        "video/nothing",
        "video/nothing/info",
        "page.css",
        "..%2fpage.py",
    ],
)
def test_nothing_but_the_runs_own(served, run, folder, path):
    plots = Path(run.path("plots"))
    for name, target in (("away.png", folder / "secret.txt"), ("away", folder)):
        if not (plots / name).is_symlink():
            (plots / name).symlink_to(target)
    (folder / "secret.png").write_text("secret")
    answer = served.ask(path)
    assert answer.status in (404, 422) and b"secret" not in answer.body.replace(b"secret.txt", b"")


def test_files_of_the_run_for_people(served, run):
    assert served.ask("files/plots/points.png").body == run.read_bytes("plots/points.png")
    assert served.ask("files/outliers.csv").headers["content-type"].startswith("text/csv")


def test_exported_files_of_any_name(served, run, folder):
    from urllib.parse import quote

    names = ("手 把杯子 é.npz", "what... is this?.npz", "a.parquet#episode=3&column=left.npz", "100%/x [1–2 s].csv")
    for name in names:
        run.write_bytes(f"exports/npz/{name}", name.encode())
        answer = served.ask(f"files/exports/npz/{quote(name)}")
        assert (answer.status, answer.body) == (200, name.encode())
    run.write_bytes("exports/lerobot/episodes.parquet", b"PAR1")
    assert served.ask("files/exports/lerobot/episodes.parquet").body == b"PAR1"
    run.write_bytes("exports/notes.txt", b"of no kind that is served")
    run.write_bytes(r"exports/back\slash.npz", b"a folder's mark elsewhere")
    (folder / "secret.npz").write_text("secret")
    Path(run.path("exports/away é.npz")).symlink_to(folder / "secret.npz")
    refused = ("../metrics.json", "npz/../../metrics.json", "notes.txt", r"back\slash.npz", "away é.npz", "a\0.npz", "")
    for name in refused:
        assert served.ask(f"files/exports/{quote(name)}").status == 404


def test_the_poster_is_described_once_there_is_one(served, run, folder):
    assert served.ask("poster").json is None
    run.write_json("poster.json", {"name": "poster", "file": "poster.png"})
    assert served.ask("poster").json["file"] == "poster.png"
    Path(run.path("poster.json")).unlink()
    (folder / "secret.json").write_text('"secret"')
    Path(run.path("poster.json")).symlink_to(folder / "secret.json")
    assert served.ask("poster").status == 404
    Path(run.path("poster.json")).unlink()


# Ranges.


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-4", (0, 5)),
        ("bytes=5-", (5, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=90-200", (90, 100)),
        ("bytes=7-3", None),
        ("bytes=0-1,5-6", None),
        ("lines=1-2", None),
        ("bytes=-", None),
        ("bytes=x-1", None),
    ],
)
def test_which_bytes_a_range_asks_for(header, expected):
    assert find_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside(header):
    with pytest.raises(ValueError, match="outside"):
        find_range(header, 100)


@pytest.mark.parametrize(("video", "name"), [("a", "a.mp4"), ("link", "a.mp4"), ("member", "a.mp4")])
def test_a_video_by_ranges(served, folder, video, name):
    data, url = film(folder, name), f"video/{video}"
    whole = served.ask(url)
    assert (whole.status, whole.body, whole.headers["accept-ranges"]) == (200, data, "bytes")
    assert whole.headers["content-type"] == "video/mp4"
    part = served.ask(url, Range="bytes=10-29")
    assert (part.status, part.body) == (206, data[10:30])
    assert part.headers["content-range"] == f"bytes 10-29/{len(data)}"
    assert served.ask(url, Range="bytes=-7").body == data[-7:]
    outside = served.ask(url, Range=f"bytes={len(data)}-")
    assert (outside.status, outside.headers["content-range"]) == (416, f"bytes */{len(data)}")
    head = served.ask(url, "HEAD", Range="bytes=0-9")
    assert (head.status, head.body, head.headers["content-length"]) == (206, b"", "10")
    tag = whole.headers["etag"]
    assert served.ask(url, If_None_Match=f'"x", {tag}').status == 304
    assert served.ask(url, Range="bytes=1-2", If_Range=tag).status == 206
    assert served.ask(url, Range="bytes=1-2", If_Range=whole.headers["last-modified"]).status == 206
    assert served.ask(url, Range="bytes=1-2", If_Range='"old"').status == 200


def test_a_file_that_changes_is_another_version(run, folder, served):
    url, path = "video/d", folder / "films/d.mp4"
    tag = served.ask(url).headers["etag"]
    os.utime(path, ns=(1, 1))
    assert served.ask(url, Range="bytes=0-1", If_Range=tag).status == 200


def test_a_remote_video_by_ranges(served, folder):
    data = film(folder, "c.mp4")
    part = served.ask("video/away", Range="bytes=100-1099")
    assert (part.status, part.body) == (206, data[100:1100])
    assert served.ask("video/away").body == data


def test_a_server_without_ranges_sends_the_whole_file(tmp_path):
    data = bytes(range(256)) * 8
    (tmp_path / "a.mp4").write_bytes(data)
    with serve_folder(tmp_path, has_ranges=False) as target:
        for uri, expected in (
            (f"{target}/a.mp4", data),
            (TarMember(f"{target}/a.mp4", 300, 1000, "b.mp4").uri, data[300:1300]),
        ):
            content = open_content(uri)
            assert content.size == len(expected)
            for start, end in ((0, 100), (100, 350), (len(expected) - 7, len(expected)), (0, len(expected))):
                assert content.read(start, end) == expected[start:end]


# Playing.


def test_how_a_video_is_played(served):
    info = served.ask("video/a/info").json
    assert [source["src"] for source in info["sources"]] == ["video/a", "video/a/converted.mp4"]
    assert info["sources"][0]["type"].startswith('video/mp4; codecs="avc1.')
    assert (info["start_s"], info["end_s"], info["name"]) == (0.0, 6.0, "a.mp4")
    assert info["filmstrip"]["times_s"] == [0, 1, 2, 3, 4, 5]
    (only,) = served.ask("video/part/info").json["sources"]
    assert (only["offset_s"], only["start_s"], only["end_s"]) == (-2.0, 0.0, 3.0)
    nothing = served.ask("video/text/info").json
    assert nothing["sources"] == [] and "Invalid data" in nothing["problem"]


def brightness(data: bytes, tmp_path: Path) -> list[tuple[float, float]]:
    (tmp_path / "got.mp4").write_bytes(data)
    with av.open(str(tmp_path / "got.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and min(stream.width, stream.height) <= 480
        return [(float(f.pts * stream.time_base), f.to_ndarray(format="gray").mean()) for f in container.decode(stream)]


@pytest.mark.parametrize(("video", "start_s", "span_s"), [("avi", 0, SECONDS), ("part", 2, 3)])
def test_what_browsers_do_not_play_is_converted(served, tmp_path, video, start_s, span_s):
    assert served.ask(f"video/{video}").status == 404
    answer = served.ask(f"video/{video}/converted.mp4")
    assert (answer.status, answer.headers["content-type"]) == (200, "video/mp4")
    frames = brightness(answer.body, tmp_path)
    assert len(frames) == span_s * FPS
    np.testing.assert_allclose([t for t, _ in frames], np.arange(len(frames)) / FPS, atol=1e-3)
    expected = [10 + 240 * i // (SECONDS * FPS) for i in range(start_s * FPS, (start_s + span_s) * FPS)]
    np.testing.assert_allclose([value for _, value in frames], expected, atol=4)
    assert served.ask(f"video/{video}/info").json["sources"][-1]["state"] == "ready"
    assert served.ask(f"video/{video}/converted.mp4", Range="bytes=0-7").body[4:] == b"ftyp"


def test_what_cannot_be_converted_is_told_and_not_tried_again(served):
    for _ in range(2):
        answer = served.ask("video/text/converted.mp4")
        assert answer.status == 422 and "Invalid data" in answer.json["error"]


def test_what_could_not_be_kept_is_tried_again_after_a_minute(run, tmp_path, monkeypatch):
    (tmp_path / "raypipe").write_text("a file where the folder should be")
    with serve_page(run, tmp_path / "raypipe/converted") as served:
        told = served.ask("video/avi/info").json
        assert [source["state"] for source in told["sources"]] == ["on demand"]
        answer = served.ask("video/avi/converted.mp4")
        assert answer.status == 422 and "cannot keep converted videos in" in answer.json["error"]
        (tmp_path / "raypipe").unlink()
        assert served.ask("video/avi/converted.mp4").json == answer.json
        assert served.ask("video/avi/info").json["problem"] == answer.json["error"]
        monkeypatch.setattr("raypipe.report.serving.conversions._FAILED_S", 0.0)
        assert served.ask("video/avi/info").json["problem"] is None
        assert served.ask("video/avi/converted.mp4").status == 200


def children() -> set[int]:
    """Return the processes that this one has started."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_no_process_outlives_the_client_that_it_works_for(served, folder):
    served.ask("video/long/info")
    before, made = children(), len(list((folder / "cache").glob("*.mp4")))
    client = socket.create_connection(("127.0.0.1", served.port))
    client.sendall(f"GET /{TOKEN}/video/long/converted.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    wait_for(lambda: children() - before and list((folder / "cache").glob(".*")))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # as if it had been killed
    client.close()
    wait_for(lambda: not children() - before and not list((folder / "cache").glob(".*")))
    assert len(list((folder / "cache").glob("*.mp4"))) == made


def test_the_folder_of_converted_videos_is_bounded(run, tmp_path):
    with serve_page(run, tmp_path, most_bytes=1) as served:
        assert served.ask("video/avi/converted.mp4").status == 200
        (first,) = tmp_path.glob("*.mp4")
        assert served.ask("video/part/converted.mp4").status == 200
        (second,) = tmp_path.glob("*.mp4")
    assert first != second


def test_a_short_round_of_many_clients(served, folder):
    data, wrong = film(folder, "a.mp4"), []

    def stream(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(10):
            start, end = np.sort(rng.integers(0, len(data), 2)).tolist()
            answer = served.ask(f"video/{'a' if seed % 2 else 'member'}", Range=f"bytes={start}-{end}")
            if answer.status != 206 or answer.body != data[start : end + 1]:
                wrong.append(answer.status)

    threads = [threading.Thread(target=stream, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# What the page asks for.


def test_answers_bear_the_version_of_the_run(served, run):
    before = served.ask("version").headers["raypipe-version"]
    assert f'data-version="{before}"'.encode() in served.ask("").body
    assert served.ask("video/a/info").headers["raypipe-version"] == before
    run.write_bytes("clusters.parquet", run.read_bytes("clusters.parquet"))
    after = served.ask("version").headers["raypipe-version"]
    assert after != before and f'data-version="{after}"'.encode() in served.ask("").body


def test_what_is_told_of_a_video(served, run):
    catalog = Catalog(run)
    assert len(catalog) == N_VIDEOS
    ids = run.read_table("clusters.parquet")["video_id"].to_pylist()
    told = served.ask("video/part/info").json
    assert told["name"] == "old.avi [2–5 s]" and (told["start_s"], told["end_s"]) == (2.0, 5.0)
    assert told["row"] == ids.index("part")


def test_the_kept_pictures(served, monkeypatch):
    import io

    from PIL import Image

    strip = Image.open(io.BytesIO(served.ask("filmstrip/a?n=6&height=48").body))
    assert strip.size == (6 * 64, 48)
    np.testing.assert_allclose(np.asarray(strip)[24, 32::64, 0], 40 * np.arange(6), atol=3)
    parted = Image.open(io.BytesIO(served.ask("filmstrip/a?n=3&height=48&parted=true").body))
    assert (parted.format, parted.size) == ("WEBP", (3 * 64, 48))
    lines = np.asarray(parted)[:, :, 3] == 0
    assert np.flatnonzero(lines.all(axis=0)).tolist() == [64, 65, 128, 129] and not lines.all(axis=1).any()
    monkeypatch.setattr("raypipe.report.serving.player_answers._STRIP_WIDTH", 300)
    lower = Image.open(io.BytesIO(served.ask("filmstrip/a?n=6&height=48&parted=true").body))
    assert lower.size == (6 * 49, 37), "a format has a greatest width"
    told = served.ask("video/a/info?n=3").json["filmstrip"]
    assert told == {"src": "filmstrip/a?n=3", "n": 3, "aspect": pytest.approx(4 / 3), "times_s": [1.0, 3.0, 5.0]}
    assert served.ask("filmstrip/b").status == 204 and served.ask("filmstrip/nothing").status == 404


def test_pictures_that_have_moved_are_found_once_the_run_is_clustered_again(served, run):
    """A run that is run again merges its files. Until then they cannot be read, and the video plays all the same."""
    before = served.ask("filmstrip/a?n=6").body
    for folder in ("frames", "embeddings"):
        Path(run.path(f"{folder}/0.parquet")).rename(run.path(f"{folder}/1.parquet"))
    told = served.ask("video/a/info")
    assert told.status == 200 and len(told.json["sources"]) == 2
    assert told.json["filmstrip"] is None and "has no frames/0.parquet" in told.json["problem"]
    run.write_bytes("clusters.parquet", run.read_bytes("clusters.parquet"))
    assert served.ask("filmstrip/a?n=6").body == before
    assert served.ask("video/a/info").json["problem"] is None


def test_a_search_finds_neighbours_and_parts_with_their_rows(served):
    found = served.ask("search?like=a&n=3").json["videos"]
    assert len(found) == 3 and found[0]["video_id"] in ("link", "b")
    rows = served.ask(f"rows?of={found[0]['row']}").body
    assert found[0]["video_id"].encode() + b"\0" in rows
    assert [each["distance"] for each in found] == sorted(each["distance"] for each in found)
    piece = served.ask("search?like=a&from_s=1&to_s=3&n=1").json["videos"][0]
    assert piece["end_s"] > piece["start_s"]
    for wrong in ("", "like=a&text=b", "like=a&from_s=1", "text=some+words"):
        answer = served.ask(f"search?{wrong}")
        assert answer.status == 400 and "\n" not in answer.json["error"]
    assert served.ask("search?like=/etc/passwd").status == 404


@pytest.mark.parametrize("path", ["search?like=a", "search?like=a&from_s=1&to_s=3", "align?ids=a,b"])
def test_a_run_that_is_clustered_meanwhile_is_told_of_in_a_line(served, run, monkeypatch, path):
    kept, read_table = run.read_bytes("clusters.parquet"), Folder.read_table

    def read_while_clustered(folder, *names):
        run.write_bytes("clusters.parquet", kept)
        if names[0] == "videos.parquet":
            raise KeyError("a video that it has now")
        return read_table(folder, *names)

    served.ask("search?like=a")
    monkeypatch.setattr(Folder, "read_table", read_while_clustered)
    answer = served.ask(path)
    assert answer.status == 422 and answer.json["error"].endswith("has been clustered again meanwhile: try again")


def test_a_search_that_nobody_waits_for_is_not_begun(served, monkeypatch):
    begun, free = [], threading.Event()

    def wait(run, like, **options):
        begun.append(like)
        free.wait(20)
        return []

    monkeypatch.setattr("raypipe.trajectories.similarity.search", wait)
    clients = []
    try:
        for like in "abc":
            clients.append(HTTPConnection("127.0.0.1", served.port, timeout=30))
            clients[-1].request("GET", f"/{TOKEN}/search?like={like}")
            time.sleep(0.3)
        assert begun == ["a"], "one search takes all cores"
        clients[1].close()
        time.sleep(0.3)
        free.set()
        for client in (clients[0], clients[2]):
            assert client.getresponse().status == 200
    finally:
        free.set()
        for client in clients:
            client.close()
    assert begun == ["a", "c"]


def test_aligned_videos_do_the_same_at_the_same_time(served):
    """``b`` waits in the middle of its first clip until 2.5 s, and then does in 3 s what ``a`` does in 5."""
    found = served.ask("align?ids=a,b").json
    a, b = (np.array(video["times_s"]) for video in found["videos"])
    assert (np.diff(a) >= 0).all() and (np.diff(b) >= 0).all() and (np.diff(found["clock_s"]) >= 0).all()
    assert (a[0], a[-1], b[0], b[-1]) == (0, 6, 0, 6)
    at = np.arange(1.0, 5.5, 0.5)
    np.testing.assert_allclose(np.interp(at, a, b), 2.5 + (at - 0.5) * 3 / 5, atol=0.25)
    to_center = served.ask("align?ids=a,link&to=center")
    assert to_center.status == 200
    for wrong in ("ids=a", "ids=a,a", "ids=a,b&to=x", "ids=" + ",".join("abcd" * 3)):
        assert served.ask(f"align?{wrong}").status == 400
    assert served.ask("align?ids=a,nothing").status == 404


def test_the_player_keeps_what_a_page_allows_itself():
    own = "default-src 'none'; script-src 'sha256-abc='; img-src data:; style-src 'unsafe-inline'"
    page = f'<head><meta http-equiv="Content-Security-Policy" content="{own}"></head><body></body>'
    text, policy = add_player(page, "1a")
    assert "script-src 'sha256-abc=' 'self'" in policy and "img-src data: 'self'" in policy
    assert "http-equiv" not in text and text.endswith(
        '<script src="player.js" data-version="1a" defer></script>\n</body>'
    )


# The command.


def test_the_command_says_in_one_line_what_is_wrong(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = call_raypipe("explore", run.path(), "--no-browser", "--port", port)
        assert result.exit_code == 2 and f"port {port} of 127.0.0.1" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = call_raypipe("explore", tmp_path / "no", "--no-browser")
    assert result.exit_code == 2 and "is not a run directory" in result.stderr
    (tmp_path / "run.json").write_text("{}")
    result = call_raypipe("explore", tmp_path, "--no-browser")
    assert result.exit_code == 2 and "raypipe cluster" in result.stderr
    (tmp_path / "clusters.parquet").write_bytes(b"")
    result = call_raypipe("explore", tmp_path, "--no-browser")
    assert result.exit_code == 2 and "raypipe report" in result.stderr


def test_every_route_is_described():
    text = (Path(__file__).parents[2] / "docs/page_server.md").read_text()
    from raypipe.report.serving.server import _FILES, make_app

    source = Path(make_app.__code__.co_filename).read_text()
    routes = [line.split('"')[1] for line in source.splitlines() if line.strip().startswith("Route(")]
    assert len(routes) > 8
    for route in itertools.filterfalse(lambda each: each in ("/", "/{name}"), routes):
        assert route.replace(":path", "").lstrip("/") in text
    assert _FILES.fullmatch("posters/all.dzi") and _FILES.fullmatch("poster_files/3/0_1.jpg")
