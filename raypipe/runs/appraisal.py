"""What a clustering is worth, which of its videos are odd, and what its clusters are about: found out and written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from raypipe.analysis.averages import average_paths
from raypipe.analysis.evaluation import evaluate
from raypipe.analysis.sizes import describe_empty, describe_noise
from raypipe.clustering import Clustering
from raypipe.config import Config
from raypipe.runs.contents import METRICS_FILE
from raypipe.runs.dataset_checks import write_duplicates
from raypipe.runs.descriptions import write_descriptions
from raypipe.runs.directory import Run
from raypipe.runs.outlier_table import WORST, Judgement, Known, judge_videos, record_outliers
from raypipe.runs.results import read_truth, write_barycenters, write_clusters
from raypipe.schema import Trajectories


def write_appraisal(
    run: Run,
    config: Config,
    paths: Trajectories,
    picture: Trajectories,
    clustering: Clustering,
    centers: dict[int, np.ndarray] | None,
    say: Callable[[str], None],
) -> None:
    """Evaluate and describe a clustering of trajectories, and write the clusters, the metrics and the descriptions.

    Parameters
    ----------
    run, config
        An embedded run, and its config.
    paths, picture
        The n trajectories that were clustered, and their paths on the map.
    clustering
        Their clusters.
    centers
        The clusters' paths on the map, where the picture has placed them; None for the average of the nearest.
    say
        Called with what is to be said of it.
    """
    metrics, found = write_judged_clusters(run, config, paths, picture, clustering, centers)
    metrics["n_assigned"] = clustering.n_assigned
    run.write_json(METRICS_FILE, metrics)
    record_outliers(run, found, say, WORST if found.by == "distance" else 0)
    for line in filter(None, (describe_empty(metrics), describe_noise(metrics))):
        say(line)
    run.record_stage("cluster", clustering.implementation, clustering.reason)
    with run.step("describe"):
        described_by, fallback = write_descriptions(run, config, clustering.labels, clustering.distances)
    run.record_stage("describe", described_by, fallback)


def write_judged_clusters(
    run: Run,
    config: Config,
    paths: Trajectories,
    picture: Trajectories,
    clustering: Clustering,
    centers: dict[int, np.ndarray] | None,
    known: Known | None = None,
) -> tuple[dict[str, Any], Judgement]:
    """Evaluate a clustering and judge its videos; write the clusters, their paths on the map, and the duplicates.

    Parameters
    ----------
    run, config, paths, picture, clustering, centers
        As `write_appraisal` takes them.
    known
        The clustering of other videos that these joined; None where they were clustered themselves.

    Returns
    -------
    What ``metrics.json`` is to hold, and what was found of the videos.
    """
    with run.step("evaluate"):
        name, truth = read_truth(run)
        metrics = evaluate(
            paths.values,
            clustering.labels,
            gamma=clustering.gamma,
            inertia=clustering.inertia,
            n_clusters=clustering.n_clusters,
            truth=truth,
        )
        if centers is None:
            near = np.argsort(clustering.distances, kind="stable")  # What is not a number comes last.
            members = {k: near[clustering.labels[near] == k] for k in clustering.paths_of_centers()}
            centers = average_paths({k: [picture.values[i] for i in rows] for k, rows in members.items()})
    with run.step("outliers"):
        found = judge_videos(
            run, paths, clustering.labels, clustering.distances, clustering.centers, clustering.gamma, config, known
        )
        write_clusters(run, clustering, found.scores, found.flags, picture)
    write_barycenters(run, centers)
    with run.step("duplicates"):
        write_duplicates(run, paths)
    return {**metrics, "gamma": clustering.gamma, "truth": name, "outliers": found.summary()}, found
