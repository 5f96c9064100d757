"""Planning, decoding and encoding segments, without a cluster."""

import numpy as np
import pyarrow as pa
import pytest

from raypipe.config import DecodeConfig, SampleConfig
from raypipe.encoders import make_encoder
from raypipe.errors import RaypipeError
from raypipe.runs import ledger
from raypipe.runs.accounting import account, failed_before, write_accounts
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.schema import FAILED, OK, SKIPPED, Failure, Probe, embeddings_schema
from raypipe.segments.planning import mean_frames, plan_precomputed, plan_segments
from raypipe.segments.sampling import Span, sample_span
from raypipe.segments.stages import DecodeSegments, EncodeSegments, ProbeVideos
from raypipe.sources.videos import Video, Videos
from raypipe.storage import local_path


def probe(duration_s=10.0):
    return Probe(duration_s, 64, 48, 10.0, int(duration_s * 10), "h264", "pyav")


class Brightness:
    """An encoder whose vector is the frame's mean colour; it refuses frames that are dark."""

    dim, image_size, resize_mode, fingerprint = 3, 32, "squash", "brightness"

    def __init__(self, refuse_below=-1.0):
        self.refuse_below = refuse_below
        self.batches = []

    def __call__(self, frames):
        self.batches.append(len(frames))
        vectors = frames.mean(axis=(1, 2)).astype(np.float32)
        if vectors.mean(axis=1).min() < self.refuse_below:
            raise ValueError("too\ndark")
        return vectors


def test_a_plan_has_a_row_a_segment_or_one_with_an_error():
    videos = [
        Video("whole", "file:///a.mp4"),
        Video("span", "file:///a.mp4", start_s=2.0, end_s=5.0),
        Video("late", "file:///a.mp4", start_s=11.0),
        Video("dead", "file:///b.mp4"),
        Video("long", "file:///c.mp4"),
    ]
    plan = plan_segments(
        videos, [probe(), probe(), probe(), Failure("probe", "no such file"), probe(3600)], SampleConfig()
    ).to_pylist()
    rows = {row["video_id"]: row for row in plan if row["segment"] == 0}
    assert (rows["whole"]["start_s"], rows["whole"]["end_s"]) == (0, 10)
    assert (rows["span"]["origin_s"], rows["span"]["span_s"], rows["span"]["end_s"]) == (2, 3, 5)
    assert rows["late"]["error"] == "its span begins at 11 s, and the file lasts 10 s"
    assert (rows["dead"]["error_stage"], rows["dead"]["error"]) == ("probe", "no such file")
    assert sum(row["video_id"] == "long" for row in plan) == 30


@pytest.mark.parametrize(
    "sample",
    [
        SampleConfig(),
        SampleConfig(fps=4, clip_s=0.5, stride_s=2),
        SampleConfig(every_n=5),
        SampleConfig(n_frames=5),
        SampleConfig(n_frames=1024),
    ],
    ids=lambda sample: str(sample.model_dump(exclude_defaults=True)),
)
def test_how_many_frames_a_segment_has_is_told_beforehand(sample):
    """Batches, and the memory that they take, are sized by it."""
    plan = plan_segments([Video("a", "file:///a.mp4")], [probe(240.0)], sample)
    rows, times_s = plan.to_pylist(), np.arange(2400) / 10
    spans = [Span(row["origin_s"], row["span_s"], row["start_s"], row["end_s"]) for row in rows]
    counts = [len(sample_span(span, sample, times_s).times_s) for span in spans]
    assert mean_frames(plan, sample) == np.mean(counts)


@pytest.fixture
def stages():
    made = []

    def make(sample=SampleConfig(), encoder=None):  # noqa: B008
        encoder = encoder or Brightness()
        decode = DecodeSegments(sample, DecodeConfig(), encoder.image_size, encoder.resize_mode)
        made.append(decode)
        return decode, EncodeSegments(encoder, sample, normalize=False)

    yield make
    for decode in made:
        decode.close()


def plan_of(*paths, sample=SampleConfig()):  # noqa: B008
    videos = [Video(path.stem, path.as_uri()) for path in paths]
    prober = ProbeVideos(DecodeConfig())
    try:
        return plan_segments(videos, [prober(video.uri) for video in videos], sample)
    finally:
        prober.close()


@pytest.mark.parametrize(
    ("sample", "n_clips"),
    [(SampleConfig(), 3), (SampleConfig(every_n=5), 6), (SampleConfig(n_frames=5), 5)],
    ids=["fps", "every_n", "n_frames"],
)
def test_decode_and_encode(make_video, stages, sample, n_clips):
    decode, encode = stages(sample)
    (row,) = plan_of(make_video(n_frames=30, fps=10), sample=sample).to_pylist()
    (table,) = encode([decode(row)])
    assert table.schema == embeddings_schema(3)
    assert table.column("clip_index").to_pylist() == list(range(n_clips))
    assert set(table.column("decoder").to_pylist()) == {"pyav"}
    assert table.column("error").null_count == n_clips
    brightness = [value[0] for value in table.column("embedding").to_pylist()]
    assert brightness == sorted(brightness)  # the test video grows brighter
    assert brightness[-1] - brightness[0] > 50


def test_segments_make_the_same_clips_as_the_whole(make_video, stages):
    path = make_video(n_frames=60, fps=10)
    tables = []
    for sample in (SampleConfig(), SampleConfig(segment_s=2.5)):
        decode, encode = stages(sample)
        plan = plan_of(path, sample=sample)
        clips = pa.concat_tables(encode([decode(row) for row in plan.to_pylist()]))
        tables.append(clips.drop_columns(["segment"]))
    assert plan.num_rows == 3
    assert tables[0].drop_columns(["embedding"]) == tables[1].drop_columns(["embedding"])
    first, second = (np.array(table.column("embedding").to_pylist()) for table in tables)
    np.testing.assert_allclose(first, second, atol=0.5)


def test_a_failed_segment_is_one_row(tmp_path, make_video, stages):
    decode, encode = stages()
    (row,) = plan_of(make_video()).to_pylist()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    table = pa.concat_tables(encode([decode({**row, "uri": broken.as_uri()}), decode(row)]))
    assert table.num_rows == 4
    first = table.slice(0, 1).to_pylist()[0]
    assert first["embedding"] is None
    assert first["error_stage"] == "decode"
    assert "\n" not in first["error"]


def test_an_encoder_error_costs_its_own_segment_alone(make_video, stages):
    decode, encode = stages(encoder=Brightness(refuse_below=60))
    plan = plan_of(make_video("dark.mp4", n_frames=30), make_video("two.mp4", n_frames=30))
    rows = [decode(row) for row in plan.to_pylist()]
    rows[1] = {**rows[1], "pixels": np.maximum(rows[1]["pixels"], 100)}
    dark, *light = pa.concat_tables(encode(rows)).to_pylist()
    assert (dark["error_stage"], dark["error"]) == ("encode", "ValueError: too dark")
    assert len(light) == 3
    assert all(row["error"] is None for row in light)


def test_frames_of_several_segments_share_batches(make_video, stages):
    encoder = Brightness()
    decode, encode = stages(encoder=encoder)
    encode([decode(row) for row in plan_of(make_video("a.mp4"), make_video("b.mp4")).to_pylist()])
    assert encoder.batches == [12]


def test_clips_are_normalised_like_frames(make_video, stages):
    decode, _ = stages()
    encoder = make_encoder("descriptor")
    decode = DecodeSegments(SampleConfig(), DecodeConfig(), encoder.image_size, encoder.resize_mode)
    (row,) = plan_of(make_video()).to_pylist()
    (clips,) = EncodeSegments(encoder, SampleConfig(), True)([decode(row)])
    values = np.array(clips.column("embedding").to_pylist())
    decode.close()
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, rtol=1e-5)


@pytest.fixture
def run(tmp_path):
    return Run(str(tmp_path / "run"))


def test_precomputed_paths_are_a_plan_and_its_clips(run):
    videos = [Video("a", "x#0"), Video("empty", "x#1")]
    paths = [np.arange(6, dtype=np.float64).reshape(3, 2), np.empty((0, 2))]
    plan, clips = plan_precomputed(videos, paths, "source")
    assert clips.schema.field("embedding").type == pa.list_(pa.float64(), 2)
    np.testing.assert_array_equal(clips.column("embedding").to_pylist(), paths[0])
    run.write_table("embeddings/precomputed.parquet", clips)
    table = account(Videos(tuple(videos)), Ledger(run, plan))
    assert table.column("status").to_pylist() == [OK, FAILED]


def test_clips_are_split_into_files_between_segments(monkeypatch):
    monkeypatch.setattr(ledger, "FILE_BYTES", 10 * (4 * 2 + 100))
    paths = [np.full((n, 2), n, np.float32) for n in (4, 4, 4, 25, 1, 2)]
    clips = plan_precomputed([Video(str(i), f"x#{i}") for i in range(6)], paths, "source")[1]
    files = [part["video_id"].unique().to_pylist() for part in ledger.split_clips(clips, 2)]
    assert files == [["0", "1", "2"], ["3"], ["4", "5"]]
    assert list(ledger.split_clips(clips[:0], 2)) == []


def test_accounts_say_what_became_of_every_video(run):
    found = Videos(
        tuple(Video(name, f"file:///{name}", extra={"site": 3, "fps": "x"}) for name in "abcdef"), n_ignored=2
    )
    probes = [probe(), probe(250), Failure("probe", "cannot be opened"), probe(), probe()]
    plan = plan_segments(found[:5], probes, SampleConfig())
    rows = [("a", 0, 0, "decord", None), ("a", 0, 1, "decord", None), ("b", 0, 0, "pyav", None)]
    rows += [("b", 1, None, None, "stopped"), ("b", 2, None, None, "later"), ("d", 0, None, None, "spins")]
    rows += [("e", 0, None, "pyav", None)]
    clips = [dict(zip(["video_id", "segment", "clip_index", "decoder", "error"], row, strict=True)) for row in rows]
    clips = [{**clip, "error_stage": "decode" if clip["error"] else None} for clip in clips]
    clips = [{**clip, "fingerprint": plan["fingerprint"][0].as_py()} for clip in clips]
    run.write_table("embeddings/0.parquet", pa.Table.from_pylist(clips, schema=embeddings_schema(1)))
    ledger = Ledger(run, plan)
    table = account(found, ledger)
    status = dict(zip(table.column("video_id").to_pylist(), table.to_pylist(), strict=True))
    assert [row["status"] for row in status.values()] == [OK, OK, FAILED, FAILED, FAILED, SKIPPED]
    assert [row["error"] for row in status.values()] == [
        None, "stopped", "cannot be opened", "spins", "no clip starts within the video", "beyond --limit"
    ]  # fmt: skip
    assert [row["error_stage"] for row in status.values()] == [None, "decode", "probe", "decode", "plan", "limit"]
    assert status["a"]["decoder"] == "decord"
    assert status["c"]["decoder"] is None
    assert table.column("site").to_pylist() == [3] * 6
    assert table.column("manifest_fps").to_pylist() == ["x"] * 6  # ``fps`` is what probing found
    said = []
    write_accounts(run, [table[:2], table[2:]], found.n_ignored, said.append)
    assert run.read_table("videos.parquet") == table
    assert said == [
        "6 found = 2 ok + 3 failed + 1 skipped",
        *(f"failed: {local_path(status[name]['uri'])}: {status[name]['error']}" for name in "cde"),
    ]
    info = run.info()
    assert info["counts"] == {"found": 6, "ok": 2, "failed": 3, "skipped": 1, "ignored": 2}
    assert (info["state"], info["implementations"]["decode"]) == ("embedded", "decord (1), pyav (1)")
    with pytest.raises(RaypipeError, match="none of 4 videos could be embedded; the first says: cannot be opened"):
        write_accounts(run, [table[2:]], 0, said.append)
    assert run.info()["counts"]["failed"] == 3, "the accounts are written all the same"
    assert failed_before(table).to_pylist() == ["c", "d", "e"]

    again = account(found, ledger, np.isin(np.arange(6), found.places(failed_before(table))))
    assert again["status"].to_pylist() == [OK, OK, *[SKIPPED] * 4]
    assert again["error"].to_pylist()[3] == "failed in an earlier run (--retry-failed tries again): spins"
    assert failed_before(again).to_pylist() == ["c", "d", "e"]
    said.clear()
    write_accounts(run, [again[:4], again[4:]], 0, said.append)
    assert said == [
        "6 found = 2 ok + 0 failed + 4 skipped",
        "skipped: 3 videos failed in an earlier run (--retry-failed tries again)",
    ]


def test_a_fingerprint_stands_for_file_encoder_and_sampling():
    videos = Videos(Video(name, f"file:///{name}") for name in "abcd")
    probes, versions = [probe(250), probe(), Failure("probe", "broken"), probe()], ["1", "1", "1", None]
    plan = plan_segments(videos, probes, SampleConfig(), versions, "descriptor")
    assert len(plan["fingerprint"].unique()) == 2
    other = plan_segments(videos, probes, SampleConfig(), versions, "clip")
    assert not set(plan["fingerprint"].to_pylist()) & set(other["fingerprint"].to_pylist())


@pytest.mark.parametrize("duration_s", [1e9, 1e15])
def test_a_wild_duration_is_refused_and_a_wild_rate_is_not_believed(duration_s):
    (row,) = plan_segments([Video("a", "file:///a")], [probe(duration_s)], SampleConfig()).to_pylist()
    assert row["error"] == f"the file claims to last {duration_s:.3g} s"
    fast = Probe(10.0, 64, 48, 1e9, 10, "h264", "pyav")
    assert plan_segments([Video("a", "file:///a")], [fast], SampleConfig(every_n=1)).num_rows == 2  # at 30 a second
