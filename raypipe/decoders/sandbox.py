"""A child process in which videos are probed and decoded, so that a file that crashes a decoder costs only one error.

The parent keeps one child, sends it a request at a time and waits no longer than a deadline. Requests and answers are
small messages over a socket pair; arrays lie in a memory file that both hold open. A child that dies or misses the
deadline is killed with its process group, and the next request gets a new one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raypipe.decoders import resolve_chain
from raypipe.decoders.memory import make_memory_file, read_arrays, write_arrays
from raypipe.errors import DecodeError, RaypipeError, SourceAwayError, UsageError
from raypipe.schema import Frames, Probe, ThumbnailRequest
from raypipe.storage import file_of, local_path, shown

if TYPE_CHECKING:  # The child that makes videos playable imports this module, and need not import the config.
    from raypipe.config import DecodeConfig

_START_S = 60.0  # A machine that starts many processes at once may take long to start Python.
_DEATH_S = 5.0
_TURN_S = 0.5


class Sandbox:
    """Probes and decodes videos in a child process.

    Parameters
    ----------
    decoder
        As for `raypipe.decoders.resolve_chain`. If a decoder fails, the next one of the chain is tried.
    deadline_s, deadline_factor
        An attempt may take ``deadline_s + deadline_factor * span_s`` seconds, where ``span_s`` is the seconds of video
        that it covers; the start of the child does not count.

    Notes
    -----
    Threads must not use one sandbox at the same time. Frames are copied out of the shared memory, which is then freed:
    they stay valid after the next request, and an idle sandbox holds no frames.
    """

    _module = "raypipe.decoders.sandbox_child"  # The child runs this module, which calls `serve`.

    def __init__(self, decoder: str = "auto", deadline_s: float = 20.0, deadline_factor: float = 3.0) -> None:
        self.decoder = decoder
        self.deadline_s = deadline_s
        self.deadline_factor = deadline_factor
        self._child: _Child | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the child; a later request would start another."""
        child, self._child = getattr(self, "_child", None), None
        if child is not None:
            child.end()

    def probe(self, uri: str) -> Probe:
        """See `raypipe.decoders.Decoder.probe`.

        Raises
        ------
        DecodeError
            If every decoder of the chain failed; the message is one line with the reason of each.
        """
        return self._try_chain(uri, 0.0, lambda child, name, limit_s: Probe(**child.ask(limit_s, "probe", name, uri)))

    def frame_times(self, uri: str, span_s: float = 0.0) -> np.ndarray:
        """See `raypipe.decoders.Decoder.frame_times`; the deadline grows with ``span_s``; raises as `probe` does."""

        def attempt(child: _Child, name: str, limit_s: float) -> np.ndarray:
            n = child.ask(limit_s, "frame_times", name, uri)
            return child.take_arrays(((n,), np.float64))[0]

        return self._try_chain(uri, span_s, attempt)

    def frames(
        self,
        uri: str,
        times_s: np.ndarray,
        image_size: int,
        resize_mode: str,
        span_s: float,
        thumbnails: ThumbnailRequest | None = None,
    ) -> Frames:
        """See `raypipe.decoders.Decoder.frames`; the deadline grows with ``span_s``; raises as `probe` does.

        With ``thumbnails`` the decoder makes small pictures in the same pass.
        """
        times_s = np.asarray(times_s, dtype=np.float64)

        def attempt(child: _Child, name: str, limit_s: float) -> Frames:
            child.give_arrays(times_s)
            form = len(times_s), image_size, resize_mode, thumbnails
            n, error, small = child.ask(limit_s, "frames", name, uri, *form)
            shape = (n, image_size, image_size, 3)
            pixels, shown_s, requested = child.take_arrays((shape, np.uint8), ((n,), np.float64), ((n,), np.int64))
            return Frames(pixels, shown_s, requested, name, error, small)

        return self._try_chain(uri, span_s, attempt)

    def _try_chain(self, uri: str, span_s: float, attempt: Callable[[_Child, str, float], Any]) -> Any:
        reasons: list[tuple[str, str]] = []
        kind = DecodeError
        waiting = resolve_chain(self.decoder, uri)
        was_killed = False
        while waiting:
            name = waiting.pop(0)
            try:
                return attempt(self._living_child(), name, self.deadline_s + self.deadline_factor * span_s)
            except UsageError:
                raise
            except RaypipeError as error:
                kind = SourceAwayError if isinstance(error, SourceAwayError) else kind
                reasons.append((name, str(error).removeprefix(f"{shown(uri)}: ")))
            except _Killed as error:
                self.close()
                if not was_killed:  # Another process or a lack of memory killed it; the video may be sound.
                    waiting.insert(0, name)
                    was_killed = True
                else:
                    reasons.append((name, str(error)))
            except _Broken as error:
                self.close()
                kind = SourceAwayError if isinstance(error, _Waiting) and local_path(file_of(uri)) is None else kind
                reasons.append((name, str(error)))
            except BaseException:
                self.close()  # After an interrupt the pending answer would be taken for that to the next request.
                raise
        raise kind(f"{shown(uri)}: {_join(reasons)}")

    def _living_child(self) -> _Child:
        if self._child is not None and not self._child.is_alive():
            self.close()
        if self._child is None:
            self._child = _Child(self._module)
        return self._child


def open_sandbox(config: DecodeConfig) -> Sandbox:
    """Return a sandbox with the decoders and the deadlines of a config."""
    return Sandbox(config.decoder, config.deadline_s, config.deadline_factor)


class _Broken(Exception):
    """The child died or missed its deadline; the message says how."""


class _Waiting(_Broken):
    """The child missed its deadline and computed nothing at last: of a remote video it has waited for the server."""


class _Killed(_Broken):
    """Something other than this process killed the child."""


def _join(reasons: list[tuple[str, str]]) -> str:
    """Say in one line why each decoder failed, and what is the same once."""
    said = [f"{name}: {reason}" for name, reason in reasons[:1]]
    for (_, before), (name, reason) in pairwise(reasons):
        said.append(f"{name} too" if reason == before else f"{name}: {reason}")
    return "; ".join(said)


class _Child:
    """The parent's side of one child process."""

    def __init__(self, module: str) -> None:
        self._owner = os.getpid()
        ours, theirs = socket.socketpair()
        self._noise, noise_in = os.pipe()
        os.set_blocking(self._noise, False)
        # Nobody reads this pipe while the child works, so what does not fit into it is lost.
        os.set_blocking(noise_in, False)
        self._connection = Connection(ours.detach())
        self._memory = make_memory_file()
        handles = (theirs.fileno(), self._memory)
        try:
            started = _starter(self._owner).submit(
                subprocess.Popen,
                [sys.executable, "-m", module, str(self._owner), *map(str, handles)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=noise_in,
                pass_fds=handles,
                env=_make_environment(),
                start_new_session=True,
            )
            self._process = started.result()
        finally:
            theirs.close()
            os.close(noise_in)
        try:
            self._receive(_START_S)
        except BaseException:
            self.end()
            raise

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def give_arrays(self, *arrays: np.ndarray) -> None:
        write_arrays(self._memory, *arrays)

    def take_arrays(self, *kinds: tuple[tuple[int, ...], type]) -> list[np.ndarray]:
        arrays = read_arrays(self._memory, *kinds)
        os.ftruncate(self._memory, 0)
        return arrays

    def ask(self, limit_s: float, *request: Any) -> Any:
        """Send a request and return its answer, which must come within ``limit_s`` seconds.

        Raises
        ------
        RaypipeError
            If the decoder raised it.
        _Broken
            If the child died or did not answer in time.
        """
        self._read_noise()
        try:
            self._connection.send(request)
        except OSError:
            raise self._explain_death() from None
        answer, failure = self._receive(limit_s)
        if failure is not None:
            raise failure
        return answer

    def end(self) -> None:
        """Kill the child with all processes that it has started, and free its resources."""
        if os.getpid() == self._owner:  # A fork of the owner must leave the owner's child alone.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_DEATH_S)
        self._connection.close()
        os.close(self._noise)
        os.close(self._memory)

    def _receive(self, limit_s: float) -> Any:
        end = time.monotonic() + limit_s
        computed: list[bool] = []
        try:
            while True:
                left_s = end - time.monotonic()
                # The wait is cut into short turns, because another process may have inherited the child's end of the
                # socket, which hides the child's death.
                if self._connection.poll(max(0.0, min(left_s, _TURN_S))):
                    return self._connection.recv()
                if not self.is_alive() and not self._connection.poll(0):
                    raise EOFError
                computed.append(self._computes())
                if left_s <= 0:
                    last_words = self._read_noise()
                    lately = computed[len(computed) // 2 :]  # At first it imports the decoder.
                    kind = _Broken if sum(lately) >= len(lately) / 2 else _Waiting
                    raise kind(f"no answer within {limit_s:g} s" + (f" ({last_words})" if last_words else ""))
        except (EOFError, OSError):
            raise self._explain_death() from None

    def _computes(self) -> bool:
        """Whether a thread of the child has a core, or stands in line for one; True where the system does not tell.

        Seconds of computing would not do: on a machine with other work a decoder that hangs may have hardly any.
        """
        states = []
        for of_thread in Path(f"/proc/{self._process.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # The thread has ended.
                states.append(of_thread.read_bytes().rpartition(b")")[2].split()[0])
        return b"R" in states or not states

    def _explain_death(self) -> _Broken:
        try:
            code = self._process.wait(_DEATH_S)
        except subprocess.TimeoutExpired:
            return _Broken("its process closed the connection")
        ended = f"its process died of {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"
        last_words = self._read_noise()
        kind = _Killed if code == -signal.SIGKILL else _Broken
        return kind(f"{ended} ({last_words})" if last_words else ended)

    def _read_noise(self) -> str:
        """Empty the pipe of the child's stderr, and return its last line."""
        noise = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._noise, 65536):
                noise = (noise + more)[-4096:]
        lines = noise.decode(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


@cache
def _starter(_pid: int) -> ThreadPoolExecutor:
    """Return this process's one thread that starts children.

    The kernel kills a child when the *thread* that started it ends, so this thread must outlive all children.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="raypipe-sandbox")


def _make_environment() -> dict[str, str]:
    """Return the child's environment: this process's, for its credentials and proxies, with the same module path."""
    root = str(Path(__file__).resolve().parents[2])
    places = dict.fromkeys([root, *(place or str(Path.cwd()) for place in sys.path)])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
