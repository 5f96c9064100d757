"""Servers in trouble: a folder over HTTP, and a proxy that stands before a server and spoils its answers."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

_CHUNK = 16 << 10


@dataclass(frozen=True)
class Fault:
    """What goes wrong with some of the requests.

    Attributes
    ----------
    on
        A regular expression that is looked for in ``METHOD /path?query``.
    rate
        The share of these requests that are hit; which ones hangs on their names and numbers alone, not on time.
    first
        Only the first so many requests of each method and path.
    status, retry_after_s
        Answer so in place of the server.
    delay_s
        Wait before answering.
    bytes_per_s
        Send no faster.
    cut
        Break off after this share of the body, the whole length of which has been promised.
    reset
        Reset the connection in place of an answer.
    """

    on: str = ""
    rate: float = 1.0
    first: int | None = None
    status: int | None = None
    retry_after_s: float | None = None
    delay_s: float = 0.0
    bytes_per_s: float | None = None
    cut: float | None = None
    reset: bool = False


@dataclass(frozen=True)
class Answer:
    """What one request got: its line ``METHOD /path?query``, the status (0: a reset), and its bytes of body."""

    line: str
    status: int
    n_bytes: int


class Proxy:
    """Stands before an HTTP server on loopback, and spoils answers as told.

    Parameters
    ----------
    target
        The server's URL.

    Attributes
    ----------
    url
        Its own; stays the same when it goes down and comes up again.
    faults
        The `Fault`s at work, of which the first that hits a request counts. To be replaced, never changed in place.
    answers
        An `Answer` for each request, noted as it goes out.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.faults: tuple[Fault, ...] = ()
        self.answers: list[Answer] = []
        self._port = 0
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Come up, on the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.proxy = self
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go down: connections are refused, and those that there are reset."""
        self._server.shutdown()
        self._server.server_close()
        self._server.reset_connections()

    def calm(self) -> None:
        """Forget all faults, answers and counts."""
        with self._lock:
            self.faults = ()
            self.answers.clear()
            self._seen.clear()

    def n_bytes(self, on: str) -> int:
        """How many bytes of body went out in answer to requests that match."""
        return sum(answer.n_bytes for answer in self.answers if re.search(on, answer.line))

    def n_faults(self) -> int:
        """How many requests were not answered as the server would have."""
        return sum(answer.status in (0, *(fault.status for fault in self.faults)) for answer in self.answers)

    def draw(self, line: str) -> Fault | None:
        """Choose what becomes of a request."""
        with self._lock:
            self._seen[line] += 1
            number = self._seen[line]
        for i, fault in enumerate(self.faults):
            if re.search(fault.on, line) and (fault.first is None or number <= fault.first):
                if Random(f"{i} {line} {number}").random() < fault.rate:
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: Proxy

    def __init__(self, *arguments) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request, address) -> None:
        self.connections.add(request)
        super().process_request(request, address)

    def shutdown_request(self, request) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def reset_connections(self) -> None:
        for connection in list(self.connections):
            _reset(connection)

    def handle_error(self, *_) -> None:
        """Say nothing: a client that hangs up is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def answer(self) -> None:
        line = f"{self.command} {self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.proxy.draw(line) or Fault()
        time.sleep(fault.delay_s)
        if fault.reset:
            self._note(line, 0, 0)
            self.close_connection = True
            _reset(self.connection)
        elif fault.status is not None:
            self._refuse(line, fault)
        else:
            self._forward(line, body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def _refuse(self, line: str, fault: Fault) -> None:
        self._note(line, fault.status, 0)
        self.send_response(fault.status)
        if fault.retry_after_s is not None:
            self.send_header("Retry-After", f"{fault.retry_after_s:g}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _forward(self, line: str, body: bytes, fault: Fault) -> None:
        target = self.server.proxy.target
        connection = HTTPConnection(target.hostname, target.port, timeout=60)
        try:
            connection.request(self.command, self.path, body or None, dict(self.headers.items()))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        part = content if fault.cut is None else content[: int(len(content) * fault.cut)]
        self._note(line, response.status, len(part))
        self._head(response, content)
        self._send(part, fault.bytes_per_s)
        if len(part) < len(content):
            self.close_connection = True

    def _head(self, response: HTTPResponse, content: bytes) -> None:
        self.send_response(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()

    def _send(self, content: bytes, bytes_per_s: float | None) -> None:
        size = _CHUNK if bytes_per_s is None else max(1, int(bytes_per_s / 20))
        for start in range(0, len(content), size):
            self.wfile.write(content[start : start + size])
            if bytes_per_s is not None:
                time.sleep(size / bytes_per_s)

    def _note(self, line: str, status: int, n_bytes: int) -> None:
        self.server.proxy.answers.append(Answer(line, status, n_bytes))

    def log_message(self, *_) -> None:
        pass


def _reset(connection: socket.socket) -> None:
    """Close so that the other side sees a reset, not an end."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
        connection.close()
    except OSError:
        pass


class _Plain(SimpleHTTPRequestHandler):
    """Serves files as ``python -m http.server`` does, whole whatever part is asked for; lists folders."""

    def log_message(self, *_) -> None:
        pass


class _Folder(_Plain):
    """Serves files in ranges too, with an ETag; lists folders."""

    def send_head(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().send_head()
        size, asked = path.stat().st_size, self.headers.get("Range")
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or size - 1), size - 1)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin + 1))
        self.send_header("ETag", f'"{size}-{path.stat().st_mtime_ns}"')
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
        self.end_headers()
        file = path.open("rb")
        file.seek(begin)
        self.left = end - begin + 1
        return file

    def copyfile(self, source, outputfile) -> None:
        outputfile.write(source.read(getattr(self, "left", -1)))


@contextmanager
def serve_folder(folder: Path, has_ranges: bool = True, handler: type | None = None) -> Iterator[str]:
    """Serve a folder on loopback; yields its URL."""
    handler = handler or (_Folder if has_ranges else _Plain)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def proxy_before(target: str) -> Iterator[Proxy]:
    """Put a `Proxy` before a server."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.stop()
