"""Source and run directory in a bucket: as on a disk, whatever the store goes through."""

import logging
import re
import threading
import time

import av
import numpy as np
import pyarrow as pa
import pytest
from clips import assert_same_clips, embed_without_ray, n_done, read_clips
from lerobot_sets import CAMERA, write_v3
from sessions import ONE_EACH
from tiny_encoder import TINY
from trouble import Fault, proxy_before
from videos import write_video

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.errors import RaypipeError, SourceError, UsageError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.runs.ledger import Ledger
from raypipe.segments.planning import plan_segments
from raypipe.segments.stages import DecodeSegments, ProbeVideos
from raypipe.sources import find_videos

moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'raypipe[test]'")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'raypipe[s3]'")

QUIET = Progress()
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIANOBODYSKEY000000",
    "AWS_SECRET_ACCESS_KEY": "nobody-s-secret-key-of-forty-letters-000",
}
N_VIDEOS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(N_VIDEOS):
        write_video(folder / f"{number}.mp4", n_frames=20 + 5 * number, size=(160, 120), seed=number)
    return folder


@pytest.fixture(scope="module")
def store(folder):
    """A bucket behind a `Proxy`; its address and keys lie in the environment, where Ray's workers find them too."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    target = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch, proxy_before(target) as proxy:
        # Of botocore's own tries, which may take seconds, two are enough: ours are to be seen.
        settings = {"AWS_ENDPOINT_URL": proxy.url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "2"}
        for name, value in (settings | SECRETS).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem().mkdir("bucket")
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def ray_near_store(own_ray, store):
    """Start a Ray whose workers have the store's address and keys."""
    with own_ray() as ray:
        yield ray


@pytest.fixture
def source(store, folder, request) -> str:
    """The videos in a place of the bucket that is this test's own; the store is well."""
    store.calm()
    url = f"s3://bucket/{request.node.name}/videos"
    for path in folder.iterdir():
        s3fs.S3FileSystem().pipe_file(f"{url}/{path.name}", path.read_bytes())
    return url


@pytest.fixture
def run(store, request) -> Run:
    return Run(f"s3://bucket/{request.node.name}/run")


def make(*sets):
    return make_config(flags={**TINY, "ray": ONE_EACH}, sets=sets)


def assert_no_key_is_told(run: Run) -> None:
    names = [path.removeprefix(f"{run.path()}/") for path in s3fs.S3FileSystem().find(run.path())]
    assert {"run.json", "log.jsonl", "videos.parquet", "plan.parquet"} < set(names)
    for name in names:
        is_table = name.endswith(".parquet")
        told = str(run.read_table(name).to_pylist()).encode() if is_table else run.read_bytes(name)
        assert not [key for key, secret in SECRETS.items() if secret.encode() in told], name


@pytest.fixture(scope="module")
def expected(folder):
    """The clips of the videos on the local disk."""
    return embed_without_ray(folder, make())


def test_errors_of_a_fifth_of_all_requests_change_nothing(ray_near_store, store, source, run, expected, monkeypatch):
    """And afterwards an object that has changed is refused, or embedded again, and the report is written there."""
    monkeypatch.setattr("raypipe.storage._FIRST_WAIT_S", 0.05)  # of the driver's, which asks many hundred times
    store.faults = (Fault(status=500, rate=0.1), Fault(status=503, rate=0.1), Fault(reset=True, rate=0.03))
    pipeline.embed(source, run, make(), QUIET)
    n_faults, n_requests = store.n_faults(), len(store.answers)
    store.calm()
    assert 0.1 * n_requests < n_faults > 10
    assert run.info()["counts"] == {"found": N_VIDEOS, "ok": N_VIDEOS, "failed": 0, "skipped": 0, "ignored": 0}
    assert_same_clips(read_clips(run), expected)
    assert n_done(run) == N_VIDEOS
    changed = s3fs.S3FileSystem().cat_file(f"{source}/0.mp4")
    s3fs.S3FileSystem().pipe_file(f"{source}/3.mp4", changed)
    with pytest.raises(UsageError, match=r"1 of 6 videos changed since .*, such as s3://\S+/3\.mp4: --re-embed"):
        pipeline.embed(source, run, make(), QUIET)
    pipeline.embed(source, run, make("source.re_embed=true"), QUIET)
    assert n_done(run) == 1
    changed = {("3.mp4", *key[1:]): value for key, value in expected.items() if key[0] == "0.mp4"}
    assert_same_clips(read_clips(run), changed | {k: value for k, value in expected.items() if k[0] != "3.mp4"})
    assert len(run.files("embeddings")) == 1
    config = make("reduce.n_components=2", "cluster.n_clusters=2", "cluster.n_init=1")
    store.faults = (Fault(status=503, rate=0.05),)
    pipeline.cluster(run, config, QUIET)
    pipeline.report(run, config, QUIET)
    store.calm()
    assert run.read_json("metrics.json")["sizes"] and run.files("plots") and run.files("thumbnails")
    assert run.read_table("clusters.parquet").num_rows == N_VIDEOS
    assert run.read_json("summary.json")
    mapping = run.read_bytes("video_cluster_mapping.csv").decode()
    assert all(f"{number}.mp4" in mapping for number in range(N_VIDEOS))
    assert run.read_bytes("report.html").startswith(b"<!doctype html>")
    assert all(run.read_bytes(name).startswith(b"\x89PNG") for name in run.files("plots"))
    assert all(run.read_bytes(name).startswith(b"\xff\xd8") for name in run.files("thumbnails"))
    assert_no_key_is_told(run)


@pytest.mark.slow
def test_troubles_of_single_objects_are_theirs_alone(ray_near_store, store, source, run, expected):
    """No error of theirs tells a key, though the store's words are quoted in it; nor does any other file of the run."""
    bucket = s3fs.S3FileSystem()
    content = bucket.cat_file(f"{source}/4.mp4")
    bucket.pipe_file(f"{source}/4.mp4", content[: len(content) // 2])
    size = bucket.size(f"{source}/1.mp4")
    bucket.pipe_file(f"{source}/6.mp4", content)
    store.faults = (
        Fault(on=r"GET /\S+/videos/0\.mp4", cut=0.5, first=2),
        Fault(on=r"GET /\S+/videos/1\.mp4", bytes_per_s=size / 2),  # slow, and in time
        Fault(on=r"GET /\S+/videos/2\.mp4", bytes_per_s=size / 60),  # too slow
        Fault(on=r"GET /\S+/videos/3\.mp4", cut=0.5),  # promises more than it sends, each time
        Fault(on=r"GET /\S+/videos/6\.mp4", status=403),
    )
    pipeline.embed(source, run, make("decode.deadline_s=12"), QUIET)
    store.calm()
    assert run.info()["counts"] == {"found": 7, "ok": 3, "failed": 4, "skipped": 0, "ignored": 0}
    rows = {row["uri"].rpartition("/")[2]: row for row in run.read_table("videos.parquet").to_pylist()}
    errors = {name: row["error"] for name, row in rows.items() if row["status"] == "failed"}
    assert errors.keys() == {"2.mp4", "3.mp4", "4.mp4", "6.mp4"}
    assert "no answer within 12 s" in errors["2.mp4"]
    assert "payload is not completed" in errors["3.mp4"]
    assert "Invalid data" in errors["4.mp4"]
    assert "PermissionError: Forbidden" in errors["6.mp4"]
    assert all("\n" not in error and len(error) < 500 for error in errors.values())
    assert_same_clips(read_clips(run), {key: value for key, value in expected.items() if key[0] not in errors})
    assert_no_key_is_told(run)


def test_a_store_that_is_away_at_the_start(store, source, run, folder, monkeypatch):
    monkeypatch.setattr("raypipe.storage.PATIENCE_S", 0.0)
    store.stop()
    try:
        with pytest.raises(SourceError, match=r"cannot find s3://bucket/\S+: .*[Cc]onnect") as caught:
            pipeline.embed(source, Run(str(folder.parent / "nothing")), make(), QUIET)
        assert "\n" not in str(caught.value)
        with pytest.raises(RaypipeError, match=r"cannot \w+ s3://bucket/\S+: .*when it can be reached") as caught:
            pipeline.embed(folder, run, make(), QUIET)
        assert "\n" not in str(caught.value)
    finally:
        store.start()
    with pytest.raises(RaypipeError, match="cannot write s3://no-bucket/run: there is no such bucket"):
        Run("s3://no-bucket/run").write_json("run.json", {})


@pytest.mark.slow
def test_a_store_that_goes_away_on_the_way(ray_near_store, store, source, run, expected, monkeypatch):
    """It vanishes after the first file of embeddings: a clear stop, and the same command goes on."""
    monkeypatch.setattr("raypipe.storage.PATIENCE_S", 2.0)  # of the driver's; the workers keep theirs
    config = make("ray.commit_s=0.3", "encode.batch_size=4")
    store.faults = (Fault(on=r"GET /\S+/videos/", delay_s=0.7),)

    def vanish() -> None:
        while not any("PUT" in answer.line and "/embeddings/" in answer.line for answer in list(store.answers)):
            time.sleep(0.02)
        store.stop()

    watch = threading.Thread(target=vanish, daemon=True)
    watch.start()
    with pytest.raises(RaypipeError, match=r"cannot \w+ s3://bucket/\S+: .*goes on when it can be reached") as caught:
        pipeline.embed(source, run, config, QUIET)
    watch.join(5)
    assert "\n" not in str(caught.value)
    store.start()
    store.calm()
    plan = run.read_table("plan.parquet")
    n_before = plan.num_rows - Ledger(run, plan).remaining().num_rows
    assert 0 < n_before < N_VIDEOS
    with pytest.raises(UsageError, match="run the same raypipe embed again"):
        pipeline.cluster(run, config, QUIET)
    pipeline.embed(source, run, config, QUIET)
    assert n_done(run) == N_VIDEOS - n_before, "nothing that was committed is done again"
    assert run.info()["counts"] == {"found": N_VIDEOS, "ok": N_VIDEOS, "failed": 0, "skipped": 0, "ignored": 0}
    assert_same_clips(read_clips(run), expected)


def test_a_key_that_stands_for_a_folder_is_no_file_of_a_run(store, run):
    """Consoles and tools that sync leave such empty keys; the report removes what it does not want in a folder."""
    store.calm()
    run.write_bytes("plots/a.png", b"picture")
    # s3fs takes the slash off a path, and would write an object beside the folder.
    s3fs.S3FileSystem().call_s3("put_object", Bucket="bucket", Key=f"{run.path('plots').partition('/')[2]}/", Body=b"")
    run.remove("nothing")  # It forgets what was listed.
    assert "" in [key.rpartition("/")[2] for key in s3fs.S3FileSystem().ls(run.path("plots"), detail=False)]
    assert run.files("plots") == ["plots/a.png"]
    assert run.sizes("plots") == {"plots/a.png": 7}


def test_a_scan_of_the_ledger_fetches_a_small_part_of_a_big_file(store, run):
    n, dim = 25_000, 512
    store.calm()
    ids = np.repeat([f"{i:036d}" for i in range(n // 10)], 10)
    table = {"video_id": ids, "segment": np.zeros(n, np.int32), "clip_index": np.arange(n, dtype=np.int32)}
    vectors = pa.array(np.random.default_rng(0).random(n * dim, dtype=np.float32))
    table |= {"embedding": pa.FixedSizeListArray.from_arrays(vectors, dim), "fingerprint": ["f"] * n}
    table |= {name: pa.nulls(n, pa.string()) for name in ("decoder", "error_stage", "error")}
    run.write_table("embeddings/00000000-x.parquet", pa.table(table))
    size = s3fs.S3FileSystem().size(run.path("embeddings/00000000-x.parquet"))
    assert size > 40e6
    plan = pa.table({"video_id": np.unique(ids), "segment": pa.array(np.zeros(n // 10, np.int32))})
    plan = plan.append_column("fingerprint", pa.array(["f"] * plan.num_rows))
    plan = plan.append_column("error", pa.nulls(plan.num_rows, pa.string()))
    assert Ledger(run, plan).remaining().num_rows == 0
    assert store.n_bytes("GET .*/embeddings/") < 0.02 * size


def test_episodes_of_a_dataset_are_read_by_ranges_and_little_else(store, tmp_path):
    """200 of 400 episodes, whose spans begin and end within files, in order, as a decoder's actor gets them."""
    store.calm()
    n_files, per_file, fps = 4, 100, 5
    lengths = [fps] * (n_files * per_file)
    spans = [(n // per_file, n % per_file * 1.0, n % per_file + 1.0) for n in range(len(lengths))]
    write_v3(tmp_path, lengths, fps=fps, spans={CAMERA: spans}, per_meta_file=100)
    path = f"videos/{CAMERA}/chunk-000/file-000.mp4"
    (tmp_path / path).parent.mkdir(parents=True)
    write_noise(tmp_path / path, per_file * fps, fps)
    sizes = packet_sizes(tmp_path / path)
    for number in range(1, n_files):
        (tmp_path / path.replace("file-000", f"file-{number:03d}")).hardlink_to(tmp_path / path)
    s3fs.S3FileSystem().put(f"{tmp_path}/", "s3://bucket/dataset/", recursive=True)
    store.calm()
    videos = find_videos("s3://bucket/dataset")
    assert len(videos) == len(lengths)
    n_metadata = store.n_bytes("GET /bucket/dataset/meta")
    wanted = videos[50:250]
    config = make("sample.fps=2", "sample.thumbnails=0")
    probe, decode = ProbeVideos(config.decode), DecodeSegments(config.sample, config.decode, 32, "squash")
    probes = {uri: probe(uri) for uri in wanted.table["uri"].unique().to_pylist()}
    plan = plan_segments(wanted, [probes[video.uri] for video in wanted], config.sample)
    decoded = [decode(row) for row in plan.to_pylist()]
    probe.close()
    decode.close()
    assert [row["error"] for row in decoded] == [None] * 200
    assert all(len(row["pixels"]) == 2 for row in decoded)
    n_wanted = sum(sum(sizes[n % per_file * fps :][:fps]) for n in range(50, 250))
    n_read = store.n_bytes(r"GET \S+\.mp4")
    assert n_wanted < n_read + n_metadata < 1.3 * n_wanted
    answers = [answer for answer in store.answers if re.search(r"GET \S+\.(mp4|parquet)", answer.line)]
    assert {answer.status for answer in answers} == {206}, "every answer is a part of a file"
    assert not store.n_bytes(r"GET \S+file-003\.mp4")


def test_two_slashes_in_a_key_are_not_one(store):
    store.calm()
    for key in ("dbl/a.mp4", "dbl//b.mp4", "dbl//x/c.mp4", "/d.mp4"):
        s3fs.S3FileSystem().call_s3("put_object", Bucket="bucket", Key=f"slashes/{key}", Body=b"x")
    for pattern, keys in {
        "dbl/*.mp4": ["dbl/a.mp4"],
        "dbl//*.mp4": ["dbl//b.mp4"],
        "dbl//**/*.mp4": ["dbl//b.mp4", "dbl//x/c.mp4"],
        "/*.mp4": ["/d.mp4"],
        "dbl/**/*.mp4": ["dbl/a.mp4", "dbl//b.mp4", "dbl//x/c.mp4"],
    }.items():
        found = find_videos(f"s3://bucket/slashes/{pattern}")
        assert [video.uri.removeprefix("s3://bucket/slashes/") for video in found] == keys


def test_workers_without_the_drivers_keys_are_told_in_one_line(own_ray, source, run):
    """Their videos are not failed ones, which later runs would skip."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # It would be asked for keys, and is no server here.
        with own_ray():
            patch.undo()
            said = r"a worker on \S+ lacks what the driver can read; .*s3://\S+/0\.mp4: NoCredentials"
            with pytest.raises(RaypipeError, match=said):
                pipeline.embed(source, run, make(), QUIET)
            assert run.info()["state"] == "embedding" and not run.files("embeddings")


def write_noise(path, n_frames: int, fps: int) -> None:
    """Write frames of 40 kB each: to look for a file's index and its length costs 3 MB, so files must not be tiny."""
    noise = [np.random.default_rng(seed).integers(0, 256, (384, 512, 3), np.uint8) for seed in range(4)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=fps, options={"q:v": "2"})
        stream.width, stream.height, stream.pix_fmt = 512, 384, "yuvj420p"
        for number in range(n_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise[number % 4], format="rgb24")))
        container.mux(stream.encode())


def packet_sizes(path) -> list[int]:
    with av.open(str(path)) as container:
        return [packet.size for packet in container.demux(video=0) if packet.size]
