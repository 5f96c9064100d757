"""A run's page, served to one person's browser with its videos playing: ``raypipe explore`` (docs/page_server.md)."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import re
import secrets
import shlex
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from raypipe.errors import RaypipeError, SourceError, UsageError, message_of
from raypipe.report.serving.access import App, Gate
from raypipe.report.serving.by_view import make_routes
from raypipe.report.serving.byte_ranges import RangeResponse, open_content, wait_gone
from raypipe.report.serving.conversions import Conversions, default_folder
from raypipe.report.serving.media_sources import direct_type
from raypipe.report.serving.page_data import HeldPage
from raypipe.report.serving.player_answers import MOST_PICTURES, Answers, NotHere
from raypipe.runs.contents import CLUSTERS_FILE, POSTER_FACTS_FILE, REPORT_FILE
from raypipe.runs.directory import Run
from raypipe.runs.run_version import VERSION_HEADER, read_version
from raypipe.storage import local_path, shown

_META = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')
_OWN = {"player.js": "text/javascript; charset=utf-8", "player.css": "text/css; charset=utf-8"}
_KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".dzi": "application/xml",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".npz": "application/octet-stream",
    ".parquet": "application/vnd.apache.parquet",
}
# What the run itself has for people, and no more: run.json may hold what a config names, such as a user's paths.
_FILES = re.compile(
    r"(?:(?:plots|thumbnails|posters?)(?:/[A-Za-z0-9_][\w.-]*)+"
    r"|exports(?:/[^/\\\0]+)+"  # Their names are those of the videos, in any letters.
    r"|poster[\w.-]*(?:/[A-Za-z0-9_][\w.-]*)*"
    r"|(?:summary|metrics|sweep|descriptions)\.json|(?:video_cluster_mapping|outliers)\.csv)",
    re.ASCII,
)
_NO_PAGE = (
    "This run has no page now, as while it is embedded, clustered or reported again. As soon as it has one, it is "
    "shown here. If nothing is at work on it: raypipe report {}"
)
_MOST_CLIENTS = 256
_GRACE_S = 2  # Streams that are open when the server ends are broken off after so many seconds.


def make_app(run: Run, conversions: Conversions) -> Starlette:
    """Make the application that serves a run's page; `Gate` stands before it.

    Raises
    ------
    UsageError
        If the run is not clustered, or has no page.
    """
    _check_run(run)
    page = _Page(run, Answers(run, conversions))
    routes = [
        Route("/", page.show_page),
        Route("/version", page.tell_version),
        Route("/align", page.align),
        Route("/search", page.search),
        Route("/poster", page.describe_poster),
        Route("/filmstrip/{id}", page.send_filmstrip),
        Route("/video/{id}/info", page.describe_video),
        Route("/video/{id}/converted.mp4", page.send_converted),
        Route("/video/{id}", page.send_video),
        Route("/files/{name:path}", page.send_file),
        *page.by_view,
        Route("/{name}", page.send_own),
    ]
    handlers = dict.fromkeys((HTTPException, RaypipeError, Exception), _answer_error)
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=page.live)


class _Page:
    """The answers to each kind of request; what waits for disks or processes does so in threads."""

    def __init__(self, run: Run, answers: Answers) -> None:
        self._run, self._answers = run, answers
        # What waits for processes or for other searches must leave threads for the rest of the page.
        self._quick = ThreadPoolExecutor(8, "raypipe-page")
        self._looking = ThreadPoolExecutor(4, "raypipe-look")
        # A search takes all cores and much memory; and numba compiles in one thread at a time.
        self._computing = ThreadPoolExecutor(1, "raypipe-search")
        self._held = HeldPage(run)
        self.by_view = make_routes(run, self._held, self._call)

    @contextlib.asynccontextmanager
    async def live(self, _app: Starlette) -> AsyncIterator[None]:
        """End the processes with the application."""
        try:
            yield
        finally:
            self._answers.close()
            self._answers.conversions.close()
            for threads in (self._quick, self._looking, self._computing):
                threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await _in_thread(self._quick, function, *arguments)

    async def show_page(self, request: Request) -> Response:
        if not await self._call(self._run.exists, REPORT_FILE):
            return PlainTextResponse(_NO_PAGE.format(shlex.quote(str(self._run))), 503, {"refresh": "3"})
        version = await self._call(read_version, self._run)
        data = await self._call(self._held.read)
        content = data.shell if data and data.shell else await self._call(self._run.read_bytes, REPORT_FILE)
        text, policy = add_player(content.decode(), version)
        return Response(text, media_type="text/html", headers={"content-security-policy": policy})

    async def _tell(self, content: dict[str, Any]) -> Response:
        """Return an answer that says of which version of the run it is, so that a page of another one notices."""
        version = await self._call(read_version, self._run)
        return JSONResponse(content, headers={VERSION_HEADER: version})

    async def tell_version(self, _request: Request) -> Response:
        return await self._tell({})

    async def send_own(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _OWN:
            raise HTTPException(404, "there is nothing of that name here")
        return Response(resources.files("raypipe.report.serving").joinpath(name).read_bytes(), media_type=_OWN[name])

    async def align(self, request: Request) -> Response:
        ids = [each for each in request.query_params.get("ids", "").split(",") if each]
        to = request.query_params.get("to", "first")
        if to not in ("first", "center"):
            raise UsageError("to is first or center")
        return await self._tell(await self._compute(request, self._answers.align, ids, to == "center"))

    async def search(self, request: Request) -> Response:
        ask = request.query_params
        part = _number(request, "from_s", None), _number(request, "to_s", None)
        form = ask.get("like"), ask.get("text"), _whole(request, "n", 9), ask.get("least") == "true", part
        return await self._tell({"videos": await self._compute(request, self._answers.search, *form)})

    async def _compute(self, request: Request, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that takes all cores, after those before it; not if the client has gone by then."""
        return await _unless_gone(request, _in_thread(self._computing, function, *arguments))

    async def describe_poster(self, request: Request) -> Response:
        if not await self._call(self._run.exists, POSTER_FACTS_FILE):
            return JSONResponse(None)
        return RangeResponse(request, await self._call(_open_file, self._run, POSTER_FACTS_FILE), "application/json")

    async def describe_video(self, request: Request) -> Response:
        form = request.path_params["id"], _whole(request, "n", MOST_PICTURES)
        return await self._tell(await _in_thread(self._looking, self._answers.describe, *form))

    async def send_filmstrip(self, request: Request) -> Response:
        is_parted = request.query_params.get("parted") == "true"
        form = request.path_params["id"], _whole(request, "n", 8), _whole(request, "height", 96), is_parted
        strip = await self._call(self._answers.draw_filmstrip, *form)
        if strip is None:  # An error would be reported in the browser's console for each of many videos.
            return Response(status_code=204)
        kind = "image/webp" if is_parted else "image/jpeg"
        return Response(strip, media_type=kind, headers={"cache-control": "private, max-age=600"})

    async def send_video(self, request: Request) -> Response:
        entry = self._answers.find(request.path_params["id"])
        # What no browser plays is not sent, so that nothing but a video is, whatever the run names as one.
        media_type = direct_type(await _in_thread(self._looking, self._answers.look_into, entry))
        if media_type is None:
            raise HTTPException(404, "browsers do not play this file: take the converted one")
        content = await self._call(open_content, entry.row["uri"])
        return RangeResponse(request, content, media_type.partition(";")[0])

    async def send_converted(self, request: Request) -> Response:
        entry = self._answers.find(request.path_params["id"])
        excerpt = await _in_thread(self._looking, self._answers.find_excerpt, entry)
        path = await _unless_gone(request, self._answers.conversions.convert(excerpt))
        return RangeResponse(request, await self._call(open_content, str(path)), "video/mp4")

    async def send_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        kind = _KINDS.get(Path(name).suffix.lower())
        if kind is None or _FILES.fullmatch(name) is None or ".." in name.split("/"):
            raise HTTPException(404, "there is nothing of that name here")
        content = await self._call(_open_file, self._run, name)
        return RangeResponse(request, content, kind)


async def _in_thread(threads: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


def _open_file(run: Run, name: str) -> Any:
    """Open a file of the run; a link that leads out of it is as if it were not there."""
    root = local_path(run.url)
    if root is None:
        return open_content(f"{run.url.rstrip('/')}/{name}")
    path, whole = os.path.realpath(Path(root) / name), os.path.realpath(root)
    if not path.startswith(whole.rstrip("/") + "/"):
        raise HTTPException(404, "there is nothing of that name here")
    return open_content(path)


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """Await something, and give it up when the client has closed the connection."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(wait_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HTTPException(499, "the client has gone")
    finally:
        for each in (task, gone):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError, RaypipeError):
            await task


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
    text = message_of(error)
    for kind, status in ((UsageError, 400), (NotHere, 404), (SourceError, 404), (RaypipeError, 422)):
        if isinstance(error, kind):
            return JSONResponse({"error": text}, status)
    return JSONResponse({"error": f"{type(error).__name__}: {text}"[:300]}, 500)


def _number(request: Request, name: str, default: float | None) -> float | None:
    value = request.query_params.get(name)
    if value is None:
        return default
    try:
        found = float(value)
    except ValueError:
        found = float("nan")
    if not abs(found) < float("inf"):
        raise UsageError(f"{name} is a number, and {shown(value)[:40]} is none")
    return found


def _whole(request: Request, name: str, default: int) -> int:
    value = request.query_params.get(name)
    if value is None:
        return default
    if re.fullmatch(r"\d{1,12}", value, re.ASCII) is None:
        raise UsageError(f"{name} is a whole number from 0 on, and {shown(value)[:40]} is none")
    return int(value)


def add_player(page: str, version: str) -> tuple[str, str]:
    """Return a page with the player in it, and the policy that lets it play, in place of the page's own.

    The player knows of which version of the run the page is. The page's own policy goes with it when it is mailed. Of
    two policies a browser takes what both allow.
    """
    found = _META.search(page)
    policy = _widen(html.unescape(found[1]) if found else "default-src 'none'")
    page = page if found is None else page[: found.start()] + page[found.end() :]
    head = '<link rel="icon" href="data:,"><link rel="stylesheet" href="player.css">'
    script = f'<script src="player.js" data-version="{version}" defer></script>'
    page = page.replace("</head>", f"{head}\n</head>", 1)
    before, mark, after = page.rpartition("</body>")
    return (f"{before}{script}\n{mark}{after}" if mark else page + script), policy


def _widen(policy: str) -> str:
    """Add to a page's policy what the player needs, all of it from this server."""
    rules: dict[str, list[str]] = {}
    for rule in policy.split(";"):
        name, *sources = rule.split() or [""]
        if name:
            rules[name] = sources
    for name in ("script-src", "style-src", "img-src", "media-src", "connect-src"):
        rules[name] = [*(each for each in rules.get(name, []) if each not in ("'none'", "'self'")), "'self'"]
    rules |= {"frame-ancestors": ["'none'"], "base-uri": ["'none'"], "form-action": ["'none'"]}
    return "; ".join(" ".join([name, *sources]) for name, sources in rules.items())


def _check_run(run: Run) -> None:
    if not run.exists(CLUSTERS_FILE):
        raise UsageError(f"{run} is not clustered: run raypipe cluster {run}")
    if not run.exists(REPORT_FILE):
        raise UsageError(f"{run} has no page yet: run raypipe report {run}")


def open_socket(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens at a host's port, a free one where none is named.

    Raises
    ------
    UsageError
        If there is no such host here, or its port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port or 0))
        listening.listen(128)  # Without it another server could take the port of the same number meanwhile.
    except (OSError, OverflowError) as error:
        listening.close()
        where = f"port {port} of {host}" if port else host
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot serve at {where}: {reason}; choose another --port or --host") from error
    return listening


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host's name or address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def guard(app: App, host: str, token: str) -> Gate:
    """Put the gate before the application, for the names by which this machine may be called."""
    own = ["localhost", "127.0.0.1", "::1", host]
    if is_loopback(host):
        return Gate(app, token, own)
    return Gate(app, token, [*own, socket.gethostname(), socket.getfqdn()], any_address=True)


def serve_run(run: Run, host: str = "127.0.0.1", port: int | None = None, browser: bool = True) -> None:
    """Serve a run's page until Ctrl-C, and print its URL, with a warning if other machines can reach it.

    Parameters
    ----------
    run
        A clustered run with a page.
    host, port
        Where; a free port by default.
    browser
        Open a browser with the page, where there is a screen.

    Raises
    ------
    UsageError
        If the run has no page, or the place cannot be taken.
    """
    import uvicorn

    app = make_app(run, Conversions(default_folder()))
    token = secrets.token_urlsafe(24)
    with open_socket(host, port) as listening:
        taken = listening.getsockname()[1]
        if not is_loopback(host):
            print("warning: other machines can reach this: whoever has the URL sees the run's videos, unencrypted")
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # These stand for every address.
        url = f"http://{f'[{name}]' if ':' in name else name}:{taken}/{token}/"
        print(f"{url}\nserving {run}; Ctrl-C ends it", flush=True)
        server = uvicorn.Server(
            uvicorn.Config(
                guard(app, host, token),
                log_level="critical",  # The URL bears the token.
                access_log=False,
                ws="none",
                server_header=False,
                limit_concurrency=_MOST_CLIENTS,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        if browser and _has_screen():
            threading.Timer(0.5, webbrowser.open, [url]).start()
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended cleanly, and raises it again.
            server.run(sockets=[listening])


def _has_screen() -> bool:
    """Return whether a browser would open a window; without a screen one for terminals may start, and wait."""
    return sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))
