#!/usr/bin/env bash
# fsspec 2026.9.0: cat_file(start, end) over HTTP gives the whole file, if the server knows no ranges.
#
# Setting: a folder is served by `python -m http.server`, which answers every request with the whole file, as the
# standard allows (RFC 9110, 14.2). A part of a file is read, in each of the ways that fsspec has for that.
#
# Expected: the part, or an error. For files that are opened fsspec has an error since 2022 ("The HTTP server doesn't
# appear to support range requests"), and the documentation of cat_file promises the bytes from start to end.
#
# What happens: only an opened file is checked. `cat_file` and `cat_ranges` return the whole file in place of the part,
# and say nothing. What is built on them is wrong as quietly: a reference file system, by which many read the chunks of
# large arrays in place (kerchunk, VirtualiZarr), gives the whole file as each chunk. The error of an opened file comes
# late, too: a file of less than a block, 5 MiB, of which the beginning is read first has none, so that a test with
# small files shows nothing.
#
# Why it matters to raypipe: the members of a tar behind HTTP and the videos of `explore` were parts that cat_file had
# read; their lengths were compared, so that an honest server of whole files looked like a broken connection. What reads
# parts over HTTP asks an opened file now, and reads from a copy once the server turns out to know no ranges.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check fsspec==2026.9.0 aiohttp==3.14.5

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec

START, END = 6_000_000, 6_000_100
SMALL = 1_000_000


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def read_opened(url, start, end):
    """Read a part as readers of containers do, who look at the first bytes before they go anywhere else."""
    with filesystem.open(url) as file:
        file.read(8)
        file.seek(start)
        return file.read(end - start)


data = bytes(range(256)) * 40_000  # 10 MB
folder = Path("served")
folder.mkdir()
(folder / "large.bin").write_bytes(data)
(folder / "small.bin").write_bytes(data[:SMALL])
server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/large.bin"
filesystem = fsspec.filesystem("http")

local = fsspec.filesystem("file").cat_file(str(folder / "large.bin"), start=START, end=END)
check("from the disk: bytes of 100, and whether they are right", (len(local), local == data[START:END]), (100, True))

got = filesystem.cat_file(url, start=START, end=END)
check("cat_file: bytes of 100, and whether they are right", (len(got), got == data[START:END]), (len(data), False))
check("cat_file: whether it is the whole file", got == data, True)
many = filesystem.cat_ranges([url, url], [0, START], [100, END])
check("cat_ranges: bytes of 100 and of 100", [len(part) for part in many], [len(data), len(data)])

chunks = fsspec.filesystem("reference", fo={"chunk": [url, START, END - START]}, remote_protocol="http")
chunk = chunks.cat("chunk")
check("a reference file system: bytes of a chunk of 100", len(chunk), len(data))

try:
    seen = len(read_opened(url, START, END))
except ValueError as error:
    seen = type(error).__name__
    print(error)
check("an opened file", seen, "ValueError")
small = read_opened(url.replace("large", "small"), SMALL - 100, SMALL)
check("an opened file of less than a block: whether it is right", small == data[SMALL - 100 : SMALL], True)
server.shutdown()
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
