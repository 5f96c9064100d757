"""A short round of the campaign in ``bench/outliers.py``: faults planted in videos of the demo are found."""

from bench.outliers import embed_seeds, run_seed, summarise


def test_planted_faults_are_found_and_where_they_are(ray_local, tmp_path):
    ((run, planted),) = embed_seeds(tmp_path, [0], n_variants=8)
    figures = summarise(run_seed(run, planted, n_clusters=5))
    assert figures["score"]["recall"] >= 0.8 and figures["verdict"]["precision"] >= 0.8
    assert figures["score"]["recall"] > figures["distance"]["recall"], "an odd video hides in its own cluster"
    assert figures["score"]["iou"] > 0.6 > 0.3 > figures["distance"]["iou"]
