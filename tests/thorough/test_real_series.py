"""How many clusters there are in published series."""

import numpy as np
import pytest
from test_sweep import CONFIG

from raypipe.analysis.sweep import sweep_clusters
from raypipe.trajectories import interpolate


@pytest.mark.parametrize(
    "name, ks, truth", [("Trace", [2, 3, 4, 5], 4), ("Plane", [5, 6, 7, 8], 7), ("JapaneseVowels", [2, 9], None)]
)
def test_real_series_are_counted_within_one_or_it_is_said_why_not(data_dir, name, ks, truth):
    """The speakers of JapaneseVowels overlap: no number of clusters is stable and lies apart."""
    with np.load(data_dir / "timeseries" / f"{name}.npz") as arrays:
        series = np.split(arrays["values"], np.cumsum(arrays["lengths"])[:-1])
    series = series[:: max(1, len(series) // 100)]
    normalised = [(path - path.mean(axis=0)) / np.maximum(path.std(axis=0), 1e-9) for path in series]
    values = np.stack([interpolate(path, np.arange(len(path)), 24) for path in normalised]).astype(np.float32)
    found = sweep_clusters(values, CONFIG, ks, n_seeds=2)
    if truth is None:
        assert found["recommended"] is None and "no structure found" in found["reason"]
    else:
        assert abs(found["recommended"]["k"] - truth) <= 1
