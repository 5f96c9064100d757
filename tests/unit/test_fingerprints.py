"""Fingerprints of videos: which differ most, and their picture."""

import io
from itertools import pairwise

import numpy as np
import pytest
from commands import call_raypipe
from mapped import make_mapped
from PIL import Image

from raypipe.analysis import fingerprints
from raypipe.analysis.fingerprints import choose_unlike, warp_distances
from raypipe.report.facts import read_facts
from raypipe.report.figures import fingerprint_figure as figure
from raypipe.report.figures.fingerprint_figure import draw_found, draw_unlike
from raypipe.report.style import size_of
from raypipe.softdtw import cdist_soft_dtw


def warp(x, y) -> float:
    """Dynamic time warping by the textbook's recursion over pairs of first steps."""
    if len(x) == 0 and len(y) == 0:
        return 0.0
    if len(x) == 0 or len(y) == 0:
        return np.inf
    return float(np.square(x[-1] - y[-1]).sum()) + min(warp(x[:-1], y), warp(x, y[:-1]), warp(x[:-1], y[:-1]))


@pytest.mark.parametrize(("t", "u"), [(1, 1), (1, 4), (4, 1), (3, 5), (5, 3)])
def test_warping_is_the_textbooks(t, u):
    rng = np.random.default_rng(t * 10 + u)
    query, paths = rng.normal(size=(t, 2)), rng.normal(size=(7, u, 2))
    np.testing.assert_allclose(warp_distances(query, paths), [warp(query, path) for path in paths])


def test_warping_is_what_soft_dtw_goes_to():
    rng = np.random.default_rng(0)
    query, paths = rng.normal(size=(16, 2)), rng.normal(size=(20, 16, 2))
    np.testing.assert_allclose(warp_distances(query, paths), cdist_soft_dtw(paths, [query], 1e-4)[:, 0], rtol=1e-3)


def spread(n=40, seed=0):
    """Short paths: many about the middle, and one in each corner."""
    rng = np.random.default_rng(seed)
    middles = np.concatenate([rng.normal(0, 1, (n, 2)), [[-9, -9], [9, -9], [-9, 9], [9, 9]]])
    return [middle + rng.normal(0, 0.1, (rng.integers(1, 30), 2)) for middle in middles]


def test_the_videos_chosen_are_those_in_the_corners():
    paths = spread()
    assert set(choose_unlike(paths, 4, 0)) == {40, 41, 42, 43}
    assert choose_unlike(paths, 6, 0)[:4] == choose_unlike(paths, 4, 0)
    shapes = np.random.default_rng(1).normal(size=(12, 16, 2)).cumsum(axis=1)
    chosen = choose_unlike(shapes, 5, 0)
    nearest = [warp_distances(shapes[b], shapes[chosen[: i + 1]]).min() for i, (_, b) in enumerate(pairwise(chosen))]
    assert nearest == sorted(nearest, reverse=True), "farthest-point order"


def test_paths_that_are_alike_or_not_finite_are_left_out():
    same, other = np.zeros((4, 2)), np.ones((4, 2))
    assert sorted(choose_unlike([same, other, same.copy(), same.copy()], 4, 0)) in ([0, 1], [1, 2], [1, 3])
    assert choose_unlike([same] * 3, 2, 0) == [0]
    assert choose_unlike([np.full((3, 2), np.nan), other], 3, 0) == [1]
    assert choose_unlike([], 3, 0) == []


def test_of_very_many_videos_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(fingerprints, "MAX_VIDEOS", 10)
    paths = np.random.default_rng(0).normal(size=(60, 16, 2)).cumsum(axis=1)
    chosen = choose_unlike(paths, 8, 3)
    assert len(set(chosen)) == 8 and chosen == choose_unlike(paths, 8, 3)
    assert chosen != choose_unlike(paths, 8, 4)


def test_a_hundred_thousand_videos_take_no_longer_than_the_sample():
    steps = np.random.default_rng(0).normal(size=(100_000, 16, 2)).astype(np.float32).cumsum(axis=1)
    assert len(choose_unlike(steps, 6, 0)) == 6


@pytest.mark.parametrize("n", [1, 2, 5])
def test_frames_beside_a_path_cover_none_and_stay_inside(n):
    for at in np.random.default_rng(n).uniform(-0.5, 3, (50, n)):
        tops = figure._set_apart(np.sort(at), figure._HIGH + 0.05, figure._SIDE - figure._HIGH)
        assert (np.diff(tops) >= figure._HIGH).all()
        assert tops.min() >= -1e-9 and tops.max() <= figure._SIDE - figure._HIGH + 1e-9


def described(run):
    """Add what a report of the run needs."""
    run.write_json("metrics.json", {})
    return read_facts(run).members


@pytest.mark.parametrize("n", [2, 6])
def test_the_figure_shows_paths_and_frames(tmp_path, n):
    paths = [np.random.default_rng(i).normal(size=(6, 2)).cumsum(axis=0) for i in range(n)]
    run = make_mapped(tmp_path / "run", [*paths, np.full((2, 2), np.nan)], captions=["$x$ <b>"] * (n + 1))
    png = draw_unlike(run, described(run), 0)
    assert png == draw_unlike(run, described(run), 0)
    with Image.open(io.BytesIO(png)) as picture:
        colors = np.asarray(picture).reshape(-1, 3)
    for clip in (1, 3, 5):  # The frames of the first video have these colours, which the figure has nowhere else.
        shown = np.array([40, 40, 20 + 30 * clip])
        assert (np.abs(colors.astype(int) - shown).max(axis=1) < 6).sum() > 500


@pytest.mark.parametrize("has_frames", [True, False])
@pytest.mark.parametrize("letter", ["W", "i"])
def test_long_texts_stay_in_their_column(tmp_path, monkeypatch, letter, has_frames):
    paths = [np.random.default_rng(i).normal(size=(6, 2)).cumsum(axis=0) for i in range(6)]
    run = make_mapped(tmp_path / "run", paths, captions=[letter * 200] * 6)
    if not has_frames:
        run.remove("frames")
    drawn = []
    monkeypatch.setattr(figure, "as_png", drawn.append)
    draw_unlike(run, described(run), 0)
    axes = drawn[0].axes[0]
    columns = sorted({round(patch.get_x(), 3) for patch in axes.patches if getattr(patch, "get_width", float)() > 2})
    notes = [text for text in axes.texts if text.get_text().startswith(letter)]
    assert len(columns) == 3 and len(notes) == 6
    for text in notes:
        left = text.get_position()[0]
        right = min((each for each in columns if each > left + 0.1), default=drawn[0].get_size_inches()[0])
        assert 1.5 < size_of(text)[0] < right - left


def test_videos_of_one_clip_and_without_pictures(tmp_path):
    jitter = np.random.default_rng(0).normal(0, 1e-3, (3, 16, 2))
    run = make_mapped(tmp_path / "run", jitter + np.array([[[0, 0]], [[5, 5]], [[9, 0]]]), n_clips=[1, 1, 1])
    assert draw_unlike(run, described(run), 0)
    run.remove("frames")
    assert draw_unlike(run, described(run), 0)
    same = make_mapped(tmp_path / "same", [np.zeros((4, 2))] * 3)
    assert draw_unlike(same, described(same), 0) is None, "there is nothing to tell apart"
    found = [{"video_id": "video-1"}]
    assert draw_found(same, found, "video-0", False) and draw_found(same, found, None, False)


def test_the_command_draws_what_a_search_finds(tmp_path, monkeypatch):
    run = make_mapped(tmp_path / "run", [np.random.default_rng(i).normal(size=(16, 2)) for i in range(5)])
    table = run.read_table("trajectories/00000.parquet")
    run.write_table("trajectories/00000.parquet", _with_paths(table))
    run.write_json("metrics.json", {"gamma": 0.1})
    drawn = tmp_path / "alike.png"
    result = call_raypipe("search", run.url, "--like", "video-2", "-n", 2, "-o", drawn)
    assert result.exit_code == 0, result.stderr
    assert f"picture: {drawn}" in result.stderr and len(result.stdout.splitlines()) == 3
    with Image.open(drawn) as picture:
        assert picture.width > 1000
    assert call_raypipe("search", run.url, "--diverse", 3, "-o", tmp_path / "new/diverse.png").exit_code == 0
    for wrong in (("--like", "video-2", "-o", "x.jpg"), ("--duplicates", "-o", "x.png")):
        result = call_raypipe("search", run.url, *wrong)
        assert result.exit_code == 2 and "-o FILE.png goes with --like and --diverse" in result.stderr


def _with_paths(table):
    metadata = {
        f"{name}.{key}": value for name in ("reduced", "picture") for key, value in (("n_steps", "16"), ("dim", "2"))
    }
    return table.append_column("reduced", table["picture"]).replace_schema_metadata(metadata)
