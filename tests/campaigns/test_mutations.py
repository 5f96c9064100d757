"""Bad inputs: whatever a file holds it costs no more than its own error, and the good ones do not suffer."""

import os
import statistics
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from mutations import read_sources, write_mutations

from raypipe import pipeline
from raypipe.config import DecodeConfig, SampleConfig, make_config
from raypipe.decoders.sandbox import Sandbox
from raypipe.errors import DecodeError
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.schema import Failure
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
def folder(ray_elsewhere, sources, tmp_path, request):
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
