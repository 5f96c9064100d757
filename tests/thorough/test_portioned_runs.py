"""A run that holds no more than a portion of its videos in memory."""

import pytest
from clips import assert_same_clips, embed_without_ray, read_clips
from tiny_encoder import TINY
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.errors import UsageError
from raypipe.progress import Progress
from raypipe.runs import plan as plans
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.sources.videos import Video, Videos


def test_a_run_in_portions_is_the_same_run(chain_here, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "LARGEST_PORTION", 2)
    for number in range(1, 5):
        write_video(tmp_path / f"videos/{number}.mp4", n_frames=20 + 5 * number, seed=number)
    (tmp_path / "videos/3.mp4").write_text("not a video")
    config = make_config(flags=TINY, sets=["sample.segment_s=2"])
    run = Run(str(tmp_path / "run"))
    sizes = []

    class Measured(Ledger):
        def __init__(self, run, plan, files=None):
            super().__init__(run, plan, files)
            sizes.append(len(self.first))

    monkeypatch.setattr(plans, "Ledger", Measured)

    def embed(**source):
        with_source = config.model_copy(update={"source": config.source.model_copy(update=source)})
        pipeline.embed(tmp_path / "videos", run, with_source, Progress())
        names = [uri.rpartition("/")[2] for uri in run.read_table("videos.parquet")["uri"].to_pylist()]
        assert names == sorted(names)
        return run.info()["counts"]

    assert embed(limit=3) == dict(found=4, ok=2, failed=1, skipped=1, ignored=0)
    write_video(tmp_path / "videos/0.mp4", n_frames=25, seed=0)  # before all others: the portions shift
    write_video(tmp_path / "videos/3.mp4", n_frames=25, seed=3)
    assert embed(retry_failed=True) == dict(found=5, ok=5, failed=0, skipped=0, ignored=0)
    assert_same_clips(read_clips(run), embed_without_ray(tmp_path / "videos", config))
    write_video(tmp_path / "videos/4.mp4", n_frames=25, seed=44)
    with pytest.raises(UsageError, match=r"1 of 5 videos changed .*4\.mp4"):
        embed()
    assert embed(re_embed=True) == dict(found=5, ok=5, failed=0, skipped=0, ignored=0)
    assert_same_clips(read_clips(run), embed_without_ray(tmp_path / "videos", config))
    (tmp_path / "videos/2.mp4").unlink()
    assert embed() == dict(found=4, ok=4, failed=0, skipped=0, ignored=0)
    assert max(sizes) == 2, "no more videos at a time, whatever there are"


def test_twins_are_refused(tmp_path):
    with pytest.raises(UsageError, match="two of these videos have one id"):
        pipeline.embed(
            Videos(Video(name, f"file:///{name}") for name in "aba"), Run(str(tmp_path)), make_config(), Progress()
        )
