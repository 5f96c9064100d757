"""What the page's explorer is given: the paths, columns, film strips and centers of a run, in one compressed block."""

import base64
import gzip
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from report_runs import NAMES, STEPS, K, N, make_explored_run, make_run

from raypipe.config import from_yaml, to_yaml
from raypipe.report import packing
from raypipe.report.facts import read_centers, read_facts, read_paths
from raypipe.report.page import explorer

TEXTS = ("names", "ids", "uris", "links", "captions", "reasons")


def unpack(run) -> dict:
    """Read the block as the page's script does."""
    facts, paths = read_facts(run), read_paths(run)
    text = explorer.write_data(run, facts, paths, read_centers(run, paths, facts.clusters))
    header, arrays = packing.unpack(gzip.decompress(base64.b64decode(text)))
    assert len(arrays["ids"].tobytes().split(b"\0")) == len(facts.members) + 1
    texts = {name: arrays[name].tobytes().decode().split("\0")[:-1] for name in TEXTS}
    data = {**header, **arrays, **texts}
    return data


def restore(data, name, box) -> np.ndarray:
    origin = np.array(data[box]["origin"])
    return origin + data[name].reshape(-1, len(origin)) * data[box]["scale"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_explored_run(tmp_path_factory.mktemp("explored") / "run")


def test_paths_and_rows_are_the_runs(run):
    data = unpack(run)
    clusters = run.read_table("clusters.parquet").to_pylist()
    assert data["ids"] == [row["video_id"] for row in clusters]
    assert data["names"][1] == NAMES[1] and len(data["names"]) == N
    assert data["cluster"].tolist() == [row["cluster"] for row in clusters]
    paths = np.concatenate([read_paths(run)[video_id] for video_id in data["ids"]])
    assert data["starts"].tolist() == list(range(0, N * STEPS + 1, STEPS))
    assert np.abs(restore(data, "points", "pointBox") - paths).max() <= data["pointBox"]["scale"]


def test_what_was_clustered_is_there_for_the_alignment(run):
    data = unpack(run)
    reduced = np.array(run.read_table("trajectories/00000.parquet")["reduced"].to_pylist()).reshape(-1, 2)
    assert np.abs(restore(data, "reduced", "reducedBox") - reduced).max() <= data["reducedBox"]["scale"]
    centers = np.load(io.BytesIO(run.read_bytes("model/centers.npy")))
    assert np.allclose(np.reshape(data["centers"], centers.shape), centers, rtol=1e-5)
    assert data["gamma"] == 0.0123 and data["dim"] == 2


def test_a_shorter_center_ends_where_it_ends(tmp_path):
    run = make_explored_run(tmp_path / "run")
    centers = np.load(io.BytesIO(run.read_bytes("model/centers.npy")))
    centers[1, 10:] = np.nan
    sink = io.BytesIO()
    np.save(sink, centers)
    run.write_bytes("model/centers.npy", sink.getvalue())
    assert [len(center) // 2 for center in unpack(run)["centers"]] == [STEPS, 10, STEPS, STEPS]


@pytest.mark.parametrize("constraint", [{"global_constraint": "sakoe_chiba"}, {"itakura_max_slope": 2.0}], ids=str)
def test_alignments_under_a_constraint_are_left_out(tmp_path, constraint):
    run = make_explored_run(tmp_path / "run")
    config = from_yaml(run.read_bytes("model/config.yaml").decode())
    cluster = config.cluster.model_copy(update=constraint)
    run.write_bytes("model/config.yaml", to_yaml(config.model_copy(update={"cluster": cluster})).encode())
    assert "reduced" not in unpack(run)


def test_a_run_without_a_model_or_of_unequal_lengths_is_shown(tmp_path):
    data = unpack(make_run(tmp_path / "run", [f"{i}.mp4" for i in range(9)], k=2, n_steps=None))
    assert "reduced" not in data and len(data["starts"]) == 10
    assert (data["stripOf"] == -1).all()


def test_columns_that_tell_videos_apart_are_offered(tmp_path):
    run = make_explored_run(tmp_path / "run")
    videos = run.read_table("videos.parquet")
    videos = videos.append_column("speed", pa.array([None, *range(N - 1)], pa.int32()))
    videos = videos.append_column("site", pa.array(["<b>"] * N)).append_column(
        "night", pa.array([True, False] * (N // 2))
    )
    run.write_table("videos.parquet", videos.append_column("tags", pa.array([["a"]] * N)))
    data = unpack(run)
    kinds = [(column["name"], column["kind"]) for column in data["columns"]]
    assert [name for name, kind in kinds if kind == "text"] == ["group", "label", "night"]
    assert [name for name, kind in kinds if kind == "number"] == ["distance", "outlier_score", "duration_s", "speed"]
    assert np.array_equal(data["column speed"], [np.nan, *range(N - 1)], equal_nan=True)


def test_film_strips_go_to_the_videos_that_matter_until_the_bytes_are_spent(run, monkeypatch):
    data = unpack(run)
    assert (data["stripOf"] >= 0).all() and data["film"][:4].tobytes() == b"RIFF"
    assert len(data["filmTimes"]) == N * explorer.STRIP_PICTURES
    strip = Image.open(io.BytesIO(data["film"][: data["filmStarts"][1]]))
    lines = np.flatnonzero((np.asarray(strip)[:, :, 3] == 0).all(axis=0)).tolist()
    assert lines == [64 * i + place for i in range(1, explorer.STRIP_PICTURES) for place in (0, 1)]
    monkeypatch.setattr(explorer, "MAX_STRIPS", 2 * K)
    facts = read_facts(run)
    first = [member.video_id for member in facts.clusters[0].members[: explorer.NAMED]]
    few = unpack(run)["stripOf"]
    assert np.count_nonzero(few >= 0) == 2 * K and all(few[data["ids"].index(video_id)] >= 0 for video_id in first)
    monkeypatch.setattr(explorer, "FILM_BYTES", int(data["filmStarts"][3]))
    assert np.count_nonzero(unpack(run)["stripOf"] >= 0) in range(1, 2 * K)
