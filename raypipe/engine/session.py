"""A connection to a Ray cluster, and what of it would hinder the work."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import resource
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from raypipe.config import RayConfig
from raypipe.engine.nodes import unsettled
from raypipe.engine.pools import CPUS_SHARE
from raypipe.errors import RaypipeError, UsageError, one_line

_LOOKS, _LOOK_S = 10, 0.2  # For so long may Ray count what has been given back as held.
_LEAST_FREE = 10_000_000  # Bytes. Workers that cannot write their logs die as they start, and Ray starts them for ever.
_LEAST_FILES = 80  # On two CPUs Ray's own processes end where they may open 72 files, and a run goes through with 80.
_ELSEWHERE = "set RAY_TMPDIR to another folder, of a short path, for the files of Ray"
_MOST_FULL = "RAY_local_fs_capacity_threshold"
_UV = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
# Ray's core reads this once a process. Nodes that the program starts later must read the same: else they and this
# process refuse each other's calls, and the actors that it makes die for want of an owner.
_READ_ONCE = "RAY_AUTH_MODE"
_TOKEN, _TOKEN_FILE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# A step raises the first error of its tasks. Ray would also print the traceback of every other task that failed.
_ONE_ERROR = "RAY_IGNORE_UNHANDLED_ERRORS"
_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets this for the command of a job.
_OF_THE_JOB = "what this job itself took by --entrypoint-num-cpus and the like is held until it ends: submit it without"


@contextlib.contextmanager
def ray_session(config: RayConfig) -> Iterator[dict[str, float]]:
    """Connect to a Ray cluster, or start a local one; at the end close only a connection that was opened here.

    Yields
    ------
    The Ray cluster's resources, such as ``{"CPU": 2.0, "GPU": 1.0}``.

    Raises
    ------
    RaypipeError
        If the address cannot be reached, or Ray does not start here, for want of room for instance.
    """
    with contextlib.nullcontext() if ray.is_initialized() else _connection(config), unsettled():
        _check_disk()
        _hush()
        yield ray.cluster_resources()


def tell_full_disk() -> str | None:
    """Say that the disk on which this machine's Ray would keep what its object store has no room for is too full.

    From there on Ray 2.60 keeps nothing on it, and work that needs it waits for ever. Ray says so in a log of its own.
    """
    folder = _session_folder()
    if folder is None:
        return None
    disk = shutil.disk_usage(folder)
    if disk.free >= (1 - float(os.environ.get(_MOST_FULL, "0.95"))) * disk.total:
        return None
    return (
        f"the disk of {folder} has {disk.free / 1e9:.1f} of {disk.total / 1e9:.0f} GB free, too little for Ray to use "
        f"it: if its object store gets full, the run will hang. Free some, or set {_MOST_FULL}=0.99"
    )


def _check_disk() -> None:
    """Raise `RaypipeError` if the disk is so full that Ray's workers could not even start."""
    folder = _session_folder()
    if folder is not None and shutil.disk_usage(folder).free < _LEAST_FREE:
        raise RaypipeError(f"the disk of {folder} is full, and Ray writes its logs there: free some, or {_ELSEWHERE}")


def _check_files() -> None:
    """Raise `RaypipeError` if a process here may open so few files that those of Ray end while they start."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= most < _LEAST_FILES:  # Without a limit it is −1.
        raise RaypipeError(f"a process may open {most} files here, too few for Ray: allow more by `ulimit -n 4096`")


def _session_folder() -> str | None:
    """Return the folder of this machine's Ray; None if Ray runs on other machines alone."""
    node = ray._private.worker._global_node
    return node and node.get_session_dir_path()


def tell_busy() -> str | None:
    """Say that other work holds CPUs or GPUs of the Ray cluster that this process is going to wait for.

    To be called before it has any of its own. What another run of this process has just given back counts as free.
    """
    for _ in range(_LOOKS):
        if not ray.is_initialized() or not (held := _held(ray.cluster_resources(), ray.available_resources())):
            return None
        time.sleep(_LOOK_S)
    own = f"; {_OF_THE_JOB}" if _IN_JOB in os.environ else ""
    return f"other work holds {held} of the Ray cluster: this run may have to wait for it, `ray status` shows more{own}"


def _held(there: dict[str, float], free: dict[str, float]) -> str:
    """Return how much of a Ray cluster is not free, if pools are planned with it; else an empty string."""
    short = [
        f"{there[name] - free.get(name, 0):g} of the {there[name]:g} {name}s"
        for name, part in (("CPU", CPUS_SHARE), ("GPU", 1.0))
        if free.get(name, 0) < part * there.get(name, 0)
    ]
    return " and ".join(short)


@contextlib.contextmanager
def _connection(config: RayConfig) -> Iterator[None]:
    """Open a connection, and close it at the end.

    What this and ``ray.init`` set in this process is put back then, because it may be a user's program that calls us:
    variables of the environment, such as the debugger to call, but for `_READ_ONCE`; the level of a log; and what
    signals do.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    _check_reachable(address)
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if address == "local":
        _check_files()
        _give_token()
    log = logging.getLogger("ray")
    level, on_sigterm, has_faulthandler = log.level, signal.getsignal(signal.SIGTERM), faulthandler.is_enabled()
    before, by_ray = dict(os.environ), {}
    try:
        os.environ.setdefault(_ONE_ERROR, "1")
        try:
            _init(address, options, on_sigterm)
        finally:
            by_ray = {name: value for name, value in os.environ.items() if before.get(name) != value}
            by_ray.pop(_READ_ONCE, None)
        if callable(on_sigterm):  # Ray's own ends the process where it stands.
            _handle_sigterm(on_sigterm)
        yield
    finally:
        # If another thread, such as a notebook's, frees an object of Ray's while Ray shuts down, the process ends.
        gc.collect()
        ray.shutdown()
        for name, value in by_ray.items():
            if os.environ.get(name) == value:
                os.environ.pop(name)
                os.environ.update({name: before[name]} if name in before else {})
        log.setLevel(level)
        if on_sigterm is not None:
            _handle_sigterm(on_sigterm)
        if not has_faulthandler:
            faulthandler.disable()


def _init(address: str, options: Mapping[str, Any], on_sigterm: Any) -> None:
    """Call ``ray.init``; raise `RaypipeError` if it fails, and do what SIGTERM did before if that comes meanwhile."""
    try:
        with _without_uv():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except SystemExit:  # While Ray starts, its own handler of SIGTERM ends the process, with a code of its own.
        if callable(on_sigterm):
            on_sigterm(signal.SIGTERM, None)
        raise
    except Exception as error:  # Of a node of its own that is not up in half a minute, Ray raises a bare one.
        if address == "local":
            remedy = f"; {_ELSEWHERE}" if isinstance(error, OSError) else ""
            raise RaypipeError(f"cannot start Ray on this machine: {one_line(error)}{remedy}") from error
        shows_one = os.environ.get(_READ_ONCE) == "token"
        token = "this machine's must be the same" if shows_one else f"set {_READ_ONCE}=token"
        hint = f"; if it asks for a token, {token}"
        raise RaypipeError(f"cannot connect to the Ray cluster at {address}: {one_line(error)}{hint}") from error


def _handle_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():  # No other thread can, nor does Ray in another.
        signal.signal(signal.SIGTERM, handler)


def _give_token() -> None:
    """Give Ray a token for the nodes that it starts where it could keep none, as in a container of an unknown user.

    It would make one and write it into the home. In the environment it stays as long as this process, because Ray's
    core reads it once.
    """
    if os.environ.get(_TOKEN) or os.environ.get(_TOKEN_FILE):
        return
    try:
        folder = Path.home() / ".ray"
        if (folder / "auth_token").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except (OSError, RuntimeError):  # The home cannot be written, or there is none.
        os.environ[_TOKEN] = secrets.token_hex(32)


@contextlib.contextmanager
def _without_uv() -> Iterator[None]:
    """Keep ``ray.init`` from having `uv run` make an environment for each worker, unless the user asks for that.

    Ray reads the variable when it is imported, which may have been long ago, and keeps it as a constant.
    """
    before = getattr(ray_constants, _UV)
    setattr(ray_constants, _UV, before and _UV in os.environ)
    try:
        yield
    finally:
        setattr(ray_constants, _UV, before)


@cache
def _hush() -> None:
    """Keep one warning of Ray's core out of our progress.

    "Actor … has constructor arguments in the object store and max_restarts > 0" is true of every actor that Ray Data
    makes. C++ code prints it past Python's logging, for the first such actor of a process. So one is made here for
    nothing, while standard error goes to a file; what else is written there meanwhile is passed on.
    """
    with contextlib.suppress(OSError), tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            actor: Any = ray.remote(_Unneeded).options(num_cpus=0, max_restarts=1)
            ray.kill(actor.remote(ray.put(None)))
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file:
                if b"constructor arguments in the object store" not in line:
                    os.write(2, line)


class _Unneeded:
    def __init__(self, nothing: None) -> None:
        pass


def _check_reachable(address: str) -> None:
    """Try the address's port, because Ray itself would try for minutes before it gave up, at a web server's too."""
    if address.startswith("ray://"):
        raise UsageError(
            "Ray Data does not run through Ray Client (ray://): take --address HOST:6379 on a node, or ray job submit"
        )
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):
        return  # The address is "local" or "auto".
    try:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            answer = _greet(connection)
    except OSError as error:
        raise RaypipeError(f"cannot connect to the Ray cluster at {address}: {error.strerror or error}") from error
    if answer and answer.decode("latin-1").isprintable():
        raise RaypipeError(
            f"cannot connect to the Ray cluster at {address}: what answers there is no Ray, but a web server such as "
            "its dashboard; take the port of `ray start --head`, which is 6379 unless --port says otherwise"
        )


def _greet(connection: socket.socket) -> bytes:
    """Greet in HTTP/2, which Ray speaks, and answers in bytes that are no text; return how the answer begins."""
    with contextlib.suppress(OSError):  # Ray may be busy, or want TLS.
        no_settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + no_settings)
        return connection.recv(4)
    return b""
