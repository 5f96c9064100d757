"""How many clusters: figures against independent ones, and what is recommended where the truth is known."""

import json

import numpy as np
import pytest
from sklearn import metrics

from raypipe.analysis import sweep
from raypipe.analysis.recommendation import describe_sweep, recommend
from raypipe.analysis.sweep import affordable_sweep, find_groups, make_reference, measure_recovery, sweep_clusters
from raypipe.clustering import fit_clusters
from raypipe.clustering.assignment import assign_to_centers
from raypipe.config import ClusterConfig
from raypipe.errors import UsageError
from raypipe.report.figures.sweep_figure import _title, draw_sweep
from raypipe.softdtw import cdist_soft_dtw

CONFIG = ClusterConfig(max_iter=8)


def make_curve(rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth random curve, (12, 3)."""
    steps = np.linspace(0, 1, 12)[:, None]
    return np.sum([rng.normal(size=3) * np.sin(np.pi * f * steps + rng.uniform(0, 6, 3)) for f in (1, 2, 3)], axis=0)


def make_groups(k: int, n: int = 48, seed: int = 0, noise: float = 0.2) -> np.ndarray:
    """Make n paths around k smooth random curves, (n, 12, 3), in groups of unequal sizes."""
    rng = np.random.default_rng(seed)
    middles = [make_curve(rng) for _ in range(k)]
    sizes = rng.multinomial(n - 7 * k, rng.dirichlet(np.full(k, 4))) + 7
    return np.array([middles[i] + noise * make_curve(rng) for i in range(k) for _ in range(sizes[i])])


@pytest.fixture(scope="module")
def three_groups():
    """Sweep three groups over several k; return the paths and the result."""
    values = make_groups(3)
    return values, sweep_clusters(values, CONFIG, [2, 3, 4, 5], n_seeds=3)


def test_groups_are_counted(three_groups):
    _, found = three_groups
    assert found["recommended"]["k"] == 3
    assert "3 clusters are recommended" in found["reason"] and "with 4 clusters they do not" in found["reason"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_figures_are_those_they_name(three_groups):
    values, found = three_groups
    row = found["rows"][1]
    gamma = row["gamma"]
    fits = [
        fit_clusters(values, ClusterConfig(n_clusters=3, gamma=gamma, n_init=1, max_iter=8, seed=seed))
        for seed in range(3)
    ]
    best = min(fits, key=lambda fit: fit.inertia)
    apart = cdist_soft_dtw(values, gamma=gamma, divergence=True).clip(0)
    np.fill_diagonal(apart, 0)
    expected = metrics.silhouette_score(apart, best.labels, metric="precomputed")
    assert row["silhouette_softdtw"] == pytest.approx(expected, abs=1e-9)
    means = values.mean(axis=1)
    assert row["silhouette"] == pytest.approx(metrics.silhouette_score(means, best.labels))
    assert row["davies_bouldin"] == pytest.approx(metrics.davies_bouldin_score(means, best.labels))
    assert row["objective"] == best.inertia
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([metrics.adjusted_rand_score(fits[a].labels, fits[b].labels) for a, b in pairs])
    assert row["stability_seeds"] == pytest.approx(expected)
    assert row["stability_halves"] > 0.95 and row["stability_weakest"] > 0.95
    assert found["rows"][3]["stability_weakest"] < 0.75
    assert row["sizes"] == np.bincount(best.labels).tolist()
    assert row["gain"] == pytest.approx(row["silhouette_softdtw"] - row["reference"])


@pytest.mark.parametrize("shape", ["uniform", "blob", "constant"])
def test_no_structure_is_said_where_there_is_none(shape):
    rng = np.random.default_rng(1)
    values = {
        "uniform": lambda: rng.uniform(size=(48, 12, 3)),
        "blob": lambda: np.array([make_curve(rng) for _ in range(48)]),
        "constant": lambda: np.ones((20, 12, 3)),
    }[shape]()
    found = sweep_clusters(values, CONFIG, [2, 3, 5], n_seeds=3)
    assert found["recommended"] is None
    assert found["reason"].startswith("no structure found: ")
    told = describe_sweep(found)
    assert "◀" not in told and found["reason"] in told
    assert draw_sweep(found).startswith(b"\x89PNG")
    assert _title(found) == "No structure found"
    assert _title(found | {"reason": "no stable structure found: a"}) == "No stable structure found"


def row_of(k, weakest, gain, gamma=0.1, noise=0.01, n_odd=0):
    figures = {"stability_weakest": weakest, "gain": gain, "noise": noise, "reference": 0.1, "groups": k - n_odd}
    return {"k": k, "gamma": gamma, "silhouette_softdtw": 0.1 + gain, **figures}


def test_the_largest_number_of_stable_clusters_that_lie_apart_is_recommended():
    rows = [row_of(2, 1.0, 0.6), row_of(3, 0.6, 0.5), row_of(4, 0.8, 0.4), row_of(5, 0.9, 0.05), row_of(6, 0.7, 0.4)]
    assert recommend(rows)[0]["k"] == 4
    assert "with 5 clusters the silhouette is not far enough above" in recommend(rows)[1]
    assert "no larger number was tried" in recommend(rows[:1])[1]
    noisy = [row_of(4, 0.8, 0.2, noise=0.1)]
    assert recommend(noisy)[0] is None and "0.30 is needed" in recommend(noisy)[1]
    assert ", by 0.298; 0.300 is needed" in recommend([row_of(4, 0.8, 0.298, noise=0.1)])[1]
    assert recommend([row_of(2, 0.9, 0.05), row_of(3, 0.9, 0.02)])[1].startswith("no structure found: with 2 clusters")
    unstable = recommend([row_of(2, 0.6, 0.05), row_of(3, 0.5, 0.4)])[1]
    assert unstable.startswith("no stable structure found") and "the silhouette is the highest with " in unstable
    assert recommend([row_of(2, 0.9, 0.3), row_of(3, 0.9, 0.4, gamma=1.0)])[0]["gamma"] == 1.0


def test_clusters_of_odd_videos_are_no_groups():
    """They are not asked to be found again, and a number that only sets more of them apart is not recommended."""
    rows = [row_of(3, 0.6, 0.5), row_of(5, 0.9, 0.4, n_odd=2), row_of(6, 0.9, 0.5, n_odd=3)]
    chosen, reason = recommend(rows)
    assert chosen["k"] == 5 and "a larger one only sets more odd videos apart" in reason
    assert (
        "5 clusters are recommended: 2 clusters hold a few odd videos, and 3 is the largest number of others" in reason
    )
    assert "with 7 clusters they do not" in recommend([*rows, row_of(7, 0.5, 0.5, n_odd=2)])[1]
    assert recommend([*rows, row_of(4, 0.9, 0.3)])[0]["k"] == 4


def test_a_few_odd_videos_do_not_hide_the_groups():
    values, rng = make_groups(3, n=60), np.random.default_rng(1)
    odd = np.array([5 * make_curve(rng) for _ in range(3)])
    found = sweep_clusters(np.concatenate([values, odd]), CONFIG, [2, 3, 4, 5, 6, 7], n_seeds=3)
    chosen = next(row for row in found["rows"] if row["k"] == found["recommended"]["k"])
    assert chosen["groups"] == 3 and chosen["stability_weakest"] > 0.95
    blob = np.concatenate([np.array([make_curve(rng) for _ in range(60)]), odd])
    assert sweep_clusters(blob, CONFIG, [2, 3, 4, 5], n_seeds=3)["recommended"] is None


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([10, 9, 1], [True, True, False]),
        ([40, 39, 2], [True, True, True]),  # 2 of 81 are more than 2 %
        ([60, 59, 2], [True, True, False]),
        ([100, 95, 1, 2, 3], [True, True, False, False, False]),
        ([500, 480, 5, 15], [True] * 4),
        ([200, 0, 1], [True, True, False]),
        ([4] * 60, [True] * 60),
    ],
)
def test_a_group_is_more_than_a_few_videos(sizes, groups):
    assert find_groups(np.array(sizes)).tolist() == groups


def test_recovery_is_the_jaccard_index_with_the_most_similar_cluster():
    rng = np.random.default_rng(0)
    labels, others = rng.integers(0, 4, 60), rng.integers(0, 5, 60)
    labels[labels == 2] = 3
    sets = [set(np.flatnonzero(others == c)) for c in range(5)]
    for cluster, value in enumerate(measure_recovery(labels, others, 4)):
        mine = set(np.flatnonzero(labels == cluster))
        assert value == pytest.approx(max((len(mine & s) / len(mine | s) for s in sets), default=0))


@pytest.mark.parametrize("ragged", [False, True])
def test_a_reference_has_the_datas_moments_and_no_groups(ragged):
    values = make_groups(3, n=300).astype(np.float32)
    given = [path[: 8 + i % 5] for i, path in enumerate(values)] if ragged else values
    made = make_reference(given, np.random.default_rng(0))
    assert [path.shape for path in made] == [path.shape for path in given]
    assert made[0].dtype == np.float32
    if not ragged:
        np.testing.assert_allclose(made.mean(axis=0), values.mean(axis=0), atol=0.25)
        flat, reference = (each.reshape(300, -1) for each in (values, made))
        spread, expected = np.linalg.eigvalsh(np.cov(reference.T))[-3:], np.linalg.eigvalsh(np.cov(flat.T))[-3:]
        np.testing.assert_allclose(spread, expected, rtol=0.25)
        assert np.abs(np.diff(made, axis=1)).mean() < np.abs(made[1:] - made[:-1]).mean()  # as smooth as the data


@pytest.mark.parametrize("method", ["softdtw", "kmeans"])
def test_videos_are_assigned_as_the_fit_assigns_them(method):
    values = make_groups(3, n=30)
    config = ClusterConfig(method=method, n_clusters=3, n_init=1, max_iter=5)
    fitted = fit_clusters(values, config)
    labels, _ = assign_to_centers(values, fitted.centers, config, fitted.gamma)
    assert labels.tolist() == fitted.labels.tolist()


@pytest.mark.filterwarnings("ignore:h5py not installed:UserWarning")  # tslearn's
@pytest.mark.parametrize("method", ["euclidean", "dtw"])
def test_videos_are_assigned_to_the_center_that_is_nearest(method):
    rng = np.random.default_rng(0)
    values, centers = rng.normal(size=(20, 6, 2)).cumsum(axis=1), rng.normal(size=(3, 6, 2)).cumsum(axis=1)

    def compare(x: np.ndarray, z: np.ndarray) -> float:
        apart = ((x[:, None] - z) ** 2).sum(axis=2)
        if method == "euclidean":
            return np.trace(apart)
        total = np.full((7, 7), np.inf)
        total[0, 0] = 0
        for i, j in np.ndindex(6, 6):
            total[i + 1, j + 1] = apart[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
        return total[6, 6]

    expected = [int(np.argmin([compare(x, z) for z in centers])) for x in values]
    assert assign_to_centers(values, centers, ClusterConfig(method=method, n_clusters=3), None)[0].tolist() == expected


def test_other_methods_are_swept_too_but_have_no_gamma():
    values = make_groups(3, n=30)
    config = ClusterConfig(method="kmeans")
    found = sweep_clusters(values, config, [2, 3], n_seeds=2)
    assert {row["gamma"] for row in found["rows"]} == {None}
    assert "–" in describe_sweep(found)
    with pytest.raises(UsageError, match=r"cluster\.method=kmeans has no gamma"):
        sweep_clusters(values, config, [2], [0.1])


def test_every_map_is_read_to_its_end():
    """A display says that something is done when its map has ended."""
    ended = []

    def counted(do, jobs):
        yield from map(do, jobs)
        ended.append(len(jobs))

    sweep_clusters(make_groups(2, n=24), CONFIG, [2, 3], n_seeds=2, map=counted)
    assert ended == [10, 5]


def test_jobs_say_how_many_fits_they_are(monkeypatch):
    """The time left is told from that, and by jobs would be several times too long: the data's come first."""
    done = []

    def counted(do, jobs):
        for job in jobs:
            before = sum(done)
            yield do(job)
            if isinstance(job, sweep._Fit):
                assert sum(done) - before == job.n_fits

    def fit(values, config):
        done.append(config.n_init)
        return fit_clusters(values, config)

    monkeypatch.setattr(sweep, "fit_clusters", fit)
    sweep_clusters(make_groups(2, n=24), CONFIG, [2, 3], n_seeds=3, map=counted)
    assert sum(done) == 2 * (15 + 4 * 2)


def test_paths_of_unequal_lengths_are_swept():
    values = [path[: 7 + i % 5] for i, path in enumerate(make_groups(2, n=24))]
    assert sweep_clusters(values, CONFIG, [2, 3], n_seeds=2)["recommended"]["k"] == 2


def test_numbers_that_cannot_be_are_refused():
    values = make_groups(2, n=20)
    for ks in ([1, 2], [2, 11], []):
        with pytest.raises(UsageError, match="k goes from 2 to half the number of videos, here 10"):
            sweep_clusters(values, CONFIG, ks)
    with pytest.raises(UsageError, match="at least 4 videos, and there are 3"):
        sweep_clusters(values[:3], CONFIG)
    with pytest.raises(UsageError, match="seeds must be 2 or more"):
        sweep_clusters(values, CONFIG, n_seeds=1)
    for wrong in ({"ks": 3}, {"gammas": 0.1}, {"gammas": "auto"}, {"gammas": []}, {"ks": iter([2])}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be a list of numbers"):
            sweep_clusters(values, CONFIG, **wrong)
    for ks in (["a"], [2.5]):
        with pytest.raises(UsageError, match="each of ks must be a whole number"):
            sweep_clusters(values, CONFIG, ks)
    json.dumps(sweep_clusters(values, CONFIG, np.array([3, 2]), n_seeds=2))


def test_large_collections_are_sampled(monkeypatch):
    monkeypatch.setattr("raypipe.analysis.sweep.MAX_VIDEOS", 10)
    values = np.arange(30.0).reshape(30, 1, 1)
    found = affordable_sweep(values)
    assert len(found) == 10 and set(found.ravel()) < set(values.ravel())
    assert affordable_sweep(values[:10]) is not found and len(affordable_sweep(values[:10])) == 10
    assert len(affordable_sweep(list(values))) == 10
