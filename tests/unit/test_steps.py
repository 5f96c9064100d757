"""The steps from embeddings to clusters in one process."""

from threading import Event

import fastumap
import numpy as np
import pytest
from embedded import make_embedded
from numpy.testing import assert_array_equal

from raypipe.config import Config
from raypipe.reduction import reduce_trajectories
from raypipe.sources.videos import Video
from raypipe.trajectories import steps as steps_module
from raypipe.trajectories.steps import LocalSteps

CONFIG = Config(cluster={"n_clusters": 2}, reduce={"picture": "umap"})


@pytest.fixture
def run(tmp_path):
    clips = list(np.random.default_rng(0).normal(size=(20, 9, 8)))
    return make_embedded(tmp_path / "run", clips, [Video(f"{i}", f"file:///{i}.mp4") for i in range(20)])


def test_the_map_is_fitted_while_the_videos_are_clustered(run, monkeypatch):
    begun, clustered = Event(), Event()

    def project_late(*given, project=fastumap.umap_project, **options):
        begun.set()
        assert clustered.wait(60)
        return project(*given, **options)

    def fit_late(*given, fit=steps_module.fit_clusters):
        assert begun.wait(60)
        clustering = fit(*given)
        clustered.set()
        return clustering

    steps = LocalSteps(run, CONFIG)
    steps.build()
    expected, _ = reduce_trajectories(steps.paths, CONFIG.reduce.for_picture())
    monkeypatch.setattr(fastumap, "umap_project", project_late)
    monkeypatch.setattr(steps_module, "fit_clusters", fit_late)
    steps.reduce()
    steps.project(steps.fit())
    assert_array_equal(steps.picture.values, expected.values)


def test_an_error_of_the_map_that_is_fitted_beside_is_raised_where_it_is_needed(run, monkeypatch):
    monkeypatch.setattr(fastumap, "umap_project", lambda *given, **options: {}["broken"])
    steps = LocalSteps(run, CONFIG)
    steps.build()
    steps.reduce()
    clustering = steps.fit()
    with pytest.raises(KeyError, match="broken"):
        steps.project(clustering)
