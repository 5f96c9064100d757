"""The frame store: small pictures of clips, written before the clips that they belong to, and never in their way."""

import io

import av
import numpy as np
import pyarrow as pa
import pytest
from clips import cut_one
from PIL import Image

from raypipe.config import DecodeConfig, SampleConfig, make_config
from raypipe.decoders import make_decoder
from raypipe.decoders.picture import Resizer
from raypipe.decoders.sandbox import Sandbox
from raypipe.decoders.thumbnails import thumbnail_size
from raypipe.errors import RaypipeError
from raypipe.packages import is_installed
from raypipe.runs import ledger as embeddings
from raypipe.runs.committer import Committer
from raypipe.runs.directory import Run
from raypipe.runs.frames import name_beside, read_frames
from raypipe.runs.ledger import Ledger
from raypipe.runs.plan import Plan
from raypipe.schema import FRAMES, PLAN, ThumbnailRequest, embeddings_schema
from raypipe.segments.planning import plan_segments
from raypipe.segments.sampling import Span, choose_evenly, sample_span
from raypipe.segments.stages import DecodeSegments, ProbeVideos
from raypipe.sources.videos import Video, Videos

DIM = 2


@pytest.fixture(params=["local", "memory"])
def run(request, tmp_path):
    return Run(str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path.name}/run")


def plan_of(*names: str, fingerprint="f") -> pa.Table:
    rows = [{"video_id": name, "segment": 0, "fingerprint": fingerprint} for name in names]
    return pa.Table.from_pylist(rows, schema=PLAN)


def clips_of(name: str, n: int, fingerprint="f") -> pa.Table:
    row = {"video_id": name, "segment": 0, "fingerprint": fingerprint, "embedding": [0.0] * DIM}
    return pa.Table.from_pylist([{**row, "clip_index": i} for i in range(n)], schema=embeddings_schema(DIM))


def frames_of(name: str, n: int, fingerprint="f", mark="") -> pa.Table:
    """A picture a second, which says whose it is."""
    row = {"video_id": name, "segment": 0, "fingerprint": fingerprint}
    rows = [{**row, "clip_index": i, "time_s": float(i), "frame": f"{name}{i}{mark}".encode()} for i in range(n)]
    return pa.Table.from_pylist(rows, schema=FRAMES)


def pictures(run: Run, *names: str, at=np.arange(100.0)) -> dict[str, list[bytes]]:  # noqa: B008
    return {name: each.jpegs for name, each in read_frames(run, dict.fromkeys(names, at)).items()}


def commit(run: Run, *names: str, n=3, **options) -> None:
    with Committer(run) as committer:
        for name in names:
            committer.add(clips_of(name, n), frames=frames_of(name, n, **options))


# Which clips.


@pytest.mark.parametrize("at_most", [0, 1, 5, 64])
@pytest.mark.parametrize(
    "sample", [SampleConfig(), SampleConfig(stride_s=0.25), SampleConfig(every_n=3), SampleConfig(n_frames=70)]
)
def test_which_clips_are_kept_does_not_depend_on_the_segments(sample, at_most):
    times_s = np.cumsum(np.random.default_rng(0).uniform(0.05, 0.4, 500))  # no steady rate, and not the container's
    whole = sample_span(Span(2.0, 97.3, 2.0, 99.3), sample, times_s)
    spans = cut_one(2.0, 97.3, sample.model_copy(update={"segment_s": 7.0}), fps=30.0)
    parts = [sample_span(span, sample, times_s) for span in spans]
    kept = [part.clip_index[choose_evenly(part, at_most)] for part in parts]
    chosen = whole.clip_index[choose_evenly(whole, at_most)]
    assert {part.n_clips for part in parts} == {whole.n_clips} == {len(whole.clip_index)}
    assert np.concatenate(kept).tolist() == chosen.tolist()
    assert len(chosen) == min(at_most, whole.n_clips)
    gaps = np.diff(np.concatenate([[-0.5], chosen, [whole.n_clips - 0.5]]))
    assert at_most == 0 or len(set(gaps[1:-1])) <= 2, "neighbours are as far apart as whole clips allow"


# What decoders make.


@pytest.mark.parametrize(
    ("width", "height", "aspect", "expected"),
    [
        (1920, 1080, 1.0, (284, 160)),
        (1080, 1920, 1.0, (160, 284)),
        (160, 120, 1.0, (160, 120)),  # A smaller frame keeps its size.
        (720, 576, 64 / 45, (284, 160)),  # Pixels are not square.
        (4000, 8, 1.0, (64, 8)),  # The longer side is bounded.
        (1, 1, 1.0, (1, 1)),
    ],
)
def test_the_size_of_a_small_picture(width, height, aspect, expected):
    assert thumbnail_size(width * aspect / height, height, 160) == expected


def test_a_small_picture_shows_the_whole_frame_upright():
    rows, columns = np.mgrid[0:240, 0:480]
    picture = np.stack([columns // 2, rows, 255 - columns // 2], axis=2).astype(np.uint8)
    resize = Resizer(32, "squash", 1.0, request=ThumbnailRequest(60, frozenset({1})))
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    for index in range(3):
        resize.keep(index, frame)
    (small,) = resize.thumbnails.values()
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size) == ("JPEG", (120, 60))
        away = np.asarray(image).astype(int) - picture[2::4, 2::4]
    assert np.abs(away).mean() < 4


MINE = """
from raypipe.decoders.pyav import PyAVDecoder

class Mine:
    def __init__(self):
        self.pyav = PyAVDecoder()
    def frames(self, uri, times_s, image_size, resize_mode):
        return self.pyav.frames(uri, times_s, image_size, resize_mode)
"""


@pytest.mark.parametrize("decoder", ["pyav", "decord", "mine:Mine"])
def test_every_decoder_makes_them_in_the_same_pass(decoder, make_video, tmp_path, monkeypatch):
    if decoder == "decord" and not is_installed("decord"):
        pytest.skip("decord has no wheel for this platform")
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    uri = make_video(n_frames=30, fps=10, size=(96, 64)).as_uri()
    times_s = np.array([0.0, 0.5, 0.5, 1.0, 2.5])
    request = ThumbnailRequest(40, frozenset({0, 2, 4}))
    with Sandbox(decoder) as sandbox:
        bare = sandbox.frames(uri, times_s, 48, "crop", 3.0)
        frames = sandbox.frames(uri, times_s, 48, "crop", 3.0, request)
        squashed = sandbox.frames(uri, times_s, 48, "squash", 3.0, request)
    np.testing.assert_array_equal(bare.pixels, frames.pixels)
    assert not bare.thumbnails
    assert set(frames.thumbnails) == {0, 2, 4}
    of_squares = decoder == "mine:Mine"  # Such a decoder hands over squares alone.
    assert set(squashed.thumbnails) == (set() if of_squares else {0, 2, 4})
    for index, jpeg in frames.thumbnails.items():
        with Image.open(io.BytesIO(jpeg)) as image:
            small = np.asarray(image).astype(int)
        assert small.shape == ((40, 40, 3) if of_squares else (40, 60, 3))
        whole = frames if of_squares else squashed
        assert np.abs(small.mean(axis=(0, 1)) - whole.pixels[index].mean(axis=(0, 1))).max() < 4


def test_frames_that_are_counted_have_their_pictures_too(make_video):
    request = ThumbnailRequest(40, frozenset({1, 2}))
    form = 48, "crop", request
    frames = make_decoder("pyav")._count(make_video().as_uri(), np.array([0.0, 1.0, 1.05, 2.0]), form)
    assert set(frames.thumbnails) == {1, 2}
    assert frames.thumbnails[1] == frames.thumbnails[2], "both times show one frame"


@pytest.mark.parametrize(
    ("sample", "clips", "times_s"),
    [
        (SampleConfig(thumbnails=3), [1, 3, 5], [1.0, 3.0, 5.0]),
        (SampleConfig(thumbnails=3, segment_s=2), [1, 3, 5], [1.0, 3.0, 5.0]),
        (SampleConfig(thumbnails=2, n_frames=4), [1, 3], [2.2, 5.2]),
        (SampleConfig(thumbnails=2, every_n=20), [0, 2], [0.0, 4.0]),
        (SampleConfig(thumbnails=0), [], []),
    ],
    ids=["fps", "segments", "n_frames", "every_n", "none"],
)
def test_a_segment_has_pictures_of_its_chosen_clips(make_video, sample, clips, times_s):
    uri = make_video(n_frames=60, fps=10).as_uri()
    probe, decode = ProbeVideos(DecodeConfig()), DecodeSegments(sample, DecodeConfig(), 32, "squash")
    try:
        plan = plan_segments([Video("a", uri)], [probe(uri)], sample)
        decoded = [decode(row) for row in plan.to_pylist()]
        broken = decode({**plan.to_pylist()[0], "uri": uri + "none"})
    finally:
        probe.close()
        decode.close()
    frames = pa.concat_tables([each["frames"] for each in decoded])
    assert frames.schema == FRAMES == broken["frames"].schema
    assert frames["clip_index"].to_pylist() == clips
    np.testing.assert_allclose(frames["time_s"].to_numpy(), times_s, atol=0.11)
    starts = np.concatenate([each["clip_start_s"] for each in decoded])
    assert frames["start_s"].to_pylist() == starts[clips].tolist()
    assert broken["frames"].num_rows == 0


# Written with the clips.


def test_pictures_lie_beside_their_clips(run):
    commit(run, "a", "b")
    with Committer(run) as committer:
        committer.add(clips_of("c", 1))
    names = run.files("embeddings")
    assert run.files("frames") == [name_beside(names[0])], "a file without pictures has no partner"
    assert pictures(run, "a", "b", "c") == {}, "without a plan nothing says which content is the present one"
    run.write_table("plan.parquet", plan_of("a", "b", "c"))
    assert pictures(run, "b", "c", "absent") == {"b": [b"b0", b"b1", b"b2"]}
    assert pictures(run, "a", at=np.array([-9.0, 0.4, 1.7, 99.0])) == {"a": [b"a0", b"a2"]}, "nearest, and once"


@pytest.mark.parametrize("at", ["frames", "embeddings"])
def test_a_kill_while_either_is_written_leaves_nothing_inconsistent(run, at, monkeypatch):
    """Whatever was written before, the rerun embeds what has no clips, and pictures and clips agree."""
    plan = plan_of("a", "b")
    run.write_table("plan.parquet", plan)
    commit(run, "a")
    write_bytes, write_tables = Run.write_bytes, Run.write_tables

    def killed(name: str) -> None:
        if name.startswith(at):
            raise RaypipeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_bytes", lambda run, name, content: killed(name) or write_bytes(run, name, content))
        patch.setattr(Run, "write_tables", lambda run, name, tables: killed(name) or write_tables(run, name, tables))
        with pytest.raises(RaypipeError, match="killed"):
            commit(run, "b", mark="lost")
    ledger = Ledger(run, plan)
    assert ledger.remaining()["video_id"].to_pylist() == ["b"], "nothing of it counts"
    assert len(run.files("frames")) == (1 if at == "frames" else 2)
    commit(run, "b")
    assert Ledger(run, plan).remaining().num_rows == 0
    assert pictures(run, "a", "b")["b"] == [b"b0", b"b1", b"b2"], "pictures of what was not committed count for nothing"
    account(run, plan)
    assert run.files("frames") == [name_beside(name) for name in run.files("embeddings")]
    assert run.read_table("frames").num_rows == 6


def account(run: Run, rows: pa.Table) -> None:
    plan = Plan(run, Videos(Video(name, f"file:///{name}") for name in rows["video_id"].to_pylist()))
    list(plan.account(plan.videos, np.zeros(len(plan.videos), bool), DIM, print))


def test_pictures_are_compacted_with_their_clips(run):
    plan = plan_of("a", "b", "c")
    run.write_table("plan.parquet", plan)
    commit(run, "a", "gone", mark="old")
    commit(run, "b", n=300)
    commit(run, "a")
    account(run, plan)
    merged, rest = sorted(run.files("embeddings"), reverse=True)
    assert run.files("frames") == [name_beside(rest), name_beside(merged)]
    assert set(run.read_table(name_beside(rest))["video_id"].to_pylist()) == {"gone"}, "another portion's video stays"
    assert run.n_groups(name_beside(merged)) == 2
    assert run.read_table(name_beside(merged)).num_rows == 303
    assert pictures(run, "a", "c") == {"a": [b"a0", b"a1", b"a2"]}
    before = run.files("frames")
    account(run, plan)
    assert run.files("frames") == before


def test_large_pictures_fill_a_file(run, monkeypatch):
    """A file of clips is merged with no more others than their pictures have room beside it."""
    plan = plan_of(*"abcd")
    run.write_table("plan.parquet", plan)
    for name in "abcd":
        commit(run, name)
    monkeypatch.setattr(embeddings, "FILE_BYTES", 3 * max(run.sizes("frames").values()))
    account(run, plan)
    assert len(run.files("frames")) == len(run.files("embeddings")) == 2
    assert {name: len(jpegs) for name, jpegs in pictures(run, *"abcd").items()} == dict.fromkeys("abcd", 3)


@pytest.mark.parametrize("stops_at", range(1, 5))
def test_a_kill_during_compaction_loses_no_picture(run, stops_at, monkeypatch):
    plan = plan_of("a", "b")
    run.write_table("plan.parquet", plan)
    commit(run, "a")
    commit(run, "b")
    removed, remove = [], Run.remove

    def killed(run, name):
        removed.append(name)
        if len(removed) == stops_at:
            raise KeyboardInterrupt
        remove(run, name)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            account(run, plan)
    expected = {name: [f"{name}{i}".encode() for i in range(3)] for name in "ab"}
    assert pictures(run, "a", "b") == expected
    account(run, plan)
    assert pictures(run, "a", "b") == expected
    assert len(run.files("frames")) == len(run.files("embeddings")) == 1


def test_pictures_of_a_file_that_changed_are_not_shown(run):
    commit(run, "a")
    run.write_table("plan.parquet", plan_of("a", fingerprint="g"))
    assert pictures(run, "a") == {}


# The config.


def test_other_pictures_need_no_other_embeddings():
    """What identifies the sampling is as it was before there were pictures, so older runs go on as well."""
    before, other = SampleConfig(), SampleConfig(thumbnails=0, thumbnail_px=96)
    assert before.pattern() == other.pattern() != SampleConfig(fps=3).pattern()
    assert set(before.model_dump()) - set(before.pattern()) == {"thumbnails", "thumbnail_px"}
    assert make_config(sets=("sample.thumbnails=0",)).sample.thumbnails == 0
