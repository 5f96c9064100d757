"""The streaming chain on a local Ray."""

import contextlib
import copy
import gc
import io
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pretended_gpus
import pyarrow as pa
import pytest
from ray._private import node, ray_constants
from ray.data import ActorPoolStrategy
from ray.exceptions import RayTaskError
from sessions import ONE_EACH
from trouble import serve_folder
from videos import write_video
from waiting import wait_for

from raypipe import pipeline
from raypipe.config import RayConfig, make_config
from raypipe.engine import session, streaming, watching
from raypipe.engine.attempts import TRIES
from raypipe.engine.devices import as_task
from raypipe.engine.pools import plan_pools
from raypipe.engine.probing import _Prober
from raypipe.engine.reach import check_readable, find_readable
from raypipe.engine.session import ray_session, tell_busy, tell_full_disk
from raypipe.engine.shard_actors import ShardActor
from raypipe.engine.streaming import in_tasks, once, progressing, stream
from raypipe.engine.workers import DecoderActor, EncoderActor
from raypipe.errors import RaypipeError, SourceError, UsageError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.trajectories import build_trajectories

QUIET = Progress()
DESCRIPTOR = make_config(flags={"encode": {"encoder": "descriptor"}})
# Ray's DataContext sets its own deprecated fields when it is made: of these tests it is the user who makes it.
users_own_context = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


def test_pools_fit_the_ray_cluster():
    for cpus in (1, 2, 3, 8, 96):
        pools = plan_pools({"CPU": float(cpus)}, RayConfig(), 10_000)
        assert pools.decoders == cpus
        assert pools.gpus_per_encoder == 0
        assert (pools.decoders + pools.encoders) * pools.cpus <= 0.75 * cpus
    assert plan_pools({"CPU": 8.0}, RayConfig(), 10_000, frame_s=0.002).encoders == 4
    assert plan_pools({"CPU": 8.0}, RayConfig(), 10_000, frame_s=0.1).encoders == 8
    pools = plan_pools({"CPU": 32.0, "GPU": 4.0}, RayConfig(), 10_000)
    assert (pools.encoders, pools.gpus_per_encoder) == (4, 1)
    assert "4 encoder(s) on 1 GPU each" in pools.where
    for gpus, each, asked, encoders, share in [
        (2.0, 0.25, None, 8, 0.25),
        (2.0, 0.3, None, 6, 0.3333),
        (5.0, 0.4, None, 10, 0.5),  # two on each GPU, although 12 times 0.4 is less than 5
        (2.0, 0.5, 2, 2, 1.0),
        (2.0, 0.25, 3, 3, 0.5),
        (4.0, 0.1, 1, 1, 1.0),
        (4.0, 2.0, None, 2, 2.0),
    ]:
        pools = plan_pools({"CPU": 8.0, "GPU": gpus}, RayConfig(gpus_per_encoder=each, encoders=asked), 10_000)
        assert (pools.encoders, pools.gpus_per_encoder) == (encoders, share)
    few = plan_pools({"CPU": 8.0, "GPU": 2.0}, RayConfig(gpus_per_encoder=0.25), 10_000).for_tasks(2)
    assert (few.encoders, few.gpus_per_encoder) == (2, 1.0)
    assert plan_pools({"CPU": 8.0}, RayConfig(), 3).decoders == 3
    assert plan_pools({"CPU": 2.0}, RayConfig(decoders=50), 10_000).decoders == 50


def test_a_frame_is_timed():
    from raypipe.encoders import make_encoder
    from raypipe.engine.embedding import time_frame

    assert 0 < time_frame(make_encoder("descriptor")) < 1


def test_pools_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="3 encoders of 1 GPU need 3 GPUs and the Ray cluster has 2, room for 2"):
        plan_pools({"CPU": 8.0, "GPU": 2.0}, RayConfig(encoders=3), 100)
    with pytest.raises(UsageError, match="has no CPU"):
        plan_pools({"GPU": 2.0}, RayConfig(), 100)


def test_too_few_open_files_are_told_before_ray_starts(ray_elsewhere, monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda kind: (64, 4096))
    no_ray = "a process may open 64 files here, too few for Ray"
    with pytest.raises(RaypipeError, match=no_ray), ray_session(RayConfig()):
        pass


def test_without_a_ray_no_disk_is_too_full_for_it(ray_elsewhere, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=1e12, free=49e9))
    assert tell_full_disk() is None
    assert tell_busy() is None


def test_a_dead_address_is_one_line(ray_elsewhere):
    with pytest.raises(RaypipeError, match=r"cannot connect to the Ray cluster at 127\.0\.0\.1:1"):
        with ray_session(RayConfig(address="127.0.0.1:1")):
            pass


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_the_dashboard_s_address_is_one_line(ray_elsewhere, tmp_path, scheme):
    """Ray itself would try for minutes."""
    with serve_folder(tmp_path) as url, pytest.raises(RaypipeError, match="there is no Ray, but a web server"):
        with ray_session(RayConfig(address=f"{scheme}{url.removeprefix('http://')}")):
            pass


@pytest.mark.parametrize(("mode", "hint"), [("", "set RAY_AUTH_MODE=token"), ("token", "this machine's must be the")])
def test_where_it_may_be_the_token_is_said(ray_elsewhere, monkeypatch, mode, hint):
    def fail(**_):
        raise ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6379")

    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(RaypipeError, match=f"if it asks for a token, {hint}"), ray_session(RayConfig(address="auto")):
        pass


def test_a_ray_that_does_not_start_is_one_line(ray_elsewhere, monkeypatch):
    def fail(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(RaypipeError, match=r"cannot start Ray on this machine: .*current node timed out"):
        with ray_session(RayConfig(address="local")):
            pass


def test_where_ray_finds_no_place_for_its_files_the_remedy_is_said(ray_elsewhere, monkeypatch, tmp_path):
    """The names of its sockets have no room behind a long path."""
    folder = tmp_path / "long" / ("n" * 60)
    folder.mkdir(parents=True)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with pytest.raises(RaypipeError, match=r"cannot start Ray on this machine: .*; set RAY_TMPDIR to another folder"):
        with ray_session(RayConfig(address="local")):
            pass


def test_without_a_home_ray_starts_too(tmp_path):
    """As in a container of a user that it does not know, or whose disk is read-only: a token has no place there."""
    (tmp_path / "file").touch()
    write_video(tmp_path / "videos/a.mp4")
    command = [sys.executable, "-m", "raypipe", "embed", "videos", "-o", "run", "--encoder", "descriptor"]
    home = {"HOME": str(tmp_path / "file/home")}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **home}, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 found = 1 ok" in done.stderr


def test_no_garbage_is_left_when_ray_shuts_down(ray_elsewhere, monkeypatch):
    """Garbage in circles waits for the collector, which would free it in whichever thread is at work."""
    left = weakref.WeakSet()

    class Circle:
        def __init__(self):
            self.itself = self

    monkeypatch.setattr("ray.init", lambda **_: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(session, "_hush", lambda: None)
    ended: list[int] = []
    monkeypatch.setattr("ray.shutdown", lambda: ended.append(len(left)))
    gc.disable()
    try:
        with ray_session(RayConfig(address="local")):
            left.add(Circle())
            assert len(left) == 1
    finally:
        gc.enable()
    assert ended == [0]


@users_own_context
def test_what_starting_ray_sets_is_put_back(ray_elsewhere, monkeypatch, capfd):
    """Under `uv run`, where Ray would make an environment for each worker."""
    from ray._private.runtime_env import uv_runtime_env_hook as uv

    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", raising=False)
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    monkeypatch.setattr(uv, "_get_uv_run_cmdline", lambda: ["uv", "run", "python"])
    monkeypatch.setattr(uv, "hook", lambda _: pytest.fail("Ray makes environments"))
    own = signal.signal(signal.SIGTERM, lambda *_: None)
    logging.getLogger("ray").setLevel(logging.INFO)
    before = what_others_rely_on()
    try:
        with ray_session(RayConfig(address="local")) as resources:
            assert resources["CPU"] >= 1
            assert what_others_rely_on()["signals"] == before["signals"], "while it runs too"
        after = what_others_rely_on()
        assert {name: after[name] for name in after if after[name] != before[name]} == {}
        assert ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    finally:
        signal.signal(signal.SIGTERM, own)
    assert "constructor arguments" not in capfd.readouterr().err


def test_a_signal_while_ray_starts_does_what_it_did_before(ray_elsewhere, monkeypatch):
    """Ray, which has a handler of its own by then, would end the process with exit code 15, and say nothing."""
    monkeypatch.setattr(node, "Node", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    own = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), ray_session(RayConfig(address="local")):
            pass
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, own)


@pytest.fixture(scope="module")
def ray_two_fake_gpus(own_ray):
    with own_ray(num_gpus=2) as ray:
        yield ray


@pytest.fixture
def folder(tmp_path, make_video):
    for number in range(6):
        make_video(f"videos/{'ab'[number % 2]}/{number}.mp4", n_frames=20 + 5 * number, seed=number)
    return tmp_path / "videos"


def rows(run: Run) -> list[dict]:
    return run.read_table("videos.parquet").to_pylist()


def test_embed_accounts_for_everything(ray_two_fake_gpus, folder, tmp_path):
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video")
    (folder / "directory.mp4").mkdir()
    os.mkfifo(folder / "fifo.mp4")
    unreadable = folder / "unreadable.mp4"
    unreadable.write_bytes((folder / "a" / "0.mp4").read_bytes())
    unreadable.chmod(0)
    (folder / "notes.txt").write_text("beside them")
    run = Run(str(tmp_path / "run"))
    pipeline.embed(folder, run, DESCRIPTOR, QUIET)
    counts = run.info()["counts"]
    as_root = os.access(unreadable, os.R_OK)  # root reads what nobody may
    assert counts == {"found": 11, "ok": 6 + as_root, "failed": 5 - as_root, "skipped": 0, "ignored": 1}
    status = {Path(row["uri"]).name: row for row in rows(run)}
    for name, reason in {
        "empty": "0 bytes",
        "directory": "a directory",
        "fifo": "a FIFO",
        "text": "Invalid data",
    }.items():
        row = status[f"{name}.mp4"]
        assert (row["status"], row["error_stage"]) == ("failed", "probe")
        assert reason in row["error"]
    assert ray_two_fake_gpus.is_initialized(), "a session that was open before stays open"
    assert "2 encoder(s) on 1 GPU each" in run.info()["implementations"]["embed"]
    assert run.info()["implementations"]["decode"] == f"pyav ({6 + as_root})"


def test_a_disk_that_is_too_full_for_ray_is_told(ray_two_fake_gpus, monkeypatch):
    """Ray would wait on it for ever, and say so in a log of its own."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=1e12, free=51e9))
    assert tell_full_disk() is None
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=1e12, free=49e9))
    assert re.search("has 49.0 of 1000 GB free, .* the run will hang", tell_full_disk() or "")
    monkeypatch.setenv("RAY_local_fs_capacity_threshold", "0.99")
    assert tell_full_disk() is None


def test_ray_is_not_used_on_a_full_disk(ray_two_fake_gpus, monkeypatch):
    """Its workers would die as they start, for ever."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=1e12, free=9e6))
    with pytest.raises(RaypipeError, match="is full, and Ray writes its logs there: free some, or set RAY_TMPDIR"):
        with ray_session(RayConfig()):
            pass


def test_what_other_work_holds_is_told(ray_two_fake_gpus, monkeypatch):
    """Else a run waits without a word, as long as it is held."""

    class Holding:
        def ready(self) -> None:
            pass

    def told(**resources) -> str | None:
        holder = ray_two_fake_gpus.remote(Holding).options(**resources).remote()
        ray_two_fake_gpus.get(holder.ready.remote())
        try:
            return tell_busy()
        finally:
            ray_two_fake_gpus.kill(holder)

    wait_for(lambda: tell_busy() is None, 60)  # What the tests before took may still be on its way back.
    assert told(num_cpus=2, num_gpus=1).startswith("other work holds 2 of the 2 CPUs and 1 of the 2 GPUs of the Ray")
    assert tell_busy() is None, "what has just been given back is free"
    assert told(num_cpus=0.5) is None, "there is room enough"
    assert "--entrypoint" not in told(num_gpus=2)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert told(num_gpus=2).endswith(
        "what this job itself took by --entrypoint-num-cpus and the like is held until it ends: submit it without"
    ), "the job would wait for itself"


def test_what_ray_goes_on_without_is_told(ray_two_fake_gpus):
    def fail_on_odd(batch):
        if (batch["id"] % 2).any():
            raise ValueError("an odd number")
        return batch

    told, left = {}, 4
    numbers = in_tasks(pa.table({"id": range(4)}), 1.0, 1).map_batches(fail_on_odd)
    with progressing(lambda: left, lambda event, reason, times: told.update({reason: times})) as losses:
        left -= sum(batch.num_rows for batch in stream(numbers, losses))
    assert (left, told) == (2, {"ValueError: an odd number": 2})
    with pytest.raises(RaypipeError, match="Ray failed: ValueError: an odd number; run the same command again"):
        with progressing(lambda: left, lambda *_, **__: None) as losses:
            list(stream(numbers, losses))


def test_actors_that_die_as_they_start_end_the_work(ray_two_fake_gpus, monkeypatch):
    """Ray would start them for ever, for instance where each takes more memory than there is."""

    class Killed:
        def __init__(self):
            os._exit(1)

    monkeypatch.setattr(watching, "_STARTS", 2)
    monkeypatch.setattr(watching, "_LOOK_S", 0.2)
    numbers = in_tasks(pa.table({"id": range(4)}), 1.0, 2).map_batches(Killed, compute=ActorPoolStrategy(size=2))
    with pytest.raises(RaypipeError, match=r"every Killed has died 2 times as it started"):
        with progressing(lambda: 4, lambda *_, **__: None) as losses:
            list(stream(numbers, losses))


def test_a_row_that_comes_twice_is_passed_on_once():
    left = np.array([True, True, False, True, True])
    blocks = [pa.table({"row": rows, "is_first": first}) for rows, first in [
        ([3, 0, 3], [True, True, False]), ([2, 0], [False, False]), ([0, 1], [False, True]),
    ]]  # fmt: skip
    told = [batch.to_pydict() for batch in once(blocks, left)]
    assert told == [{"row": [3, 0], "is_first": [True, True]}, {"row": [1], "is_first": [True]}]
    assert left.tolist() == [False, False, False, False, True]


def test_rays_dashboard_tells_what_a_dataset_is_for(ray_two_fake_gpus):
    dataset = in_tasks(pa.table({"n": [1, 2]}), 1.0, 1, "raypipe_embed").map_batches(lambda batch: batch)
    assert dataset.get_dataset_id().startswith("raypipe_embed_")


def what_others_rely_on() -> dict:
    """What of this process a user's own program may have set, as far as we might touch it."""
    import torch
    from ray.data import DataContext

    log = logging.getLogger("ray.data")
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data", *streaming._REPORTS)]
    return {
        "context": copy.deepcopy(vars(DataContext.get_current())),
        "logs": [(each.level, each.disabled, each.propagate, [*each.filters], [*each.handlers]) for each in loggers],
        "screens": [(handler.level, [*handler.filters]) for handler in log.handlers],
        # Modules that Ray imports late may have filters of their own.
        "warnings": [each for each in warnings.filters if not each[2].__module__.startswith("aiohttp")],
        # Ray's core reads RAY_AUTH_MODE once a process: without it, nodes started later would refuse our calls.
        "environment": {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"},
        "path": [*sys.path],
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        "threads": torch.get_num_threads(),
    }


@pytest.fixture
def users_rows(ray_two_fake_gpus):
    """Return a function that runs a user's own dataset, one row of which fails: how many rows come, or the error."""

    def fail_on_60(row):
        if row["item"] == 60:
            raise ValueError("60")
        return row

    def run() -> int | str:
        dataset = ray_two_fake_gpus.data.from_items(list(range(100)), override_num_blocks=4)
        try:
            return len(dataset.map(fail_on_60, num_cpus=0.1).take_all())
        except RayTaskError as error:
            return type(error.cause).__name__

    run()  # Ray sets some things when a dataset first runs.
    return run


class Beside(Progress):
    """Does something in another thread while videos are embedded, and may have the embedding fail then."""

    def __init__(self, work, fails):
        self.work, self.fails, self.found = work, fails, []

    @contextlib.contextmanager
    def count(self, what, total, unit="videos"):
        def advance(n):
            if what == "embedding" and not self.found:
                thread = threading.Thread(target=lambda: self.found.extend(self.work()))
                thread.start()
                thread.join()
                if self.fails:
                    raise RaypipeError("on the way")

        yield advance


GUEST_ENCODER = """
class Mean:
    dim, image_size, resize_mode, fingerprint = 3, 16, "squash", "1"

    def __call__(self, frames):
        return frames.mean(axis=(1, 2)).astype("float32")
"""


@users_own_context
def test_a_users_own_datasets_are_not_touched(users_rows, folder, tmp_path, monkeypatch):
    """A failing row raises before an embedding, beside it in another thread, after it, and after one that failed."""
    import sklearn  # noqa: F401  It sets an environment variable, which is not to be taken for raypipe's doing.

    (tmp_path / "guest_encoder.py").write_text(GUEST_ENCODER)
    monkeypatch.chdir(tmp_path)
    flags = {"encode": {"encoder": "guest_encoder:Mean", "normalize": False}, "ray": ONE_EACH}
    screen, raises = io.StringIO(), "UserCodeException"
    handler = logging.StreamHandler(screen)
    handler.setLevel(logging.INFO)  # as Ray's own
    monkeypatch.setattr(logging.getLogger("ray.data"), "handlers", [handler])
    before = what_others_rely_on()
    assert users_rows() == raises
    for fails in (True, False):
        run = Run(str(tmp_path / f"run-{fails}"))
        beside = Beside(lambda: (users_rows(), what_others_rely_on()["context"]), fails)
        with pytest.raises(RaypipeError, match="on the way") if fails else contextlib.nullcontext():
            pipeline.embed(folder, run, make_config(flags=flags), beside)
        assert beside.found == [raises, before["context"]]
        after = what_others_rely_on()
        assert {name: after[name] for name in after if after[name] != before[name]} == {}
        assert users_rows() == raises
    assert screen.getvalue().count("An exception was raised from a task") == 5, "theirs are told as ever"
    told = [line for line in screen.getvalue().splitlines() if "registers for logging while another" not in line]
    assert not [line for line in told if "raypipe" in line or "Actor)" in line], "and of ours is told nothing"


def test_nothing_embedded_is_an_error(ray_two_fake_gpus, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_text("no")
    with pytest.raises(RaypipeError, match=r"none of 1 videos could be embedded; the first says: .*a\.mp4"):
        pipeline.embed(tmp_path / "videos", Run(str(tmp_path / "run")), DESCRIPTOR, QUIET)


def test_a_worker_sees_the_gpus_that_ray_assigned_to_it(ray_two_fake_gpus):
    """Without a GPU Ray 2.60 hides none of its node's; the driver and a user's own tasks go on seeing them."""
    ray = ray_two_fake_gpus
    ray.cloudpickle.register_pickle_by_value(pretended_gpus)  # Workers cannot import it.
    pretend_gpus, seen = pretended_gpus.pretend_gpus, pretended_gpus.seen

    class Looking:
        def __init__(self):
            pretend_gpus()

        def look(self, made):
            """Return what is seen after each of some things is made."""
            told = []
            for kind, arguments in made:
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)
                kind(*arguments)
                told.append(seen())
            return told

    def look():
        pretend_gpus()
        return seen()

    sample, decode, encode = DESCRIPTOR.sample, DESCRIPTOR.decode, DESCRIPTOR.encode
    made = [
        # It asks torch for its device, and would fail to find that.
        (EncoderActor, (sample, encode, "descriptor-1/l2", "/", None)),
        (DecoderActor, (sample, decode, 224, "crop", None)),
        (_Prober, (decode,)),
        (ShardActor, (1,)),
    ]
    nothing = {"visible": "", "torch": "cpu", "umap": "umap-learn", "softdtw": "numba"}
    one = {"torch": "cuda", "umap": "cuml", "softdtw": "cupy"}
    without, with_one = (ray.remote(Looking).options(num_cpus=0, num_gpus=n).remote() for n in (0, 1))
    assert ray.get(without.look.remote(made)) == [nothing] * 4
    (alone,) = ray.get(with_one.look.remote(made[-1:]))
    assert alone == {**one, "visible": alone["visible"]}
    assert alone["visible"] in ("0", "1")
    for actor in (without, with_one):
        ray.kill(actor)

    users = ray.remote(look)
    assert ray.get(users.remote()) == {**one, "visible": None}
    assert ray.get(as_task(look).remote()) == nothing
    assert ray.get(users.remote()) == {**one, "visible": None}
    assert ray.get(as_task(look, num_gpus=1).remote()) == {**one, "visible": "0"}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


FAILING_ENCODER = """
import contextlib
import os
import time
from pathlib import Path
import numpy as np

STARTS = Path({starts!r})

class Failing:
    dim, image_size, resize_mode, fingerprint = 2, 16, "squash", "1"

    def __init__(self):
        self.is_driver = os.getpid() == {driver}
        for number in range(0 if self.is_driver else 99):
            with contextlib.suppress(FileExistsError), open(STARTS / str(number), "x") as file:
                file.write(os.environ["CUDA_VISIBLE_DEVICES"])
                break
        if not self.is_driver and number < {failing}:
            raise OSError("no weights yet")

    def __call__(self, frames):
        ends = time.monotonic() + 60
        while len(list(STARTS.iterdir())) < {starting} and not self.is_driver:  # until all have started
            assert time.monotonic() < ends
            time.sleep(0.05)
        return np.tile(np.float32([1, os.getpid()]), (len(frames), 1))
"""


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """Return a function that makes a config whose encoder's first so many starts fail, and a folder of its starts."""
    monkeypatch.chdir(tmp_path)

    def config_with(failing: int, starting: int, **ray):
        starts = tmp_path / f"starts-{failing}"
        starts.mkdir()
        options = {"starts": str(starts), "driver": os.getpid(), "failing": failing, "starting": starting}
        (tmp_path / f"failing_{failing}.py").write_text(FAILING_ENCODER.format(**options))
        encode = {"encoder": f"failing_{failing}:Failing", "normalize": False, "batch_size": 1}
        return make_config(flags={"encode": encode, "ray": ray}), starts

    return config_with


def test_encoders_that_may_share_a_gpu_are_spread_and_started_again(ray_two_fake_gpus, folder, tmp_path, failing):
    """Two of half a GPU each: Ray would put both on the first. And one start that fails would end the whole pass."""
    config, starts = failing(1, 3, encoders=2, decoders=1, gpus_per_encoder=0.5)
    run = Run(str(tmp_path / "run"))
    pipeline.embed(folder, run, config, QUIET)
    assert run.info()["implementations"]["embed"].startswith("1 decoder(s) on CPU, 2 encoder(s) on 1 GPU each")
    assert run.info()["counts"]["ok"] == 6
    assert sorted((starts / number).read_text() for number in "12") == ["0", "1"], "the first one failed"
    assert "no weights yet" in Path(run.path("log.jsonl")).read_text(), "what is caught is recorded"


def test_an_encoder_that_never_starts_is_one_line(ray_two_fake_gpus, folder, tmp_path, failing):
    config, starts = failing(99, 1, **ONE_EACH)
    with pytest.raises(RaypipeError) as caught:
        pipeline.embed(folder, Run(str(tmp_path / "run")), config, QUIET)
    error = "EncoderError: encoder failing_99:Failing: Failing() failed: OSError: no weights yet"
    assert str(caught.value) == f"Ray failed: an actor's start failed: {error}; run the same command again to continue"
    assert len(list(starts.iterdir())) == TRIES


def test_beyond_a_limit_and_back_in_a_source_that_changed(ray_two_fake_gpus, folder, tmp_path, make_video):
    config = make_config(base=DESCRIPTOR.model_dump(), flags={"ray": ONE_EACH})
    few = make_config(base=config.model_dump(), sets=("source.limit=2",))
    run = Run(str(tmp_path / "run"))
    pipeline.embed(folder, run, few, QUIET)
    assert run.info()["counts"] == {"found": 6, "ok": 2, "failed": 0, "skipped": 4, "ignored": 0}
    make_video("videos/a/extra.mp4", n_frames=25, seed=9)
    (folder / "a" / "2.mp4").unlink()
    pipeline.embed(folder, run, config, QUIET)
    assert run.info()["counts"] == {"found": 6, "ok": 6, "failed": 0, "skipped": 0, "ignored": 0}
    names = [Path(row["uri"]).name for row in rows(run)]
    assert names == ["0.mp4", "4.mp4", "extra.mp4", "1.mp4", "3.mp4", "5.mp4"]
    assert build_trajectories(run).video_ids == tuple(row["video_id"] for row in rows(run))


@pytest.mark.parametrize("place", ["disk", "server"])
def test_what_the_driver_can_read_a_worker_must(proxy, served, tmp_path, place):
    root = str(served) if place == "disk" else proxy.url
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in (f"{root}/gone.mp4", str(tmp_path), str(tmp_path / "pipe.mp4")):
        assert find_readable(pa.chunked_array([[name]])) == []
    files = find_readable(pa.chunked_array([[f"{root}/a.mp4", f"{root}/gone.mp4"]]))
    assert files == [f"{root}/a.mp4"]
    assert not proxy.n_bytes(r"GET \S+/a\.mp4")
    for fine in (files, []):
        check_readable(fine)
    with pytest.raises(SourceError, match=r"lacks what the driver can read; it needs .*: no such file or folder$"):
        check_readable([*files, f"{root}/gone.mp4"])


def test_files_of_all_parts_of_a_source_are_tried(tmp_path):
    """A manifest may name files on several disks, of which a machine may lack one."""
    for number in range(100):
        (tmp_path / f"{number:03d}.mp4").touch()
    uris = [str(path) for path in sorted(tmp_path.iterdir())]
    tried = [uris.index(file) for file in find_readable(pa.chunked_array([uris]))]
    assert tried[0] == 0 and tried[-1] == 99 and max(np.diff(tried)) <= 15
    assert find_readable(pa.chunked_array([[f"{uris[0]}", f"{uris[0]}"]])) == uris[:1]


def test_what_a_worker_could_read_may_be_removed_before_it_starts_again(ray_local, tmp_path):
    """Ray waits for ever for an actor whose second start fails."""

    class Reader:
        def __init__(self, file):
            check_readable([file])

        def tell(self):
            return os.getpid()

    file = tmp_path / "a.mp4"
    file.touch()
    reader = ray_local.remote(Reader).options(num_cpus=0, max_restarts=1, max_task_retries=-1).remote(str(file))
    first = ray_local.get(reader.tell.remote(), timeout=60)
    file.unlink()
    os.kill(first, signal.SIGKILL)
    assert ray_local.get(reader.tell.remote(), timeout=60) != first
