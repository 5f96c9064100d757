"""The page's one script, the explorer's part of the page, and the policy that lets this script run and no other."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

# Each file sees what the others declare; `start.js` runs what they have made.
_FILES = (
    *("data", "alignment", "colors", "state", "canvas", "map", "table", "figures", "film", "details", "byview"),
    *("exports", "deep_zoom", "poster", "search", "checks", "start"),
)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def read_text(name: str) -> str:
    """Return a file of this folder."""
    return resources.files("raypipe.report.page").joinpath(name).read_text(encoding="utf-8")


def read_script() -> str:
    """Return the page's script."""
    return '(() => {\n"use strict";\n' + "\n".join(read_text(f"script/{name}.js") for name in _FILES) + "})();\n"


def policy_of(script: str) -> str:
    """Return the Content-Security-Policy of a page that runs this script, and loads nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{_POLICY}; script-src 'sha256-{digest}'"


def render_explorer(data: str) -> str:
    """Return the explorer's HTML and its data, which `raypipe.report.page.explorer.write_data` wrote."""
    # A type that is no script's makes a browser leave it alone. Base64 has no "<".
    return f'{read_text("explorer.html")}<script type="text/plain" id="explorer-data">{data}</script>'
