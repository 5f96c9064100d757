import json
import time

import numpy as np
import pytest
from sklearn import metrics

from raypipe.analysis import evaluation
from raypipe.analysis.evaluation import affordable_videos, evaluate, score_davies_bouldin, score_mean_pooled
from raypipe.analysis.sizes import describe_empty, describe_noise
from raypipe.softdtw import auto_gamma, cdist_soft_dtw


def make_groups(n: int = 12, n_steps: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Paths forth and back over the same ground, in turn: their means tell nothing, their order all."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    forth = np.outer(np.linspace(-1, 1, n_steps), [1.0, 2.0])
    values = np.stack([forth if label else forth[::-1] for label in labels])
    return values + rng.normal(scale=0.05, size=values.shape), labels


def test_every_figure_is_the_one_it_names():
    values, labels = make_groups()
    truth = ["forth" if label else "back" for label in labels]
    truth[0], truth[1], truth[2] = None, None, "forth"
    found = evaluate(values, labels, gamma=0.1, inertia=3.5, truth=truth)
    means = values.mean(axis=1)
    assert found["silhouette"] == metrics.silhouette_score(means, labels)
    assert found["davies_bouldin"] == metrics.davies_bouldin_score(means, labels)
    for scale in (2.0**-60, 2.0**200):  # scikit-learn's own is 0 for the first.
        assert score_davies_bouldin(scale * means, labels) == found["davies_bouldin"]
    apart = cdist_soft_dtw(values, gamma=0.1, divergence=True)
    assert found["silhouette_softdtw"] == metrics.silhouette_score(apart.clip(0), labels, metric="precomputed")
    assert found["silhouette_softdtw"] > 0.9 > 0.3 > found["silhouette"]
    known = slice(2, None)
    assert found["ari"] == metrics.adjusted_rand_score(truth[known], labels[known])
    assert found["nmi"] == metrics.normalized_mutual_info_score(truth[known], labels[known])
    assert found["v_measure"] == metrics.v_measure_score(truth[known], labels[known])
    assert found["n_truth"] == 10
    assert (found["inertia"], found["sizes"], found["silhouette_softdtw_gamma"]) == (3.5, [6, 6], 0.1)
    assert found["n_empty"] == 0
    assert found["silhouette_n"] == found["silhouette_softdtw_n"] == 12
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_gamma_is_chosen_where_none_is_given():
    values, labels = make_groups()
    assert evaluate(values, labels)["silhouette_softdtw_gamma"] == auto_gamma(values)


@pytest.mark.parametrize("labels", [np.zeros(4, int), np.arange(4)])
def test_what_is_not_defined_is_none(labels):
    found = evaluate(make_groups(4)[0], labels, truth=[None, "a", None, None])
    undefined = {"silhouette", "davies_bouldin", "silhouette_softdtw", "inertia", "ari", "nmi", "v_measure"}
    assert {name for name, value in found.items() if value is None} == undefined
    assert found["n_truth"] == 1


def test_paths_that_never_move_have_figures_too():
    labels = np.array([0, 0, 1, 1])
    found = evaluate(np.ones((4, 3, 2)), labels)
    assert found["silhouette"] == found["silhouette_softdtw"] == 0
    json.dumps(found, allow_nan=False)


def test_clusters_without_videos_are_counted():
    values, labels = make_groups()
    found = evaluate(values, 2 * labels, gamma=0.1, n_clusters=4)
    assert (found["sizes"], found["n_empty"]) == ([6, 0, 6, 0], 2)
    assert found["silhouette"] == evaluate(values, labels, gamma=0.1)["silhouette"]
    assert describe_empty(found).startswith("only 2 of 4 clusters hold any video")
    assert describe_empty(evaluate(values, labels, n_clusters=2)) is None


def test_one_video_has_no_silhouette():
    found = evaluate(np.ones((1, 3, 2)), np.zeros(1, int))
    assert found["silhouette"] is None
    assert found["sizes"] == [1]


def test_unequal_lengths():
    values, labels = make_groups()
    ragged = [path[: 4 + i % 3] for i, path in enumerate(values)]
    found = evaluate(ragged, labels, gamma=0.1)
    means = np.stack([path.mean(axis=0) for path in ragged])
    assert found["silhouette"] == metrics.silhouette_score(means, labels)
    assert found["silhouette_softdtw"] > 0.5


def test_large_collections_are_sampled_and_say_so(monkeypatch):
    monkeypatch.setattr(evaluation, "_MAX_SOFTDTW_VIDEOS", 20)
    monkeypatch.setattr(evaluation, "_MAX_POINT_VIDEOS", 30)
    values, labels = make_groups(60)
    found = evaluate(values, labels, gamma=0.1, seed=1)
    assert (found["silhouette_softdtw_n"], found["silhouette_n"]) == (20, 30)
    assert found == evaluate(values, labels, gamma=0.1, seed=1)
    assert found["silhouette_softdtw"] != evaluate(values, labels, gamma=0.1, seed=2)["silhouette_softdtw"]


def test_the_sample_is_what_can_be_afforded():
    assert affordable_videos(np.empty((1, 16, 5))) == 2000
    ragged = [np.empty((3, 8)), np.empty((300, 8))]
    assert affordable_videos(ragged) == affordable_videos(np.empty((2, 300, 8))) < 400
    values = np.random.default_rng(0).normal(size=(80, 64, 5))
    cdist_soft_dtw(values[:2])
    before = time.process_time()
    cdist_soft_dtw(values)
    pair_s = (time.process_time() - before) / (80 * 81 / 2)
    assert pair_s * affordable_videos(values) ** 2 / 2 < 60  # five seconds on two idle cores


def test_mean_pooling_is_blind_to_order_and_sees_place():
    values, labels = make_groups(40)
    truth = [str(label) for label in labels]
    assert score_mean_pooled(values, truth, 2) < 0.5
    assert score_mean_pooled(values + labels[:, None, None], truth, 2) == 1


def test_noise_counts_in_no_silhouette_and_is_a_class_of_its_own():
    values, labels = make_groups()
    truth = ["forth" if label else "back" for label in labels]
    odd = np.random.default_rng(1).normal(scale=9, size=(4, 6, 2))
    noisy, found_labels = np.concatenate([values, odd]), np.r_[labels, [-1] * 4]
    found = evaluate(noisy, found_labels, gamma=0.1, n_clusters=2, truth=[*truth, *"back back back back".split()])
    without = evaluate(values, labels, gamma=0.1, n_clusters=2)
    for name in ("silhouette", "davies_bouldin", "silhouette_softdtw", "silhouette_n", "sizes", "n_empty"):
        assert found[name] == without[name], name
    assert (found["n_noise"], without["n_noise"]) == (4, 0)
    assert found["ari"] == metrics.adjusted_rand_score([*truth, *["back"] * 4], found_labels) < 1
    assert describe_noise(found).startswith("4 of 16 videos are noise")
    assert describe_noise(without) is None
    assert describe_noise({**without, "n_assigned": 3}).startswith("3 of 12 videos were noise, and went to")


def test_where_all_is_noise_nothing_is_measured():
    found = evaluate(make_groups()[0], np.full(12, -1), n_clusters=0, truth=["a", "b"] * 6)
    assert (found["silhouette"], found["davies_bouldin"], found["silhouette_softdtw"]) == (None, None, None)
    assert (found["sizes"], found["n_empty"], found["n_noise"], found["ari"]) == ([], 0, 12, 0)
    assert describe_noise(found).startswith("no cluster was found, all 12 videos are noise")
