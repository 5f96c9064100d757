"""Runs over videos behind HTTP: what a server goes through costs waiting, and no clips."""

from clips import assert_same_clips, embed_without_ray, read_clips
from tiny_encoder import TINY
from trouble import Fault, Proxy, serve_folder

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.runs.directory import Run

QUIET = Progress()


def test_embedding_from_a_troubled_server(chain_here, proxy: Proxy, served, tmp_path):
    config = make_config(flags=TINY)
    run = Run(str(tmp_path / "run"))
    proxy.faults = (
        Fault(status=503, retry_after_s=1, rate=0.2),
        Fault(status=500, rate=0.1),
        Fault(on=r"GET .*\.mp4", cut=0.7, rate=0.2),
        Fault(on=r"\.mp4", bytes_per_s=50_000),
    )
    pipeline.embed(f"{proxy.url}/", run, config, QUIET)
    assert proxy.n_faults() > 3
    assert run.info()["counts"]["ok"] == 3
    assert_same_clips(read_clips(run), embed_without_ray(served, config))


def test_what_an_absent_server_cost_is_embedded_when_it_is_back(chain_here, proxy: Proxy, tmp_path, monkeypatch):
    """A lasting 503 for one video: it fails, is in no quarantine, and the same command embeds it later."""
    config = make_config(flags=TINY)
    run = Run(str(tmp_path / "run"))
    proxy.faults = (Fault(on=r"/a\.mp4", status=503),)
    monkeypatch.setattr("raypipe.storage.PATIENCE_S", 0.5)  # of this process; the sandboxes keep theirs
    pipeline.embed(f"{proxy.url}/", run, config, QUIET)
    stages = {row["uri"][-5:]: row["error_stage"] for row in run.read_table("videos.parquet").to_pylist()}
    assert stages == {"a.mp4": "source", "b.mp4": None, "c.mp4": None}
    proxy.calm()
    pipeline.embed(f"{proxy.url}/", run, config, QUIET)
    counts = run.info()["counts"]
    assert (counts["ok"], counts["failed"], counts["skipped"]) == (3, 0, 0)


def test_a_server_that_sends_files_only_whole(chain_here, served, tmp_path, monkeypatch):
    config, told = make_config(flags=TINY), []
    progress = Progress()
    monkeypatch.setattr(progress, "say", told.append)
    run = Run(str(tmp_path / "run"))
    with serve_folder(served, has_ranges=False) as target:
        pipeline.embed(f"{target}/", run, config, progress)
    assert sum("its server sends files only whole" in line for line in told) == 1
    assert_same_clips(read_clips(run), embed_without_ray(served, config))
