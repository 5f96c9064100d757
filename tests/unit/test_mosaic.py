"""Which frames a poster shows, and on which tile: no other assignment moves frames less."""

from itertools import pairwise, permutations

import numpy as np
import pytest

from raypipe.analysis import mosaic
from raypipe.analysis.mosaic import assign_tiles, choose_spread


def moved(places, tiles, columns) -> float:
    middles = np.column_stack([tiles % columns + 0.5, tiles // columns + 0.5])
    return float(np.square(places - middles).sum())


def clouds(n, columns, rows, seed=0):
    rng = np.random.default_rng(seed)
    middles = rng.uniform(0.1, 0.9, (5, 2))
    points = np.clip(middles[np.arange(n) % 5] + rng.normal(0, 0.06, (n, 2)), 0, 1)
    return points * [columns, rows]


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 1, 1), (1, 3, 2), (5, 5, 1), (4, 2, 3), (6, 3, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_assignment_moves_frames_less(n, columns, rows, seed):
    places = np.random.default_rng(seed).uniform(0, 1, (n, 2)) * [columns, rows]
    tiles = assign_tiles(places, columns, rows)
    least = min(moved(places, np.array(some), columns) for some in permutations(range(columns * rows), n))
    assert len(set(tiles.tolist())) == n
    assert moved(places, tiles, columns) == pytest.approx(least)


def test_frames_at_one_place_get_the_tiles_around_it():
    places = np.full((5, 2), 2.5)
    assert sorted(assign_tiles(places, 5, 5).tolist()) == [7, 11, 12, 13, 17]


@pytest.mark.parametrize("n", [900, 500])
def test_parts_come_close_to_the_exact_solution(n, monkeypatch):
    places = clouds(n, 30, 30)
    exact = moved(places, assign_tiles(places, 30, 30), 30)
    monkeypatch.setattr(mosaic, "_EXACT", 0)
    monkeypatch.setattr(mosaic, "_BLOCK", 16)
    monkeypatch.setattr(mosaic, "_ENOUGH", 0.0)
    sums = []
    for n_rounds in range(4):
        monkeypatch.setattr(mosaic, "_ROUNDS", n_rounds)
        tiles = assign_tiles(places, 30, 30)
        assert len(set(tiles.tolist())) == n and 0 <= tiles.min() and tiles.max() < 900
        sums.append(moved(places, tiles, 30))
    assert all(after <= before + 1e-6 for before, after in pairwise(sums)), "no round moves frames farther"
    assert exact - 1e-6 <= sums[-1] < 1.02 * exact
    assert np.array_equal(tiles, assign_tiles(places, 30, 30))


def test_points_are_chosen_evenly_over_the_ground_and_not_by_their_number():
    rng = np.random.default_rng(0)
    dense, sparse = rng.uniform(0, 0.5, (9000, 2)), rng.uniform(0.5, 1, (300, 2))
    points = np.concatenate([dense, sparse])
    chosen = choose_spread(points, 100, 0)
    assert len(set(chosen.tolist())) == 100
    assert 35 <= (chosen < len(dense)).sum() <= 65
    assert np.array_equal(chosen, choose_spread(points, 100, 0))
    assert not np.array_equal(chosen, choose_spread(points, 100, 1))


def test_all_points_are_chosen_where_there_are_no_more():
    assert choose_spread(np.zeros((3, 2)), 5, 0).tolist() == [0, 1, 2]
    assert len(choose_spread(np.zeros((9, 2)), 5, 0)) == 5  # all at one place
    pairs = np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, axis=0)
    assert (choose_spread(pairs, 6, 0) < 10).sum() == 3
