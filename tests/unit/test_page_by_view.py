"""What the page of very many videos is answered: rows, paths, and which videos have words or lie within a lasso."""

import gzip

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from page_server import serve_page
from report_runs import STEPS, WRITTEN, N, frames_of, make_explored_run

from raypipe.config import ReportConfig
from raypipe.report import write_report_files
from raypipe.report.facts import read_facts, read_paths
from raypipe.report.packing import join_texts, pack, unpack
from raypipe.report.serving import page_data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_explored_run(tmp_path_factory.mktemp("by_view") / "run")
    write_report_files(run, frames_of, ReportConfig(sheet_videos=1, sheet_frames=2), WRITTEN)
    return run


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_data, "WHOLE_VIDEOS", N - 1)
        with serve_page(run, tmp_path_factory.mktemp("cache")) as served:
            yield served


@pytest.fixture(scope="module")
def facts(run):
    return read_facts(run)


def texts_of(array) -> list[str]:
    return array.tobytes().decode().split("\0")[:-1]


def rows_of(answer) -> list[int]:
    assert answer.status == 200 and len(answer.headers["raypipe-version"]) == 16
    return np.flatnonzero(np.unpackbits(np.frombuffer(answer.body, np.uint8), bitorder="little")[:N]).tolist()


def test_arrays_and_texts_come_back_as_they_were_packed():
    texts = ["", "ä\0b", None, "\ud800", "ملف"]
    arrays = {"a": np.arange(5, dtype=np.uint16), "t": join_texts(texts), "none": np.zeros(0, np.float32)}
    header, found = unpack(pack({"k": 3}, arrays))
    assert header == {"k": 3} and found["a"].tolist() == [0, 1, 2, 3, 4] and found["none"].size == 0
    assert texts_of(found["t"]) == ["", "ä b", "", "?", "ملف"]


def test_the_page_of_many_videos_carries_no_texts_of_all(served, facts):
    page = served.ask("").body
    assert b'id="explorer-data" data-src="numbers"></script>' in page
    header, numbers = unpack(gzip.decompress(served.ask("numbers").body))
    assert header["byView"] and "names" not in numbers and "points" not in numbers
    assert numbers["cluster"].tolist() == [member.cluster for member in facts.members]
    assert numbers["lengths"].tolist() == [STEPS] * N
    np.testing.assert_array_equal(numbers["column distance"], np.float32([m.distance for m in facts.members]))


def test_a_page_of_fewer_is_sent_whole(run, tmp_path, monkeypatch):
    monkeypatch.setattr(page_data, "WHOLE_VIDEOS", N)
    with serve_page(run, tmp_path) as whole:
        assert b"data-src" not in whole.ask("").body
        assert whole.ask("rows?of=0").status == 200


def test_rows_bear_their_texts_and_times(served, facts):
    answer = served.ask("rows?of=1.3-5", Accept_Encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    _, found = unpack(gzip.decompress(answer.body))
    members = [facts.members[row] for row in (1, 3, 4, 5)]
    assert texts_of(found["names"]) == [member.name for member in members]
    assert texts_of(found["ids"]) == [member.video_id for member in members]
    assert texts_of(found["captions"]) == [member.caption or "" for member in members]
    assert found["span"].tolist() == [member.span_s for member in members]
    assert found["reduced"].size == 4 * STEPS * 2


def test_paths_are_those_of_the_run_within_their_boxes(served, run, facts):
    header, numbers = unpack(gzip.decompress(served.ask("numbers").body))
    _, found = unpack(served.ask(f"paths?of=2.{N - 1}").body)
    places = found["points"].reshape(2, STEPS, 2)
    restored = np.array(header["pointBox"]["origin"]) + places * header["pointBox"]["scale"]
    paths = read_paths(run)
    wanted = [paths[facts.members[row].video_id] for row in (2, N - 1)]
    np.testing.assert_allclose(restored, wanted, atol=header["pointBox"]["scale"])
    boxes = numbers["boxes"].reshape(N, 4)[[2, N - 1]]
    np.testing.assert_array_equal(boxes, np.hstack([places.min(axis=1), places.max(axis=1)]))


@pytest.mark.parametrize("text", ["EPISODE_01", "robot 1 stack", "cluster 2 episode", "ملف", "onerror", "nothing", ""])
def test_words_are_found_in_all_texts(served, facts, text):
    from urllib.parse import quote

    def texts(m) -> str:
        return " ".join([m.name, m.uri, f"cluster {m.cluster}", m.caption or "", m.group, m.label]).lower()

    wanted = [i for i, m in enumerate(facts.members) if all(word in texts(m) for word in text.lower().split())]
    assert rows_of(served.ask(f"find?text={quote(text.lower())}")) == wanted


@pytest.mark.parametrize("time", [0, 0.37, 1])
def test_a_lasso_finds_the_dots_inside_it(served, run, facts, time):
    paths = np.array([read_paths(run)[member.video_id] for member in facts.members])
    at = time * (STEPS - 1)
    step = min(int(at), STEPS - 2)
    dots = paths[:, step] + (paths[:, step + 1] - paths[:, step]) * (at - step)
    (left, bottom), (right, top) = dots.min(axis=0), dots.max(axis=0)
    unit = (right - left) / 400
    corners = [(40, 30), (333, 60), (301, 290), (150, 120), (20, 260)]
    polygon = [(left + x * unit, top - y * unit) for x, y in corners]
    said = ";".join(f"{x},{y}" for x, y in corners)
    found = rows_of(served.ask(f"inside?time={time}&view={left},{top},{unit}&at={said}"))
    assert found == np.flatnonzero(Outline(polygon).contains_points(dots)).tolist()
    assert 0 < len(found) < N and bottom < top


def test_names_are_ranked_as_people_count(served, facts):
    ranks = np.frombuffer(served.ask("ranks?by=name").body, np.uint32)
    names = [member.name for member in facts.members]
    assert [names[i] for i in np.argsort(ranks)][-4::3] == [f"episode_0{N - 2}.mp4", "ملف فيديو.mp4"]
    assert sorted(ranks.tolist()) == list(range(N))
    keys = ["-x", "_x", "a2", "a10", "A10", "ä10", "b"]
    assert sorted(reversed(keys), key=lambda text: (page_data._natural_key(text), text.swapcase())) == keys
    groups = np.frombuffer(served.ask("ranks?by=group").body, np.uint32)
    assert groups.tolist() == [i % 3 for i in range(N)]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "rows",
            "rows?of=",
            "rows?of=x",
            "rows?of=5.3",
            "rows?of=3-3",
            f"rows?of={N}",
            "paths?of=-1",
            "paths?of=1..2",
        ),
        *("ranks", "ranks?by=distance", "ranks?by=secret", f"find?text={'a+' * 21}"),
        *("inside", "inside?time=2&view=0,0,1&at=0,0;1,0;1,1", "inside?time=0&view=0,0,1&at=0,0;1,1"),
        *("inside?time=0&view=0,0,0&at=0,0;1,0;1,1", "inside?time=0&view=0,0,nan&at=0,0;1,0;1,1"),
        "inside?time=0&view=0,0,1&at=0;1,0;1,1",
    ],
)
def test_wrong_questions_are_refused_in_a_line(served, path):
    answer = served.ask(path)
    assert answer.status == 400 and "\n" not in answer.json["error"]


def test_too_many_rows_at_once_are_refused():
    from raypipe.errors import UsageError
    from raypipe.report.serving.by_view import MOST_ROWS, parse_rows

    assert len(parse_rows(f"0-{MOST_ROWS - 1}", 10**6)) == MOST_ROWS
    with pytest.raises(UsageError, match="at most"):
        parse_rows(f"0-{10**6 - 1}", 10**6)


@pytest.mark.parametrize("name", ["numbers", "rows?of=0", "paths?of=0", "find?text=a", "ranks?by=name", "version"])
def test_they_need_the_token(served, name):
    assert served.ask(name).status == 200
    assert served.ask(name, token="x").status == 403


def test_a_page_of_an_earlier_raypipe_is_served_as_it_is(run, tmp_path):
    old = run.read_bytes("report.html")
    try:
        run.write_bytes("report.html", b"<!doctype html><body>old</body>")
        with serve_page(run, tmp_path) as served:
            assert b"old" in served.ask("").body
            answer = served.ask("rows?of=0")
            assert answer.status == 404 and "raypipe report" in answer.json["error"]
    finally:
        run.write_bytes("report.html", old)
