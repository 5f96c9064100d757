"""Who may ask the page's server for what: one person's browser, by a secret in the URL, and nothing but reading."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from ipaddress import ip_address
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCKED = "default-src 'none'; frame-ancestors 'none'"
"""The policy of an answer that is no page."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::\d{1,5})?")


class Gate:
    """Lets requests through that bear the token, come from the page itself, and only read.

    The token is the first part of every path, and no cookie: browsers send a cookie to every port of a host, so that
    the servers of two runs would overwrite each other's, and a page of any other local server would count as the same
    site. What is asked for by a path needs nothing that a browser adds by itself, and another site cannot know it.

    Parameters
    ----------
    app
        The application behind it, which sees paths without the token.
    token
        The secret.
    names
        The names by which this machine may be called in the header ``Host``. A site whose name has been made to point
        at this machine (DNS rebinding) calls it by another one.
    any_address
        Whether any IP address will do too, which no name can be made to look like.
    """

    def __init__(self, app: App, token: str, names: Collection[str], any_address: bool = False) -> None:
        self._app, self._token = app, token.encode()
        self._names, self._any_address = {name.lower() for name in names}, any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it in a line of JSON."""
        if scope["type"] != "http":  # The server begins or ends. There are no web sockets here.
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = {"content-security-policy": LOCKED, "cache-control": "no-store", **_HEADERS}
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in more.items() if k.encode() not in there),
                ]
            await send(message)

        refusal = self._refuse(scope)
        if refusal is not None:
            await _send_refusal(*refusal, send_guarded)
            return
        inside = "/" + scope["path"].split("/", 2)[2]
        await self._app({**scope, "path": inside, "raw_path": inside.encode(), "root_path": ""}, receive, send_guarded)

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        """Return the status and the reason of a refusal, or None."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            if key == "host" and key in headers:
                return 400, "there are two Host headers"
            headers[key] = value.decode("latin-1")
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "this server only reads: GET and HEAD"
        host = headers.get("host", "")
        if not self._is_known(host):
            return 403, "this machine is not called by that name here"
        parts = scope["path"].split("/", 2)
        if not hmac.compare_digest(parts[1].encode("utf-8", "surrogatepass"), self._token):
            return 403, "the URL lacks the token: use the one that raypipe explore printed"
        if len(parts) < 3:
            return 404, "the page's address ends with a slash"
        if headers.get("origin") not in (None, f"http://{host}") or not _is_own(headers, parts[2]):
            return 403, "another site asked for this"
        return None

    def _is_known(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].lower().strip("[]")
        if name in self._names:
            return True
        try:
            return bool(ip_address(name)) and self._any_address
        except ValueError:
            return False


def _is_own(headers: MutableMapping[str, str], path: str) -> bool:
    """Whether a browser says that the page itself, or the address bar, asks; other clients do not say.

    A link to the page alone may be followed from anywhere, such as from a terminal in a browser.
    """
    site = headers.get("sec-fetch-site", "none")
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return site in ("none", "same-origin") or (path == "" and followed)


async def _send_refusal(status: int, reason: str, send: Send) -> None:
    body = f'{{"error": "{reason}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"allow", b"GET, HEAD")] if status == 405 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
