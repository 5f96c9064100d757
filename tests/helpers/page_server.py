"""The page of a small run, served in this process; and clients that ask it without a browser."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from embedded import make_embedded
from tars import write_tar
from videos import write_video

import raypipe as rp
from raypipe import pipeline
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.schema import FRAMES
from raypipe.sources.videos import Video
from raypipe.storage import TarMember

TOKEN = "the-token-of-the-test"
SECONDS, FPS = 6, 10
SETS = ("cluster.n_clusters=2", "cluster.n_init=1", "report.sheet_frames=2", "report.sheet_videos=20")


@dataclass(frozen=True)
class Answered:
    """An answer: its status, its headers by their names in lower case, and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A page that is served at a port of this machine."""

    port: int
    conversions: Any

    def ask(self, path: str, method: str = "GET", token: str = TOKEN, **headers: str) -> Answered:
        """Send a request, and return its answer; "_" in a header's name is "-"."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, f"/{token}/{path}", headers=named)
            with connection.getresponse() as answer:
                return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


@contextmanager
def serve_page(run: Run, cache: Path, host: str = "127.0.0.1", **options: Any) -> Iterator[Served]:
    """Serve a run's page in a thread."""
    import uvicorn

    from raypipe.report.serving.conversions import Conversions
    from raypipe.report.serving.server import guard, make_app, open_socket

    conversions = Conversions(cache, **options)
    app = guard(make_app(run, conversions), host, TOKEN)
    with open_socket("127.0.0.1", None) as listening:
        config = uvicorn.Config(app, log_level="critical", access_log=False, ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(listening.getsockname()[1], conversions)
        finally:
            server.should_exit = True
            thread.join()


def write_other(path: Path, codec: str, seconds: int = SECONDS, size: tuple[int, int] = (64, 48)) -> Path:
    """Write a video whose frames grow brighter, in a container and codec that browsers may not play."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(seconds * FPS):
            pixels = np.full((*size[::-1], 3), 10 + 240 * i // (seconds * FPS), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def make_run(folder: Path, more: Mapping[str, str] | None = None, lengths_s: Mapping[str, float] | None = None) -> Run:
    """Make a clustered run, with its page, of a few videos of six seconds.

    Their ids are ``a`` to ``d`` (H.264; ``b`` does what ``a`` does, later), ``avi`` (MPEG-4 part 2), ``part`` (the
    seconds 2 to 5 of ``avi``), ``member`` (H.264 in a tar), ``link`` (a link to ``a``), and ``more`` by their URIs, of
    which some have other lengths.
    """
    films = folder / "films"
    files = {
        name: write_video(films / f"{name}.mp4", n_frames=SECONDS * FPS, fps=FPS, seed=ord(name)) for name in "abcd"
    }
    avi = write_other(films / "old.avi", "mpeg4")
    data = files["a"].read_bytes()
    tar = write_tar(films / "some.tar", {"x.txt": "text", "a.mp4": data})
    (films / "link.mp4").symlink_to(files["a"])
    uris = {name: path.as_uri() for name, path in files.items()}
    uris |= {"avi": avi.as_uri(), "part": avi.as_uri()}
    uris |= {"member": TarMember(tar.as_uri(), tar.read_bytes().index(data), len(data), "a.mp4").uri}
    uris |= {"link": (films / "link.mp4").as_uri(), **(more or {})}
    videos = [Video(name, uri, group="films", caption=f"film {name}") for name, uri in uris.items()]
    config = rp.make_config(sets=SETS)
    run = make_embedded(folder / "run", [_walk(name) for name in uris], videos, sets=SETS)
    plan = run.read_table("plan.parquet").to_pylist()
    for row in plan:
        name = row["video_id"]
        span_s = (lengths_s or {}).get(name, SECONDS)
        row.update({"origin_s": 2.0, "span_s": 3.0} if name == "part" else {"span_s": float(span_s)})
    run.write_table("plan.parquet", _table(plan, run.read_table("plan.parquet").schema))
    _keep_pictures(run, ("a", "avi"))
    run.record(state="embedded", encoder={"name": "precomputed", "dim": 3, "fingerprint": ""})
    pipeline.cluster(run, config, Progress())
    pipeline.report(run, config, Progress())
    return run


def _walk(name: str) -> np.ndarray:
    """Return the embeddings of six clips: ``b`` waits for two seconds at the beginning, and then hurries."""
    places = {"b": [0, 0, 0, 1.67, 3.33, 5]}.get(name, range(SECONDS))
    angle = np.asarray(places, float) + (0 if name in "ab" else len(name) + ord(name[0]) % 7)
    return np.stack([np.cos(angle), np.sin(angle), angle / 5], axis=1).astype(np.float32)


def _keep_pictures(run: Run, names: tuple[str, ...]) -> None:
    from raypipe.decoders.thumbnails import encode_jpeg

    rows = [
        {
            "video_id": name,
            "segment": 0,
            "clip_index": i,
            "start_s": float(i),
            "time_s": float(i),
            "frame": encode_jpeg(np.full((48, 64, 3), 40 * i, np.uint8)),
            "fingerprint": "source",
        }
        for name in names
        for i in range(SECONDS)
    ]
    run.write_table("frames/0.parquet", _table(rows, FRAMES))


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema)
