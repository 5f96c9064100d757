"""Bad inputs: whatever a file holds it costs no more than its own error, and the good ones do not suffer."""

import os
import statistics
import struct
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mutations import read_sources, write_mutations
from outlines import Element, outline

from raypipe import pipeline
from raypipe.config import DecodeConfig, SampleConfig, make_config
from raypipe.decoders.container import OpenVideo
from raypipe.decoders.sandbox import Sandbox
from raypipe.errors import DecodeError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.schema import Failure, Probe
from raypipe.segments.planning import plan_segments
from raypipe.segments.stages import DecodeSegments, ProbeVideos
from raypipe.sources import find_videos
from raypipe.sources.videos import Video as FoundVideo

SEED = 4
DECODE = DecodeConfig(deadline_s=3, deadline_factor=1)  # not the default 20, so that what hangs is over sooner
MOST_SEGMENTS = 200  # of one video: no wild number in a header may make more of a file of a few seconds
WHOLE_S = {24: 90, 200: 420}  # that a run over so many bad files may take on two busy cores, Ray's start included


@dataclass
class Trial:
    """What became of one file, by the engine's own stages: probed, planned, decoded."""

    outcome: str
    seconds: float
    reason: str
    memory: int  # bytes that the child that decoded it has held at most, ever

    @property
    def overran(self) -> int:
        return self.reason.count("no answer within")


class Chain:
    """The stages without Ray."""

    def __init__(self) -> None:
        self._probe = ProbeVideos(DECODE)
        self._decode = DecodeSegments(SampleConfig(), DECODE, 224, "crop")

    def __call__(self, path: Path) -> Trial:
        started = time.monotonic()
        probe = self._probe(str(path))
        plan = plan_segments([FoundVideo("v", str(path))], [probe], SampleConfig()).to_pylist()
        assert len(plan) <= MOST_SEGMENTS, f"{path.name}: {len(plan)} segments"
        decoded = [self._decode(row) for row in plan if row["error"] is None]
        reasons = [each["error"] for each in (*plan, *decoded) if each["error"]]
        frames = sum(len(each["pixels"]) for each in decoded)
        outcome = (
            "unopened" if isinstance(probe, Failure) else "failed" if not frames else "partly" if reasons else "ok"
        )
        return Trial(outcome, time.monotonic() - started, " | ".join(reasons), self._memory())

    def _memory(self) -> int:
        child = self._decode._sandbox._child
        if child is None or not Path("/proc/self/status").exists():
            return 0
        assert os.fstat(child._memory).st_size < 1 << 20, "frames were left in the memory file"
        lines = Path(f"/proc/{child._process.pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def close(self) -> None:
        self._probe.close()
        self._decode.close()


@pytest.fixture(scope="module")
def sources(data_dir, tmp_path_factory):
    return read_sources(data_dir / "videos", tmp_path_factory.mktemp("sources"))


@pytest.fixture
def folder(sources, tmp_path, request):
    """Return a folder of bad videos, each with its kind, and good ones among them."""
    n_bad, n_good = request.param
    kinds = {}
    (tmp_path / "videos").mkdir()
    with Sandbox(deadline_s=120) as sandbox:  # which files are taken must not depend on how busy the machine is

        def opens(path: Path) -> bool:
            try:
                return bool(sandbox.probe(str(path)))
            except DecodeError:
                return False

        kinds = dict(write_mutations(sources, tmp_path / "videos", n_bad, SEED, opens))
    assert len(kinds) == n_bad
    sound = [source for group in sources[:1] + sources[2:3] for source in group]  # asl, robot_tasks
    good = []
    for number in range(n_good):
        source = sound[number * len(sound) // n_good]
        good.append(tmp_path / "videos" / f"{number * 20:04d}_good_{source.name}{source.suffix}")
        good[-1].write_bytes(source.data)
    return SimpleNamespace(path=tmp_path / "videos", kinds=kinds, good=good)


def embed(folder: Path, run: Run, monkeypatch) -> float:
    """Run the whole of ``raypipe embed`` on a Ray of its own; nothing of it may stay. Return its seconds."""
    mark = f"RAYPIPE_TEST_{uuid.uuid4().hex}"
    monkeypatch.setenv(mark, "1")
    flags = {"encode": {"encoder": "descriptor"}, "decode": DECODE.model_dump()}
    started = time.monotonic()
    pipeline.embed(folder, run, make_config(flags=flags), Progress())
    seconds = time.monotonic() - started
    end = time.monotonic() + 20
    while left := processes_with(mark):
        assert time.monotonic() < end, f"still running: {left}"
        time.sleep(0.1)
    return seconds


def processes_with(mark: str) -> list[str]:
    """Return the command lines of the processes that have inherited a variable."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        except OSError:
            continue
    return found


def check_accounts(run: Run, folder) -> Counter:
    """Every file is accounted for, and every reason is one line; the good ones are whole."""
    videos = {Path(row["uri"]).name: row for row in run.read_table("videos.parquet").to_pylist()}
    n = len(folder.kinds) + len(folder.good)
    assert len(videos) == n == len(find_videos(folder.path))
    counts = run.info()["counts"]
    assert counts["found"] == n == counts["ok"] + counts["failed"] + counts["skipped"]
    for name, row in videos.items():
        assert (row["status"] == "ok") or row["error"], f"{name} failed without a reason"
        if row["error"]:
            assert len(row["error"].splitlines()) == 1 and len(row["error"]) < 1000, (name, row["error"])
            assert "Traceback" not in row["error"] and row["error_stage"] in ("probe", "decode", "plan")
    for path in folder.good:
        assert (videos[path.name]["status"], videos[path.name]["error"]) == ("ok", None)
    return Counter(videos[path.name]["status"] for path in folder.kinds)


@pytest.mark.parametrize("folder", [(24, 6)], indirect=True)
def test_bad_videos_cost_their_own_errors(folder, tmp_path, monkeypatch):
    assert embed(folder.path, Run(str(tmp_path / "run")), monkeypatch) < WHOLE_S[24]
    outcomes = check_accounts(Run(str(tmp_path / "run")), folder)
    assert outcomes["ok"] >= 10 and outcomes["failed"] >= 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("folder", [(200, 40)], indirect=True)
def test_two_hundred_bad_videos(folder, tmp_path, monkeypatch):
    from bench.machine import keep

    seconds = embed(folder.path, Run(str(tmp_path / "run")), monkeypatch)
    outcomes = check_accounts(Run(str(tmp_path / "run")), folder)
    trials, figures = compare(folder)
    by_kind = {kind: Counter() for kind in sorted(set(folder.kinds.values()))}
    for path, kind in folder.kinds.items():
        by_kind[kind][trials[path].outcome] += 1
    slowest = max(folder.kinds, key=lambda path: trials[path].seconds)
    figures |= {
        "seed": SEED,
        "deadline_s": [DECODE.deadline_s, DECODE.deadline_factor],
        "bad": len(folder.kinds),
        "opened": sum(trials[path].outcome != "unopened" for path in folder.kinds),
        "outcomes": Counter(trials[path].outcome for path in folder.kinds),
        "by_kind": by_kind,
        "ray_run": {"seconds": round(seconds, 1), "videos": len(folder.kinds) + len(folder.good), "bad": outcomes},
        "slowest": {"file": slowest.name, "seconds": round(trials[slowest].seconds, 2)},
        "deadlines_hit": sum(trials[path].overran for path in folder.kinds),
        "children_died": sum("its process" in trials[path].reason for path in folder.kinds),
        "child_peak_mib": round(max(trial.memory for trial in trials.values()) / 2**20),
    }
    print(f"kept in {keep('mutations', figures)}: {figures}")
    assert seconds < WHOLE_S[200]
    assert figures["opened"] >= 100
    assert figures["good_throughput_ratio"] > 0.8


def compare(folder, rounds: int = 3) -> tuple[dict[Path, Trial], dict]:
    """Time each good file in stages that meet the bad ones too, and right beside that in stages that do not.

    A good file's time is its own: what a bad one before it leaves behind, such as a child to be started anew, counts
    with it, and what the bad one itself took, deadlines included, does not.
    """
    before = len(list(Path("/dev/fd").iterdir()))
    alone: dict[Path, list[float]] = {path: [] for path in folder.good}
    mixed: dict[Path, list[float]] = {path: [] for path in folder.good}
    trials: dict[Path, Trial] = {}
    for number in range(rounds):
        calm, troubled = Chain(), Chain()
        sides = [(calm, alone), (troubled, mixed)]
        for chain, _ in sides:
            chain(folder.good[0])  # starts the children
        for path in sorted(folder.path.iterdir()):
            if path in folder.kinds:
                trials[path] = troubled(path)
                continue
            for chain, times in sides if number % 2 else reversed(sides):
                trials[path] = chain(path)
                assert trials[path].outcome == "ok"
                times[path].append(trials[path].seconds)
        for chain, _ in sides:
            chain.close()
    assert len(list(Path("/dev/fd").iterdir())) <= before + 1  # the thread that starts children may have come to be
    alone_s, mixed_s = (sum(statistics.median(each) for each in times.values()) for times in (alone, mixed))
    return trials, {
        "good": len(folder.good),
        "good_alone_s": round(alone_s, 2),
        "good_among_bad_s": round(mixed_s, 2),
        "good_throughput_ratio": round(alone_s / mixed_s, 3),
        "bad_s": round(sum(trials[path].seconds for path in folder.kinds), 2),
        "of_which_overran_s": round(sum(trials[path].seconds for path in folder.kinds if trials[path].overran), 2),
    }


# --- what the mutations brought to light


def overwrite(source: Path, target: Path, kind: bytes, value: bytes, at: int = 0) -> Path:
    """Overwrite a piece of the first element of a kind."""
    data = bytearray(source.read_bytes())
    element: Element = next(each for each in outline(bytes(data)) if each.kind == kind)
    start = element.body + at
    data[start : start + len(value)] = value
    target.write_bytes(data)
    return target


def test_a_wild_duration_is_measured(data_dir, tmp_path):
    source = data_dir / "videos/asl/again.mkv"
    with Sandbox() as sandbox:
        true = sandbox.probe(str(source)).duration_s
        for number, claimed in enumerate((1e9, 1e15, -1.0, float("inf"), float("nan"))):
            path = overwrite(source, tmp_path / f"{number}.mkv", b"\x44\x89", struct.pack(">d", claimed))
            assert sandbox.probe(str(path)).duration_s == pytest.approx(true, abs=0.6)


def test_a_long_video_of_few_bytes_keeps_its_duration(tmp_path, make_video):
    """A picture for hours is no garbage as long as there is a frame now and then."""
    import av

    short, path = make_video(n_frames=200, fps=25), tmp_path / "slow.mp4"
    with av.open(str(short)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream, packet.pts, packet.dts = stream, packet.pts * 25 * 60, packet.dts * 25 * 60
                packet.duration *= 25 * 60
                out.mux(packet)
    with Sandbox("pyav") as sandbox:
        assert sandbox.probe(str(path)).duration_s == pytest.approx(200 * 60, rel=0.02)


def test_wild_times_are_refused(sources, tmp_path):
    avi = next(source for group in sources for source in group if source.suffix == ".avi")
    (tmp_path / "sound.avi").write_bytes(avi.data)
    path = overwrite(tmp_path / "sound.avi", tmp_path / "wild.avi", b"strh", struct.pack("<II", 10**9, 1), at=20)
    with Sandbox() as sandbox:
        assert sandbox.probe(str(tmp_path / "sound.avi")).duration_s < 5
        with pytest.raises(DecodeError, match=r"its times are invalid: \d+ frames in \S+ s"):
            sandbox.probe(str(path))


def test_a_wild_frame_rate_is_unknown(data_dir, tmp_path):
    path = overwrite(data_dir / "videos/asl/again.mkv", tmp_path / "a.mkv", b"\x23\xe3\x83", struct.pack(">I", 1))
    with Sandbox() as sandbox:
        assert sandbox.probe(str(path)).fps == 0


@pytest.mark.parametrize(("aspect", "believed"), [(Fraction(10**9), 1), (Fraction(64, 45), 64 / 45), (None, 1)])
def test_wild_pixels_are_square(aspect, believed):
    stream = SimpleNamespace(sample_aspect_ratio=aspect)
    assert OpenVideo("a", None, stream, 0, None).pixel_aspect == believed


def test_titles_in_other_encodings(data_dir, tmp_path):
    data = (data_dir / "videos/asl/again.mkv").read_bytes()
    assert b"Lavf" in data
    (tmp_path / "latin.mkv").write_bytes(data.replace(b"Lavf", b"\xe9t\xe9 "))
    with Sandbox("pyav") as sandbox:
        assert isinstance(sandbox.probe(str(tmp_path / "latin.mkv")), Probe)


def test_damaged_frames_are_told(data_dir, tmp_path):
    source = (data_dir / "videos/robot_tasks/stack/task_resets__stack_D0.mp4").read_bytes()
    damaged = bytearray(source)
    damaged[len(source) // 3 : len(source) // 3 + 200] = bytes(200)
    (tmp_path / "damaged.mp4").write_bytes(damaged)
    with Sandbox("pyav") as sandbox:
        frames = sandbox.frames(str(tmp_path / "damaged.mp4"), np.arange(0, 4, 0.08), 32, "crop", span_s=4)
    assert len(frames.pixels) == 50
    assert frames.error.endswith("of 50 frames are damaged")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel bounds memory on Linux alone")
def test_memory_is_bounded():
    program = """
        import numpy as np
        from raypipe.decoders.sandbox import _MOST_MEMORY, _bound_memory
        def has(n_bytes):
            try:
                return bool(np.empty(n_bytes, np.uint8).size)
            except MemoryError:
                return False
        for name in ("pyav", "mine:Decoder", "decord"):
            _bound_memory(name)
            print(has(_MOST_MEMORY // 2), has(_MOST_MEMORY + (64 << 20)))
    """
    root = str(Path(__file__).resolve().parents[2])
    lines = [line.removeprefix(" " * 8) for line in program.splitlines()]
    said = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True, cwd=root
    ).stdout
    assert said.splitlines() == ["True False", "True True", "True False"]
