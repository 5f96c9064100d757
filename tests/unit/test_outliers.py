"""Which videos are odd, why, and where: scores, repairs, reasons, and the files that say so."""

import csv
import io
import shutil

import numpy as np
import pyarrow as pa
import pytest
from commands import call_raypipe

import raypipe as rp
from raypipe.analysis.examination import (
    Examiner,
    Pauses,
    Usual,
    choose_ordinary,
    edges_of,
    find_high,
    find_still,
    find_stretches,
    is_too_short,
    learn_pauses,
    spread_of,
)
from raypipe.analysis.outliers import Scores, find_threshold, rank_within, score_outliers
from raypipe.errors import UsageError
from raypipe.runs.accounting import account
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.runs.outlier_table import Judgement, Outlier, describe_outliers
from raypipe.schema import ClipPath
from raypipe.segments.planning import plan_precomputed
from raypipe.softdtw import auto_gamma, cdist_soft_dtw
from raypipe.softdtw.alignment import align_pairs
from raypipe.softdtw.reference import align
from raypipe.sources.videos import Video, make_video_id

N_STEPS, GROUPS = 16, 3


def way_of(group: int, times: np.ndarray) -> np.ndarray:
    """Return where a group's videos are at some times in [0, 1]: each goes through four places of its own."""
    places = np.random.default_rng(group).normal(size=(5, 6))
    return np.stack([np.interp(times, np.linspace(0, 1, 5), axis) for axis in places.T], axis=1)


def make_video(group: int, rng: np.random.Generator, n_clips: int = 24) -> np.ndarray:
    """Return the clips of a video that goes its group's way at a pace of its own."""
    pace = np.linspace(0, 1, n_clips) ** rng.uniform(0.8, 1.25)
    return way_of(group, pace) + rng.normal(scale=0.02, size=(n_clips, 6))


def make_videos(odd: dict[str, np.ndarray] | None = None, n_each: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    videos = {f"g{g}_{i:02d}": make_video(g, rng) for g in range(GROUPS) for i in range(n_each)}
    return {**videos, **(odd or {})}


def make_run(folder, videos: dict[str, np.ndarray], **sets) -> Run:
    """Make a run of these clips, a second each, without Ray."""
    found = rp.Videos(tuple(Video(name, f"file:///{name}.mp4") for name in videos))
    run = Run(str(folder))
    plan, clips = plan_precomputed(list(found), list(videos.values()), "source")
    run.write_table("plan.parquet", plan)
    run.write_table("embeddings/0.parquet", clips)
    run.write_table("videos.parquet", account(found, Ledger(run, plan)))
    chosen = {"cluster.n_clusters": GROUPS, "cluster.n_init": 2, "reduce.method": "none", **sets}
    config = rp.make_config(sets=tuple(f"{key}={value}" for key, value in chosen.items()))
    run.record(config=config.model_dump(mode="json"))
    run.record(counts=dict(found=len(videos), ok=len(videos), failed=0, skipped=0, ignored=0))
    return run


def examine(odd: np.ndarray, ordinary_of=(0, 1, 2), threshold: float = np.inf):
    """Return what is found of one odd video among good ones, of which those of some centers say what is usual."""
    videos = make_videos({"odd": odd})
    values = [np.asarray(clips) for clips in videos.values()]
    row = len(values) - 1
    centers = np.stack([way_of(group, np.linspace(0, 1, N_STEPS)) for group in range(GROUPS)])
    labels = np.append(np.repeat(np.arange(GROUPS), 12), 0)
    gamma = auto_gamma(values)
    scores = score_outliers(values, labels, centers, gamma, np.zeros(len(values)))
    flags = np.arange(len(values)) == row
    ordinary = choose_ordinary(scores, flags)
    ordinary = ordinary[np.isin(scores.nearest[ordinary], ordinary_of)]
    clips = {
        i: ClipPath(str(i), v, np.arange(len(v), dtype=float), np.arange(1.0, len(v) + 1)) for i, v in enumerate(values)
    }
    examiner = Examiner(values, scores, centers, gamma, ordinary, clips, "index", threshold)
    return examiner.examine(odd, clips[row], int(scores.nearest[row]), float(scores.values[row]))


@pytest.mark.parametrize("gamma", [1e-14, 1e-3, 0.1, 10.0])
def test_an_alignment_is_that_of_the_reference_and_has_every_prefix_and_suffix(gamma):
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 9, 3)), rng.normal(size=(2, 7, 3))
    found = align_pairs(x, z, gamma)
    for n in range(2):
        value, expected = align(x[n], z[n], gamma)
        np.testing.assert_allclose(found.expected[n], expected, atol=1e-9)
        assert found.forward[n, -1, -1] == pytest.approx(value) == pytest.approx(found.backward[n, 0, 0])
        assert found.forward[n, 3, 4] == pytest.approx(align(x[n, :5], z[n, :4], gamma)[0])
        assert found.backward[n, 3, 4] == pytest.approx(align(x[n, 4:], z[n, 3:], gamma)[0])


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_an_alignment_is_that_of_dtw_where_gamma_is_next_to_nothing(scale):
    x, z = scale * np.random.default_rng(0).normal(size=(2, 3, 9, 2))
    found = align_pairs(x, z[:, :7], 1e-12)
    assert set(found.expected.ravel()) == {0.0, 1.0}
    np.testing.assert_allclose((found.expected * found.apart).sum(axis=(1, 2)), found.forward[:, -1, -1])
    assert (align_pairs(x, z[:, :1], 1e-12).expected == 1).all()


def test_who_has_numpy_raise_can_align_steps_that_lie_far_apart():
    with np.errstate(all="raise"):
        found = align_pairs(np.zeros((1, 2, 1)), np.array([[[0.0], [1e3]]]), 1.0)
    np.testing.assert_allclose(found.expected[0], [[1, 0.5], [0, 1]], atol=1e-9)


@pytest.mark.parametrize("far", np.linspace(26.3, 27.3, 6))  # exp(-far²) is about the smallest float64.
def test_who_has_numpy_raise_can_compare_with_steps_that_lie_far_apart(far):
    with np.errstate(all="raise"):
        _, _, share = spread_of(np.array([[0.0], [far]]), np.array([[0.0], [0.0], [far]]), 1.0)
        examine(way_of(1, np.linspace(0, 1, N_STEPS)))
    np.testing.assert_allclose(share, [[0.5, 0.5, 0], [0, 0, 1]], atol=0.1)


def test_a_lone_odd_video_does_not_hide_in_its_own_cluster():
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [way_of(0, np.linspace(0, 1, 8)) + rng.normal(scale=0.05, size=(9, 8, 6)), [np.ones((8, 6))]]
    )
    centers = np.stack([way_of(0, np.linspace(0, 1, 8)), np.ones((8, 6))])
    labels = np.array([0] * 9 + [1])
    found = score_outliers(values, labels, centers, 0.1, np.zeros(10))
    apart = np.maximum(cdist_soft_dtw(values, centers, 0.1, divergence=True), 0)
    np.testing.assert_allclose(found.values, apart[:, 0])
    assert found.values.argmax() == 9 and apart[9, 1] < 1e-9
    assert (found.nearest == 0).all() and found.note is None


def test_a_center_counts_from_two_others_on_or_a_tenth_of_an_average_cluster():
    values = np.linspace(0, 1, 60)[:, None, None]
    centers = np.array([0.0, 0.9, 1.0]).reshape(3, 1, 1)
    for n_second, counts in ((2, False), (3, True)):  # its own membership supports no video
        labels = np.array([0] * (60 - n_second) + [2] * n_second)
        found = score_outliers(values, labels, centers, None, np.zeros(60))
        assert (found.nearest[-1] == 2) == counts
    many = np.zeros((3000, 1, 1))
    labels = np.array([0] * 2950 + [1] * 50)  # a tenth of an average cluster is 100
    assert (score_outliers(many, labels, centers, None, np.zeros(3000)).nearest == 0).all()


def test_where_no_center_has_support_it_is_said_and_any_other_video_counts():
    values = np.array([0.0, 0.2, 5.0]).reshape(3, 1, 1)
    found = score_outliers(values, np.arange(3), values, None, np.zeros(3))
    np.testing.assert_allclose(found.values, [0.2, 0.2, 4.8])
    assert "for 3 of 3 videos" in found.note
    alone = score_outliers(values[:1], np.zeros(1, int), values[:1], None, np.zeros(1))
    assert (alone.values.tolist(), alone.nearest.tolist()) == ([0.0], [0])
    assert alone.note == "no cluster has another video for 1 of 1 videos: their own center counts"
    noise = score_outliers(values, np.full(3, -1), np.empty((0, 1, 1)), None, np.full(3, np.nan))
    assert noise.note == "there are no clusters, and so no video has a score"
    nothing = score_outliers(values, np.full(3, -1), np.empty((0, 1, 1)), None, np.array([1.0, 2.0, 3.0]))
    assert nothing.values.tolist() == [1.0, 2.0, 3.0] and "no centers" in nothing.note


def test_noise_belongs_to_no_center_and_has_a_score():
    values = np.array([0.0, 0.1, 0.2, 9.0]).reshape(4, 1, 1)
    found = score_outliers(values, np.array([0, 0, 0, -1]), np.full((1, 1, 1), 0.1), None, np.zeros(4))
    np.testing.assert_allclose(found.values, [0.1, 0.0, 0.1, 8.9])


def test_other_methods_have_the_euclidean_distance_of_means_or_of_whole_paths():
    values = np.random.default_rng(0).normal(size=(6, 4, 3))
    pooled = score_outliers(values, np.zeros(6, int), values[:1].mean(axis=1, keepdims=True), None, np.zeros(6))
    expected = np.linalg.norm(values.mean(axis=1) - values[0].mean(axis=0), axis=1)
    np.testing.assert_allclose(pooled.values, expected)
    whole = score_outliers(values, np.zeros(6, int), values[:1], None, np.zeros(6))
    np.testing.assert_allclose(whole.values, np.linalg.norm((values - values[0]).reshape(6, -1), axis=1))


def test_whole_paths_have_no_distance_to_centers_of_other_lengths():
    values, centers, own = np.zeros((3, 4, 2)), np.zeros((1, 5, 2)), np.array([1.0, 3.0, 2.0])
    found = score_outliers(values, np.zeros(3, np.int64), centers, None, own)
    np.testing.assert_array_equal(found.values, own)
    assert found.note.startswith("there are no centers in the space of the trajectories")


def test_no_more_than_a_chunk_of_distances_is_held(monkeypatch):
    from raypipe.analysis import outliers

    values, centers = np.random.default_rng(0).normal(size=(50, 4, 2)), np.zeros((3, 4, 2))
    labels = np.arange(50) % 3
    whole = score_outliers(values, labels, centers, 0.1, np.zeros(50))
    monkeypatch.setattr(outliers, "_CHUNK", 21)
    parts = score_outliers(values, labels, centers, 0.1, np.zeros(50))
    np.testing.assert_allclose(parts.values, whole.values)


def test_ranks_and_threshold_are_quantiles():
    measure = np.random.default_rng(0).normal(size=101) - 5  # soft-DTW may be negative
    assert find_threshold(measure, 0.95) == np.percentile(measure, 95)
    ranks = rank_within(measure)
    assert (ranks.min(), ranks.max()) == (0, 1)
    np.testing.assert_array_equal(np.argsort(ranks), np.argsort(measure))
    np.testing.assert_array_equal(rank_within(np.full(4, 2.5)), 0.5)
    assert rank_within(np.array([3.0])).tolist() == [0.0]
    assert rank_within(np.array([1.0, 9.0, 5.0, 7.0]), np.array([0, 0, 1, 1])).tolist() == [0, 1, 0, 1]
    assert rank_within(np.array([1.0, np.nan])).tolist() == [0, 1]


STEPS = np.linspace(0, 1, 24)


def noisy(path: np.ndarray) -> np.ndarray:
    return path + np.random.default_rng(5).normal(scale=0.02, size=path.shape)


FIRST = noisy(way_of(0, STEPS))
AWAY = 4.0 * ((STEPS > 0.3) & (STEPS < 0.55))[:, None]
FAULTS = {
    "runs backwards: reversed it is like cluster 1": (noisy(way_of(1, STEPS)[::-1]), (0, 24)),
    "in the other order": (FIRST[[*range(6), *range(12, 18), *range(6, 12), *range(18, 24)]], (6, 18)),
    "ends in the middle: after 5": (noisy(way_of(2, STEPS[:13])), None),
    "begins in the middle": (noisy(way_of(2, STEPS[11:])), None),
    "goes to cluster 1's end": (noisy(np.r_[way_of(0, STEPS[:12]), way_of(1, STEPS[12:])]), (12, 24)),
    "frozen from 9.0 s": (np.r_[FIRST[:10], np.repeat(FIRST[9:10], 14, axis=0)], (9, 24)),
    "its picture never moves": (np.repeat(FIRST[:1], 24, axis=0), (0, 24)),
    "unlike any cluster": (noisy(way_of(1, STEPS) + AWAY), (7, 13)),
    "too short: 3 clips, where 24 are usual": (noisy(way_of(1, STEPS[:3])), (0, 3)),
}


@pytest.mark.parametrize("said", FAULTS)
def test_each_fault_is_named_and_found_where_it_is(said):
    odd, span = FAULTS[said]
    found = examine(odd)
    assert said in found.reason and found.is_fault
    if span is not None:
        common = min(span[1], found.end_s) - max(span[0], found.start_s)
        assert common / (max(span[1], found.end_s) - min(span[0], found.start_s)) > 0.75, found


def test_the_farthest_of_good_videos_is_kept():
    found = examine(make_video(1, np.random.default_rng(77)))
    assert not found.is_fault and "hardly farther than others" in found.reason


def test_a_video_is_judged_where_no_ordinary_one_is_near_its_center():
    odd = noisy(way_of(1, STEPS) + AWAY)
    for ordinary_of, threshold in (((0, 2), np.inf), ((), 1.0)):  # others' distances are known, or the threshold alone
        found = examine(odd, ordinary_of, threshold)
        assert found.is_fault and (found.reason, found.start_s, found.end_s) == (
            "unlike any cluster from 0.0 s to 24.0 s",
            0,
            24,
        )
        good = examine(make_video(1, np.random.default_rng(77)), ordinary_of, threshold)
        assert not good.is_fault and "there is no other to compare it with" in good.reason
    assert not examine(odd, ()).is_fault, "nothing says what is far"


def test_no_stretch_of_a_path_that_stands_still_is_odder_than_the_rest():
    usual = Usual(distance=1.0, steps=np.random.default_rng(0).uniform(size=16), n_clips=16)
    center = way_of(0, np.linspace(0, 1, 16))
    examiner = Examiner([], Scores(np.empty(0), np.empty(0, int)), center[None], 0.1, np.empty(0, int), {})
    rounded = np.full((16, 6), 5.0) + np.random.default_rng(0).uniform(-1e-6, 1e-6, (16, 6))
    assert examiner._find_excess(rounded, 0, usual) == (0, 16)
    assert examiner._find_excess(center + 0.3 * np.eye(16, 6), 0, usual) != (0, 16)


def test_one_clip_is_too_short_where_more_are_usual():
    assert [n for n in range(12) if is_too_short(n, 12.0)] == [0, 1, 2, 3]
    assert is_too_short(1, 4.0) and is_too_short(1, 2.0) and not is_too_short(2, 4.0)
    assert not is_too_short(1, 1.0), "as where each video is one picture"


def test_a_run_of_gains_and_a_stretch_that_stands_still():
    assert find_high(np.array([0.1, 0, 9, 5, 9, 1, 0])) == (2, 5)
    assert find_high(np.array([0.1, 0, 0, 5])) == (3, 4)
    assert find_high(np.zeros(3)) == (0, 3) and find_high(np.ones(1)) == (0, 1)
    values = np.array([0, 1, 1, 1, 1, 2, 3, 3.0])[:, None]
    assert find_stretches(np.array([True, False, True, True])) == [(0, 1), (2, 4)]
    assert find_still(values, Pauses(calm=0.1, least=0.0, longest=1)) == (1, 5)
    assert find_still(values, Pauses(calm=0.1, least=0.0, longest=2)) is None, "others rest nearly as long"
    assert find_still(values, Pauses(calm=0.1, least=0.05, longest=3)) == (1, 5), "but never without noise"
    assert find_still(values[:1], Pauses(calm=0.1, least=0.05, longest=0)) is None
    found = learn_pauses([np.cumsum([0, 20, 20, 1, 1, 3, 20])[:, None], np.cumsum([0, *[20.0] * 34])[:, None]])
    assert (found.calm, found.least, found.longest) == (pytest.approx(2.9), 0.5, 3), "3 is within four times the calm"
    assert find_still(values, learn_pauses([])) is None


def test_steps_have_the_times_of_the_clips():
    clips = ClipPath("a", np.zeros((4, 1)), np.array([10.0, 11, 12, 15]), np.array([11.0, 12, 13, 16]))
    np.testing.assert_allclose(edges_of(clips, 6, "time"), [10, 11, 12, 13, 14, 15, 16])
    np.testing.assert_allclose(edges_of(clips, 4, "index"), [10, 11, 12, 14, 16])
    assert edges_of(None, 4, "time") is None


BACKWARDS = noisy(way_of(1, STEPS)[::-1])


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("outliers") / "run", make_videos({"backwards": BACKWARDS}))
    rp.write_report(run)
    return run


def test_a_clustered_run_has_its_outliers_in_a_table_for_people(clustered):
    rows = list(csv.DictReader(io.StringIO(clustered.read_bytes("outliers.csv").decode())))
    clusters = {row["video_id"]: row for row in clustered.read_table("clusters.parquet").to_pylist()}
    assert {row["video_id"] for row in rows} == clusters.keys()
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert [(row["outlier"] == "true") for row in rows] == [clusters[row["video_id"]]["outlier"] for row in rows]
    assert [row["video_id"] for row in rows if row["verdict"] == "drop"] == ["backwards"]
    first = rows[0]
    assert first["reason"].startswith("runs backwards") and (first["start_s"], first["end_s"]) == ("0.000", "24.000")
    assert first["quantile"] == "1"
    assert clustered.read_json("metrics.json")["outliers"]["n_drop"] == 1


def test_the_page_says_why_and_the_histogram_is_drawn(clustered):
    html = clustered.read_bytes("report.html").decode()
    assert "runs backwards: reversed it is like" in html and "0.0 to 24.0 s" in html
    assert clustered.exists("plots/outliers.png")
    assert clustered.read_json("summary.json")["outliers"][0]["reason"].startswith("runs backwards")


def test_the_library_finds_the_same_from_the_run_directory_alone(clustered):
    before = clustered.read_bytes("outliers.csv")
    found = rp.find_outliers(clustered)
    assert found[0].video_id == "backwards" and found[0].verdict == "drop" and found[0].outlier
    scores = clustered.read_table("clusters.parquet").to_pylist()
    known = {row["video_id"]: row["outlier_score"] for row in scores}
    assert {video.video_id: video.score for video in found} == pytest.approx(known)
    by_distance = rp.find_outliers(clustered, by="distance", quantile=0.5)
    assert sum(video.outlier for video in by_distance) == 18
    distances = [video.distance for video in by_distance]
    assert distances == sorted(distances, reverse=True)
    assert clustered.read_bytes("outliers.csv") == before
    with pytest.raises(UsageError, match="outlier_quantile"):
        rp.find_outliers(clustered, quantile=1.5)


def test_a_run_without_centers_of_its_own_is_refused(clustered, tmp_path):
    run = make_run(tmp_path / "run", make_videos(n_each=3))
    with pytest.raises(UsageError, match=r"no clusters\.parquet: run raypipe cluster"):
        rp.find_outliers(run)


@pytest.mark.parametrize(
    "sets",
    [{"cluster.method": "kmeans"}, {"trajectory.n_steps": "null"}, {"trajectory.n_steps": 1}],
    ids=["mean vectors", "own lengths", "one step"],
)
def test_other_ways_to_cluster_have_outliers_too(tmp_path, sets):
    from raypipe import pipeline
    from raypipe.progress import Progress

    away = np.full((24, 6), 9.0) + np.random.default_rng(0).normal(size=(24, 6))
    run = make_run(tmp_path / "run", make_videos({"away": away, "again": away + 0.1}, n_each=6), **sets)
    pipeline.cluster(run, rp.make_config(base=run.info()["config"]), Progress())
    found = rp.find_outliers(run)
    assert found[0].video_id in ("away", "again") and found[0].verdict == "drop"
    assert found[0].reason.startswith("unlike any cluster from ") and found[-1].reason == ""


@pytest.mark.parametrize("method", ["density", "softdtw", "dtw"])
def test_what_is_odd_is_said_of_videos_of_any_length(tmp_path, method):
    from raypipe import pipeline
    from raypipe.progress import Progress
    from raypipe.report.exporting.step_tables import iter_step_scores

    rng = np.random.default_rng(0)
    videos = {f"g{g}_{i:02d}": make_video(g, rng, 10 + 7 * g) for g in range(GROUPS) for i in range(8)}
    backwards = noisy(way_of(0, np.linspace(0, 1, 10))[::-1])
    sets = {"cluster.method": method, "cluster.min_cluster_size": 4, "trajectory.n_steps": "null"}
    run = make_run(tmp_path / "run", {**videos, "backwards": backwards}, **sets, **{"cluster.assign_all": "true"})
    pipeline.cluster(run, rp.make_config(base=run.info()["config"]), Progress())
    first = rp.find_outliers(run)[0]
    assert first.video_id == "backwards" and first.reason.startswith("runs backwards: reversed it is like cluster")
    assert all(np.isfinite(scores).all() for _, (_, scores) in iter_step_scores(run))


def test_the_verb_judges_again(clustered, tmp_path):
    run = Run(str(tmp_path / "run"))
    shutil.copytree(clustered.url, run.url)
    result = call_raypipe("outliers", tmp_path / "run", "--by", "distance", "--quantile", "0.8")
    assert result.exit_code == 0, result.stderr
    assert "outliers: 8 of 37 videos have a distance beyond" in result.stderr
    assert "the 10 farthest:" in result.stderr and "  10. distance" in result.stderr
    assert run.info()["config"]["cluster"]["outlier_by"] == "distance"
    flags = run.read_table("clusters.parquet", ["distance", "outlier"])
    expected = flags["distance"].to_numpy() > np.quantile(flags["distance"].to_numpy(), 0.8)
    np.testing.assert_array_equal(flags["outlier"].to_numpy(), expected)
    assert "Shown is the distance to the own center" in run.read_bytes("report.html").decode()
    assert "is not a run directory" in call_raypipe("outliers", tmp_path / "nothing").stderr


def test_pictures_of_the_odd_part_are_shown_where_they_are_kept(clustered):
    from raypipe.report.facts import read_facts
    from raypipe.report.figures.contact_sheets import show_span, times_in_span
    from raypipe.runs.frames import Pictures

    odd = read_facts(clustered).outliers[0]
    assert times_in_span(odd).tolist() == [3, 9, 15, 21]
    from PIL import Image

    def jpeg(level: int) -> bytes:
        sink = io.BytesIO()
        Image.new("RGB", (32, 32), (level, level, level)).save(sink, "JPEG")
        return sink.getvalue()

    kept = Pictures(np.arange(24.0), [jpeg(10 * second) for second in range(24)], np.arange(24))
    with Image.open(io.BytesIO(show_span(kept, times_in_span(odd)))) as shown:
        levels = [shown.getpixel((x, y))[0] for y in (30, 200) for x in (30, 200)]
    np.testing.assert_allclose(levels, [30, 90, 150, 210], atol=3)
    assert show_span(None, times_in_span(odd)) is None


def test_clips_are_read_in_the_order_of_time_whatever_the_order_of_segments_and_rows(clustered):
    from raypipe.runs.clips import iter_clip_paths

    clips = clustered.read_table("embeddings/0.parquet")
    folder = Run(f"{clustered.url}-mixed")
    folder.write_table("plan.parquet", clustered.read_table("plan.parquet"))
    of = clips["video_id"].to_numpy(zero_copy_only=False)
    for number, video_ids in enumerate(np.array_split(np.random.default_rng(0).permutation(np.unique(of)), 2)):
        rows = np.concatenate([np.flatnonzero(of == video_id)[::-1] for video_id in video_ids])
        folder.write_table(f"embeddings/{number}.parquet", clips.take(pa.array(rows)))
    found = {each.video_id: each for each in iter_clip_paths(folder, ["g1_04", "backwards"])}
    assert found.keys() == {"g1_04", "backwards"}
    np.testing.assert_allclose(found["backwards"].values, BACKWARDS)
    assert found["g1_04"].start_s.tolist() == list(range(24))


def test_more_clusters_than_videos_are_refused_before_anything_is_removed(clustered):
    before = clustered.info(), clustered.read_bytes("clusters.parquet")
    result = call_raypipe("cluster", clustered.url, "-k", "99")
    assert result.exit_code == 2 and "99 clusters asked for, but there are only" in result.stderr
    assert before == (clustered.info(), clustered.read_bytes("clusters.parquet"))


def test_where_all_is_noise_no_score_is_told_of():
    none = np.full(3, np.nan)
    found = Judgement(none, none, np.full(3, -1), np.full(3, -1), np.zeros(3, bool), "score", 0.95, np.inf, {}, None)
    assert describe_outliers(found, [None] * 3) == [
        "outliers: none of 3 videos has a score, since there are no clusters"
    ]


@pytest.mark.parametrize(("by", "value"), [("distance", 2), ("score", 3)])
def test_the_farthest_are_named_so_that_they_can_be_told_apart(by, value):
    of_episode = make_video_id("7/top")
    uris = {
        "a": "/left/1.mp4",
        "b": "/right/1.mp4",
        "c": "/2.mp4",
        "d": "/2.mp4",
        of_episode: "/top/3.mp4",
        "f": "/4.mp4",
    }
    listed = [
        Outlier(i, f"file://{uri}", 0, 2.0, 3.0, 0.5, 0.5, 0, False, "keep", None, None, "") for i, uri in uris.items()
    ]
    known = {i: {"video_id": i, "group": "top", "episode_index": 7} for i in uris}
    ones, zeros = np.ones(6), np.zeros(6, int)
    found = Judgement(3 * ones, 2 * ones, zeros, zeros, ones > 1, by, 0.95, 3.0, {}, None)
    told, named = zip(
        *(line.split("  cluster 0  ") for line in describe_outliers(found, listed, known)[2:]), strict=True
    )
    assert told == tuple(f"{place:4d}. {by} {value}" for place in range(1, 7))
    assert list(named) == ["/left/1.mp4", "/right/1.mp4", "2.mp4  c", "2.mp4  d", "7/top", "4.mp4"]


def test_noise_without_a_distance_is_not_among_the_farthest(tmp_path):
    from raypipe import pipeline
    from raypipe.progress import Progress

    away = np.full((24, 6), 9.0) + np.random.default_rng(0).normal(size=(24, 6))
    dense = {"cluster.method": "density", "cluster.min_cluster_size": 4, "cluster.outlier_by": "distance"}
    run = make_run(tmp_path / "run", make_videos({"away": away}, n_each=6), **dense)
    pipeline.cluster(run, rp.make_config(base=run.info()["config"]), Progress())
    clusters = run.read_table("clusters.parquet", ["video_id", "cluster"]).to_pylist()
    assert [each["video_id"] for each in clusters if each["cluster"] == -1] == ["away"]
    rows = list(csv.DictReader(io.StringIO(run.read_bytes("outliers.csv").decode())))
    assert rows[-1]["video_id"] == "away" and rows[-1]["distance"] == "", "the farthest come first"
    said = call_raypipe("outliers", tmp_path / "run").stderr
    assert "the 10 farthest:" in said and "nan" not in said


def test_one_odd_video_has_a_score():
    scores = np.array([0.0, 0.0, 9.0])
    flags, zeros = scores > 1, np.zeros(3, int)
    found = Judgement(scores, scores, zeros, zeros, flags, "score", 0.95, 1.0, {}, None)
    (line,) = describe_outliers(found, [None] * 3)
    assert line.startswith("outliers: 1 of 3 videos has a score beyond 1, ")
