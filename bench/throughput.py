"""Frames a second of the Ray chain on all cores, compared with one plain single-threaded loop on each core.

    python -m bench.throughput [--rounds 3]

Both sides use the same decoder, encoder, sampling and files. Each is timed over 100 and over 400 videos; the figure is
the marginal rate between them, so that the start of Ray, actors and interpreters does not count.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.machine import keep
from raypipe.config import Config, SampleConfig, make_config
from raypipe.sources.videos import Video

FEW, MANY = 100, 400
CONFIG = make_config(flags={"encode": {"encoder": "descriptor"}})


def make_videos(folder: Path, n: int) -> list[Video]:
    """Write a few different videos, each 10 s of 320x240 at 30 frames a second, and make n links to them."""
    import av

    rng = np.random.default_rng(0)
    sources = []
    for number in range(8):
        path = folder / f"source_{number}.mp4"
        y, x = np.mgrid[0:240, 0:320]
        ground = rng.integers(0, 80, (240, 320, 3)).astype(np.uint8)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"crf": "23", "preset": "fast"})
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for i in range(300):
                frame = ground.copy()
                frame[np.hypot(x - 40 - 0.8 * i, y - 120 - 60 * np.sin(i / 20 + number)) < 25] = (220, 90, 40)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        sources.append(path)
    return [Video(f"v{i}", sources[i % len(sources)].as_uri()) for i in range(n)]


def plain_loop(uris: list[str], sample: SampleConfig) -> int:
    """Decode and encode in one thread, without sandbox or Ray; return the number of frames."""
    import torch

    torch.set_num_threads(1)
    from raypipe.decoders import make_decoder, resolve_chain
    from raypipe.encoders import make_encoder
    from raypipe.segments.sampling import Span, pool_frames, sample_span

    decoder = make_decoder(resolve_chain("auto", uris[0])[0])
    encoder = make_encoder(**CONFIG.encode.model_dump())
    n_frames = 0
    for uri in uris:
        length = decoder.probe(uri).duration_s
        sampling = sample_span(Span(0.0, length, 0.0, length), sample)
        frames = decoder.frames(uri, sampling.times_s, encoder.image_size, encoder.resize_mode)
        pool_frames(encoder(frames.pixels), sampling.members, sample.pool)
        n_frames += len(frames.pixels)
    return n_frames


def time_loops(videos: list[Video], copies: int) -> float:
    """Run ``copies`` processes side by side, each on its share; return the seconds until all are done."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    shares = [[video.uri for video in videos[i::copies]] for i in range(copies)]
    children = [
        subprocess.Popen([sys.executable, "-m", "bench.throughput", "--loop", *share], env=environment)
        for share in shares
    ]
    if any(child.wait() for child in children):
        raise SystemExit("a plain loop failed")
    return time.monotonic() - started


def time_chain(videos: list[Video], config: Config, folder: str) -> float:
    """Embed the videos in the open Ray session; return the seconds from the plan to the last commit."""
    import ray

    from raypipe.encoders import make_encoder
    from raypipe.engine.embedding import embed_segments
    from raypipe.engine.pools import plan_pools
    from raypipe.engine.probing import probe_uris
    from raypipe.runs.directory import Run
    from raypipe.segments.planning import plan_segments

    pools = plan_pools(ray.cluster_resources(), config.ray, len(videos))
    run = Run(folder)
    unique = sorted({video.uri for video in videos})
    probes = {
        unique[number]: probe for number, probe in probe_uris(pa.chunked_array([unique]), config.decode, pools, run.log)
    }
    plan = plan_segments(videos, [probes[video.uri] for video in videos], config.sample)
    started = time.monotonic()
    encoder = make_encoder(**config.encode.model_dump())
    embed_segments(run, [plan], config, encoder, pools, lambda done: None, plan.num_rows)
    return time.monotonic() - started


def measure(rounds: int) -> dict:
    """Time both sides in turn, ``rounds`` times, and compare."""
    from raypipe.engine.session import ray_session

    copies = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        videos = make_videos(Path(folder), MANY)
        per_video = plain_loop([videos[0].uri], CONFIG.sample)
        frames = per_video * (MANY - FEW)
        found: list[dict] = []
        for number in range(rounds):
            with ray_session(CONFIG.ray):
                chain = [time_chain(videos[:n], CONFIG, f"{folder}/{number}-{n}") for n in (FEW, MANY)]
            loops = [time_loops(videos[:n], copies) for n in (FEW, MANY)]
            rates = {"chain": frames / (chain[1] - chain[0]), "loops": frames / (loops[1] - loops[0])}
            found.append({**rates, "ratio": rates["chain"] / rates["loops"], "chain_s": chain, "loops_s": loops})
            print(
                f"chain {rates['chain']:.0f} frames/s, {copies} loops {rates['loops']:.0f} frames/s, "
                f"ratio {found[-1]['ratio']:.3f}",
                flush=True,
            )
    return {
        "videos": [FEW, MANY],
        "frames_per_video": per_video,
        "rounds": found,
        "ratio_median": statistics.median(each["ratio"] for each in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", nargs="+", metavar="URI", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        plain_loop(arguments.loop, CONFIG.sample)
        return
    print(f"kept in {keep('throughput', measure(arguments.rounds))}")


if __name__ == "__main__":
    main()
