"""Copies among many videos."""

import numpy as np
import pytest

from raypipe.analysis.duplicates import group_duplicates


def paths(n: int, seed: int) -> np.ndarray:
    """Return smooth paths of a few kinds, which vary within each."""
    rng = np.random.default_rng(seed)
    steps = np.linspace(0, 1, 16)[None, :, None]
    kinds = rng.uniform(0, 2 * np.pi, (5, 1, 4))[rng.integers(5, size=n)]
    return np.sin(2 * np.pi * steps + kinds + rng.normal(0, 0.3, (n, 1, 4))) + rng.normal(0, 0.05, (n, 16, 4))


def with_copies(n: int, copies: dict[int, int], noise: float, seed: int) -> tuple[np.ndarray, set[frozenset[int]]]:
    rng = np.random.default_rng(seed)
    values, groups = list(paths(n, seed)), set()
    for row, count in copies.items():
        groups.add(frozenset([row, *range(len(values), len(values) + count)]))
        values += [values[row] + rng.normal(0, noise, values[row].shape) for _ in range(count)]
    return np.stack(values), groups


@pytest.mark.parametrize("noise", [0.0, 1e-4, 5e-3])
@pytest.mark.parametrize("seed", range(5))
def test_copies_are_grouped_and_nothing_else(noise, seed):
    values, groups = with_copies(80, {3: 1, 10: 2, 50: 11}, noise, seed)
    found = group_duplicates(values)
    assert set(map(frozenset, found.groups)) == groups
    assert [len(group) for group in found.groups] == [12, 3, 2]
    assert (found.nearest[found.groups[0]] <= found.threshold).all()


def test_exact_copies_do_not_hide_others():
    values, groups = with_copies(60, {1: 1, 2: 1}, 4e-3, 0)
    values = np.concatenate([values, values[5:6]])
    assert set(map(frozenset, group_duplicates(values).groups)) == groups | {frozenset([5, len(values) - 1])}


def test_if_every_video_has_a_copy_all_are_found():
    values = paths(40, 1)
    both = np.concatenate([values, values + np.random.default_rng(0).normal(0, 1e-3, values.shape)])
    assert set(map(frozenset, group_duplicates(both).groups)) == {frozenset([i, i + 40]) for i in range(40)}


def test_without_copies_there_are_no_groups():
    n_wrong = sum(bool(group_duplicates(paths(100, seed)).groups) for seed in range(40))
    assert n_wrong <= 1


def test_paths_of_several_lengths():
    rng = np.random.default_rng(0)
    values = [np.cumsum(rng.normal(size=(rng.integers(5, 30), 3)), axis=0) for _ in range(20)]
    values += [np.repeat(values[4], 2, axis=0)]
    assert group_duplicates(values).groups == [[4, 20]]


def test_few_videos_have_nothing_to_be_held_against():
    for n in (1, 2):
        assert group_duplicates(np.zeros((n, 3, 2))).groups == []
    assert group_duplicates(np.zeros((3, 3, 2))).groups == [[0, 1, 2]]
