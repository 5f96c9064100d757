"""What a run keeps of its dataset's faults and of near-duplicates, and how the page shows both."""

import numpy as np
import pytest
from embedded import make_embedded
from lerobot_sets import CAMERA
from report_runs import WRITTEN, frames_of, make_run
from whole_sets import EPISODES, change_info, change_rows, write_set

import raypipe as rp
from raypipe import pipeline
from raypipe.config import ReportConfig
from raypipe.progress import Progress
from raypipe.report import write_report_files
from raypipe.report.page.page_sections import link_headings
from raypipe.runs import dataset_checks
from raypipe.runs.beginnings import begin_embedding, remove_clusters
from raypipe.runs.dataset_checks import write_dataset_faults, write_duplicates
from raypipe.runs.directory import Run
from raypipe.schema import PLAN, Trajectories
from raypipe.sources import find_videos
from raypipe.sources.videos import Video


def plan_of(run, videos, duration_s, error=None):
    """Write what probing found: a length, or an error, which all files share."""
    import pyarrow as pa

    found = {"duration_s": duration_s, "width": 96, "height": 64, "fps": 10.0, "n_frames": 0, "codec": "h264"}
    found = {"error_stage": "probe", "error": error} if error else found | {"decoder": "pyav"}
    rows = [{"video_id": each.video_id, "uri": each.uri, **found} for each in videos]
    run.write_table("plan.parquet", pa.Table.from_pylist(rows, schema=PLAN))


def check(tmp_path, root, duration_s=1.8, error=None):
    run, videos, told = Run(str(tmp_path / "run")), find_videos(str(root)), []
    plan_of(run, videos, duration_s, error)
    write_dataset_faults(run, str(root), videos, True, told.append)
    return run, videos, told


def test_faults_of_the_tables_are_kept_with_their_videos(tmp_path):
    root = write_set(tmp_path / "set")
    change_rows(root, EPISODES, lambda rows: rows[1].update({f"videos/{CAMERA}/to_timestamp": 1.0}))
    change_info(root, total_episodes=9)
    run, videos, told = check(tmp_path, root)
    content = run.read_json("dataset_faults.json")
    assert content["dataset"] == str(root)
    kinds = {fault["kind"]: fault for fault in content["faults"]}
    assert kinds.keys() == {"length", "hole", "count"}
    assert kinds["length"]["episode"] == 1 and kinds["length"]["videos"] == [videos[1].video_id]
    assert kinds["count"]["videos"] == []
    assert len(told) == 1 and "raypipe inspect" in told[0]


def test_a_clean_dataset_has_none_and_a_file_that_failed_is_one(tmp_path):
    root = write_set(tmp_path / "set")
    run, _, told = check(tmp_path, root)
    assert run.read_json("dataset_faults.json")["faults"] == [] and not told
    run, _, _ = check(tmp_path, root, error="it is cut off")
    assert [fault["kind"] for fault in run.read_json("dataset_faults.json")["faults"]] == ["unreadable"]


def test_what_is_no_dataset_is_not_checked_and_broken_metadata_does_not_end_a_run(tmp_path):
    run, told = Run(str(tmp_path / "run")), []
    videos = find_videos(str(write_set(tmp_path / "set")))
    write_dataset_faults(run, str(tmp_path), videos, True, told.append)
    write_dataset_faults(run, videos, videos, True, told.append)
    assert not told and not run.exists("dataset_faults.json")
    plan_of(run, videos, 1.8)
    (tmp_path / "set" / "meta/info.json").write_text("{")
    write_dataset_faults(run, str(tmp_path / "set"), videos, True, told.append)
    assert len(told) == 1 and "is not checked" in told[0] and not run.exists("dataset_faults.json")


def paths(values) -> Trajectories:
    return Trajectories(tuple(f"v{i}" for i in range(len(values))), values, np.ones(len(values)))


def test_copies_are_kept_as_groups_and_not_looked_for_among_very_many(tmp_path, monkeypatch):
    run = Run(str(tmp_path / "run"))
    values = np.random.default_rng(0).normal(size=(12, 6, 3)).cumsum(axis=1)
    values[7] = values[2] + 1e-3
    write_duplicates(run, paths(values))
    assert run.read_json("duplicates.json") == {"compared": 12, "groups": [["v2", "v7"]]}
    monkeypatch.setattr(dataset_checks, "MAX_COMPARED", 11)
    write_duplicates(run, paths(values))
    assert run.read_json("duplicates.json") == {"compared": 0, "groups": None}


def test_clustering_looks_for_copies_and_what_follows_goes_with_what_it_follows_from(tmp_path):
    sets = ("cluster.n_clusters=2", "cluster.n_init=1")
    rng = np.random.default_rng(1)
    clips = [rng.normal(size=(6, 4)).cumsum(axis=0).astype(np.float32) for _ in range(8)]
    run = make_embedded(
        tmp_path / "run", [*clips, clips[0]], [Video(f"v{i}", f"file:///{i}.mp4") for i in range(9)], sets=sets
    )
    run.record(state="embedded", encoder={"name": "precomputed", "dim": 4, "fingerprint": ""})
    pipeline.cluster(run, rp.make_config(sets=sets), Progress())
    assert run.read_json("duplicates.json")["groups"] == [["v0", "v8"]]
    run.write_json("dataset_faults.json", {"dataset": "x", "faults": []})
    remove_clusters(run)
    assert not run.exists("duplicates.json") and run.exists("dataset_faults.json")
    begin_embedding(run, rp.make_config(), {})
    assert not run.exists("dataset_faults.json")


def write_page(run) -> str:
    write_report_files(run, frames_of, ReportConfig(sheet_videos=1, sheet_frames=2), WRITTEN)
    return run.read_bytes("report.html").decode()


def test_the_page_shows_faults_copies_words_and_the_figures_of_a_sweep_as_texts(tmp_path):
    hostile = "<img src=x>"
    run = make_run(tmp_path / "run", ["a.mp4", f"{hostile}.mp4", "c.mp4", "d.mp4"], k=2)
    ids = run.read_table("clusters.parquet")["video_id"].to_pylist()
    fault = {"kind": "length", "says": hostile, "episode": 3, "camera": hostile, "file": None, "amount": 1.0}
    faults = [{**fault, "videos": ids[:1]}] * 25
    run.write_json("dataset_faults.json", {"dataset": f"/data/{hostile}", "faults": faults})
    run.write_json("duplicates.json", {"compared": 4, "groups": [ids[1:3]]})
    words = [{"cluster": 0, "keywords": [{"keyword": hostile, "score": 0.25}], "size": 2, "central": []}]
    run.write_json("descriptions.json", {"implementation": "by hand", "reason": None, "clusters": words})
    row = {"k": 3, "gamma": 0.1, "silhouette_softdtw": 0.4321, "reference": None, "sizes": [1, 3]}
    sweep = {"rows": [row], "recommended": {"k": 3, "gamma": 0.1}, "reason": "why", "several_gammas": False}
    run.write_json("sweep.json", sweep)
    html = write_page(run)
    assert hostile not in html and html.count("&lt;img src=x&gt;") > 25
    assert 'data-show="0"' in html and 'data-show="1.2"' in html
    assert "And 5 more, in dataset_faults.json" in html and "0.25" in html and "0.432" in html
    assert "Near-duplicates" in html and "raypipe inspect &#x27;/data/" in html


def test_the_page_says_where_copies_were_not_looked_for(tmp_path):
    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4", "c.mp4", "d.mp4"], k=2)
    run.write_json("duplicates.json", {"compared": 0, "groups": None})
    html = write_page(run)
    assert "Of so many videos, copies are looked for only when asked: <code>raypipe search " in html
    run.write_json("duplicates.json", {"compared": 4, "groups": []})
    assert "No two videos are so much alike" in write_page(run)


def test_a_page_without_checks_has_no_such_part_and_says_how_a_poster_is_made(tmp_path):
    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4", "c.mp4", "d.mp4"], k=2)
    html = write_page(run)
    assert "Checks of the data" not in html and "<code>raypipe poster " in html
    assert 'data-no-words="only the encoder clip reads texts, and this run is by descriptor"' in html
    run.record(encoder={"name": "clip"})
    run.write_json("poster.json", {"name": "poster", "file": "poster.dzi", "levels": 12})
    html = write_page(run)
    assert "data-no-words" not in html.partition("<script")[0] and '<a href="poster.html">' in html


@pytest.mark.parametrize(
    ("picture", "said"), [("umap", "by UMAP:"), ("autoencoder", "by an autoencoder that was trained")]
)
def test_the_page_says_which_map_it_shows(tmp_path, picture, said):
    run = make_run(tmp_path / "run", ["a.mp4", "b.mp4", "c.mp4", "d.mp4"], k=2)
    config = run.info()["config"]
    run.record(config={**config, "reduce": {**config["reduce"], "picture": picture}})
    assert said in write_page(run)


def test_headings_become_the_contents():
    html = link_headings('<h2>The map</h2><section hidden><h2 class="served">Search</h2></section><h2>A &amp; B</h2>')
    nav, _, body = html.partition("\n")
    assert nav == (
        '<nav class="contents" aria-label="contents"><a href="#the-map">The map</a>'
        '<a href="#search" class="served" hidden>Search</a><a href="#a-b">A &amp; B</a></nav>'
    )
    search = '<section hidden><h2 id="search">Search</h2></section>'
    assert body == f'<h2 id="the-map">The map</h2>{search}<h2 id="a-b">A &amp; B</h2>'
