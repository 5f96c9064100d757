"""Series dealt out to shards of one process, and the exact sums that choices among them hang on."""

from fractions import Fraction
from operator import attrgetter

import numpy as np
import pytest
from sklearn.base import clone

from raypipe.clustering.shard import Measure, SeriesShard
from raypipe.clustering.shards import LocalShards, Shards
from raypipe.clustering.sums import add_exactly, search_running_sum
from raypipe.clustering.time_series_kmeans import TimeSeriesKMeans
from raypipe.softdtw import cdist_soft_dtw
from raypipe.softdtw.series import read_series


class DealtShards(Shards):
    """Several shards in this process."""

    def __init__(self, series, weights, ends):
        parts = [slice(*pair) for pair in zip([0, *ends], [*ends, len(series)], strict=True)]
        self.shards = [SeriesShard(read_series(series[part]), weights[part]) for part in parts]
        super().__init__([shard.sizes for shard in self.shards])

    def ask(self, name, arguments):
        return {shard: attrgetter(name)(self.shards[shard])(*each) for shard, each in arguments.items()}


@pytest.mark.parametrize("more", [{}, {"divergence": True}, {"solver": "lbfgs", "max_iter": 3}, {"n_clusters": 9}])
def test_series_that_are_dealt_out_are_fitted_as_in_one_place(more):
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(5 + i % 4, 2)).cumsum(axis=0) for i in range(40)]
    weights = rng.uniform(0.2, 5.0, 40) * (np.arange(40) % 7 > 0)
    weights[20:22] = 0  # All that one shard holds.
    model = TimeSeriesKMeans(4, metric="softdtw", precision="float64", random_state=0).set_params(**more)
    local = clone(model).fit(series, sample_weight=weights)
    for ends in ([], [13], [1, 20, 22, 39]):
        found = clone(model).fit_shards(DealtShards(series, weights, ends))
        np.testing.assert_array_equal(found.labels_, local.labels_)
        np.testing.assert_allclose(found.distances_, local.distances_, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.cluster_centers_, local.cluster_centers_, rtol=1e-9, atol=1e-9)


def test_a_draw_is_where_the_running_sum_reaches_the_target():
    series = read_series(np.random.default_rng(0).normal(size=(20_000, 2, 1)))
    shards = LocalShards(series)
    shards.open(Measure(1.0, "float64", "numba"))
    shards.begin_seeding()
    shards.try_seeds(shards.paths(np.array([7])))
    shards.take_seed(0)
    potential = cdist_soft_dtw(series, shards.paths(np.array([7])))[:, 0] ** 2
    running = np.cumsum(potential)
    targets = np.random.default_rng(1).random(200) * running[-1]
    np.testing.assert_array_equal(shards.draw(targets), np.searchsorted(running, targets))
    np.testing.assert_array_equal(search_running_sum(potential, [0, running[-1] * 2]), [0, 19_999])


def test_sums_are_exact():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 1000)) * 2.0 ** rng.integers(-300, 300, (3, 1000))
    rows[2, 500:] = -rows[2, :500]
    expected = [sum(map(Fraction, row.tolist())) for row in rows]
    assert add_exactly(rows) == expected
    assert expected[2] == 0
    assert add_exactly(rows[:, ::-1]) == expected
    assert add_exactly(np.array([[5e-324, 1e-310, 0.0]])) == [Fraction(5e-324) + Fraction(1e-310)]
    assert add_exactly(np.zeros((2, 0))) == [0, 0]
