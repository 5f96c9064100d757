"""What a GPU's decoder leaves to the CPU, on Ray."""

import pytest
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.engine import embedding
from raypipe.packages import is_installed
from raypipe.progress import Progress
from raypipe.runs.directory import Run


@pytest.mark.skipif(not is_installed("torchcodec"), reason="torchcodec is an extra, not installed")
def test_what_nvdec_refuses_goes_through_the_cpus_pools(own_ray, tmp_path, monkeypatch):
    """The whole chain on Ray, the device being the CPU: what it does, what it leaves, and what the run tells of it."""
    monkeypatch.setattr(embedding, "_GPU", "cpu")
    for number in range(3):
        write_video(tmp_path / f"videos/{number}.mp4", seed=number)
    write_video(tmp_path / "videos/old.avi")
    run = Run(str(tmp_path / "run"))
    with own_ray(num_gpus=1):
        pipeline.embed(tmp_path / "videos", run, make_config(flags={"encode": {"encoder": "descriptor"}}), Progress())
    info = run.info()
    assert info["implementations"]["decode"] == "torchcodec-cpu (3), pyav (1)"
    assert info["fallbacks"]["decode"] == (
        "NVDEC left segments to the CPU: torchcodec is not reliable in avi files (1)"
    )
    assert info["counts"]["ok"] == 4


def test_what_nvdec_cannot_do_at_all_is_done_by_the_cpu(own_ray, tmp_path, monkeypatch):
    """The chain is tried without torchcodec too, wherever Ray is: AVI files are left to the CPU in either case."""
    monkeypatch.setattr(embedding, "_GPU", "cpu")
    monkeypatch.setattr(embedding, "is_installed", lambda name: True)
    for number in range(2):
        write_video(tmp_path / f"videos/{number}.avi", seed=number)
    run = Run(str(tmp_path / "run"))
    with own_ray(num_gpus=1):
        pipeline.embed(tmp_path / "videos", run, make_config(flags={"encode": {"encoder": "descriptor"}}), Progress())
    info = run.info()
    assert info["implementations"]["decode"] == "pyav (2)"
    assert info["fallbacks"]["decode"].startswith("NVDEC left segments to the CPU: ")
    assert info["counts"]["ok"] == 2
