"""The sample must be fair: no frame may tell the behaviour it comes from."""

import hashlib
import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

from raypipe import demo
from raypipe.demo import scene
from raypipe.errors import RaypipeError

PLAIN = scene.Look(rest=np.array([0.03, -0.02]), shift=np.zeros(2), tint=np.ones((6, 3)), gain=1.0, noise=0.0)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return demo.render_demo(tmp_path_factory.mktemp("demo"), seed=3, n_variants=1)


def pictures(positions, look=PLAIN):
    return [(255 * picture).round().astype(int) for picture in scene.render_frames(positions, look)]


def positions_at_one_pace(behaviour):
    """Half a second a leg: five frames on each; the last frame is back at the first."""
    return demo.follow_loop(behaviour, np.full(len(scene.LOOP), 0.5), (0.0, 0.0))[: 5 * len(scene.LOOP)]


def test_all_behaviours_show_the_same_frames_in_another_order():
    orders = {name: positions_at_one_pace(name).round(9) % len(scene.LOOP) for name in demo.BEHAVIOURS}
    frames = {}
    for name, order in orders.items():
        digests = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures(order)]
        frames[name] = Counter(digests)
        assert len(digests) == 5 * len(scene.LOOP)
    assert len(set(map(tuple, orders.values()))) == len(demo.BEHAVIOURS)
    first, *others = frames.values()
    assert all(other == first for other in others)


def test_pace_spends_equal_time_on_each_leg_whatever_the_behaviour():
    leg_s, _ = demo.draw_pace(np.random.default_rng(5))
    counts = []
    for name in demo.BEHAVIOURS:
        positions = demo.follow_loop(name, leg_s, (0.0, 0.0))
        counts.append(np.bincount((positions % len(scene.LOOP)).astype(int), minlength=len(scene.LOOP)))
    assert np.ptp(counts, axis=0).max() <= 2  # frames; where the first falls within a leg differs
    np.testing.assert_allclose(np.mean(counts, axis=0), demo.FPS * leg_s, atol=1.5)


def test_loop_has_no_seam():
    """Where one leg ends and the next begins, the picture is the same: neither direction shows a jump."""
    edges = np.arange(len(scene.LOOP))
    for before, after in zip(pictures((edges - 1e-9) % len(scene.LOOP)), pictures(edges), strict=True):
        assert np.abs(before - after).max() <= 1


def test_one_direction_is_the_other_backwards():
    forwards = positions_at_one_pace("pick_scan_place")
    backwards = positions_at_one_pace("take_scan_return")
    np.testing.assert_allclose(forwards[1:], len(scene.LOOP) + backwards[:0:-1], atol=1e-9)


def test_look_is_drawn_before_the_behaviour_is_known():
    """The seed alone makes the look and the pace: neither function is told the behaviour."""
    one, other = (scene.draw_look(np.random.default_rng((1, 2, 3))) for _ in range(2))
    np.testing.assert_array_equal(one.tint, other.tint)
    assert (one.gain, one.noise) == (other.gain, other.noise)


def test_videos_are_real_and_lie_in_their_behaviours_folder(sample):
    assert [path.parent.name for path in sample] == list(demo.BEHAVIOURS)
    for path in sample:
        assert path.name == f"{path.parent.name}_00.mp4"
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = list(container.decode(stream))
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height, stream.average_rate) == (scene.WIDTH, scene.HEIGHT, demo.FPS)
        assert 7 <= len(frames) / demo.FPS <= 18
        assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / demo.FPS)


def test_videos_are_small(sample):
    assert sum(path.stat().st_size for path in sample) * 8 < 5e6  # of eight variants each


def test_a_seed_makes_the_same_videos_in_processes_and_in_threads(sample, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        again = list(pool.map(demo.render_video, demo.list_videos(tmp_path, 3, 1)))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in sample]


def test_another_seed_makes_other_videos(sample, tmp_path):
    job = (tmp_path / "other.mp4", "pick_scan_place", (4, 0, 0))
    assert demo.render_video(job).read_bytes() != sample[0].read_bytes()


@pytest.fixture
def two_cores(monkeypatch):
    """Far fewer than videos, so that most are waiting when a test ends the work."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)


def test_nothing_is_left_of_the_rendering_when_other_work_begins(tmp_path):
    threads = threading.active_count()
    with demo.rendering(tmp_path, n_variants=1) as videos:
        assert len(list(videos)) == len(demo.BEHAVIOURS)
        assert not multiprocessing.active_children()
        assert threading.active_count() == threads


def test_a_killed_process_is_said_in_one_line(two_cores, tmp_path):
    def kill_all(videos):
        next(videos)
        for process in multiprocessing.active_children():
            process.kill()
        list(videos)

    with pytest.raises(RaypipeError, match="render the sample has ended"), demo.rendering(tmp_path) as videos:
        kill_all(videos)


def test_what_ends_the_work_ends_the_rendering(two_cores, tmp_path):
    with pytest.raises(KeyboardInterrupt), demo.rendering(tmp_path) as videos:
        next(videos)
        raise KeyboardInterrupt
    assert 0 < len(list(tmp_path.rglob("*.mp4"))) < len(demo.BEHAVIOURS) * demo.VARIANTS / 2
    assert not multiprocessing.active_children()


def test_an_error_of_the_disk_is_told_as_it_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), demo.rendering(tmp_path / "file" / "videos") as videos:
        list(videos)
