"""Whatever a video does to a decoder costs one error: crashes, hangs, kills, and noise on stderr."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from waiting import wait_for

from raypipe.decoders import make_decoder
from raypipe.decoders.sandbox import Sandbox
from raypipe.errors import DecodeError, SourceAwayError, UsageError
from raypipe.packages import is_installed

SPINNING = "videos/odd/vfr_1920x1080_spins_decord.mp4"
needs_decord = pytest.mark.skipif(not is_installed("decord"), reason="decord has no wheel for this platform")

# Decoders of a user's own, which misbehave.
MISBEHAVING = """
import contextlib, ctypes, os
import numpy as np
from raypipe.schema import Frames, Probe

class Decoder:
    name = "mine"
    def probe(self, uri):
        return Probe(1.0, 2, 2, 1.0, 1, "none", self.name)
    def frame_times(self, uri):
        return np.zeros(1)

class Spinning(Decoder):
    '''decord on a clip that it never comes back from, whatever it was asked for.'''
    def frames(self, uri, times_s, image_size, resize_mode):
        import decord
        reader = decord.VideoReader(os.environ["SPINNING_CLIP"], num_threads=1)
        reader.get_batch(range(len(reader)))
        while True:  # once in a hundred times it does come back
            pass

class Starved(Decoder):
    '''Computes without end behind the other work of one core, of which it gets a tenth.'''
    def frames(self, uri, times_s, image_size, resize_mode):
        os.sched_setaffinity(0, {int(os.environ["BUSY_CORE"])})
        os.nice(10)
        with contextlib.suppress(OSError):  # where the kernel divides a core between sessions first
            open("/proc/self/autogroup", "w").write("10")
        while True:
            pass

class Crashing(Decoder):
    def frames(self, uri, times_s, image_size, resize_mode):
        os.write(2, b"[mine] everything is lost\\n")
        ctypes.string_at(0)

class Killed(Decoder):
    def frames(self, *request):
        os.kill(os.getpid(), 9)


class Noisy(Decoder):
    def frames(self, uri, times_s, image_size, resize_mode):
        for _ in range(10_000):
            with contextlib.suppress(BlockingIOError):
                os.write(2, b"a warning that nobody asked for\\n")
        pixels = np.full((len(times_s), image_size, image_size, 3), 7, np.uint8)
        return Frames(pixels, times_s, np.arange(len(times_s)), self.name)

class Raising(Decoder):
    def frames(self, uri, times_s, image_size, resize_mode):
        raise KeyError("of two\\nlines")
"""


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    """A module of bad decoders that only this process's path leads to; the sandbox's child must find it too."""
    (tmp_path / "bad_decoders.py").write_text(MISBEHAVING)
    monkeypatch.syspath_prepend(str(tmp_path))


def child_of(sandbox: Sandbox) -> int:
    return sandbox._child._process.pid


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_gives_what_the_decoder_gives(make_video):
    path = str(make_video(n_frames=40, size=(128, 96)))
    times = np.arange(0, 4, 0.3)
    with Sandbox("pyav") as sandbox:
        assert sandbox.probe(path) == make_decoder("pyav").probe(path)
        np.testing.assert_array_equal(sandbox.frame_times(path), make_decoder("pyav").frame_times(path))
        for mode, size in (("crop", 32), ("squash", 224)):
            here = make_decoder("pyav").frames(path, times, size, mode)
            there = sandbox.frames(path, times, size, mode, span_s=4)
            for field in ("pixels", "times_s", "requested"):
                np.testing.assert_array_equal(getattr(there, field), getattr(here, field))
            assert there.decoder == "pyav" and there.error is None
        pid = child_of(sandbox)
        nothing = sandbox.frames(path, np.array([]), 32, "crop", span_s=0)
        assert nothing.pixels.shape == (0, 32, 32, 3) and child_of(sandbox) == pid
    assert not is_running(pid)


def test_frames_stay_after_the_next_request(make_video):
    bright, dark = make_video("a.mp4", n_frames=20), make_video("b.mp4", n_frames=20, seed=1)
    with Sandbox("pyav") as sandbox:
        first = sandbox.frames(str(bright), np.arange(0, 2, 0.1), 64, "squash", span_s=2)
        before = first.pixels.copy()
        sandbox.frames(str(dark), np.arange(0, 2, 0.1), 64, "squash", span_s=2)
        np.testing.assert_array_equal(first.pixels, before)
        assert first.pixels.flags.owndata and first.pixels.flags.writeable
        assert os.fstat(sandbox._child._memory).st_size == 0  # at rest it holds nothing


@needs_decord
def test_spinning_clip_goes_to_the_second_decoder(data_dir):
    path = str(data_dir / SPINNING)
    with Sandbox("decord,pyav", deadline_s=15) as sandbox:
        assert sandbox.probe(path).width == 1920
        frames = sandbox.frames(path, np.array([0.0, 0.5, 0.95]), 64, "crop", span_s=1)
    assert frames.decoder == "pyav" and frames.error is None and len(frames.pixels) == 3


@pytest.fixture
def spinning_clip(data_dir, monkeypatch):
    monkeypatch.setenv("SPINNING_CLIP", str(data_dir / SPINNING))


@needs_decord
def test_a_hang_is_cut_off(make_video, misbehaving, spinning_clip):
    path = str(make_video())
    with Sandbox("bad_decoders:Spinning,pyav", deadline_s=3.5, deadline_factor=0.25) as sandbox:
        sandbox.probe(path)
        pid = child_of(sandbox)
        begin = time.monotonic()
        assert sandbox.frames(path, np.array([0.5]), 32, "crop", span_s=2).decoder == "pyav"
        assert 4 <= time.monotonic() - begin < 15
        assert not is_running(pid)
        sandbox.decoder = "bad_decoders:Spinning"
        for uri in (path, "http://host.invalid/a.mp4"):
            with pytest.raises(DecodeError, match=r"bad_decoders:Spinning: no answer within 4 s") as caught:
                sandbox.frames(uri, np.array([0.5]), 32, "crop", span_s=2)
            assert not isinstance(caught.value, SourceAwayError), "no server is to blame"


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells what a process is doing")
def test_a_decoder_that_got_no_core_has_not_waited_for_a_server(misbehaving, monkeypatch):
    core = min(os.sched_getaffinity(0))
    monkeypatch.setenv("BUSY_CORE", str(core))
    busy = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    other = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with (
            Sandbox("bad_decoders:Starved", deadline_s=3) as sandbox,
            pytest.raises(DecodeError, match="no answer within 3 s") as caught,
        ):
            sandbox.frames("http://host.invalid/a.mp4", np.array([0.5]), 32, "crop", span_s=0)
    finally:
        other.kill()
        other.communicate()
    assert not isinstance(caught.value, SourceAwayError)


def test_a_crash_is_told_and_the_next_decoder_takes_over(make_video, misbehaving):
    path = str(make_video())
    with Sandbox("bad_decoders:Crashing,pyav") as sandbox:
        assert sandbox.frames(path, np.array([1.0]), 32, "crop", span_s=3).decoder == "pyav"
        sandbox.decoder = "bad_decoders:Crashing"
        with pytest.raises(DecodeError) as caught:
            sandbox.frames(path, np.array([1.0]), 32, "crop", span_s=3)
    expected = "bad_decoders:Crashing: its process died of SIGSEGV ([mine] everything is lost)"
    assert str(caught.value) == f"{path}: {expected}"


def test_every_decoder_gives_its_reason(make_video, misbehaving):
    with (
        Sandbox("bad_decoders:Raising,bad_decoders:Crashing") as sandbox,
        pytest.raises(DecodeError, match=r"Raising: KeyError.*; bad_decoders:Crashing: its process died") as caught,
    ):
        sandbox.frames(str(make_video()), np.array([0.0]), 32, "crop", span_s=1)
    assert "\n" not in str(caught.value)


def test_noise_does_not_reach_the_terminal(make_video, misbehaving, capfd):
    with Sandbox("bad_decoders:Noisy") as sandbox:
        frames = sandbox.frames(str(make_video()), np.array([0.0]), 8, "crop", span_s=1)
        assert frames.pixels.min() == 7
        sandbox.frames(str(make_video()), np.array([0.0]), 8, "crop", span_s=1)
    assert capfd.readouterr() == ("", "")


def test_killed_in_the_middle_of_a_request(make_video):
    path = str(make_video())
    with Sandbox("pyav") as sandbox:
        sandbox.probe(path)
        pid = child_of(sandbox)
        os.kill(pid, signal.SIGSTOP)  # so that the request is certainly underway
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        frames = sandbox.frames(path, np.array([0.0]), 32, "crop", span_s=1)
        assert (frames.decoder, frames.error) == ("pyav", None), "whoever killed it, the video is not to blame"
        assert child_of(sandbox) != pid


def test_killed_again_and_again(make_video, misbehaving):
    """As for want of memory: after the second time the next decoder is tried."""
    with Sandbox("bad_decoders:Killed,pyav") as sandbox:
        assert sandbox.frames(str(make_video()), np.array([0.0]), 8, "crop", span_s=1).decoder == "pyav"
    with Sandbox("bad_decoders:Killed") as sandbox:
        with pytest.raises(DecodeError, match=r"Killed: its process died of SIGKILL$"):
            sandbox.frames(str(make_video()), np.array([0.0]), 8, "crop", span_s=1)


def test_killed_at_rest_blames_no_video(make_video):
    path = str(make_video())
    with Sandbox("pyav") as sandbox:
        sandbox.probe(path)
        pid = child_of(sandbox)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not sandbox._child.is_alive())
        assert sandbox.probe(path).n_frames == 30


def test_a_stopped_child_overruns(make_video):
    path = str(make_video())
    with Sandbox("pyav", deadline_s=0.3, deadline_factor=0) as sandbox:
        sandbox.deadline_s = 20
        sandbox.probe(path)
        pid = child_of(sandbox)
        os.kill(pid, signal.SIGSTOP)
        sandbox.deadline_s = 0.3
        with pytest.raises(DecodeError, match=r"no answer within 0\.3 s"):
            sandbox.probe(path)
        assert not is_running(pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("task", ["rest", "spin"])
@needs_decord
def test_children_die_with_their_parent(make_video, misbehaving, spinning_clip, tmp_path, task):
    path = str(make_video())
    program = f"""
        import sys, threading
        sys.path[:0] = [{str(tmp_path)!r}]
        import numpy as np
        from raypipe.decoders.sandbox import Sandbox
        sandbox = Sandbox("bad_decoders:Spinning", deadline_s=300)
        sandbox.probe({path!r})
        print(sandbox._child._process.pid, flush=True)
        if {task == "spin"}:
            sandbox.frames({path!r}, np.array([0.5]), 32, "crop", span_s=1)
        sys.stdin.read()
    """
    root = str(Path(__file__).resolve().parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    with parent:
        child = int(parent.stdout.readline())
        if task == "spin":
            wait_for(lambda: cpu_seconds(child) > 1.5)
        assert is_running(child)
        parent.kill()
        wait_for(lambda: not is_running(child))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_outlives_the_thread_that_first_used_it(make_video):
    path = str(make_video())
    with Sandbox("pyav") as sandbox:
        thread = threading.Thread(target=sandbox.probe, args=(path,))
        thread.start()
        thread.join()
        pid = child_of(sandbox)
        time.sleep(0.2)
        assert is_running(pid)
        assert sandbox.probe(path).n_frames == 30 and child_of(sandbox) == pid


def test_no_video_costs_an_error_and_no_more(tmp_path, make_video):
    fifo, folder, empty, letter = (tmp_path / f"{name}.mp4" for name in ("fifo", "folder", "empty", "letter"))
    os.mkfifo(fifo)
    folder.mkdir()
    empty.touch()
    letter.write_text("Dear reader,\n" * 200)
    with Sandbox() as sandbox:
        for path, reason in ((fifo, "a FIFO"), (folder, "a directory"), (empty, "is empty"), (letter, "Invalid data")):
            with pytest.raises(DecodeError, match=reason) as caught:
                sandbox.probe(str(path))
            assert "\n" not in str(caught.value)
        pid = child_of(sandbox)
        assert sandbox.probe(str(make_video())).n_frames == 30 and child_of(sandbox) == pid


def test_partial_result_crosses(data_dir):
    path = str(data_dir / "videos/odd/corrupted.mp4")
    with Sandbox() as sandbox:
        frames = sandbox.frames(path, sandbox.frame_times(path), 32, "crop", span_s=5)
    assert len(frames.pixels) == 28 and frames.error.startswith("stopped at 2.8 s of 5.0 s")


def test_an_unknown_decoder_is_a_mistake_in_usage(make_video):
    path = str(make_video())
    with Sandbox("opencv") as sandbox, pytest.raises(UsageError, match="unknown decoder 'opencv'"):
        sandbox.probe(path)
    with Sandbox("no_such_module:Decoder") as sandbox, pytest.raises(UsageError, match="cannot be imported"):
        sandbox.probe(path)


def test_closes_all_that_it_opened(make_video):
    path = str(make_video())
    Sandbox("pyav").close()
    with Sandbox("pyav") as sandbox:  # once before counting: this process's starter thread stays
        sandbox.probe(path)
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(2):
        with Sandbox("pyav") as sandbox:
            sandbox.probe(path)
    assert len(list(Path("/dev/fd").iterdir())) == before
