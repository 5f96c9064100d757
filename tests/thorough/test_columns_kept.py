"""A whole run over a manifest of every type: its columns stay as they are, whatever becomes of the videos."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from columns import check_same, write_all_types
from tiny_encoder import TINY
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.runs.directory import Run

FLAGS = {**TINY, "cluster": {"n_clusters": 2, "backend": "numba"}}
KNOWN = ("label", "group", "caption")
SETS = ("reduce.method=pca", "trajectory.n_steps=4")


@pytest.fixture
def library(tmp_path):
    """Write five videos and a file that is none; return their folder."""
    for number in range(5):
        write_video(tmp_path / f"{number}.mp4", n_frames=20 + 5 * number, seed=number)
    (tmp_path / "5.mp4").write_text("not a video")
    return tmp_path


def embed(manifest, run: Run, *sets: str) -> list[str]:
    """Embed, and check the columns; return the statuses."""
    pipeline.embed(manifest, run, make_config(flags=FLAGS, sets=(*SETS, *sets)), Progress())
    given, kept = pq.read_table(manifest), run.read_table("videos.parquet")
    assert [uri.rpartition("/")[2] for uri in kept["uri"].to_pylist()] == given["path"].to_pylist()
    check_same(kept, given.drop_columns([name for name in given.column_names if name in ("path", *KNOWN)]))
    told = {
        name: [each and str(each) for each in given[name].to_pylist()] for name in KNOWN if name in given.schema.names
    }
    assert {name: kept[name].to_pylist() for name in told} == told
    assert len(run.read_table("videos.parquet", group=0).schema) == len(kept.schema)
    return kept["status"].to_pylist()


def test_the_manifest_s_columns_are_kept(chain_here, library):
    manifest, run = library / "all.parquet", Run(str(library / "run"))
    given = write_all_types(manifest, repeats=2)
    assert embed(manifest, run, "source.limit=2") == ["ok"] * 2 + ["skipped"] * 4
    assert embed(manifest, run) == ["ok"] * 5 + ["failed"], "what was beyond the limit is embedded now"
    assert embed(manifest, run) == ["ok"] * 5 + ["skipped"], "what failed is in quarantine"
    assert embed(manifest, run, "source.retry_failed=true") == ["ok"] * 5 + ["failed"]
    order = pa.array([5, 3, 1, 0, 2, 4])
    views = [name for name in given.column_names if "view" in name]  # Arrow takes no rows of these.
    label = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, None, 0, 1], pa.int8()), pa.array(["pour", "lift"]))
    known = {"label": label, "group": pa.nulls(6), "caption": pa.array([2**64 - 1] * 6, pa.uint64())}
    table = given.drop_columns(views).take(order)
    for name, column in known.items():
        table = table.append_column(name, column)
    pq.write_table(table, manifest, row_group_size=4)
    assert embed(manifest, run, "source.retry_failed=true") == ["failed"] + ["ok"] * 5
    config = make_config(flags=FLAGS, sets=SETS)
    pipeline.cluster(run, config, Progress())
    pipeline.report(run, config, Progress())
    assert run.exists("report.html") and run.read_json("metrics.json")["truth"] == "label"
    assert run.read_table("clusters.parquet")["label"].to_pylist() == ["lift", "pour", None, "pour", "lift"]
