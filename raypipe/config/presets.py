"""Pinned recipes: values by section and key, which `raypipe.config.make_config` lays over the defaults."""

from __future__ import annotations

from typing import Any

_PINNED_REDUCE = {"backend": "cpu"}
_PINNED_CLUSTER = {"method": "softdtw", "gamma": 1.0, "solver": "lbfgs", "n_init": 1, "max_iter": 50}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "embedding-analysis": {
        "encode": {"normalize": False},
        "trajectory": {"n_steps": 6, "time_axis": "index"},
        "reduce": {
            **_PINNED_REDUCE,
            "method": "umap",
            "n_components": 2,
            "metric": "cosine",
            "n_neighbors": 15,
            "min_dist": 0.1,
            "seed": 353550416,
        },
        "cluster": {**_PINNED_CLUSTER, "n_clusters": 3, "seed": 353550416},
    },
    "outlier-detection": {
        "encode": {"normalize": False},
        "trajectory": {"n_steps": 20, "time_axis": "index"},
        "reduce": {**_PINNED_REDUCE, "method": "pca", "n_components": 3, "seed": 1234},
        "cluster": {
            **_PINNED_CLUSTER,
            "n_clusters": 6,
            "seed": 1234,
            "outlier_by": "distance",
            "outlier_quantile": 0.95,
        },
    },
    "video-kmeans": {
        "sample": {"every_n": 10},
        "encode": {"normalize": False},
        "trajectory": {"pool": "mean"},
        "reduce": {"method": "none", "picture": "tsne", "seed": 28},
        "cluster": {"method": "kmeans", "n_clusters": 20, "n_init": 10, "max_iter": 300, "seed": 28},
        "report": {"sheet_choice": "random", "sheet_videos": 9, "seed": 28},
    },
    "video-density": {
        "sample": {"n_frames": 5},
        "encode": {"normalize": False},
        "trajectory": {"pool": "mean", "normalize": True},
        "reduce": {
            **_PINNED_REDUCE,
            "method": "umap",
            "n_components": 5,
            "metric": "cosine",
            "n_neighbors": 15,
            "min_dist": 0.0,
            "seed": 42,
        },
        # The clusterer's hdbscan does not count the video itself: its min_samples is 1.
        "cluster": {"method": "density", "min_cluster_size": 10, "min_samples": 2, "backend": "sklearn", "seed": 42},
    },
}
