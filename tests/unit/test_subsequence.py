"""Where in a path a short one happens: against all alignments one by one, and against the plain recursion."""

import numpy as np
import pytest

from raypipe.errors import UsageError
from raypipe.softdtw import reference
from raypipe.softdtw.subsequence import find_best_ends, find_pieces


def alignments_to(i: int, j: int):
    """Yield each alignment of rows 0 to i that ends in column j and begins in row 0 of any column, as cells."""
    if i == 0:
        yield ((0, j),)  # It may begin here, ...
    ways = [(i - 1, j), (i - 1, j - 1), (i, j - 1)]
    for a, b in ways:  # ... or come from a neighbour.
        if a >= 0 and b >= 0:
            for path in alignments_to(a, b):
                yield (*path, (i, j))


def by_brute_force(query: np.ndarray, path: np.ndarray, gamma: float) -> np.ndarray:
    cost = np.square(query[:, None] - path[None]).sum(axis=2)
    totals = [
        [sum(cost[cell] for cell in cells) for cells in alignments_to(len(query) - 1, j)] for j in range(len(path))
    ]
    return np.array([-gamma * np.logaddexp.reduce(-np.array(each) / gamma) for each in totals])


@pytest.mark.parametrize("gamma", [1e-2, 0.3, 10.0])
@pytest.mark.parametrize(("m", "n_steps"), [(1, 1), (1, 4), (3, 1), (3, 5), (4, 4)])
def test_the_reference_is_the_sum_over_all_alignments(m, n_steps, gamma):
    rng = np.random.default_rng(m * 10 + n_steps)
    query, path = rng.normal(size=(m, 2)), rng.normal(size=(n_steps, 2))
    np.testing.assert_allclose(
        reference.match_ends(query, path, gamma), by_brute_force(query, path, gamma), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("gamma", [1e-3, 0.1, 1e3])
def test_the_best_ends_are_the_references(gamma):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(5, 3)).astype(np.float32)
    paths = [rng.normal(size=(n, 3)).astype(np.float32) for n in (1, 17, 5, 40, 2)]
    paths[1].flags.writeable = False
    edges = np.cumsum([0, *map(len, paths)])
    distances, ends = find_best_ends(query, np.concatenate(paths), edges, gamma)
    expected = [reference.match_ends(query.astype(float), path.astype(float), gamma) for path in paths]
    np.testing.assert_allclose(distances, [each.min() for each in expected], rtol=1e-9)
    np.testing.assert_array_equal(ends, [each.argmin() for each in expected])
    for path, distance, end in zip(paths, distances, ends, strict=True):
        (piece,) = find_pieces(query, path, gamma, 1)
        assert piece.distance == pytest.approx(distance, rel=1e-12)
        assert piece.after == end + 1


def test_what_was_planted_twice_is_found_twice_and_pieces_do_not_overlap():
    rng = np.random.default_rng(1)
    query = np.cumsum(rng.normal(size=(6, 4)), axis=0)
    path = rng.normal(0, 3, size=(60, 4))
    path[10:16] = query + rng.normal(0, 0.01, query.shape)
    path[40:49] = query[[0, 1, 1, 2, 2, 3, 4, 4, 5]] + rng.normal(0, 0.02, (9, 4))  # slower
    pieces = find_pieces(query, path, 0.1, 5)
    assert sorted((piece.first, piece.after) for piece in pieces[:2]) == [(10, 16), (40, 49)]
    assert [piece.distance for piece in pieces] == sorted(piece.distance for piece in pieces)
    taken = np.concatenate([np.arange(piece.first, piece.after) for piece in pieces])
    assert len(taken) == len(set(taken))


def test_a_path_that_is_all_taken_gives_no_more_pieces():
    assert len(find_pieces(np.zeros((2, 1)), np.zeros((3, 1)), 1.0, 10)) <= 3


@pytest.mark.parametrize(
    ("query", "path", "gamma"),
    [
        (np.zeros((0, 2)), np.zeros((3, 2)), 1.0),
        (np.zeros((2, 2)), np.zeros((3, 3)), 1.0),
        (np.zeros((2, 2)), np.zeros((3, 2)), 0.0),
    ],
)
def test_what_cannot_be_compared_is_said(query, path, gamma):
    with pytest.raises(UsageError):
        find_pieces(query, path, gamma, 1)
