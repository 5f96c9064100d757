"""Which videos are like a given one."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from commands import call_raypipe
from embedded import make_embedded
from videos import write_video
from worded import WORDS, make_worded

import raypipe as rp
from bench.search import Planted, make_paths
from raypipe import pipeline
from raypipe.analysis import search
from raypipe.cli.matches import as_text
from raypipe.errors import UsageError
from raypipe.progress import Progress
from raypipe.runs import lookup
from raypipe.runs.comparison import check_comparable
from raypipe.runs.directory import Run
from raypipe.schema import ClipPath, Trajectories
from raypipe.softdtw import cdist_soft_dtw
from raypipe.sources.videos import Video, make_video_id
from raypipe.storage import TarMember, canonical_uri
from raypipe.trajectories import similarity

GAMMA = 0.05


def trajectories(values) -> Trajectories:
    return Trajectories(tuple(f"v{i}" for i in range(len(values))), values, np.ones(len(values)))


@pytest.mark.parametrize("least", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_videos_come_in_the_order_of_their_divergence(least, ragged):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 6, 3))
    if ragged:
        values = [path[: rng.integers(2, 7)] for path in values]
    everything = trajectories(values)
    parts = [Trajectories(everything.video_ids[i : i + 7], values[i : i + 7], np.ones(7)) for i in range(0, 40, 7)]
    expected = cdist_soft_dtw(values, [values[3]], GAMMA, divergence=True)[:, 0]
    order = [i for i in np.argsort(-expected if least else expected) if i != 3][:5]
    found = search.rank_paths(values[3], parts, GAMMA, 5, least=least, skip="v3")
    assert [match.video_id for match in found] == [f"v{i}" for i in order]
    np.testing.assert_allclose([match.distance for match in found], expected[order], rtol=1e-9)


def test_pooled_paths_are_means_of_parts():
    path = np.arange(20.0).reshape(10, 2)
    np.testing.assert_array_equal(search.pool_path(path, 2), [path[:5].mean(axis=0), path[5:].mean(axis=0)])
    np.testing.assert_array_equal(search.pool_path(path[:3], 8), path[:3])
    np.testing.assert_allclose(search.pool_path(path, 4)[1], path[2:5].mean(axis=0))


def test_sifting_finds_what_comparing_all_finds():
    paths = make_paths(np.random.default_rng(5), 6000, 40, 4, n_kinds=60)
    every = trajectories(paths)
    shares = []
    for row in range(0, 6000, 1000):
        exact, sifted = (
            {match.video_id for match in search.rank_paths(paths[row], [every], GAMMA, 10, pooled=pooled)}
            for pooled in (False, True)
        )
        shares.append(len(exact & sifted) / 10)
    assert np.mean(shares) >= 0.95


def test_whether_all_can_be_compared():
    assert search.is_affordable(1_000_000, 16, 5)
    assert search.is_affordable(10**9, 8, 512)
    assert not search.is_affordable(1_000_000, 64, 32)


def test_the_most_unlike_are_in_farthest_point_order():
    values = np.random.default_rng(2).normal(size=(30, 5, 2))
    apart = cdist_soft_dtw(values, gamma=GAMMA, divergence=True)
    found = search.spread_out(values, GAMMA, 6)
    chosen = [i for i, _ in found]
    for step in range(1, 6):
        nearest = apart[:, chosen[:step]].min(axis=1)
        assert chosen[step] == nearest.argmax()
        assert found[step][1] == pytest.approx(nearest.max(), rel=1e-3)
    assert len(search.spread_out(values[:3], GAMMA, 9)) == 3
    assert sorted(i for i, _ in search.spread_out([values[0]] * 4, GAMMA, 4)) == [0, 1, 2, 3]


def test_a_planted_part_is_found_in_other_videos_within_half_a_second():
    figures = [
        Planted(np.random.default_rng(seed), 30, stride_s=0.5, noise=0.1, speeds=(0.75, 1.33)).measure()
        for seed in range(3)
    ]
    assert np.mean([each["found"] for each in figures]) >= 0.9


def test_pieces_are_the_best_of_all_videos_and_do_not_overlap(monkeypatch):
    rng = np.random.default_rng(3)
    times = [np.arange(float(n)) for n in (12, 1, 30, 7, 20)]
    videos = [ClipPath(f"v{i}", rng.normal(size=(len(t), 8)), t, t + 1) for i, t in enumerate(times)]
    part = videos[0].values[3:6]
    for place in (2, 15, 22):
        videos[2].values[place : place + 3] = part + rng.normal(0, 0.1, part.shape)
    videos[3].values[4:7] = part + rng.normal(0, 0.01, part.shape)
    found = search.rank_pieces(videos[0], (3.0, 6.0), videos, 6)
    best = sorted((match.video_id, round(match.start_s)) for match in found[:4])
    assert best == [("v2", 2), ("v2", 15), ("v2", 22), ("v3", 4)]
    assert [match.distance for match in found] == sorted(match.distance for match in found)
    assert "v0" not in {match.video_id for match in found}
    every = search.rank_pieces(videos[0], (3.0, 6.0), videos, 60)
    assert all(match.start_s < match.end_s for match in every) and "v1" in {match.video_id for match in every}
    for one, other in itertools.combinations(found, 2):
        assert one.video_id != other.video_id or one.end_s <= other.start_s or one.start_s >= other.end_s
    (least,) = search.rank_pieces(videos[0], (3.0, 6.0), videos, 1, least=True)
    assert least.video_id in {"v1", "v4"}
    monkeypatch.setattr(search, "_STEPS_AT_ONCE", 20)  # The videos come in several batches then.
    assert search.rank_pieces(videos[0], (3.0, 6.0), videos, 6) == found


@pytest.mark.parametrize(("part_s", "n_clips"), [((2.0, 5.0), 3), ((2.4, 4.6), 1), ((2.4, 2.6), 1), ((2.6, 2.9), 0)])
def test_a_part_takes_the_clips_that_are_of_it_alone(part_s, n_clips):
    times = np.arange(8.0)
    path = ClipPath("a", np.eye(8), times, times + 1)
    assert len(path.within(*part_s).values) == n_clips


def test_a_part_as_short_as_one_clip_is_found():
    rng = np.random.default_rng(0)
    times = np.arange(9.0)
    videos = [ClipPath(name, rng.normal(size=(9, 4)), times, times + 1) for name in "ab"]
    videos[1].values[5] = videos[0].values[2]
    (found,) = search.rank_pieces(videos[0], (2.0, 3.0), videos, 1)
    assert (found.video_id, found.start_s, found.end_s) == ("b", pytest.approx(5, abs=0.3), pytest.approx(6, abs=0.3))


@pytest.mark.parametrize("n_clips", [1, 4])
def test_a_query_that_stands_still_takes_its_gamma_from_others(n_clips):
    """Its own clips do not tell how far clips lie apart, and γ = 1 finds the longest videos, whole."""
    rng = np.random.default_rng(0)
    times = np.arange(30.0)
    videos = [ClipPath(name, 0.1 * rng.normal(size=(30, 4)), times, times + 1) for name in "abc"]
    videos[1].values[5] += 0.5
    still = np.repeat(videos[1].values[[5]], n_clips, axis=0)
    query = ClipPath("still", still, times[:n_clips], times[:n_clips] + 1)
    found = search.rank_pieces(query, (0.0, 1.0), videos, 3)
    assert (found[0].video_id, found[0].start_s) == ("b", pytest.approx(5, abs=0.3))
    assert found[0].distance < 0.01 and all(match.end_s - match.start_s < 3 for match in found)


def test_a_direction_finds_the_clip_that_points_there():
    values = np.eye(4)[[0, 1, 2, 3]]
    times = np.arange(3.0)
    videos = [
        ClipPath("a", values[[0, 1, 0]], times, times + 1),
        ClipPath("b", values[[2, 2]] * 3, times[:2], times[:2]),
    ]
    (first, second) = search.rank_by_direction(np.array([0.0, 2, 0.1, 0]), videos, 5)
    assert (first.video_id, first.start_s, first.end_s) == ("a", 1.0, 2.0)
    assert (second.video_id, second.distance) == ("b", pytest.approx(1 - 0.1 / np.hypot(2, 0.1)))
    assert [match.video_id for match in search.rank_by_direction(np.array([0, 1.0, 0, 0]), videos, 1, least=True)] == [
        "b"
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a clustered run of precomputed paths: two shapes, in which a third thing happens now and then."""
    folder = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(0)
    paths, labels = {}, []
    part = np.cumsum(rng.normal(size=(4, 6)), axis=0) + 3
    for i in range(12):
        steps = np.linspace(0, 1, 20)[:, None]
        path = np.sin(2 * np.pi * (i % 2 + 1) * steps + np.arange(6)) + rng.normal(0, 0.05, (20, 6))
        if i in (2, 5, 7):
            path[i : i + 4] = part + rng.normal(0, 0.05, part.shape)
        paths[f"video-{i:02d}"] = path.astype(np.float32)
        labels.append("ab"[i % 2])
    np.savez(folder / "known.npz", ids=list(paths), values=np.stack(list(paths.values())), labels=labels)
    run = Run(str(folder / "run"))
    config = rp.make_config(sets=("cluster.n_clusters=2", "cluster.n_init=1"))
    pipeline.embed(folder / "known.npz", run, config, Progress())
    pipeline.cluster(run, config, Progress())
    np.savez(folder / "new.npz", new=paths["video-04"] + 0.01)
    return run


def ids_of(run: Run) -> list[str]:
    return run.read_table("videos.parquet", ["video_id"])["video_id"].to_pylist()


def test_a_video_may_be_named_by_id_uri_or_a_new_file(run):
    ids = ids_of(run)
    uri = run.read_table("videos.parquet", ["uri"])["uri"][4].as_py()
    by_id = rp.search(run, ids[4], n=4)
    assert rp.search(run, uri, n=4) == by_id
    assert {each["label"] for each in by_id} == {"a"}
    assert ids[4] not in {each["video_id"] for each in by_id}
    assert set(by_id[0]) == {
        "video_id", "uri", "group", "label", "caption", "cluster", "distance", "start_s", "end_s",
    }  # fmt: skip
    new = rp.search(run, run.path("../new.npz"), n=4)
    assert new[0]["video_id"] == ids[4]  # which a new video does not leave out
    assert {each["label"] for each in new} == {"a"}
    assert rp.search(run, ids[4], n=11, least=True) == rp.search(run, ids[4], n=11)[::-1]


def test_a_video_may_be_named_by_the_id_that_its_source_gave_it(tmp_path):
    """A manifest's column id, or LeRobot's episode and camera, is what a user knows, and not its uuid5."""
    names = ("kitchen 7", "3/observation.images.front")
    videos = [Video(make_video_id(name), canonical_uri("/data/a.mp4"), start_s=i) for i, name in enumerate(names)]
    made = make_embedded(tmp_path / "run", [np.ones((2, 3), np.float32)] * len(videos), videos)
    assert [lookup.find_id(made, name) for name in names] == [video.video_id for video in videos]
    assert lookup.find_id(made, "kitchen") is None


def test_a_manifest_may_have_its_own_column_of_episodes(tmp_path):
    """Arrow cannot choose rows of some types, such as the texts that polars writes."""
    videos = [Video(f"v{i}", canonical_uri(f"/data/{i}.mp4")) for i in range(2)]
    made = make_embedded(tmp_path / "run", [np.ones((2, 3), np.float32)] * 2, videos)
    table = made.read_table("videos.parquet").append_column("episode_index", pa.array(["a", None], pa.string_view()))
    made.write_table("videos.parquet", table)
    assert lookup.find_id(made, "1.mp4") == "v1"
    assert lookup.describe_videos(made, ["v0"])["v0"]["uri"] == videos[0].uri


def test_a_video_may_be_named_as_the_page_shows_it(tmp_path):
    names = ("/data/x y#1.mp4", "/data/ü?.mp4", "/data/plain.mp4")
    uris = [canonical_uri(name) for name in names] + [TarMember("file:///data/0.tar", 512, 9, "s#0?.left.mp4").uri]
    videos = [Video(f"v{i}", uri) for i, uri in enumerate(uris)]
    made = make_embedded(tmp_path / "run", [np.ones((2, 3), np.float32)] * len(videos), videos)
    shown = ["x y#1.mp4", "ü?.mp4", "plain.mp4", "s#0?.left.mp4"]
    assert [lookup.name_of(uri) for uri in uris] == shown
    assert [lookup.find_id(made, name) for name in shown] == ["v0", "v1", "v2", "v3"]


def test_parts_of_a_file_are_listed_with_their_ids():
    each = {"distance": 1.0, "cluster": 0, "label": None, "group": None, "start_s": None, "end_s": None}
    found = [{**each, "video_id": name, "uri": f"file:///d/{file}.mp4"} for name, file in ("aa", "ba", "cb")]
    lines = as_text(found, False).splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [["/d/a.mp4", "a"], ["/d/a.mp4", "b"], ["0", "/d/b.mp4"]]


def test_a_video_may_be_named_by_the_end_of_its_path(tmp_path, monkeypatch):
    uris = [f"file:///data/{name}" for name in ("kitchen/x y.mp4", "garden/x y.mp4", "garden/ax.mp4", "garden/x.mp4")]
    videos = [Video(f"v{i}", uri) for i, uri in enumerate(uris)]
    made = make_embedded(tmp_path / "run", [np.ones((2, 3), np.float32)] * len(videos), videos)
    assert lookup.find_id(made, "kitchen/x y.mp4") == "v0"
    assert lookup.find_id(made, "x.mp4") == "v3"
    assert lookup.find_id(made, "/data/garden/ax.mp4") == lookup.find_id(made, "v2") == "v2"
    assert lookup.find_id(made, "itchen/x y.mp4") is lookup.find_id(made, "") is None
    with pytest.raises(UsageError, match=r"2 videos of .* end in x y.mp4: give more of one's path"):
        lookup.find_id(made, "x y.mp4")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.mp4").touch()  # A file that is there is meant.
    assert lookup.find_id(made, "x.mp4") is None


def test_where_a_part_happens_is_told_in_seconds(run):
    ids = ids_of(run)
    found = rp.search(run, ids[2], from_s=2, to_s=6, n=2)
    told = sorted((ids.index(each["video_id"]), each["start_s"], each["end_s"]) for each in found)
    assert [i for i, _, _ in told] == [5, 7]
    np.testing.assert_allclose([times for _, *times in told], [[5, 9], [7, 11]], atol=0.5)


def test_the_command_prints_a_table_or_json(run):
    table = call_raypipe("search", run.url, "--like", ids_of(run)[2], "--from", 2, "--to", 6, "-n", 2)
    assert table.exit_code == 0, table.stderr
    head, first, _ = table.stdout.splitlines()
    assert head.split() == ["distance", "cluster", "label", "from", "(s)", "to", "(s)", "video"]
    assert first.split()[0] == "1"
    printed = call_raypipe("search", run.url, "--like", ids_of(run)[2], "-n", 3, "--json").stdout
    assert json.loads(printed) == rp.search(run, ids_of(run)[2], n=3)
    assert "from (s)" not in call_raypipe("search", run.url, "--like", ids_of(run)[2]).stdout
    groups = [{**json.loads(printed)[0], "label": None, "group": "cam0"}]
    assert as_text(groups, False).split()[:4] == ["distance", "cluster", "group", "video"]
    diverse = call_raypipe("search", run.url, "--diverse", 3, "--json")
    assert json.loads(diverse.stdout) == rp.find_diverse(run, 3)


def test_who_asks_for_more_than_there_are_gets_all(run):
    everything = rp.find_diverse(run, 10**9)
    assert {each["video_id"] for each in everything} == set(ids_of(run)) and everything == rp.find_diverse(run, 12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--like no-such-id", "has no video 'no-such-id'; nor can it be searched for a text, as only the encoder clip"),
        ("--like none.mp4", "none.mp4: no such file or folder"),
        ("--like {id} --from 3", "a part has two ends: --to is missing"),
        ("--like {id} --to 3", "a part has two ends: --from is missing"),
        ("--like {id} --from 3 --to 3", "the part from 3 s to 3 s is empty"),
        ("--like {id} --from -3 --to 3", "a video begins at 0 s, and the part at -3 s"),
        ("--like {id} --from 3 --to 3.01", "the part from 3 s to 3.01 s holds the middle of no clip: make it longer"),
        (
            "--like {id} --from 30 --to 40",
            "no clip of the video lies between 30 s and 40 s: it has clips from 0 s to 20 s",
        ),
        ("--like {id} --diverse 3", "one of --like, --diverse and --duplicates"),
        ("", "one of --like, --diverse and --duplicates"),
        ("--diverse 3 --least", "--least, --from and --to go with --like"),
        ("--like {run}/../known.npz", "holds 12 videos: name one"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, arguments, said):
    filled = arguments.format(id=ids_of(run)[0], run=run.url).split()
    result = call_raypipe("search", run.url, *filled)
    assert result.exit_code in (1, 2)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raypipe:")]
    assert said in line


def test_a_run_that_is_not_clustered_is_told_so(run, tmp_path):
    alone = Run(str(tmp_path / "embedded"))
    pipeline.embed(run.path("../known.npz"), alone, rp.make_config(), Progress())
    result = call_raypipe("search", alone.url, "--like", ids_of(alone)[0])
    assert (result.exit_code, result.stderr) == (
        2,
        f"raypipe: {alone.url} has no trajectories, as it is not clustered: run raypipe cluster {alone.url}\n",
    )
    assert len(rp.search(alone, ids_of(alone)[0], from_s=0, to_s=4, n=3)) == 3  # A part takes clips alone.


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Return a run of small videos embedded by the descriptor without Ray, and their folder."""
    import pyarrow as pa

    from raypipe.encoders import make_encoder
    from raypipe.runs.accounting import account, write_accounts
    from raypipe.runs.ledger import Ledger
    from raypipe.sources import find_videos
    from raypipe.trajectories.queries import embedded_alone

    folder = tmp_path_factory.mktemp("filmed")
    for i in range(5):
        write_video(folder / f"videos/{i}.mp4", n_frames=25 + 5 * i, size=(64, 48), seed=i)
    config = rp.make_config(sets=("encode.encoder=descriptor", "trajectory.n_steps=4", "cluster.n_clusters=2"))
    encoder = make_encoder(**config.encode.model_dump())
    videos = find_videos(folder / "videos")
    run, plans = Run(str(folder / "run")), []
    for number, video in enumerate(videos):
        with embedded_alone(video, config, encoder) as alone:
            plans.append(alone.read_table("plan.parquet"))
            run.write_table(f"embeddings/{number}.parquet", alone.read_table("embeddings"))
    run.write_table("plan.parquet", plan := pa.concat_tables(plans))
    run.record(config=config.model_dump(mode="json"))
    run.record(encoder={"name": "descriptor", "dim": encoder.dim, "fingerprint": encoder.fingerprint})
    write_accounts(run, [account(videos, Ledger(run, plan))], 0, lambda line: None)
    pipeline.cluster(run, config, Progress())
    return run, folder


def test_a_new_video_is_embedded_as_the_runs_were(filmed, tmp_path):
    run, folder = filmed
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((folder / "videos/3.mp4").read_bytes())
    found = rp.search(run, copy, n=3)
    assert found[0]["uri"].endswith("videos/3.mp4")
    assert found[0]["distance"] == pytest.approx(0, abs=1e-6)
    assert found[1]["distance"] > 1e-3
    by_part = rp.search(run, copy, from_s=1, to_s=3, n=1)
    assert by_part[0]["uri"] == found[0]["uri"]
    assert (by_part[0]["start_s"], by_part[0]["end_s"]) == (pytest.approx(1, abs=0.5), pytest.approx(3, abs=0.5))


def test_a_new_video_that_cannot_be_read_or_another_encoder_is_told_in_one_line(filmed, tmp_path):
    run, _ = filmed
    (tmp_path / "broken.mp4").write_text("no video")
    result = call_raypipe("search", run.url, "--like", tmp_path / "broken.mp4")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"raypipe: file://{tmp_path}/broken.mp4 cannot be read: ")
    assert result.stderr.count("broken.mp4") == 1
    theirs = run.info()["encoder"]
    try:
        run.record(encoder={"fingerprint": "descriptor/other/l2"})
        result = call_raypipe("search", run.url, "--like", write_video(tmp_path / "new.mp4"))
        assert (result.exit_code, "the two cannot be compared" in result.stderr) == (2, True)
    finally:
        run.record(encoder=theirs)


def test_groups_are_laid_out_with_a_blank_line_between_them():
    one = {
        "distance": 0.5,
        "cluster": 1,
        "label": None,
        "group": "g",
        "start_s": None,
        "end_s": None,
        "uri": "s3://b/a",
    }
    assert as_text([], False) == "nothing found"
    lines = as_text([[one, one], [one]], False).splitlines()
    assert [bool(line) for line in lines] == [True, False, True, True, False, True]
    assert lines[2].split() == ["1", "0.5", "1", "g", "s3://b/a"]


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    """Return a run that can be searched for words, and the words."""
    return make_worded(tmp_path_factory.mktemp("worded")), WORDS


def test_words_find_the_clip_that_shows_them(worded):
    run, words = worded
    found = rp.search(run, words[2])
    assert found[0]["distance"] == pytest.approx(0, abs=1e-5)
    assert {each["video_id"] for each in found if each["distance"] < 1e-5} == {"v1", "v2"}
    times = {each["video_id"]: (each["start_s"], each["end_s"]) for each in found}
    assert times["v1"] == (2.0, 3.0)
    assert times["v2"][0] == 0.0
    assert found[-1]["video_id"] == "v0"


def test_words_have_no_part_and_need_the_runs_own_weights(worded):
    run, words = worded
    result = call_raypipe("search", run.url, "--like", words[0], "--from", 1, "--to", 2)
    assert (result.exit_code, result.stderr) == (2, "raypipe: a text has no part: leave --from and --to out\n")
    result = call_raypipe("search", run.url, "--like", " ")
    assert (result.exit_code, result.stderr) == (2, "raypipe: the text to search for is empty\n")
    theirs = run.info()["encoder"]
    try:
        run.record(encoder={"fingerprint": "clip/ViT-B-32/laion2b/fp32/l2"})
        result = call_raypipe("search", run.url, "--like", words[0])
        assert (result.exit_code, "was embedded by clip/ViT-B-32/laion2b" in result.stderr) == (2, True)
    finally:
        run.record(encoder=theirs)


def test_a_text_may_be_longer_than_a_file_s_name(tmp_path):
    run = make_worded(tmp_path)
    assert lookup.find_id(run, "a hand opens a drawer " * 15) is None
    assert similarity._is_text("a hand opens a drawer " * 15)


def test_a_part_without_an_end(tmp_path):
    with pytest.raises(UsageError, match="a part has an end"):
        similarity.search(make_worded(tmp_path), "v0", from_s=0.0, to_s=float("inf"))
    with pytest.raises(UsageError, match="from_s must be"):
        similarity.search(make_worded(tmp_path), "v0", from_s="a", to_s=3.0)


def test_a_run_is_clustered_with_its_own_encoder_alone(tmp_path):
    """Another model would be recorded, and new videos would then be embedded by it."""
    run = make_worded(tmp_path)
    (tmp_path / "moved").mkdir()
    (tmp_path / "tiny.pt").rename(tmp_path / "moved" / "tiny.pt")
    for name, other in (("model", "ViT-L-14"), ("pretrained", "openai"), ("normalize", "false")):
        result = call_raypipe("cluster", run, "-k", "2", "--set", f"encode.{name}={other}")
        assert result.exit_code == 2 and f" was embedded with encode.{name}=" in result.stderr
    few = ("-k", "2", "--set", "reduce.n_components=2", "--set", "describe.method=none")
    result = call_raypipe("cluster", run, *few, "--set", f"encode.pretrained={tmp_path}/moved/tiny.pt")
    assert result.exit_code == 0, result.stderr
    assert rp.search(run, WORDS[0], n=1)[0]["video_id"] == "v0"


def test_weights_are_the_same_in_another_folder(tmp_path):
    run = Run(str(tmp_path))
    made = {"name": "clip", "dim": 16, "fingerprint": "clip/local-dir:model:1/sha256-0123456789abcdef/auto/l2"}
    run.record(encoder=made)
    moved = {**made, "fingerprint": "clip/local-dir:/mnt/a/sha256-b/sha256-0123456789abcdef/auto/l2"}
    check_comparable(moved, run)
    for other in ("clip/local-dir:model:1/sha256-fedcba9876543210/auto/l2", "clip/hf-hub:a/b/sha256-01/auto/l2"):
        with pytest.raises(UsageError, match="cannot be compared"):
            check_comparable({**made, "fingerprint": other}, run)
